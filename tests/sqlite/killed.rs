//! Processes that are killed while they write.

use std::time::Duration;

use tower_throttle::{Demand, Limiter, Limits, Quota, store::SqliteStore, usage};

use crate::process::{Process, TempFile, file, say};

const ROUNDS: usize = 8;
const PROCESSES: usize = 3;
const LEASE: Duration = Duration::from_secs(1);

fn limiter(file: impl AsRef<std::path::Path>) -> Limiter {
    let quotas = [Quota::per_day("tokens", 100_000_000), Quota::concurrency(1_000)];
    let limits = Limits::new().bucket("api", quotas);
    let store = SqliteStore::open(file).expect("the file opens");
    Limiter::builder(limits).store(store).lease(LEASE).build().expect("the limits are valid")
}

#[tokio::test]
#[ignore = "one of the processes of the test below"]
async fn reserves_and_settles_for_ever() {
    let limiter = limiter(file());
    loop {
        let demand = Demand::new("api", usage! { requests: 1, tokens: 1_000 });
        let reservation = limiter.reserve(demand).await.expect("it fits");
        say("granted");
        reservation.settle(usage! { tokens: 10 }).await.expect("the store answers");
        say("settled");
    }
}

/// What the processes said adds up to what is charged, but for the one batch that each of them was
/// writing.
#[tokio::test]
async fn a_killed_process_loses_at_most_its_last_batch() {
    let file = TempFile::new();
    let (mut least, mut most) = (0, 0);
    for round in 0..ROUNDS {
        let test = "killed::reserves_and_settles_for_ever";
        let mut processes: Vec<_> =
            (0..PROCESSES).map(|_| Process::start(test, &file.path())).collect();
        for process in &mut processes {
            assert_eq!(process.line().as_deref(), Some("granted"));
            least += 1_000;
            most += 1_000;
        }
        tokio::time::sleep(Duration::from_millis(37 * round as u64 % 100)).await;
        for process in &mut processes {
            process.kill();
            let mut is_open = true;
            for line in process.rest() {
                is_open = line == "granted";
                let change = if is_open { 1_000 } else { -990 };
                least += change;
                most += change;
            }
            // The batch that it was writing, or whose answer it did not say any more: a settle or a
            // grant. A settle that was given up may also have gone with the next grant.
            if is_open {
                least -= 990;
            } else {
                most += 1_000;
            }
        }
        let limiter = limiter(file.path());
        let charged =
            limiter.status("api").await.expect("the file is whole").quotas[0].charged as i64;
        assert!(
            (least..=most).contains(&charged),
            "{charged} is not in {least}..={most} after round {round}"
        );
        limiter.close().await;
        // What is known now is where the next round begins.
        (least, most) = (charged, charged);
    }

    // What they had in flight ends with their leases.
    let limiter = limiter(file.path());
    let ended = async {
        // A batch looks at some of the leases that have ended.
        while limiter.status("api").await.expect("the file is whole").quotas[1].in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(10 * LEASE, ended).await.expect("the leases end");
    limiter.close().await;
}
