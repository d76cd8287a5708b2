//! What the benches share: medians, a table for people and a JSON object for scripts.
#![allow(dead_code, reason = "each bench takes what it needs")]

use std::{env, fmt::Write, fs};

/// The value in the middle; of none, not a number.
pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    percentile(&mut samples, 0.5)
}

/// The value below which this share of all lies.
pub(crate) fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Memory of this process that is in RAM; 0 where the system does not tell.
pub(crate) fn resident_bytes() -> usize {
    const PAGE: usize = 4_096;
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let resident =
        pages.as_deref().and_then(|pages| pages.split(' ').nth(1)?.parse::<usize>().ok());
    resident.unwrap_or(0) * PAGE
}

/// Results in the order of their measuring.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    key: String,
    value: f64,
    remark: String,
}

impl Report {
    /// Takes down a result, with what is to be said of it.
    pub(crate) fn add(&mut self, key: impl Into<String>, value: f64, remark: impl Into<String>) {
        self.rows.push(Row { key: key.into(), value, remark: remark.into() });
    }

    /// Prints the table, and writes the object to the file that `BENCH_JSON` names.
    pub(crate) fn publish(&self) {
        println!();
        for Row { key, value, remark } in &self.rows {
            let decimals = if *value < 10.0 { 3 } else { 1 };
            println!("{key:<28}{value:>14.decimals$}   {remark}");
        }
        let Some(path) = env::var_os("BENCH_JSON") else { return };
        if let Err(error) = fs::write(&path, self.json()) {
            panic!("cannot write {}: {error}", path.display());
        }
    }

    /// Keys are plain text and values finite, so nothing needs escaping.
    fn json(&self) -> String {
        let mut json = String::from("{\n");
        for (index, Row { key, value, .. }) in self.rows.iter().enumerate() {
            let comma = if index + 1 < self.rows.len() { "," } else { "" };
            let _ = writeln!(json, "  \"{key}\": {value:.3}{comma}");
        }
        json + "}\n"
    }
}
