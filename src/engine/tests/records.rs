//! What a bucket remembers: records of sessions and claims, and quotas that the rules in use do not
//! have. They end by themselves, a bounded number at a time, and a batch does no work for those
//! that it does not name.

use super::{
    super::session_record::LOOKS,
    fleet::{Fleet, on},
    *,
};

/// Records that are looked at while this is done.
fn looks(work: impl FnOnce()) -> usize {
    LOOKS.set(0);
    work();
    LOOKS.get()
}

#[test]
fn leases_end_a_bounded_number_at_a_time() {
    let mut world = World::new([concurrency(1, 1_000)]);
    for session in 1..=100 {
        world.reserve_by(session, &[1]).unwrap();
    }
    world.pass(10 * SECOND);
    let mut left = 100;
    for _ in 0..7 {
        world.beat(200);
        let now = world.states[0].quotas()[0].in_flight;
        assert!(left - now <= 16, "{left}, then {now}");
        left = now;
    }
    assert_eq!(left, 0);
}

#[test]
fn a_lease_that_is_renewed_never_ends_however_many_are_due() {
    let mut world = World::new([concurrency(1, 1_000)]);
    for session in 1..=100 {
        world.reserve_by(session, &[1]).unwrap();
    }
    for _ in 0..10 {
        world.pass(9 * SECOND);
        (1..=100).for_each(|session| drop(world.beat(session)));
        assert_eq!(world.level(0).in_flight, 100);
    }
}

#[test]
fn records_are_forgotten_and_none_before_its_time() {
    let mut world = World::new([sliding(1, 1_000_000, MINUTE, 10)]);
    for session in 1..=200 {
        world.pass(MINUTE);
        let grant = world.reserve_by(session, &[10]).unwrap();
        world.settle(&grant, &[5]);
    }
    let remembered = SESSION_MEMORY / MINUTE + 1;
    assert!(world.states[0].records().count() as u64 <= remembered);
    for session in 200 - SESSION_MEMORY / MINUTE + 1..=200 {
        assert!(world.states[0].record(session).is_some(), "{session}");
    }
}

/// 10,000 sessions and 10,000 claims, all with something in flight, over hours.
#[test]
fn the_work_of_a_batch_does_not_grow_with_sessions_and_claims() {
    let mut world = World::new([concurrency(1, 1_000_000), sliding(2, 1_000_000, MINUTE, 60)]);
    world.lease = 30 * MINUTE;
    for session in 1..=10_000 {
        let grant = world.reserve_by(session, &[2, 2]).unwrap();
        let half = Grant { costs: [1, 1].as_slice().into(), ..grant };
        world.one(session, detach(&half, 20_000 + session, HOUR));
    }
    assert_eq!(world.states[0].records().count(), 20_000);
    let mut most = 0;
    for round in 0..400 {
        world.pass(SECOND);
        most = most.max(looks(|| {
            let grant = world.take(&[1, 1]);
            world.settle(&grant, &[1, 1]);
        }));
        let claim = 20_001 + round;
        let at = [world.wall].as_slice().into();
        let (on, reserved, actual) =
            (world.all(), [1, 1].as_slice().into(), [1, 1].as_slice().into());
        let settle =
            Op::Settle(Settle { on, at, reserved, actual, close: true, claim: Some(claim) });
        most = most.max(looks(|| assert_eq!(world.one(7, settle), Verdict::Done)));
    }
    assert!(most <= 8, "{most} looks");
    // All of them end: at most 16 in a batch, each looked at a few times.
    world.pass(2 * HOUR);
    let mut batches = 0;
    while world.states[0].records().count() > 2 {
        most = most.max(looks(|| drop(world.beat(SESSION))));
        batches += 1;
        assert!(batches <= 3_000);
    }
    assert!(most <= 16 * 4 + 8, "{most} looks");
    assert_eq!(world.level(0).in_flight, 0);
}

/// Each declaration has other quotas.
#[test]
fn any_number_of_declarations_of_one_bucket() {
    let mut world = World::new([sliding(1, 10, MINUTE, 60)]);
    for id in 1..=2_000 {
        world.rules = vec![vec![sliding(id, 10, MINUTE, 60), concurrency(10_000 + id, 3)]];
        let grant = world.take(&[7, 1]);
        world.settle(&grant, &[6, 1]);
        world.pass(MS);
    }
    // None of them was forgotten, nor confused with another.
    for id in [1, 2, 1_000, 1_331, 2_000] {
        world.rules = vec![vec![sliding(id, 10, MINUTE, 60), concurrency(10_000 + id, 3)]];
        assert_eq!((world.available(0), world.available(1)), (4, 3), "{id}");
        assert_eq!(world.refused(&[5, 1]).len(), 1);
        world.take(&[1, 1]);
    }
    // They are gone when they mean nothing.
    world.pass(2 * MINUTE);
    for _ in 0..300 {
        world.pass(SECOND);
        world.beat(2);
    }
    assert!(world.states[0].all_quotas() <= 4, "{} quotas", world.states[0].all_quotas());
}

