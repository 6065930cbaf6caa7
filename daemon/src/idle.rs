//! Gives memory back: a model that has not answered for a while is unloaded. Its next use loads it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::service::Service;

/// Unloads idle models for as long as the service runs; returns at once where the configuration says never.
pub async fn watch(service: &Arc<Service>) {
    let seconds = service.config.idle.unload_seconds;
    if seconds == 0 {
        return std::future::pending().await;
    }
    let idle = Duration::from_secs(seconds);
    let mut changes = service.models.changes();
    loop {
        let next = service.models.unload_idle(idle, Instant::now()).await;
        // A model in use shows a deadline in the past until its lease is dropped: look again after a full period.
        let wait = next.map_or(idle, |next| next.saturating_duration_since(Instant::now()));
        let wait = if wait.is_zero() { idle } else { wait };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}
