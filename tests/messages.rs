//! What the compiler says of common mistakes: it names the closure or the request, and what to do.
//!
//! The messages are those of one compiler, so that another one checks nothing here. To record those
//! of a new one: change [`COMPILER`] and run `TRYBUILD=overwrite cargo test --test messages`, with
//! all features and with feature `llm` alone.

use std::process::Command;

/// The compiler whose messages are recorded.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn a_mistake_is_told_where_it_is_made() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().expect("there is a compiler");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.starts_with(COMPILER) {
        println!("not checked: the messages are those of {COMPILER}*, and this is {version}");
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/messages/closures/*.rs");
    // The extractors of `llm` around a client whose requests they cannot read.
    if cfg!(all(feature = "llm", feature = "reqwest")) {
        cases.compile_fail("tests/messages/clients/*.rs");
    }
    // The client is reqwest's and the feature `reqwest` is forgotten.
    if cfg!(all(feature = "llm", not(feature = "reqwest"))) {
        cases.compile_fail("tests/messages/features/*.rs");
    }
}
