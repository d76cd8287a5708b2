//! What processes that share a file do to each other.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tower_throttle::{Demand, Limiter, Limits, Quota, Throttled, store::SqliteStore, usage};

use crate::process::{Process, TempFile, file, say};

const LIMIT: u64 = 400;
const HAND_OVERS: usize = 20;

fn one_limit() -> Limiter {
    let limits = Limits::new().bucket("api", [Quota::per_day("requests", LIMIT)]);
    Limiter::with_store(limits, SqliteStore::open(file()).expect("the file opens"))
        .expect("the limits are valid")
}

#[tokio::test]
#[ignore = "one of the processes of a test below"]
async fn takes_all_it_can() {
    let limiter = one_limit();
    let mut granted = 0;
    loop {
        match limiter.try_reserve(Demand::new("api", usage! { requests: 1 })).await {
            Ok(reservation) => granted += u64::from(reservation.keep().await.is_ok()),
            Err(Throttled::NotNow(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    say(granted);
    limiter.close().await;
}

#[test]
fn processes_that_create_a_file_at_once_share_its_limit() {
    // Several files: what goes wrong when one is made does so seldom.
    (0..5).for_each(|_| share_a_new_file());
}

fn share_a_new_file() {
    let file = TempFile::new();
    let mut processes: Vec<_> =
        (0..6).map(|_| Process::start("shared::takes_all_it_can", &file.path())).collect();
    let granted = processes.iter_mut().map(|process| {
        let line = process.line().expect("it says how many it got");
        line.parse::<u64>().expect("a number")
    });
    assert_eq!(granted.sum::<u64>(), LIMIT);
}

fn one_at_a_time(store: SqliteStore) -> Limiter {
    let limits = Limits::new().bucket("api", [Quota::concurrency(1)]);
    Limiter::with_store(limits, store).expect("the limits are valid")
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()
}

/// Waits for its turn again and again, and says when each began and ended.
async fn take_turns(limiter: &Limiter) -> Vec<(u128, u128)> {
    let mut turns = Vec::new();
    for _ in 0..HAND_OVERS {
        let demand = Demand::new("api", usage! { requests: 1 });
        let reservation = limiter.reserve(demand).await.expect("its turn comes");
        let began = micros();
        tokio::time::sleep(Duration::from_millis(20)).await;
        turns.push((began, micros()));
        reservation.settle(usage! { requests: 1 }).await.expect("the store answers");
    }
    turns
}

#[tokio::test]
#[ignore = "one of the processes of a test below"]
async fn takes_turns() {
    let limiter = one_at_a_time(SqliteStore::open(file()).expect("the file opens"));
    for (began, ended) in take_turns(&limiter).await {
        say(format_args!("{began} {ended}"));
    }
    limiter.close().await;
}

#[test]
fn what_a_process_frees_another_one_gets_at_once() {
    let file = TempFile::new();
    let mut processes: Vec<_> =
        (0..2).map(|_| Process::start("shared::takes_turns", &file.path())).collect();
    let mut turns = Vec::new();
    for (process, index) in processes.iter_mut().zip(0..) {
        turns.extend(process.rest().iter().map(|line| {
            let (began, ended) = line.split_once(' ').expect("two times");
            (began.parse::<u128>().expect("a time"), ended.parse::<u128>().expect("a time"), index)
        }));
    }
    assert_eq!(turns.len(), 2 * HAND_OVERS);
    turns.sort_unstable();
    let mut gaps: Vec<_> = turns
        .windows(2)
        .filter(|pair| pair[0].2 != pair[1].2)
        .map(|pair| pair[1].0.checked_sub(pair[0].1).expect("never two at once"))
        .collect();
    gaps.sort_unstable();
    assert!(gaps.len() > HAND_OVERS, "they take turns: {turns:?}");
    let median = gaps[gaps.len() / 2];
    println!("handed over in {median} us (median of {})", gaps.len());
    // Without hints, half a second.
    assert!(median < 100_000, "handed over in {median} us");
}

#[tokio::test]
async fn waiters_of_one_process_are_woken_too() {
    let file = TempFile::new();
    let limiter = one_at_a_time(SqliteStore::open(file.path()).expect("the file opens"));
    let started = Instant::now();
    let turns = tokio::join!(take_turns(&limiter), take_turns(&limiter));
    assert_eq!(turns.0.len() + turns.1.len(), 2 * HAND_OVERS);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_was_charged_is_there_when_the_file_is_opened_again() {
    let file = TempFile::new();
    for round in 1..=3 {
        let limits = Limits::new().bucket("api", [Quota::per_day("tokens", 1_000)]);
        let limiter =
            Limiter::with_store(limits, SqliteStore::open(file.path()).expect("the file opens"))
                .expect("the limits are valid");
        let reservation =
            limiter.reserve(Demand::new("api", usage! { tokens: 100 })).await.expect("it fits");
        reservation.settle(usage! { tokens: 7 }).await.expect("the store answers");
        let status = limiter.status("api").await.expect("the store answers");
        assert_eq!(status.quotas[0].charged, f64::from(7 * round));
        limiter.close().await;
    }
}
