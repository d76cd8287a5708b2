//! The examples, as they are run by hand.

use std::{env, process::Command};

/// Runs an example: what it prints.
fn run(name: &str) -> String {
    let test = env::current_exe().expect("this test is a program");
    let built = test.parent().and_then(|deps| deps.parent()).expect("it is in target/../deps");
    let example = built.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    let output = Command::new(example)
        .output()
        .expect("built by `cargo test`, or by `cargo build --examples`");
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}{errors}");
    assert!(output.status.success());
    text.into_owned()
}

#[test]
fn reqwest_client() {
    assert!(run("reqwest_client").contains("provider other: 30 served, 0 rejected"));
}

#[test]
fn reqwest_middleware() {
    assert!(run("reqwest_middleware").contains("throttled"));
}

#[test]
fn hyper_client() {
    assert!(run("hyper_client").contains("30 served, 0 rejected"));
}
