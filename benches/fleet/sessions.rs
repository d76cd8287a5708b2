//! What a batch takes where many sessions wait for one bucket.

use tokio::{runtime, task::JoinSet, time::sleep};
use tower_throttle::{Demand, Limiter, usage};

use crate::{bed::Bed, harness::ms, support::Report};

const LIMITS: &str = "bucket a concurrency 4";
const SHARES: usize = 64;
const CALLS: usize = 512;

/// The script's time for a batch where 64 sessions wait, over that where 8 do, with as many calls
/// of as many shares in all.
pub(crate) fn crowded(report: &mut Report) {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (few, many) =
        runtime.expect("a runtime").block_on(async { (script_us(8).await, script_us(64).await) });
    let remark = format!("at most 4; {few:.0} us a batch with 8 sessions, {many:.0} us with 64");
    report.add("fleet.crowded_script_ratio", many / few, remark);
}

async fn script_us(sessions: usize) -> f64 {
    let bed = Bed::new();
    let mut limiters = Vec::new();
    for _ in 0..sessions {
        limiters.push(bed.limiter(LIMITS).await);
    }
    let (time, commands) = (bed.script_time(), bed.commands());
    let call = |number: usize| call(limiters[number % sessions].clone(), number % SHARES);
    let calls: JoinSet<()> = (0..CALLS).map(call).collect();
    calls.join_all().await;
    let time = bed.script_time() - time;
    time.as_secs_f64() * 1e6 / (bed.commands() - commands) as f64
}

async fn call(limiter: Limiter, share: usize) {
    let demand = Demand::new("a", usage! {}).share(format!("tenant-{share}"));
    let call = limiter.reserve(demand).await.expect("it fits in the end");
    sleep(ms(20)).await;
    call.release().await.expect("the store answers");
}
