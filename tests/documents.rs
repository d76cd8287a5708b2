//! What README and docs/ point to exists.

use std::{
    fs,
    path::{Path, PathBuf},
};

const DOCUMENTS: [&str; 15] = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/coming-from.md",
    "docs/concepts.md",
    "docs/composing.md",
    "docs/design.md",
    "docs/metrics.md",
    "docs/operations.md",
    "docs/planning.md",
    "docs/providers.md",
    "docs/queue.md",
    "docs/quotas.md",
    "docs/running.md",
    "docs/serve.md",
    "docs/testing.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let below = folders.iter().flat_map(|folder| rust_files(folder));
    files.into_iter().filter(is_rust).chain(below).collect()
}

/// What stands between backquotes in the second column of the table of promises.
fn promised_tests(design: &str) -> Vec<String> {
    let (_, table) = design.split_once("\n## Promises\n").expect("a chapter of promises");
    let (table, _) = table.split_once("\n## ").expect("a chapter after it");
    let rows =
        table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let column = |row: &str| row.split('|').nth(2).unwrap_or_default().to_owned();
    rows.map(column)
        .flat_map(|tests| {
            tests.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether a path of modules, with a test at its end or without, leads to one.
fn exists(name: &str, files: &[(PathBuf, String)]) -> bool {
    let segments: Vec<_> = name.split("::").collect();
    let Some((last, modules)) = segments.split_last() else { return false };
    let is_in = |path: &Path, modules: &[&str]| {
        let path = path.with_extension("");
        let path = path.to_string_lossy();
        modules.iter().all(|module| path.split('/').any(|part| part == *module))
    };
    let has_test = |path: &Path, text: &str| {
        is_in(path, modules) && text.contains(&format!("fn {last}("))
            || is_in(path, &segments) && text.contains("#[test]")
            || is_in(path, &segments) && text.contains("#[tokio::test")
    };
    files.iter().any(|(path, text)| has_test(path, text))
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let files: Vec<_> = ["src", "tests"]
        .iter()
        .flat_map(|folder| rust_files(&root().join(folder)))
        .map(|path| (path.clone(), read(&path)))
        .collect();
    let names = promised_tests(&read(&root().join("docs/design.md")));
    assert!(names.len() > 15, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !exists(name, &files)).collect();
    assert!(missing.is_empty(), "no such test: {missing:?}");
    assert!(!exists("engine::tests::heads::no_such_test", &files));
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    for document in DOCUMENTS {
        let path = root().join(document);
        let folder = path.parent().expect("a folder").to_owned();
        let text = read(&path);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            let is_item = file.contains("::") || !file.contains(['/', '.']);
            assert!(is_item || folder.join(file).exists(), "{document}: {target}");
        }
    }
}
