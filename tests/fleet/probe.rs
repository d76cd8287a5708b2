//! Scenario 39: half-open after a refusal.

use std::{thread, time::Duration};

use crate::{
    fleet::{Fleet, since},
    harness::{Ask, Call, Worker, ms, now, secs},
};

/// Those that were not answered follow a probe after this long.
const FOLLOW: Duration = Duration::from_secs(1);

/// The one call that goes first, and when. Watches a while longer for others.
fn probe<'w>(calls: &mut Vec<Call<'w>>, within: Duration) -> (Call<'w>, u64) {
    let deadline = now() + within.as_micros() as u64;
    while !calls.iter().any(Call::is_over) {
        assert!(now() < deadline, "no call goes first within {within:?}");
        thread::sleep(ms(2));
    }
    thread::sleep(ms(250));
    let over = |call: &Call<'_>| call.is_over().then(|| call.granted(ms(0)).at);
    let mut granted: Vec<_> = calls.iter().filter_map(|call| Some((over(call)?, *call))).collect();
    granted.sort_unstable_by_key(|(at, _)| *at);
    let (first, call) = granted[0];
    let early = granted.iter().filter(|(at, _)| since(first, *at) < FOLLOW).count();
    assert_eq!(early, 1, "calls that were made before the first was answered");
    assert_eq!(granted.len(), 1, "the machine is too slow for this test");
    calls.retain(|call| !call.is_over());
    (call, first)
}

/// Asserts that a probe came when the pause was over.
fn assert_on_time(fleet: &Fleet, start: u64, at: u64, pause: Duration) {
    let (time, machine) = (since(start, at), fleet.lateness.so_far());
    eprintln!("after {time:?}, the machine late up to {machine:?}");
    let on_time = pause - ms(10)..pause + ms(300) + machine;
    assert!(
        on_time.contains(&time),
        "after {time:?}, not {pause:?}; the machine up to {machine:?}"
    );
}

#[test]
fn s39_one_probe_goes_first_after_a_refusal_and_the_rest_is_spread() {
    let fleet = Fleet::start("bucket a per_hour requests 1000");
    let workers: [Worker; 4] = fleet.workers();
    let ask = Ask::of("a");
    let call = workers[0].take(&ask);
    let mut start = now();
    call.refuse(secs(2));
    let mut calls = Vec::new();
    for _ in 0..25 {
        calls.extend(workers.iter().map(|worker| worker.queue(&ask)));
    }
    assert!(since(start, now()) < ms(1_500), "the machine is too slow for this test");

    let (first, at) = probe(&mut calls, secs(5));
    assert_on_time(&fleet, start, at, secs(2));

    // The provider says the same again; the pause is doubled.
    start = now();
    first.refuse(secs(2));
    let (second, at) = probe(&mut calls, secs(8));
    assert_on_time(&fleet, start, at, secs(4));

    let answered = now();
    second.answer_well();
    let mut times: Vec<_> =
        calls.iter().map(|call| since(answered, call.granted(secs(3)).at)).collect();
    times.sort_unstable();
    let (tenth, middle, last) = (times[9], times[times.len() / 2], times[times.len() - 1]);
    eprintln!("the rest: tenth {tenth:?}, middle {middle:?}, last {last:?}");
    assert_eq!(times.len(), 98);
    let machine = fleet.lateness.so_far();
    assert!(last < ms(1_200) + machine, "the last {last:?} after the answer");
    assert!(last - tenth > ms(200), "all at once: from {tenth:?} to {last:?}");
}
