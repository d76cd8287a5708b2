//! Flows: demands of one class are served in turns by weight, whatever their sessions.

use proptest::prelude::*;

use super::{
    fleet::{Fleet, Running, batch_class, on, shared},
    moves::cases,
    *,
};

/// Serves so many demands one after the other, each when the one before it has ended: leaves the
/// last one running. Returns the flows in order.
fn served(fleet: &mut Fleet, running: &mut Running, grants: usize) -> Vec<u64> {
    let sessions: Vec<u64> = fleet.sessions.keys().copied().collect();
    let mut flows = Vec::new();
    while flows.len() < grants {
        fleet.pass(MS);
        let hinted = fleet.end_all(running);
        // The one that ends a call looks at once, then those that are hinted.
        let mut looks = vec![running.grant.session];
        looks.extend(hinted);
        looks.extend(&sessions);
        let granted = looks.into_iter().find_map(|session| fleet.look(session).granted.pop());
        *running = granted.expect("one is next");
        flows.push(running.demand.flow.id);
    }
    flows
}

fn counts<const N: usize>(flows: &[u64], of: [u64; N]) -> [usize; N] {
    of.map(|flow| flows.iter().filter(|other| **other == flow).count())
}

/// A fleet on `concurrency(1)`, which is taken, with so many waiters of each flow, given as id,
/// weight and session.
fn backlogged(flows: &[(u64, u32, u64)], each: usize, most_sent: usize) -> (Fleet, Running) {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)]]);
    fleet.most_sent = most_sent;
    let running = fleet.ask(99, demand(&[1])).unwrap();
    for &(id, weight, session) in flows {
        for _ in 0..each {
            fleet.pass(1);
            fleet.enter(session, shared(1, id, weight));
        }
        fleet.look(session);
    }
    (fleet, running)
}

#[test]
fn scenario_37_weights_1_and_3_give_10_and_30_of_40() {
    for (sessions, most_sent) in
        [([1, 1], usize::MAX), ([1, 1], 4), ([1, 2], usize::MAX), ([2, 1], 3)]
    {
        let flows = [(7, 1, sessions[0]), (8, 3, sessions[1])];
        let (mut fleet, mut running) = backlogged(&flows, 100, most_sent);
        let served = served(&mut fleet, &mut running, 40);
        let [one, three] = counts(&served, [7, 8]);
        assert!(
            (9..=11).contains(&one) && one + three == 40,
            "{one} and {three}, {sessions:?}, {most_sent} sent"
        );
        // And so at all times.
        for end in 1..=40 {
            let [one, three] = counts(&served[..end], [7, 8]).map(|count| count as i64);
            assert!((3 * one - three).abs() <= 3, "{one} and {three} of {end}");
        }
    }
}

#[test]
fn weights_1_2_and_5_over_four_sessions() {
    // Every session has waiters of every flow.
    let flows: Vec<_> =
        (1..=4).flat_map(|session| [(1, 1, session), (2, 2, session), (3, 5, session)]).collect();
    let (mut fleet, mut running) = backlogged(&flows, 40, 12);
    let served = served(&mut fleet, &mut running, 160);
    for end in (8..=160).step_by(8) {
        let counts = counts(&served[..end], [1, 2, 3]);
        for (count, weight) in counts.into_iter().zip([1, 2, 5]) {
            let share = end * weight / 8;
            assert!(count.abs_diff(share) <= 1, "{counts:?} of {end}");
        }
    }
}

#[test]
fn scenario_38_one_demand_beside_a_flood_of_a_thousand() {
    for session in [1, 2] {
        let (mut fleet, mut running) = backlogged(&[(7, 1, 1)], 1_000, 8);
        let first = served(&mut fleet, &mut running, 20);
        assert_eq!(counts(&first, [7]), [20]);
        fleet.enter(session, shared(1, 8, 1));
        fleet.most_sent = usize::MAX;
        fleet.look(session);
        let served = served(&mut fleet, &mut running, 2);
        assert!(served.contains(&8), "{served:?}");
    }
}

