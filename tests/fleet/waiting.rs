//! Scenarios 20 to 25: waiting across processes.

use std::time::Duration;

use crate::{
    fleet::{Fleet, apart, eventually, since},
    harness::{Ask, Grant, Runs, Standing, Worker, ms, now, secs},
};

fn tokens(amount: u64) -> Ask {
    Ask::of("a").tokens(amount)
}

/// Scenario 20: 10/hour drained, a waiter for 5, then a settle 10 -> 0 elsewhere.
///
/// Returns the median of the times from the order to settle to the grant.
fn wake(settler: &Worker, waiter: &Worker) -> Duration {
    let mut times: Vec<_> = (0..15)
        .map(|_| {
            let call = settler.take(&tokens(10));
            let waiting = waiter.queue(&tokens(5));
            let settled = now();
            call.settle(0);
            let started = waiting.granted(secs(10)).returned;
            waiting.release();
            Duration::from_micros(started.saturating_sub(settled))
        })
        .collect();
    times.sort_unstable();
    eprintln!("from {} to {}: {times:?}", settler.name(), waiter.name());
    times[times.len() / 2]
}

/// A hop and the pipes of this test; a poll would come a quarter of a second later on average.
const HOP: Duration = Duration::from_millis(20);

#[test]
fn s20_a_refund_starts_the_waiter_of_another_process_within_a_hop() {
    let fleet = Fleet::start("bucket a per_hour tokens 10");
    let [one, other] = fleet.workers();
    let (same, across) = (wake(&one, &one), wake(&one, &other));
    assert!(same < HOP && across < HOP, "same process {same:?}, another {across:?}");
}

/// How late a head looks at most where nothing is late, on a machine with other work.
const LATE: Duration = Duration::from_millis(100);