#[test]
fn a_quota_that_is_set_aside_and_comes_back_over_and_over_leaves_nothing_behind() {
    let sets = [
        vec![sliding(1, 10, HOUR, 60)],
        vec![sliding(2, 10, HOUR, 60)],
        vec![token_bucket(3, 10, HOUR, 10)],
    ];
    let mut world = World::new(sets[0].clone());
    for round in 0..3_000 {
        world.pass(MS);
        world.rules = vec![sets[round % 3].clone()];
        let _ = world.reserve(&[1]);
        assert!(world.states[0].all_quotas() <= 3);
        assert!(world.states[0].due_entries() <= 4, "{} entries", world.states[0].due_entries());
    }
}

fn claimed(world: &mut World, claim: u64) -> Grant {
    let grant = world.take(&[10, 4, 10]);
    let claimed = Grant { costs: [5, 2, 5].as_slice().into(), ..grant };
    world.one(SESSION, detach(&claimed, claim, HOUR));
    claimed
}

/// Whatever an id says that a process was given by another one.
#[test]
fn a_tampered_claim_settles_no_more_than_it_holds() {
    let rules =
        [sliding(1, 1_000, MINUTE, 60), concurrency(2, 10), held(sliding(3, 1_000, MINUTE, 60))];
    for (reserved, at) in [(1_000, 0), (5, 30 * SECOND), (u64::MAX, 0), (0, 0), (6, HOUR)] {
        let mut world = World::new(rules.clone());
        // Others use it too.
        world.reserve_by(2, &[400, 3, 400]).unwrap();
        let claim = claimed(&mut world, 77);
        world.pass(SECOND);
        world.reserve_by(2, &[400, 1, 400]).unwrap();
        let before = [0, 1, 2].map(|rule| world.left(rule));
        let forged = Settle {
            at: [claim.at[0] + at].as_slice().into(),
            reserved: [reserved; 3].as_slice().into(),
            claim: Some(77),
            ..amendment(&claim, &[0, 0, 0])
        };
        let verdict = world.one(3, Op::Settle(forged.clone()));
        let after = [0, 1, 2].map(|rule| world.left(rule));
        for (rule, share) in [5, 2, 5].into_iter().enumerate() {
            assert!(
                after[rule] - before[rule] <= share,
                "{before:?}, then {after:?}, {reserved} at {at}"
            );
        }
        assert_eq!(verdict, Verdict::Done);
        assert_eq!(world.one(3, Op::Settle(forged)), Verdict::NoClaim, "once");
        assert_eq!([0, 1, 2].map(|rule| world.left(rule)), after);
    }
}

#[test]
fn a_claim_that_is_none_settles_nothing() {
    let mut world = World::new([concurrency(1, 10), sliding(2, 10, MINUTE, 60)]);
    let grant = world.take(&[4, 4]);
    world.reserve_by(2, &[1, 1]).unwrap();
    // Ids of sessions are no claims, of whatever session.
    for claim in [77, SESSION, 2, 0] {
        let forged = Settle { claim: Some(claim), ..amendment(&grant, &[0, 0]) };
        assert_eq!(world.one(3, Op::Settle(forged)), Verdict::NoClaim, "{claim}");
        assert_eq!([world.available(0), world.available(1)], [5, 5]);
    }
    // The sessions' records are all there.
    assert_eq!(world.states[0].record(SESSION).unwrap().last().0, 1);
    assert_eq!(world.states[0].record(2).unwrap().last().0, 1);
    world.settle(&grant, &[0, 0]);
    assert_eq!([world.available(0), world.available(1)], [9, 9]);
}

/// The part in the other bucket ends with the claim's lease.
#[test]
fn a_claim_that_is_settled_on_one_of_its_buckets_frees_the_others_with_its_lease() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)], vec![concurrency(2, 1)]]);
    let running = fleet.ask(1, on(&[0, 1], &[1, 1])).unwrap();
    let world = &mut fleet.world;
    world.one(1, detach(&running.grant, 77, HOUR));
    let forged = Settle {
        on: [0].as_slice().into(),
        claim: Some(77),
        at: [running.grant.at[0]].as_slice().into(),
        reserved: [1].as_slice().into(),
        actual: [1].as_slice().into(),
        close: true,
    };
    assert_eq!(world.one(2, Op::Settle(forged)), Verdict::Done);
    assert_eq!([world.available(0), world.available(1)], [1, 0]);
    world.pass(HOUR);
    world.beat(2);
    assert_eq!(world.available(1), 1);
}
