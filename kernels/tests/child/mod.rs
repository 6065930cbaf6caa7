//! Tests in processes of their own: a driver is found once, and what it does wrong stays.

use std::process::Command;

/// The ignored test `test` of this program, with `plan` for the emulated driver of `scripts/cuda.sh`.
pub fn child(test: &str, plan: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env("MUSE_EMULATOR", plan);
    command
}

/// What a child that succeeds prints behind each `outcome: `.
pub fn outcomes(mut child: Command) -> Vec<String> {
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{child:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text.split("outcome: ").skip(1).map(|rest| rest.lines().next().unwrap().to_owned()).collect()
}
