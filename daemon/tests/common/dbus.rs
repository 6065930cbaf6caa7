//! A private `dbus-daemon`, and programs run on it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use muse_daemon::BUS_NAME;
use zbus::Connection;
use zbus::connection::Builder;

use super::{Caller, HANGS};

/// What is installed on the system's bus.
const POLICY: &str = include_str!("../../../systemd/org.museproject.Inference1.conf");

/// A bus of our own, with what is denied to everybody on the system's; ends with the test.
pub struct Bus {
    process: Child,
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Bus {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bus.conf");
        let denied = &POLICY[POLICY.find("<policy context=\"mandatory\">").unwrap()..];
        let denied = &denied[..denied.find("</busconfig>").unwrap()];
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig><type>session</type><listen>unix:dir={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>\
             <allow own=\"*\"/></policy>{denied}\
             </busconfig>",
            folder.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let mut process = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", file.display()))
            .args(["--nofork", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is installed (package dbus)");
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim().to_owned(), _folder: folder }
    }

    pub async fn connect(&self) -> Connection {
        let connection = Builder::address(self.address.as_str()).build();
        tokio::time::timeout(HANGS, connection).await.expect("the bus hangs").unwrap()
    }

    pub async fn caller(&self) -> Caller {
        Caller { connection: self.connect().await, destination: Some(BUS_NAME) }
    }

    pub async fn musectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_musectl"));
        command.arg("--session").args(arguments).env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        run(command, input.to_owned()).await
    }
}

/// Runs a program to its end without holding up the service, which lives on this test's threads.
pub async fn run(mut command: Command, input: String) -> Output {
    let run = tokio::task::spawn_blocking(move || {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    });
    tokio::time::timeout(HANGS, run).await.expect("the program hangs").unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
