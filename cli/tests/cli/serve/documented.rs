//! What `docs/serve.md` says is so.

use std::{collections::BTreeSet, fs, path::Path};

use super::service::written;
use crate::program::{Ended, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn page() -> String {
    fs::read_to_string(root().join("docs/serve.md")).expect("the page")
}

/// What stands between two texts.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).expect("its start");
    rest.split_once(end).expect("its end").0
}

/// What stands between backquotes.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn checked(limits: &str) -> Ended {
    let file = written(limits);
    let ended = run(&["check", file.to_str().expect("a text")]);
    fs::remove_file(&file).expect("it is there");
    ended
}

#[test]
fn the_example_makes_sense() {
    let page = page();
    let ended = checked(between(&page, "```toml\n", "```"));
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(ended.out.matches("\nupstream ").count(), 3, "{}", ended.out);
}

#[test]
fn the_rules_are_those_that_there_are() {
    let page = page();
    let mut told = quoted(between(&page, "\n`rules` are ", " for any other"));
    told.insert("compatible");
    let ended = checked("[upstreams.a]\nurl = 'http://a'\nrules = 'no-such-rules'");
    let known = ended.err.trim_end().rsplit_once(" is one of ").expect("a list").1;
    assert_eq!(told, known.split(", ").collect());
}

#[test]
fn every_kind_of_error_is_one() {
    let page = page();
    let table = between(&page, "| status | `x-throttle-error` |", "\n\n");
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let kinds: Vec<_> = rows.filter_map(|row| row.split('|').nth(2)).flat_map(quoted).collect();
    assert!(kinds.len() > 12, "{kinds:?}");
    let folder = fs::read_dir(root().join("cli/src/serve")).expect("a folder");
    let files = folder.map(|entry| entry.expect("a file").path());
    let files = files.chain([root().join("src/error.rs")]);
    let source: String = files.map(|file| fs::read_to_string(file).expect("a text")).collect();
    for kind in kinds {
        assert!(source.contains(&format!("\"{kind}\"")), "{kind}");
    }
}
