//! Scenarios 34 and 40: the process with the front waiter is stopped, killed or cut off.

use std::{thread, time::Duration};

use crate::{
    fleet::{Fleet, apart, since},
    harness::{Ask, Worker, ms, now, secs},
};

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
    let late = since(freed, second.granted(secs(10)).returned);
    assert!(!first.is_over());
    second.release();
    late
}

#[test]
fn s34_the_next_waiter_starts_less_than_a_second_after_a_kill() {
    let fleet = Fleet::start("bucket a concurrency 1");
    let [holder, front, next] = fleet.workers();
    let late = late(&holder, &next, &front, || front.kill());
    eprintln!("late: {late:?}");
    assert!(late < secs(1), "{late:?}");
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
    let late = since(freed, second.granted(secs(10)).returned);
    eprintln!("late: {late:?}");
    assert!(late < secs(1), "{late:?}");

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
    let fleet = Fleet::start("bucket a token_bucket tokens 100 1000");
    let [front, next] = fleet.workers();
    let tokens = |amount| Ask::of("a").tokens(amount);
    let drained = next.take(&tokens(100));
    let start = drained.granted(secs(1)).at;
    drained.keep();
    front.queue(&tokens(60));
    apart();
    let second = next.queue(&tokens(10));
    front.stop();
    let time = since(start, second.granted(secs(10)).at);
    eprintln!("granted after {time:?}, due after 0.7 s");
    assert!(time < ms(1_700), "granted after {time:?}, due after 0.7 s");
}

#[test]
fn s40_a_front_that_is_cut_off_delays_the_next_less_than_a_second_and_keeps_its_place() {
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
    let late = since(cut, second.granted(secs(10)).returned);
    eprintln!("late: {late:?}");
    assert!(late < secs(1), "{late:?}");

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
    let is_first = first.ends_within(secs(2));
    assert!(is_first && !third.is_over(), "granted: {is_first}, a later one: {}", third.is_over());
    first.granted(secs(1));
    first.release();
    third.granted(secs(2));
}
