//! What systemd is told: ready, a line of status, alive, stopping. Without systemd these do nothing.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::time::Interval;

use crate::service::Service;

/// Tells systemd that the service is ready, then its status at every change and, where the unit has a watchdog, that it
/// is alive. Never returns.
pub async fn watch(service: &Arc<Service>) {
    let mut changes = service.models.changes();
    let mut watchdog = sd_notify::watchdog_enabled().map(|limit| tokio::time::interval(limit / 2));
    send(&[NotifyState::Ready, NotifyState::Status(&status(service))]);
    loop {
        tokio::select! {
            _ = changes.changed() => send(&[NotifyState::Status(&status(service))]),
            () = alarm(watchdog.as_mut()) => send(&[NotifyState::Watchdog]),
        }
    }
}

pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

async fn alarm(watchdog: Option<&mut Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn status(service: &Service) -> String {
    let models = service.models.snapshot();
    let loaded: Vec<_> = models.iter().filter(|m| m.loaded.is_some()).map(|m| m.name.as_str()).collect();
    match loaded.as_slice() {
        [] => format!("{} models, none loaded", models.len()),
        names => format!("{} models, loaded: {}", models.len(), names.join(", ")),
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(problem) = sd_notify::notify(states) {
        tracing::warn!(%problem, "systemd cannot be told");
    }
}
