//! The real `mused` on a private `dbus-daemon`.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::dbus::{Bus, text};

/// Reads messages to systemd until one starts with `wanted`.
fn wait_for(socket: &std::os::unix::net::UnixDatagram, wanted: &str) {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).expect("a message before the timeout");
        if text(&buffer[..length]).lines().any(|line| line.starts_with(wanted)) {
            return;
        }
    }
}

fn mused(bus: &Bus, models: &Path, notify: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mused"))
        .arg("--session")
        .args(["--models".as_ref(), models.as_os_str()])
        .env("DBUS_SESSION_BUS_ADDRESS", &bus.address)
        .env("NOTIFY_SOCKET", notify)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mused_tells_systemd_and_stops_when_asked() {
    let bus = Bus::start();
    let folder = tempfile::tempdir().unwrap();
    let (models, notify) = (folder.path().join("models"), folder.path().join("notify"));
    std::fs::create_dir(&models).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(common::HANGS)).unwrap();
    let child = mused(&bus, &models, &notify);
    wait_for(&socket, "READY=1");
    let empty = bus.musectl(&["models"], "").await;
    assert!(text(&empty.stdout).starts_with("There are no models."), "{}", text(&empty.stdout));

    std::fs::write(models.join("broken.muse"), "not a model").unwrap();
    wait_for(&socket, "STATUS=1 models, none loaded");
    let listed = bus.musectl(&["models"], "").await;
    let listed = text(&listed.stdout);
    assert!(listed.contains("unusable") && listed.contains("broken: "), "{listed}");
    assert!(
        !listed.contains(&folder.path().display().to_string()),
        "the folder is nobody's business: {listed}"
    );
    let refused = bus.musectl(&["generate", "a secret prompt"], "").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("LoadFailed"), "{}", text(&refused.stderr));

    let second = mused(&bus, &models, &notify).wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("is another mused running"), "{}", text(&second.stderr));

    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    wait_for(&socket, "STOPPING=1");
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(!text(&output.stderr).contains("secret"), "content in the log: {}", text(&output.stderr));
}

#[test]
fn mused_names_the_line_of_a_wrong_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mused.toml");
    std::fs::write(&file, "[limits]\nsessions = 0\n").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_mused")).arg("--check").arg("--config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("line 2"), "{}", text(&output.stderr));
    let wrong = Command::new(env!("CARGO_BIN_EXE_mused")).arg("--nonsense").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}
