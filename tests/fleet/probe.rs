//! Scenario 39: half-open after a refusal.

use std::{thread, time::Duration};

use crate::{
    fleet::{Fleet, since},
    harness::{Ask, Call, Worker, ms, now, secs},
};

/// Which of the calls are over after this time.
fn over_after<'w>(calls: &[Call<'w>], time: Duration) -> Vec<Call<'w>> {
    thread::sleep(time);
    calls.iter().copied().filter(Call::is_over).collect()
}

/// The one call that goes first, and when. Watches a while longer for others.
fn probe<'w>(calls: &mut Vec<Call<'w>>, within: Duration) -> (Call<'w>, u64) {
    let deadline = now() + within.as_micros() as u64;
    while !calls.iter().any(Call::is_over) {
        assert!(now() < deadline, "no call goes first within {within:?}");
        thread::sleep(ms(2));
    }
    // Shorter than the second after which the others follow a probe without an answer.
    let over = over_after(calls, ms(250));
    assert_eq!(over.len(), 1, "calls that were made before the first was answered");
    calls.retain(|call| !call.is_over());
    (over[0], over[0].granted(ms(0)).at)
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
    let time = since(start, at);
    eprintln!("the first after {time:?}");
    assert!((ms(1_990)..ms(2_300)).contains(&time), "the first call after {time:?}, not 2 s");

    // The provider says the same again; the pause is doubled.
    start = now();
    first.refuse(secs(2));
    let (second, at) = probe(&mut calls, secs(8));
    let time = since(start, at);
    eprintln!("the second after {time:?}");
    assert!((ms(3_990)..ms(4_400)).contains(&time), "the second call after {time:?}, not 4 s");

    let answered = now();
    second.answer_well();
    let mut times: Vec<_> =
        calls.iter().map(|call| since(answered, call.granted(secs(3)).at)).collect();
    times.sort_unstable();
    let (tenth, middle, last) = (times[9], times[times.len() / 2], times[times.len() - 1]);
    eprintln!("the rest: tenth {tenth:?}, middle {middle:?}, last {last:?}");
    assert_eq!(times.len(), 98);
    assert!(last < ms(1_200), "the last {last:?} after the answer");
    assert!(last - tenth > ms(200), "all at once: from {tenth:?} to {last:?}");
}
