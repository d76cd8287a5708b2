//! Scenario 26, classes, and 41, siblings under a parent.

use crate::{
    fleet::{Fleet, apart},
    harness::{Ask, Run, Runs, Worker, ms, now, secs},
};

fn batch(ask: Ask) -> Ask {
    ask.class("batch")
}

#[test]
fn s26_a_head_start_passes_those_that_wait_in_other_processes() {
    let fleet = Fleet::start("bucket a concurrency 1; class production 30000 0; class batch 0 0");
    let [holder, one, two, three] = fleet.workers();
    let ask = Ask::of("a");
    let held = holder.take(&ask);
    let mut waiting = Vec::new();
    for _ in 0..10 {
        for worker in [&one, &two] {
            waiting.push(worker.queue(&batch(ask.clone())));
            apart();
        }
    }
    let production = three.queue(&ask.clone().class("production"));
    held.release();
    let passed = || waiting.iter().filter(|call| call.is_over()).count();
    let is_next = production.ends_within(secs(2));
    assert!(
        is_next && passed() == 0,
        "production granted: {is_next}, batch before it: {}",
        passed()
    );
    production.release();
    // The rest in the order of their arrival, which changes the process each time.
    let mut order = Vec::new();
    for (index, call) in waiting.iter().enumerate() {
        if !call.ends_within(secs(3)) {
            let over: Vec<_> = waiting.iter().map(|call| call.is_over()).collect();
            panic!("the {index}-th waiter is not next; granted so far: {over:?}");
        }
        order.push(call.granted(secs(1)).at);
        call.release();
    }
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn s26_headroom_is_left_to_other_processes() {
    let fleet = Fleet::start("bucket a per_hour tokens 100; class batch 0 10");
    let [one, two, three] = fleet.workers();
    let tokens = |amount| Ask::of("a").tokens(amount);
    for worker in [&one, &two, &one, &two, &one, &two, &one, &two, &one] {
        worker.take(&batch(tokens(10))).keep();
    }
    let refused = two.try_reserve(&batch(tokens(1))).refused(secs(2));
    assert_eq!(refused.get("kind"), Some("NotNow"), "{refused}");
    let waiting = [one.queue(&batch(tokens(1))), two.queue(&batch(tokens(1)))];
    let passes = three.try_reserve(&tokens(9)).outcome(secs(2));
    assert_eq!(passes.verb, "granted", "production passes at once: {passes}");
    let passes = one.try_reserve(&tokens(1)).outcome(secs(2));
    assert_eq!(passes.verb, "granted", "production passes at once: {passes}");
    assert_eq!(three.try_reserve(&tokens(1)).refused(secs(2)).get("kind"), Some("NotNow"));
    assert!(waiting.iter().all(|call| !call.is_over()));
}

const PARENT: &str =
    "bucket A concurrency 100; bucket B concurrency 100; bucket parent concurrency 1";

/// B's demand beside tenant A that loops: how many grants A got after B called.
fn grants_before(looping: &Run<'_>, other: &Worker) -> Result<usize, String> {
    // A loops when it has had its next grant.
    let seen = looping.grants().len();
    assert!(looping.has_grants(seen + 1, secs(5)), "A stands still");
    let (since, before) = (now(), looping.grants().len());
    let call = other.reserve(&Ask::of("B").and("parent"));
    if !call.ends_within(secs(3)) {
        let grants = looping.grants().len() - before;
        call.cancel();
        return Err(format!("B waits after {} ms; A got {grants}", (now() - since) / 1_000));
    }
    let granted = call.granted(secs(1));
    call.release();
    // A's grants that were told late are still on their way through the pipe.
    looping.has_grants(looping.grants().len() + 1, secs(5));
    let between = |at: u64| granted.called < at && at < granted.at;
    Ok(looping.grants().iter().filter(|grant| between(grant.at)).count())
}

fn siblings(looping: &Worker, other: &Worker) {
    let runs = Runs { tasks: 1, hold: ms(20), told: true, ..Runs::default() };
    let run = looping.run(&Ask::of("A").and("parent"), runs);
    let mut passed = Vec::new();
    while passed.len() < 10 {
        match grants_before(&run, other) {
            Ok(grants) => passed.push(grants),
            Err(error) => panic!("{error}; A's grants between call and grant before: {passed:?}"),
        }
    }
    eprintln!("A's grants between the call of B and its grant: {passed:?}");
    assert!(passed.iter().all(|passed| *passed <= 1), "{passed:?}");
    run.halt();
}

#[test]
fn s41_a_looping_tenant_does_not_starve_its_sibling_in_one_process() {
    let fleet = Fleet::start(PARENT);
    let worker = fleet.worker("one");
    siblings(&worker, &worker);
}

#[test]
fn s41_a_looping_tenant_does_not_starve_its_sibling_in_another_process() {
    let fleet = Fleet::start(PARENT);
    let [one, other] = fleet.workers();
    siblings(&one, &other);
}
