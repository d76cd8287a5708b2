//! What came of the runs: a table for people, and JSON for scripts.

use std::{fmt::Write, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tower_throttle::simulate::{Simulation, SimulationReport, WaitReport};

use crate::words::{self, grouped, plain};

/// The reports of one simulation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Results<'a> {
    pub(super) simulation: &'a Simulation,
    pub(super) reports: &'a [SimulationReport],
    /// By one of the strategies, with twice as much of each limit.
    pub(super) doubled: &'a SimulationReport,
}

impl Results<'_> {
    pub(super) fn table(self) -> String {
        let mut text = self.heading();
        text.push('\n');
        text += &aligned(&self.strategies());
        text += "\nUse of each limit, of the most that it admits\n";
        text += &aligned(&self.quotas());
        if self.reports.iter().any(|report| report.waits.len() > 1) {
            text += "\nWaits by class and share\n";
            text += &aligned(&self.waits());
        }
        text.push('\n');
        text += &self.what_if();
        text
    }

    fn heading(self) -> String {
        let calls = self.simulation.trace().calls();
        let tokens: u64 = calls.iter().map(|call| call.input + call.output).sum();
        let [first, ..] = self.reports else { return String::new() };
        format!(
            "{} calls with {} tokens within {}; at best {}: {}\n",
            grouped(calls.len() as u64),
            grouped(tokens),
            length(self.simulation.trace().duration()),
            length(first.best),
            binds(first),
        )
    }

    fn strategies(self) -> Vec<Vec<String>> {
        let heads =
            ["strategy", "429s", "took", "efficiency", "wait p50", "p95", "p99", "longest", "left"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for report in self.reports {
            let mut row = vec![report.strategy.to_string(), grouped(report.refused)];
            row.push(length(report.makespan));
            row.push(percent(report.efficiency()));
            row.extend(report.waits.first().map(waits).unwrap_or_default());
            row.push(grouped((report.unfinished() + report.impossible) as u64));
            rows.push(row);
        }
        rows
    }

    fn quotas(self) -> Vec<Vec<String>> {
        let [first, ..] = self.reports else { return Vec::new() };
        let names = first.quotas.iter().map(|quota| plain(&quota.name));
        let mut rows = vec![std::iter::once("strategy".to_owned()).chain(names).collect()];
        for report in self.reports {
            let used = report.quotas.iter().map(|quota| match quota.refused {
                0 => percent(quota.utilisation),
                refused => format!("{} ({} 429s)", percent(quota.utilisation), grouped(refused)),
            });
            let name = report.strategy.to_string();
            rows.push(std::iter::once(name).chain(used).collect());
        }
        rows
    }

    fn waits(self) -> Vec<Vec<String>> {
        let heads = ["strategy", "class", "share", "calls", "wait p50", "p95", "p99", "longest"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for report in self.reports {
            for wait in report.waits.iter().skip(1) {
                let name = |name: &Option<Arc<str>>| name.as_deref().map_or("-".into(), plain);
                let mut row = vec![report.strategy.to_string(), name(&wait.class)];
                row.extend([name(&wait.share), grouped(wait.calls as u64)]);
                row.extend(waits(wait));
                rows.push(row);
            }
        }
        rows
    }

    fn what_if(self) -> String {
        let mut text = String::new();
        let doubled = self.doubled;
        let same = self.reports.iter().find(|report| report.strategy == doubled.strategy);
        let p95 =
            |report: &SimulationReport| report.waits.first().map_or(Duration::ZERO, |all| all.p95);
        if let Some(same) = same {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "With twice the tier, {}: {} instead of {}, wait p95 {} instead of {}; {}",
                doubled.strategy,
                length(doubled.makespan),
                length(same.makespan),
                length(p95(doubled)),
                length(p95(same)),
                binds(doubled),
            );
        }
        text
    }

    pub(super) fn json(self) -> String {
        let calls = self.simulation.trace().calls();
        let value = json!({
            "calls": calls.len(),
            "tokens": calls.iter().map(|call| call.input + call.output).sum::<u64>(),
            "strategies": self.reports.iter().map(report).collect::<Vec<_>>(),
            "doubled": report(self.doubled),
        });
        words::plain_json(&format!("{value:#}\n"))
    }
}

/// Which limit binds.
fn binds(report: &SimulationReport) -> String {
    match &report.binding {
        Some(quota) => format!("`{}` binds", plain(quota)),
        None => "no limit binds".to_owned(),
    }
}

fn report(report: &SimulationReport) -> Value {
    let quotas = report.quotas.iter().map(|quota| {
        json!({
            "quota": &*quota.name,
            "capacity": quota.capacity,
            "utilisation": rounded(quota.utilisation),
            "refused": quota.refused,
        })
    });
    let waits = report.waits.iter().map(|wait| {
        json!({
            "class": wait.class.as_deref(),
            "share": wait.share.as_deref(),
            "calls": wait.calls,
            "p50_seconds": wait.p50.as_secs_f64(),
            "p95_seconds": wait.p95.as_secs_f64(),
            "p99_seconds": wait.p99.as_secs_f64(),
            "longest_seconds": wait.longest.as_secs_f64(),
        })
    });
    json!({
        "strategy": report.strategy.name(),
        "calls": report.calls,
        "answered": report.answered,
        "impossible": report.impossible,
        "unfinished": report.unfinished(),
        "refused": report.refused,
        "others_admitted": report.others.0,
        "others_refused": report.others.1,
        "makespan_seconds": report.makespan.as_secs_f64(),
        "best_seconds": report.best.as_secs_f64(),
        "efficiency": rounded(report.efficiency()),
        "binding": report.binding.as_deref(),
        "quotas": quotas.collect::<Vec<_>>(),
        "waits": waits.collect::<Vec<_>>(),
    })
}

/// To what is known of it.
fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

fn waits(wait: &WaitReport) -> Vec<String> {
    [wait.p50, wait.p95, wait.p99, wait.longest].map(length).to_vec()
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

/// `340 ms`, `12.3 s`, `61.2 min`.
fn length(length: Duration) -> String {
    match length.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 100.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.1} min", seconds / 60.0),
    }
}

/// A table in Markdown: the first column to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            // Writing to a string cannot fail.
            let _ = match column {
                0 => write!(text, "| {cell:<width$} |"),
                _ => write!(text, " {cell:>width$} |"),
            };
        }
        text.push('\n');
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(*width);
                text += &if column == 0 { format!("|-{line}-|") } else { format!("-{line}:|") };
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_for_people() {
        let lengths =
            [0, 340, 12_340, 3_672_000].map(|millis| length(Duration::from_millis(millis)));
        assert_eq!(lengths, ["0 ms", "340 ms", "12.3 s", "61.2 min"]);
    }

    #[test]
    fn tables_are_markdown() {
        let rows = [["a", "bb"], ["ccc", "d"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows), "| a   | bb |\n|-----|---:|\n| ccc |  d |\n");
    }
}