#[test]
fn s21_three_waiters_of_three_processes_are_granted_in_their_order() {
    let fleet = Fleet::start("bucket a token_bucket tokens 100 1000");
    let workers: [Worker; 3] = fleet.workers();
    let drained = workers[0].take(&tokens(100));
    let start = drained.granted(secs(1)).at;
    drained.keep();
    let waiting =
        [(60, &workers[0]), (10, &workers[1]), (10, &workers[2])].map(|(amount, worker)| {
            apart();
            worker.queue(&tokens(amount))
        });
    let times = waiting.map(|call| since(start, call.granted(secs(10)).at));
    eprintln!("granted after {times:?}");
    for (time, due) in times.iter().zip([600, 700, 800]) {
        assert!((ms(due)..ms(due) + LATE).contains(time), "{times:?}, due after {due} ms");
    }
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn s21_small_demands_of_other_processes_do_not_starve_a_large_one() {
    let fleet = Fleet::start("bucket a token_bucket tokens 100 1000");
    let [large, small @ ..]: [Worker; 4] = fleet.workers();
    let drained = large.take(&tokens(100));
    let start = drained.granted(secs(1)).at;
    drained.keep();
    let call = large.queue(&tokens(100));
    let runs = Runs { tasks: 4, told: true, ..Runs::default() };
    let runs: Vec<_> = small.iter().map(|worker| worker.run(&tokens(1), runs)).collect();
    // Neither does a try pass the one that waits.
    assert_eq!(small[0].try_reserve(&tokens(1)).refused(secs(2)).get("kind"), Some("NotNow"));

    let is_granted = call.ends_within(secs(5));
    let grants: Vec<Vec<Grant>> = runs.iter().map(|run| run.grants()).collect();
    let counts: Vec<_> = grants.iter().map(Vec::len).collect();
    assert!(is_granted, "the large demand waits after 5 s; small ones got {counts:?}");
    let granted = call.granted(secs(1)).at;
    let before = grants.iter().flatten().filter(|grant| grant.at < granted).count();
    let waited = since(start, granted);
    eprintln!("large after {waited:?}, small before it: {before}");
    assert_eq!(before, 0, "small demands that passed a large one, granted after {waited:?}");
    assert!((secs(1)..secs(1) + LATE).contains(&waited), "{waited:?}");
    for run in &runs {
        assert!(run.has_grants(10, secs(5)), "{counts:?}");
    }
}

#[test]
fn s22_a_cancelled_waiter_of_another_process_was_never_there() {
    let fleet = Fleet::start("bucket a per_hour tokens 100");
    let [holder, one, two, three] = fleet.workers();
    let call = holder.take(&tokens(30));
    holder.take(&tokens(70)).keep();
    let first = one.queue(&tokens(90));
    apart();
    let second = two.queue(&tokens(20));
    apart();
    let third = three.queue(&tokens(20));
    call.release();
    assert!(!second.ends_within(ms(300)), "passed the front: {}", second.outcome(secs(0)));
    first.cancel();
    second.granted(secs(1));
    assert!(!third.ends_within(ms(300)), "does not fit: {}", third.outcome(secs(0)));
    assert_eq!(holder.status("a").available, [10.0]);
    second.release();
    third.granted(secs(1));
    assert_eq!(holder.status("a").available, [10.0]);
    third.release();
    let left = Standing { waiting: 0, available: vec![30.0], in_flight: vec![0] };
    assert_eq!(eventually(&left, || holder.status("a")), left);
}

/// Dropped after a time that grows by 60 us: before, during and after each hop of a reserve.
#[test]
fn s22_a_reserve_that_is_dropped_at_any_time_leaves_nothing_to_the_fleet() {
    let fleet = Fleet::start("bucket a per_hour tokens 100");
    let [holder, dropping, other] = fleet.workers();
    let mut granted = 0;
    for step in 0..60 {
        let after = Duration::from_micros(60 * step);
        granted += usize::from(dropping.blink(&tokens(60), after));
        // Beside a demand that holds what it needs, it waits.
        let call = holder.take(&tokens(60));
        let waiting = other.queue(&tokens(90));
        dropping.blink(&tokens(60), after);
        call.release();
        waiting.granted(secs(1));
        waiting.release();
        // What a dropped future gives back travels on its own.
        let unused = Standing { waiting: 0, available: vec![100.0], in_flight: vec![0] };
        assert_eq!(eventually(&unused, || holder.status("a")), unused, "dropped after {after:?}");
    }
    eprintln!("granted before they were dropped: {granted} of 60");
}

#[test]
fn s23_an_update_reaches_those_that_wait_in_each_process() {
    let limits = |limit| format!("bucket a per_hour tokens {limit}");
    let fleet = Fleet::start(&limits(5));
    let [one, other] = fleet.workers();
    one.take(&tokens(5)).keep();
    let waiting = one.queue(&tokens(4));
    other.update(&limits(3));
    one.update(&limits(3));
    let refused = waiting.refused(secs(1));
    assert_eq!(refused.get("kind"), Some("ExceedsCapacity"), "{refused}");

    one.update(&limits(5));
    other.update(&limits(5));
    let first = one.queue(&tokens(4));
    let second = other.queue(&tokens(1));
    one.update(&limits(10));
    first.granted(secs(1));
    other.update(&limits(10));
    second.granted(secs(1));
    first.keep();
    second.keep();
    let status = other.status("a");
    assert_eq!((status.waiting, status.available), (0, vec![0.0]));
}

#[test]
fn s24_of_48_tries_of_8_processes_exactly_33_pass() {
    let names = ["a", "b", "c", "d", "e"];
    let limits = names.map(|name| format!("bucket {name} per_hour requests 33")).join(";");
    let fleet = Fleet::start(&limits);
    let workers: [Worker; 8] = fleet.workers();
    for name in names {
        let tries: Vec<_> = workers.iter().map(|worker| worker.tries(&Ask::of(name), 6)).collect();
        let passed: Vec<_> = tries.into_iter().map(|passed| passed()).collect();
        assert_eq!(passed.iter().sum::<usize>(), 33, "{passed:?}");
        assert_eq!(workers[0].status(name).available, [0.0]);
    }
}

#[test]
fn s25_a_hopeless_wait_behind_another_process_is_refused_at_once() {
    let fleet = Fleet::start("bucket a token_bucket tokens 10000 60000");
    let [one, other] = fleet.workers();
    let drained = one.take(&tokens(10_000));
    let start = drained.granted(secs(1)).at;
    drained.keep();
    let retry_after = |ask: &Ask| {
        let refused = other.reserve(ask).refused(secs(1));
        assert_eq!(refused.get("kind"), Some("Deadline"), "{refused}");
        let at: u64 = refused.value("returned");
        since(start, at) + Duration::from_micros(refused.value("retry_after"))
    };
    // 1,000 of 10,000 come back within 6 s, and 6,000 within 36.
    let due = retry_after(&tokens(1_000).max_wait(secs(1)));
    assert!((ms(5_950)..ms(6_100)).contains(&due), "due {due:?} after the start, not 6 s");
    let first = one.queue(&tokens(5_000));
    let due = retry_after(&tokens(1_000).max_wait(secs(20)));
    assert!((ms(35_950)..ms(36_100)).contains(&due), "due {due:?} after the start, not 36 s");
    first.cancel();
    let unused = (0, vec![0]);
    let seen = || {
        let standing = one.status("a");
        (standing.waiting, standing.in_flight)
    };
    assert_eq!(eventually(&unused, seen), unused);
    let left = one.status("a");
    let refilled = since(start, now()).as_secs_f64() * 10_000.0 / 60.0;
    assert!((left.available[0] - refilled).abs() < 50.0, "{left:?}, refilled {refilled}");
}

#[test]
fn s25_a_wait_that_a_refund_elsewhere_could_shorten_is_waited() {
    let fleet = Fleet::start("bucket a token_bucket tokens 10000 60000");
    let [one, other] = fleet.workers();
    let call = one.take(&tokens(10_000));
    let waiting = other.queue(&tokens(1_000).max_wait(secs(1)));
    let refused = waiting.refused(secs(3));
    assert_eq!(refused.get("kind"), Some("Deadline"), "{refused}");
    let waited = since(refused.value("called"), refused.value("returned"));
    assert!((ms(950)..ms(1_400)).contains(&waited), "{waited:?}");

    let waiting = other.queue(&tokens(1_000).max_wait(secs(5)));
    call.settle(0);
    waiting.granted(secs(1));
}