/// Without a share all is one flow, which takes turns as any other.
#[test]
fn a_flood_without_a_share_beside_one_with_a_share() {
    let (mut fleet, mut running) = backlogged(&[(0, 1, 1)], 1_000, 8);
    fleet.enter(2, shared(1, 8, 1));
    fleet.look(2);
    assert!(served(&mut fleet, &mut running, 2).contains(&8));
}

#[test]
fn an_idle_flow_has_no_credit() {
    let (mut fleet, mut running) = backlogged(&[(7, 1, 1), (8, 1, 2)], 100, 4);
    let first = served(&mut fleet, &mut running, 20);
    assert_eq!(counts(&first, [7, 8]), [10, 10]);
    // The second one gives up and is idle for a while.
    fleet.sessions.insert(2, Vec::new());
    fleet.look(2);
    assert_eq!(counts(&served(&mut fleet, &mut running, 30), [7, 8]), [30, 0]);
    for _ in 0..50 {
        fleet.enter(2, shared(1, 8, 1));
    }
    fleet.look(2);
    let after = served(&mut fleet, &mut running, 20);
    let [one, other] = counts(&after, [7, 8]);
    assert!((9..=11).contains(&one) && (9..=11).contains(&other), "{after:?}");
}

/// Two flows whose demands wait in a child bucket, and take turns in its parent.
fn backlogged_in_a_child(flows: [(u64, u32, u64); 2]) -> (Fleet, Running) {
    let rules =
        vec![vec![concurrency(1, 1)], vec![concurrency(2, 1_000)], vec![concurrency(3, 999)]];
    let mut fleet = Fleet::new(rules);
    let running = fleet.ask(99, in_child(0, 1)).unwrap();
    for (id, weight, session) in flows {
        for _ in 0..60 {
            fleet.pass(1);
            fleet.enter(session, in_child(id, weight));
        }
        fleet.look(session);
    }
    (fleet, running)
}

fn in_child(id: u64, weight: u32) -> Reserve {
    Reserve { flow: Flow { id, weight }, ..on(&[0, 1], &[1, 1]) }
}

#[test]
fn an_idle_flow_has_no_credit_where_its_demands_waited_in_a_child() {
    let (mut fleet, mut running) = backlogged_in_a_child([(7, 1, 1), (8, 1, 2)]);
    let first = served(&mut fleet, &mut running, 20);
    assert_eq!(counts(&first, [7, 8]), [10, 10]);
    // The second one gives up. Its session tells the child only.
    fleet.sessions.insert(2, Vec::new());
    fleet.world.send_on(2, &[0], &[Op::Waiting { bucket: 0, lines: Box::default() }]);
    assert_eq!(counts(&served(&mut fleet, &mut running, 30), [7, 8]), [30, 0]);
    for _ in 0..50 {
        fleet.enter(2, in_child(8, 1));
    }
    fleet.look(2);
    let after = served(&mut fleet, &mut running, 20);
    for end in 1..=20 {
        let [one, other] = counts(&after[..end], [7, 8]);
        assert!(one.abs_diff(other) <= 1, "{after:?}");
    }
}

#[test]
fn a_flow_has_its_turns_in_a_child_whatever_it_is_granted_in_others() {
    for (weights, sessions, least) in
        [([1, 1], [1, 2], 19), ([1, 3], [1, 2], 9), ([1, 1], [1, 1], 19), ([3, 1], [1, 2], 19)]
    {
        let flows = [(7, weights[0], sessions[0]), (8, weights[1], sessions[1])];
        let (mut fleet, mut running) = backlogged_in_a_child(flows);
        let mut all = Vec::new();
        for _ in 0..40 {
            for _ in 0..5 {
                let demand = Reserve { flow: Flow { id: 7, weight: 1 }, ..on(&[0, 1], &[1, 1]) };
                let sent = fleet.world.send_on(3, &[2, 1], &[Op::Reserve(demand)]);
                assert!(is_granted(&sent.verdicts[0]));
            }
            all.extend(served(&mut fleet, &mut running, 1));
        }
        let [one, other] = counts(&all, [7, 8]);
        assert!((least..=least + 2).contains(&one), "{one} and {other}, {weights:?} {sessions:?}");
    }
}

