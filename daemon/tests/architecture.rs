//! Data flows one way: the crates depend on each other along these arrows and no others (ARCHITECTURE.md).

use std::collections::{BTreeMap, BTreeSet};

const ARROWS: [(&str, &[&str]); 8] = [
    ("muse-format", &[]),
    ("muse-boards", &[]),
    ("muse-kernels", &["muse-format"]),
    ("muse-runtime", &["muse-format", "muse-kernels", "muse-boards"]),
    ("muse-quantize", &["muse-format", "muse-kernels", "muse-boards", "muse-runtime"]),
    ("mused", &["muse-runtime", "muse-boards"]),
    ("muse-benches", &["muse-format", "muse-kernels", "muse-runtime", "muse-boards"]),
    ("muse-fuzz", &["muse-format", "muse-boards", "muse-runtime", "muse-quantize", "mused"]),
];

#[test]
fn crates_depend_on_each_other_along_the_drawn_arrows_only() {
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec().unwrap();
    let ours: BTreeSet<_> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    let allowed: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let drawn: BTreeSet<_> = allowed.keys().map(ToString::to_string).collect();
    assert_eq!(ours, drawn, "the workspace's crates are those of the table");
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        // Of every kind: a test that needs a crate above its own is in the wrong crate.
        for dependency in package.dependencies.iter().filter(|d| ours.contains(&d.name)) {
            if !allowed[package.name.as_str()].contains(&dependency.name.as_str()) {
                wrong.push(format!("{} -> {} ({})", package.name, dependency.name, dependency.kind));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that ARCHITECTURE.md does not draw: {wrong:?}");
}

#[test]
fn unsafe_code_is_in_the_kernels_and_the_mapping_of_weights_alone() {
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec().unwrap();
    // A fuzzer calls a target by a name without a mangle, which is unsafe to the language.
    let exempt = ["muse-kernels", "muse-fuzz"];
    for package in metadata.packages.iter().filter(|p| !exempt.contains(&p.name.as_str())) {
        // The runtime denies it, and `weights.rs` allows it for itself.
        let rule = if package.name.as_str() == "muse-runtime" { "deny" } else { "forbid" };
        for target in package.targets.iter().filter(|t| t.is_lib() || t.is_bin()) {
            let source = std::fs::read_to_string(&target.src_path).unwrap();
            assert!(source.contains(&format!("#![{rule}(unsafe_code)]")), "{}", target.src_path);
        }
    }
    let runtime = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src");
    let allowing: Vec<_> = sources(&runtime)
        .into_iter()
        .filter(|path| std::fs::read_to_string(path).unwrap().contains("allow(unsafe_code)"))
        .collect();
    assert_eq!(allowing, [runtime.join("weights.rs")]);
}

/// Every file below `folder` that ends in `.rs`.
fn sources(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
