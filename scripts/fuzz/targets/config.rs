//! Any `mused.toml`: an error that names it, or a configuration whose sizes can be multiplied out.
#![no_main]

use std::path::Path;

use muse_daemon::config::Config;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(Path::new("mused.toml"), text) {
        Ok(config) => {
            assert!(config.limits.image_bytes() <= 1 << 30 && config.limits.text_bytes() <= 1 << 26);
            assert!(config.aliases.iter().all(|(alias, model)| alias != model));
        }
        Err(problem) => assert!(problem.to_string().contains("mused.toml")),
    }
});
