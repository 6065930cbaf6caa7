//! The command line of `mused`.

use std::path::PathBuf;

use clap::Parser;

/// Where the configuration is looked for when `--config` is not given.
pub const CONFIG: &str = "/etc/muse/mused.toml";

/// Serves language models to local apps over D-Bus.
#[derive(Debug, Parser)]
#[command(
    name = "mused",
    version,
    after_help = "Examples:\n  mused --session --models ~/models     on your own bus, with your own models\n  \
                  mused --config /etc/muse/mused.toml   as the system service does\n\n\
                  The service is org.museproject.Inference1; try `musectl status` and `musectl chat`."
)]
pub struct Args {
    /// Configuration file [default: /etc/muse/mused.toml where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Use the session bus instead of the system bus
    #[arg(long)]
    pub session: bool,
    /// Folder of .muse files, instead of the configuration's models_dir
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(long)]
    pub check: bool,
}
