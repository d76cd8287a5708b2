//! Scenarios 34 and 40: the process with the front waiter is stopped, killed or cut off.

use std::{thread, time::Duration};

use crate::{
    fleet::{Fleet, apart, since, unless_late},
    harness::{Ask, Call, Worker, ms, now, secs},
};

/// When the next waiter was granted; what it waits for if it still does.
fn granted(next: &Call<'_>, holder: &Worker) -> u64 {
    assert!(next.ends_within(secs(10)), "it still waits: {:?}", holder.status("a"));
    next.granted(secs(0)).at
}

/// Frees the capacity while the process at the front is silent, and returns how late the next is.
fn late(holder: &Worker, next: &Worker, front: &Worker, silence: impl FnOnce()) -> Duration {
    let ask = Ask::of("a");
    let held = holder.take(&ask);
    let first = front.queue(&ask);
    apart();
    let second = next.queue(&ask);
    silence();
    // What it had sent by then is answered before the slot comes free: a grant would be its own
    // until its lease ends.
    holder.status("a");
    let freed = now();
    held.release();
    let late = since(freed, granted(&second, holder));
    assert!(!first.is_over());
    second.release();
    late
}

/// Asserts that what is to come within a second did.
fn assert_within_a_second(fleet: &Fleet, late: Duration) {
    let machine = fleet.lateness.so_far();
    eprintln!("late: {late:?}, the machine up to {machine:?}");
    assert!(late < secs(1) + machine, "{late:?}, the machine up to {machine:?}");
}

#[test]
fn s34_the_next_waiter_starts_less_than_a_second_after_a_kill() {
    let fleet = Fleet::start("bucket a concurrency 1");
    let [holder, front, next] = fleet.workers();
    assert_within_a_second(&fleet, late(&holder, &next, &front, || front.kill()));
    // It leaks nothing: it held nothing but a place in the queue.
    let call = next.reserve(&Ask::of("a"));
    call.granted(secs(1));
    call.release();
    assert_eq!(next.status("a").in_flight, [0]);
}

#[test]
fn s34_the_next_waiter_starts_less_than_a_second_after_a_stop() {
    let fleet = Fleet::start("bucket a concurrency 1");
    let [holder, front, next] = fleet.workers();
    let ask = Ask::of("a");
    let held = holder.take(&ask);
    let first = front.queue(&ask);
    apart();
    let second = next.queue(&ask);
    front.stop();
    // As in `late`.
    holder.status("a");
    let freed = now();
    held.release();
    assert_within_a_second(&fleet, since(freed, granted(&second, &holder)));

    // It goes on and is the next to be granted, before one that came after it.
    apart();
    let third = holder.queue(&ask);
    front.go_on();
    front.status("a");
    second.release();
    first.granted(secs(2));
    assert!(!third.is_over(), "the one that came last passed");
    first.release();
    third.granted(secs(2));
}

#[test]
fn s34_a_stop_delays_a_refill_less_than_a_second() {
    let fleet = Fleet::start("bucket a token_bucket tokens 100 4000");
    let [front, next] = fleet.workers();
    let tokens = |amount| Ask::of("a").tokens(amount);
    let drained = next.take(&tokens(100));
    let start = drained.granted(secs(1)).at;
    drained.keep();
    front.queue(&tokens(60));
    apart();
    let second = next.queue(&tokens(10));
    front.stop();
    let due = start + 2_800_000;
    assert_within_a_second(&fleet, since(due, granted(&second, &next)));
}

/// A large demand waits for most of a minute; small ones that would fit stay behind it.
#[test]
fn s34_what_fits_starts_soon_after_the_process_is_killed_that_it_waits_behind() {
    let fleet = Fleet::start("bucket a token_bucket tokens 1000 60000");
    let [front, next] = fleet.workers();
    let tokens = |amount| Ask::of("a").tokens(amount);
    next.take(&tokens(600)).keep();
    front.queue(&tokens(1_000));
    apart();
    let second = next.queue(&tokens(100));
    apart();
    front.kill();
    assert_within_a_second(&fleet, since(now(), granted(&second, &next)));
}

