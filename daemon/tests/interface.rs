//! The published interface is what the daemon answers. After a change that is meant:
//! `UPDATE_INTERFACES=1 cargo test -p mused --test interface`, and look at the difference.

mod common;

use std::path::Path;

use common::daemon;

const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
"#;

/// The published form of one interface of an introspection: as it is, between a head and a foot.
fn published(introspection: &str, interface: &str) -> String {
    let start =
        introspection.find(&format!("<interface name=\"{interface}\">")).expect("the interface is there");
    let end = start + introspection[start..].find("</interface>").unwrap();
    let lines = introspection[start..end].lines().map(str::trim_end).filter(|line| !line.trim().is_empty());
    let indent =
        |line: &str| if line.starts_with("<interface") { format!("  {line}\n") } else { format!("{line}\n") };
    let body: String = lines.map(indent).collect();
    format!("{HEAD}{body}  </interface>\n</node>\n")
}

#[tokio::test]
async fn the_published_interface_is_the_live_one() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let root = "/org/museproject/Inference1";
    let model = format!("{root}/models/sim");
    for (kind, path) in [("Manager", root), ("Model", model.as_str()), ("Session", session.path.as_str())] {
        let caller = daemon.caller();
        let reply =
            caller.call(path, "org.freedesktop.DBus.Introspectable", "Introspect", &()).await.unwrap();
        let introspection: String = reply.body().deserialize().unwrap();
        let interface = format!("org.museproject.Inference1.{kind}");
        let live = published(&introspection, &interface);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("interfaces/{interface}.xml"));
        if std::env::var_os("UPDATE_INTERFACES").is_some() {
            std::fs::write(&file, &live).unwrap();
        }
        let stored = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(stored == live, "{} is not what the daemon answers:\n{live}", file.display());
    }
}

#[tokio::test]
async fn managed_objects_are_the_models_and_the_sessions() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let root = "/org/museproject/Inference1";
    let manager = "org.freedesktop.DBus.ObjectManager";
    let reply = daemon.caller().call(root, manager, "GetManagedObjects", &()).await.unwrap();
    let body = reply.body();
    let objects: zbus::fdo::ManagedObjects = body.deserialize().unwrap();
    // The folders between are listed as well, without interfaces of ours.
    let ours = objects.iter().filter(|(_, all)| all.keys().any(|name| name.starts_with("org.museproject.")));
    let mut paths: Vec<_> = ours.map(|(path, _)| path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, [&format!("{root}/models/sim"), session.path.as_str()]);
}