/// Others move the parent's virtual time on.
#[test]
fn a_flow_that_waits_in_a_child_loses_no_turn_there_by_a_call_elsewhere() {
    let (mut fleet, mut running) = backlogged_in_a_child([(7, 1, 1), (8, 3, 2)]);
    let elsewhere = |fleet: &mut Fleet, session, flow| {
        let demand = Reserve { flow: Flow { id: flow, weight: 1 }, ..on(&[0, 1], &[1, 1]) };
        let sent = fleet.world.send_on(session, &[2, 1], &[Op::Reserve(demand)]);
        assert!(is_granted(&sent.verdicts[0]));
    };
    let mut all = Vec::new();
    for turn in 0..40 {
        elsewhere(&mut fleet, 3, 9);
        elsewhere(&mut fleet, 3, 9);
        all.extend(served(&mut fleet, &mut running, 1));
        if turn == 20 {
            elsewhere(&mut fleet, 1, 7);
        }
    }
    let [one, three] = counts(&all, [7, 8]);
    assert!((9..=10).contains(&one), "{one} and {three}");
}

#[test]
fn inside_a_flow_arrival_decides_and_a_class_is_apart() {
    let (mut fleet, running) = backlogged(&[(7, 1, 1), (7, 1, 2), (7, 1, 3)], 1, 4);
    fleet.end_all(&running);
    let mut order = Vec::new();
    while fleet.waiting() > 0 {
        let granted =
            [3, 2, 1].into_iter().find_map(|session| fleet.look(session).granted.pop()).unwrap();
        order.push(granted.grant.session);
        fleet.end_all(&granted);
    }
    assert_eq!(order, [1, 2, 3]);

    // A demand of another class is no turn of its flow.
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 10)]]);
    let running = fleet.ask(9, demand(&[10])).unwrap();
    let other = Reserve { flow: Flow { id: 8, weight: 1 }, ..batch_class(&[5]) };
    fleet.ask(1, shared(5, 7, 1)).unwrap_err();
    fleet.ask(2, other).unwrap_err();
    fleet.end_all(&running);
    assert!(fleet.look(2).granted.is_empty(), "it came later");
    assert_eq!(fleet.look(1).granted.len(), 1);
}

/// Flows take turns in the last bucket of a demand, though another one holds all of them back.
/// Waiters of two flows on 20 tokens that are free now, given as session, cost and flow. Flow 7 has
/// had 6 of 20, and flow 8 nothing.
fn two_flows(waiters: &[(u64, u64, u64)]) -> Fleet {
    let mut fleet = Fleet::new(vec![vec![sliding(1, 20, SECOND, 50)]]);
    fleet.ask(99, shared(20, 9, 1)).unwrap();
    fleet.ask(5, shared(6, 7, 1)).unwrap_err();
    fleet.pass(SECOND + 50 * MS);
    assert_eq!(fleet.look(5).granted.len(), 1);
    fleet.ask(99, shared(14, 9, 1)).unwrap();
    for &(session, cost, flow) in waiters {
        fleet.pass(MS);
        fleet.enter(session, shared(cost, flow, 1));
        fleet.look(session);
    }
    fleet.pass(SECOND + 50 * MS);
    fleet
}

/// The costs and flows of what a session is granted now.
fn granted(fleet: &mut Fleet, session: u64) -> Vec<(u64, u64)> {
    let granted = fleet.look(session).granted;
    granted.iter().map(|call| (call.demand.costs[0], call.demand.flow.id)).collect()
}

