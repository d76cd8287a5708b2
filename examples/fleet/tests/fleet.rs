//! The whole example, as it is run by hand: its workers are processes of its own program.

use std::{env, process::Command};

fn example() -> std::path::PathBuf {
    let test = env::current_exe().expect("this test is a program");
    let built = test.parent().and_then(|deps| deps.parent()).expect("it is in target/../deps");
    built.join("examples").join(format!("fleet{}", env::consts::EXE_SUFFIX))
}

#[test]
fn the_fleet_as_a_whole_stays_under() {
    let output = Command::new(example())
        .output()
        .expect("built by `cargo test`, or by `cargo build --examples`");
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}{errors}");
    assert!(output.status.success());
    assert!(text.contains("429s: 0;"));
    let utilisation = text.trim_end().rsplit(' ').next().expect("the last word");
    assert!(utilisation.parse::<f64>().expect("a number") >= 0.85);
    assert_eq!(text.lines().filter(|line| line.starts_with("worker ")).count(), 4);
}

#[test]
fn without_a_server_it_says_what_to_do() {
    let output =
        Command::new(example()).env("REDIS_SERVER", "no-such-server").output().expect("built");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("apt-get install redis-server"));
}
