//! `musectl`: wiring.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    muse_daemon::ctl::main()
}
