//! Logs go to the journal where there is one, else to standard error. Prompts and answers are never logged.

use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging. `RUST_LOG` sets the level, `info` by default.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,zbus=warn"));
    let registry = tracing_subscriber::registry().with(filter);
    // systemd sets this where standard error is connected to the journal.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some().then(tracing_journald::layer);
    match journal {
        Some(Ok(layer)) => registry.with(layer).init(),
        _ => {
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false);
            registry.with(layer).init();
        }
    }
}