/// A grant moves its flow behind another one in the midst of a batch, and so the places of others.
#[test]
fn none_passes_older_ones_of_its_flow_when_another_flow_is_moved_on() {
    let mut fleet = two_flows(&[(1, 5, 7), (3, 9, 7), (2, 7, 8), (2, 5, 7), (4, 1, 8)]);
    assert_eq!(granted(&mut fleet, 2), [(7, 8)]);
    assert_eq!(granted(&mut fleet, 1), [(5, 7)]);
}

/// A younger one of the same flow is granted first, since there was room for both.
#[test]
fn the_first_of_a_flow_is_not_put_off_by_what_its_flow_is_granted_elsewhere() {
    let mut fleet = two_flows(&[(1, 8, 7), (2, 3, 7), (3, 4, 8), (3, 4, 8), (3, 4, 8)]);
    assert_eq!(granted(&mut fleet, 2), [(3, 7)]);
    assert_eq!(granted(&mut fleet, 3), [(4, 8), (4, 8)]);
    assert_eq!(granted(&mut fleet, 1), [(8, 7)]);
}

#[test]
fn flows_take_turns_though_only_a_child_is_short() {
    for sessions in [[1, 1], [1, 2]] {
        let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)], vec![concurrency(2, 1_000)]]);
        let flow = |id, weight| Reserve { flow: Flow { id, weight }, ..on(&[0, 1], &[1, 1]) };
        let mut running = fleet.ask(9, flow(0, 1)).unwrap();
        for (session, demand) in sessions.into_iter().zip([flow(7, 1), flow(8, 3)]) {
            for _ in 0..60 {
                fleet.pass(1);
                fleet.enter(session, demand.clone());
            }
            fleet.look(session);
        }
        let served = served(&mut fleet, &mut running, 40);
        let [one, three] = counts(&served, [7, 8]);
        assert!((9..=11).contains(&one), "{one} and {three} of {sessions:?}");
    }
}

#[test]
fn flows_are_forgotten_a_minute_after_they_were_served() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)]]);
    let mut running = fleet.ask(9, demand(&[1])).unwrap();
    for flow in 1..=100 {
        fleet.ask(1, shared(1, flow, 1)).unwrap_err();
        fleet.end_all(&running);
        running = fleet.look(1).granted.remove(0);
    }
    fleet.end_all(&running);
    assert!(fleet.world.states[0].flows().is_some());
    fleet.pass(MINUTE - 1);
    fleet.world.beat(9);
    assert!(fleet.world.states[0].flows().is_some());
    fleet.pass(1);
    // A bounded number in each batch.
    for _ in 0..8 {
        fleet.world.beat(9);
    }
    assert!(fleet.world.states[0].flows().is_none());
}

#[test]
fn a_flow_that_waits_is_not_forgotten() {
    let (mut fleet, mut running) = backlogged(&[(7, 1, 1), (8, 1, 2)], 4, 4);
    served(&mut fleet, &mut running, 3);
    for _ in 0..10 {
        fleet.pass(MINUTE);
        fleet.look(1);
        fleet.look(2);
    }
    assert!(fleet.world.states[0].flows().is_some());
}

proptest! {
    #![proptest_config(cases(64))]

    /// With equal costs and everything backlogged, every flow has its share within one demand for
    /// each other flow.
    #[test]
    fn every_backlogged_flow_has_its_share(
        flows in proptest::collection::vec((1..6u32, 1..4u64), 2..5),
        most_sent in prop_oneof![Just(usize::MAX), 4..20usize],
        grants in 10..60usize,
    ) {
        let flows: Vec<_> =
            (0..).zip(flows).map(|(id, (weight, session))| (id, weight, session)).collect();
        let (mut fleet, mut running) = backlogged(&flows, 64, most_sent);
        let served = served(&mut fleet, &mut running, grants);
        let all: u32 = flows.iter().map(|(_, weight, _)| weight).sum();
        for &(flow, weight, _) in &flows {
            let [count] = counts(&served, [flow]);
            let share = grants as f64 * f64::from(weight) / f64::from(all);
            prop_assert!((count as f64 - share).abs() <= 1.0 + flows.len() as f64 / 2.0, "{count} for {share} of {flows:?}");
        }
    }
}
