//! Who gets the capacity of a fleet, at what cost: `cargo bench --bench fleet --features redis`.
//!
//! Workers are processes of their own: this binary, executed once more. Each case starts a server,
//! `REDIS_SERVER`, or `redis-server` or `valkey-server` of the path. An argument selects cases by a
//! part of their name: `cargo bench --bench fleet --features redis -- jain`.
//!
//! A case ends by its own time limit; where that cuts it short, its remark says what it saw.

#[path = "fleet/bed.rs"]
mod bed;
#[path = "fleet/blocked.rs"]
mod blocked;
#[path = "fleet/crowd.rs"]
mod crowd;
#[path = "fleet/fairness.rs"]
mod fairness;
#[path = "../tests/support/fleet/mod.rs"]
mod harness;
#[path = "fleet/sessions.rs"]
mod sessions;
mod support;
#[path = "fleet/tenants.rs"]
mod tenants;
#[path = "fleet/throughput.rs"]
mod throughput;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use self::support::Report;

type Case = fn(&mut Report);

const CASES: [(&str, Case); 14] = [
    ("jain", fairness::jain),
    ("jain_siblings", fairness::siblings),
    ("large_wait", fairness::large_wait),
    ("weighted_error", fairness::weighted),
    ("wake_p50_ms", throughput::wake),
    ("blocked_commands_per_s", blocked::waiters),
    ("blocked_tenants_commands_per_s", blocked::tenants),
    ("grants_per_s_8p", throughput::grants),
    ("paced_use", throughput::paced),
    ("tenants_p50_ratio", tenants::new_tenants),
    ("settle_us_10k", tenants::settle),
    ("crowded_script_ratio", sessions::crowded),
    ("bytes_per_waiter", crowd::bytes),
    ("cancel_10k", crowd::cancel),
];

fn main() -> ExitCode {
    if crowd::is_measured() {
        crowd::measure_bytes();
        return ExitCode::SUCCESS;
    }
    if harness::is_worker() {
        harness::serve();
    }
    // Cargo adds `--bench`.
    let filters: Vec<_> =
        env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_selected = |name: &str| {
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    let (mut report, mut failed) = (Report::default(), Vec::new());
    for (name, case) in CASES.into_iter().filter(|(name, _)| is_selected(name)) {
        let start = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| case(&mut report))).is_err() {
            failed.push(name);
        }
        eprintln!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    }
    report.publish();
    for name in &failed {
        println!("fleet.{name} has failed: see above");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
