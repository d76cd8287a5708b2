//! No waiter is forgotten, and nothing in flight: whatever the store tells of the turns of flows,
//! and however full batches are.

use super::*;

/// Many demands of a few flows, each on two buckets of three and on one that they share.
fn crowd(random: &mut fastrand::Rng) -> (World, Vec<Answer>) {
    let mut world = World::new(false);
    let sets = sets(&["a", "b", "c", "parent"], &[&[0, 1, 3], &[1, 2, 3], &[2, 0, 3]]);
    let answers = (0..300).map(|_| {
        let kind = random.usize(0..sets.len());
        world.set = sets[kind].clone();
        let flow = kind as u64 * 2 + random.u64(1..=2);
        let ask = world.ask(random.u64(1..5), Mode::Wait, flow);
        world.enter(ask, None).1
    });
    let answers = answers.collect();
    (world, answers)
}

/// Refuses a demand on some of its quotas, the turn of its flow being any.
fn refused_somewhere(reserve: &engine::Reserve, random: &mut fastrand::Rng) -> Verdict {
    let Verdict::Refused(mut refused) = refused(random.bool().then_some(SECOND)) else {
        panic!("it is refused")
    };
    let first = random.usize(0..reserve.costs.len());
    refused.violations[0].by = RefusedBy::Rule(first);
    if random.bool() {
        let by = RefusedBy::Rule((first + 1) % reserve.costs.len());
        refused.violations.push(Violation { by, ..refused.violations[0] });
    }
    (refused.tag, refused.part) = (random.u8(0..100).into(), 0.01);
    Verdict::Refused(refused)
}

#[test]
fn every_waiter_is_looked_at_in_the_end_whatever_is_told_of_the_turns_of_flows() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut world, mut answers) = crowd(&mut random);
        let (mut batches, end) = (0, world.now + 3_600 * SECOND);
        while !answers.is_empty() {
            assert!(world.now < end, "{} wait, seed {seed}", answers.len());
            let turn = world.turn();
            match turn {
                Turn::Send(batch) => {
                    batches += 1;
                    world.now += 1;
                    // It grants nothing for a while, and then little at a time.
                    let mut grants = if batches < 40 { 0 } else { random.usize(0..20) };
                    let verdict = |op: &Op| match op {
                        Op::Reserve(_) if grants > 0 => {
                            grants -= 1;
                            GRANTED
                        }
                        Op::Reserve(reserve) => refused_somewhere(reserve, &mut random),
                        _ => Verdict::Done,
                    };
                    let verdicts: Vec<_> = batch.ops().iter().map(verdict).collect();
                    world.applied(batch, verdicts);
                }
                Turn::Sleep(Some(until)) => world.now = until,
                turn => panic!("{turn:?} while {} wait, seed {seed}", answers.len()),
            }
            answers.retain_mut(|answer| outcome(answer).is_none());
        }
    }
}

/// So many buckets, each in a set of its own.
fn tenants(count: usize) -> Vec<Arc<BucketSet>> {
    let names: Vec<String> = (0..count).map(|number| format!("tenant-{number}")).collect();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let indexes: Vec<[usize; 1]> = (0..count).map(|index| [index]).collect();
    let indexes: Vec<&[usize]> = indexes.iter().map(AsRef::as_ref).collect();
    sets(&names, &indexes)
}

#[test]
fn those_that_find_no_room_in_a_batch_are_in_the_next() {
    let mut world = World::new(false);
    let mut answers = Vec::new();
    for set in tenants(150) {
        world.set = set;
        answers.push(world.wait(1).1);
    }
    // All are refused until a time that is the same for all.
    let until = world.now + 2 * SECOND;
    while !answers.is_empty() {
        let turn = world.turn();
        match turn {
            Turn::Send(batch) => {
                let wait = until.checked_sub(world.now).filter(|wait| *wait > 0);
                let verdict = |op: &Op| match op {
                    Op::Reserve(_) => wait.map_or(GRANTED, |wait| refused(Some(wait))),
                    _ => Verdict::Done,
                };
                let verdicts: Vec<_> = batch.ops().iter().map(verdict).collect();
                world.applied(batch, verdicts);
            }
            Turn::Sleep(Some(time)) => world.now = time,
            turn => panic!("{turn:?} while {} wait", answers.len()),
        }
        assert!(world.now <= until + SECOND, "{} wait", answers.len());
        answers.retain_mut(|answer| outcome(answer).is_none());
    }
}

#[test]
fn what_is_in_flight_is_kept_alive_though_every_batch_is_full() {
    let tenants = tenants(110);
    let (open, busy) = tenants.split_at(10);
    let mut world = World::new(false);
    let grant_all = |world: &mut World| {
        let batch = world.sent();
        let named = batch.buckets().ids().to_vec();
        let verdicts: Vec<_> = batch.ops().iter().map(|_| GRANTED).collect();
        world.applied(batch, verdicts);
        named
    };
    let mut answers = Vec::new();
    for set in open {
        world.set = set.clone();
        answers.push(world.wait(1).1);
    }
    grant_all(&mut world);
    let ids: Vec<u64> =
        open.iter().flat_map(|set| set.handles().map(|handle| handle.id())).collect();
    let mut named_at = vec![world.now; ids.len()];
    for _ in 0..300 {
        world.now += SECOND / 10;
        for set in busy {
            world.set = set.clone();
            answers.push(world.wait(1).1);
        }
        let named = grant_all(&mut world);
        for (id, named_at) in ids.iter().zip(&mut named_at) {
            if named.contains(id) {
                *named_at = world.now;
            }
            assert!(world.now - *named_at < 9 * SECOND, "its lease is ten seconds");
        }
    }
}

#[test]
fn a_waiter_is_looked_at_though_those_that_do_not_wait_fill_every_batch() {
    let tenants = tenants(101);
    let (own, busy) = tenants.split_at(1);
    let mut world = World { set: own[0].clone(), ..World::new(false) };
    let (mut waits, mut answers) = (world.wait(1).1, Vec::new());
    for _ in 0..2 {
        world.refuse_all(Some(SECOND));
    }
    for _ in 0..30 {
        world.now += SECOND / 10;
        for set in busy {
            world.set = set.clone();
            let ask = world.ask(1, Mode::Try, 0);
            answers.push(world.enter(ask, None).1);
        }
        let batch = world.sent();
        let verdict = |op: &Op| match op {
            Op::Reserve(reserve) if reserve.mode == Mode::Wait => GRANTED,
            Op::Reserve(_) => refused(None),
            _ => Verdict::Done,
        };
        let verdicts: Vec<_> = batch.ops().iter().map(verdict).collect();
        world.applied(batch, verdicts);
    }
    assert!(outcome(&mut waits).is_some(), "it waits");
}
