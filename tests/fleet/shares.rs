//! Scenarios 37 and 38: flows.

use crate::{
    fleet::Fleet,
    harness::{Ask, Grant, Run, Runs, Worker, api, ms, now, secs},
};

fn flow(name: &str) -> Ask {
    Ask::of("a").share(name)
}

/// Queues many demands of a flow, each held for a while once it is granted.
fn crowd<'w>(worker: &'w Worker, flow_name: &str, tasks: usize, hold: u64) -> Run<'w> {
    let before = worker.waits();
    let runs = Runs { tasks, hold: ms(hold), once: true, told: true, ..Runs::default() };
    let run = worker.run(&flow(flow_name), runs);
    let is_waiting = worker.has_waits(before + tasks, secs(10));
    assert!(is_waiting, "{} of {tasks} wait in {}", worker.waits() - before, worker.name());
    run
}

/// Of the first 40 grants, how many each of two flows got, and whether both still waited then.
fn first_40(flows: [&[Run<'_>]; 2]) -> [usize; 2] {
    let deadline = now() + 20_000_000;
    let grants = || flows.map(|runs| runs.iter().flat_map(Run::grants).collect::<Vec<Grant>>());
    let count = |grants: &[Vec<Grant>; 2]| grants.iter().map(Vec::len).sum::<usize>();
    // A few more, so that none of the first is still on its way through a pipe.
    while count(&grants()) < 60 && now() < deadline {
        std::thread::sleep(ms(5));
    }
    let grants = grants();
    assert!(count(&grants) >= 40, "{} grants in 20 s", count(&grants));
    let mut order: Vec<_> = grants
        .iter()
        .enumerate()
        .flat_map(|(flow, grants)| grants.iter().map(move |grant| (grant.at, flow)))
        .collect();
    order.sort_unstable();
    [0, 1].map(|flow| order.iter().take(40).filter(|(_, other)| *other == flow).count())
}

const WEIGHTS: &str = "bucket a concurrency 1; weight one 1; weight three 3";

fn assert_shares([one, three]: [usize; 2]) {
    eprintln!("of 40 grants: {one} and {three}");
    let is_fair = (9..=11).contains(&one) && one + three == 40;
    let shares = api::HAS_SHARES;
    assert!(is_fair, "of 40 grants {one} and {three}, not 10 and 30 (flows exist: {shares})");
}

#[test]
fn s37_flows_of_two_processes_are_served_by_their_weights() {
    let fleet = Fleet::start(WEIGHTS);
    let [holder, a, b] = fleet.workers();
    let held = holder.take(&flow("holder"));
    let runs = [crowd(&a, "one", 100, 5), crowd(&b, "three", 100, 5)];
    held.release();
    assert_shares(first_40([&runs[..1], &runs[1..]]));
}

#[test]
fn s37_flows_that_are_mixed_in_two_processes_are_served_by_their_weights() {
    let fleet = Fleet::start(WEIGHTS);
    let [holder, a, b] = fleet.workers();
    let held = holder.take(&flow("holder"));
    let one = [crowd(&a, "one", 50, 5), crowd(&b, "one", 50, 5)];
    let three = [crowd(&a, "three", 50, 5), crowd(&b, "three", 50, 5)];
    held.release();
    assert_shares(first_40([&one, &three]));
}

#[test]
fn s37_flows_of_one_process_are_served_by_their_weights() {
    let fleet = Fleet::start(WEIGHTS);
    let worker = fleet.worker("one");
    let held = worker.take(&flow("holder"));
    let runs = [crowd(&worker, "one", 100, 5), crowd(&worker, "three", 100, 5)];
    held.release();
    assert_shares(first_40([&runs[..1], &runs[1..]]));
}

/// A flow with 1,000 waiting, another sends one demand: it is granted after at most one more.
fn one_beside_a_flood(flooding: &Worker, other: &Worker) {
    let held = other.take(&flow("holder"));
    let flood = crowd(flooding, "flood", 1_000, 20);
    held.release();
    assert!(flood.has_grants(10, secs(10)), "the flood got {}", flood.grants().len());
    let mut passed = Vec::new();
    for _ in 0..5 {
        let call = other.reserve(&flow("one"));
        if !call.ends_within(secs(3)) {
            let grants = flood.grants().len();
            panic!("one demand waits after 3 s, the flood got {grants} in all; before: {passed:?}");
        }
        let granted = call.granted(secs(1));
        call.release();
        flood.has_grants(flood.grants().len() + 1, secs(5));
        let between = |at: u64| granted.called < at && at < granted.at;
        passed.push(flood.grants().iter().filter(|grant| between(grant.at)).count());
    }
    eprintln!("grants of the flood between call and grant: {passed:?}");
    assert!(passed.iter().all(|passed| *passed <= 1), "{passed:?}");
}

#[test]
fn s38_a_flow_with_1000_waiting_does_not_delay_a_flow_of_another_process() {
    let fleet = Fleet::start("bucket a concurrency 1");
    let [one, other] = fleet.workers();
    one_beside_a_flood(&one, &other);
}

#[test]
fn s38_a_flow_with_1000_waiting_does_not_delay_a_flow_of_its_process() {
    let fleet = Fleet::start("bucket a concurrency 1");
    let worker = fleet.worker("one");
    one_beside_a_flood(&worker, &worker);
}
