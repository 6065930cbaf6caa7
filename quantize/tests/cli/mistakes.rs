use std::fs;

use super::{fail, fixture, output, succeed};

#[test]
fn mistakes_are_told_with_their_remedy() {
    let (dir, path) = output();
    succeed(&["convert", &fixture("llama"), "-o", &path]);
    let before = fs::read(&path).expect("the file is there");
    let message = fail(&["convert", &fixture("llama"), "-o", &path, "--bits", "8"], 1);
    assert!(message.starts_with("error: ") && message.contains("--force"), "{message}");
    assert_eq!(fs::read(&path).expect("still there"), before, "a refused conversion touched the file");
    succeed(&["convert", &fixture("llama"), "-o", &path, "--bits", "8", "--force"]);
    assert!(fs::read(&path).expect("still there") != before, "--force replaces");

    let folder = dir.path().to_str().expect("text");
    let missing = format!("{folder}/gone/out.muse");
    let cases: [(&[&str], &str); 7] = [
        (&["convert", "/nowhere", "-o", &missing], "/nowhere"),
        (&["convert", folder, "-o", &missing], "config.json"),
        (&["convert", &fixture("llama"), "-o", &missing], "gone"),
        (&["convert", &fixture("llama"), "-o", folder], "not a name"),
        (&["convert", &fixture("llama"), "-o", &missing, "--board", "toaster"], "known boards"),
        (&["convert", &fixture("llama"), "-o", &missing, "--ignore-config", "no_such_key"], "no_such_key"),
        (&["inspect", "/nowhere.muse"], "/nowhere.muse"),
    ];
    for (args, expected) in cases {
        let message = fail(args, 1);
        assert!(message.starts_with("error: ") && message.contains(expected), "{args:?}: {message}");
    }
    let usage: [&[&str]; 6] = [
        &[],
        &["convert"],
        &["convert", "x", "-o", "y", "--bits", "5"],
        &["convert", "x", "-o", "y", "--group", "48"],
        &["convert", "x", "-o", "y", "--scheme", "uneven"],
        &["eval", "logits", "x", "--tokens", "one"],
    ];
    for args in usage {
        fail(args, 2);
    }
}

#[test]
fn a_damaged_file_fails_verification_with_the_tensor() {
    let (_dir, path) = output();
    succeed(&["convert", &fixture("llama"), "-o", &path]);
    let mut bytes = fs::read(&path).expect("the file is there");
    let offset =
        muse_format::File::parse(&bytes).expect("sound").tensor("l1.ffn.up").expect("up").offset as usize;
    bytes[offset + 100] ^= 1;
    fs::write(&path, &bytes).expect("the file is ours");
    assert!(fail(&["verify", &path], 1).contains("l1.ffn.up"));
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("the file is ours");
    assert!(fail(&["verify", &path], 1).contains("incomplete"));
}