/// As after a failover to a replica that was behind: a call that has ended is in flight again. Its
/// process lives, and keeps its lease.
#[test]
fn what_an_older_state_holds_is_free_when_a_lease_ends() {
    let fleet = Fleet::start("bucket a concurrency 1");
    let [one, other] = fleet.workers();
    let (ask, key) = (Ask::of("a"), "throttle:{default}:a");
    let held = one.take(&ask);
    let older: Vec<u8> = fleet.server.command(&["DUMP", key]);
    held.release();
    one.status("a");
    let restore = redis::cmd("RESTORE")
        .arg(key)
        .arg(0)
        .arg(older)
        .arg("REPLACE")
        .exec(&mut fleet.server.connection());
    restore.expect("an older state");
    let (first, second) = (one.queue(&ask), other.queue(&ask));
    assert!(first.ends_within(secs(12)), "{:?}", one.status("a"));
    first.release();
    second.granted(secs(2));
}

/// Each of the processes whose calls have ended finds out by itself.
#[test]
fn what_an_older_state_holds_of_several_processes_is_free_when_their_leases_end() {
    let fleet = Fleet::start("bucket a concurrency 3");
    let workers: [_; 3] = fleet.workers();
    let (ask, key) = (Ask::of("a"), "throttle:{default}:a");
    let held = workers.each_ref().map(|worker| worker.take(&ask));
    let older: Vec<u8> = fleet.server.command(&["DUMP", key]);
    held.into_iter().for_each(|held| held.release());
    workers.iter().for_each(|worker| drop(worker.status("a")));
    let mut restore = redis::cmd("RESTORE");
    restore.arg(key).arg(0).arg(older).arg("REPLACE");
    restore.exec(&mut fleet.server.connection()).expect("an older state");
    // All of them go on, and keep what is theirs alive.
    let calls = workers.each_ref().map(|worker| worker.queue(&ask));
    for call in &calls {
        assert!(call.ends_within(secs(14)), "{:?}", workers[0].status("a"));
    }
    assert_eq!(workers[0].status("a").in_flight, [3]);
    calls.into_iter().for_each(|call| call.release());
}

/// The outcome, and how late the machine was.
fn front_is_cut_off() -> (Result<(), String>, Duration) {
    let fleet = Fleet::start("bucket a concurrency 1");
    let [holder, next] = fleet.workers();
    let (proxy, front) = fleet.worker_through_proxy("front");
    let ask = Ask::of("a");
    let held = holder.take(&ask);
    let first = front.queue(&ask);
    apart();
    let second = next.queue(&ask);
    proxy.cut();
    let cut = now();
    held.release();
    assert_within_a_second(&fleet, since(cut, granted(&second, &holder)));

    apart();
    let third = holder.queue(&ask);
    // The scenario says for how long it is cut off.
    thread::sleep(secs(5).saturating_sub(since(cut, now())));
    assert!(!first.is_over(), "over while it was cut off: {}", first.outcome(secs(0)));
    proxy.restore();
    let deadline = now() + 10_000_000;
    while !front.is_connected("a") {
        assert!(now() < deadline, "not connected 10 s after it could be");
        thread::sleep(ms(20));
    }
    second.release();
    // It is passed if it comes 200 ms late.
    let is_first = first.ends_within(secs(2));
    let result = match third.is_over() {
        false if is_first => Ok(()),
        over => Err(format!("the front is granted: {is_first}, a later one: {over}")),
    };
    if result.is_ok() {
        first.granted(secs(0));
        first.release();
        third.granted(secs(10));
    }
    (result, fleet.lateness.so_far())
}

#[test]
fn s40_a_front_that_is_cut_off_delays_the_next_less_than_a_second_and_keeps_its_place() {
    unless_late(ms(50), front_is_cut_off);
}

/// Each of them is noticed by itself.
#[test]
fn a_call_that_is_granted_after_several_buckets_went_back_is_over_when_it_ends() {
    let rules = "bucket a concurrency 1; bucket b concurrency 1; bucket c concurrency 1";
    let fleet = Fleet::start(rules);
    let [one, other] = fleet.workers();
    let keys = ["throttle:{default}:a", "throttle:{default}:b"];
    let held = ["a", "b"].map(|bucket| one.take(&Ask::of(bucket)));
    let older: [Vec<u8>; 2] = keys.map(|key| fleet.server.command(&["DUMP", key]));
    held.into_iter().for_each(|held| held.release());
    one.status("a");
    one.status("b");
    for (key, older) in keys.iter().zip(older) {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(key).arg(0).arg(older).arg("REPLACE");
        restore.exec(&mut fleet.server.connection()).expect("an older state");
    }
    one.status("a");
    let live = one.take(&Ask::of("c"));
    one.status("b");
    let waits = other.queue(&Ask::of("c"));
    apart();
    live.release();
    assert!(waits.ends_within(secs(2)), "{:?}", one.status("c"));
    waits.release();
}
