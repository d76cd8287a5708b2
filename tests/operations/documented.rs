//! The documents name the metrics that exist, and no others.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tower_throttle::metrics::{ALL, Description, MetricKind};

const PREFIX: &str = "tower_throttle_";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every name of a metric in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(PREFIX)
        .map(|(at, _)| text[at..].chars().take_while(|letter| is_part(*letter)).collect())
        .collect()
}

/// The names under which Prometheus has a metric.
fn series(metric: &Description) -> Vec<String> {
    match metric.kind {
        MetricKind::Histogram => {
            ["bucket", "count", "sum"].map(|part| format!("{}_{part}", metric.name)).into()
        }
        _ => vec![metric.name.into()],
    }
}

#[test]
fn the_page_has_a_row_for_each_metric() {
    let page = read("docs/metrics.md");
    let row = |Description { name, kind, labels, help, .. }: &Description| {
        format!("| `{name}` | {} | {} | {help} |", kind.name(), labels.join(", "))
    };
    let wanted: Vec<_> = ALL.iter().map(row).collect();
    let found: Vec<_> =
        page.lines().filter(|line| line.starts_with(&format!("| `{PREFIX}"))).collect();
    assert_eq!(found, wanted);
    let known: BTreeSet<_> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    let unknown: Vec<_> = names(&page).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_dashboard_shows_each_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(&read("docs/grafana.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let text: Vec<_> = targets.map(|target| target["expr"].as_str().expect("a query")).collect();
    let shown = names(&text.join("\n"));
    for metric in ALL {
        let shows = series(metric).iter().any(|series| shown.contains(series));
        assert!(shows, "no panel shows {}", metric.name);
    }
    let known: BTreeSet<_> = ALL.iter().flat_map(series).collect();
    let unknown: Vec<_> = names(&dashboard.to_string()).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn names_follow_the_habits_of_prometheus() {
    for metric in ALL {
        assert!(metric.name.starts_with(PREFIX), "{metric:?}");
        let is_counter = metric.kind == MetricKind::Counter;
        assert_eq!(metric.name.ends_with("_total"), is_counter, "{metric:?}");
    }
    let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), ALL.len());
}
