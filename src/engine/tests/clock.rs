//! A clock that steps, and a state that is lost.

use proptest::prelude::*;

use super::{fleet::on, moves::cases, *};

fn windows() -> [Rule; 3] {
    [token_bucket(1, 60, MINUTE, 60), sliding(1, 60, MINUTE, 60), held(sliding(1, 60, MINUTE, 60))]
}

#[test]
fn after_a_small_step_back_time_stands_still() {
    for rule in windows() {
        let mut world = World::new([rule]);
        let grant = world.take(&[60]);
        world.settle(&grant, &[60]);
        world.pass(10 * SECOND);
        let before = world.send(SESSION, &[]).now();
        let left = world.left(0);

        world.wall -= SECOND;
        for _ in 0..10 {
            assert_eq!(world.send(SESSION, &[]).now(), before);
            assert_eq!(world.left(0), left);
            world.pass(100 * MS);
        }
        assert_eq!(world.send(SESSION, &[]).now(), before);
        world.pass(1);
        assert_eq!(world.send(SESSION, &[]).now(), before + 1);
        assert_eq!(world.seen(0).now, world.wall, "it has caught up");
    }
}

#[test]
fn after_a_large_step_back_time_goes_on() {
    for rule in windows() {
        let mut world = World::new([rule]);
        let grant = world.take(&[60]);
        world.settle(&grant, &[60]);
        world.pass(30 * SECOND);
        let before = world.send(SESSION, &[]).now();

        world.wall -= HOUR;
        assert_eq!(world.send(SESSION, &[]).now(), before);
        world.pass(31 * SECOND);
        assert_eq!(world.send(SESSION, &[]).now(), before + 31 * SECOND);
        world.take(&[60]);
    }
}

#[test]
fn a_step_forward_and_back_gives_one_limit_more_and_no_second_one() {
    for rule in windows() {
        let mut world = World::new([rule]);
        let mut admitted = 0;
        for step in [0, HOUR as i64, -(HOUR as i64), 0, 0, 0] {
            world.wall = world.wall.checked_add_signed(step).unwrap();
            while let Ok(grant) = world.reserve(&[1]) {
                world.settle(&grant, &[1]);
                admitted += 1;
            }
            world.pass(SECOND);
        }
        assert!((120..=126).contains(&admitted), "{admitted}");
    }
}

/// A deliberate change: there was one time for all buckets of a batch, the latest of theirs. Then a
/// bucket that had seen a step forward moved its parent on, for all its children.
#[test]
fn every_bucket_keeps_its_own_time() {
    let rules = vec![vec![sliding(1, 10, MINUTE, 60)], vec![sliding(2, 10, MINUTE, 60)]];
    let mut world = World::with_buckets(rules);
    world.wall = START + HOUR;
    world.send_on(SESSION, &[1], &[]);
    world.wall = START;
    let grant = world.take(&[10, 10]);
    assert_eq!(grant.at.to_vec(), [START, START + HOUR]);
    world.pass(60 * SECOND);
    assert_eq!(world.refused(&[1, 1]).len(), 2);
    world.settle(&grant, &[4, 7]);
    assert_eq!([world.available(0), world.available(1)], [6, 3]);
    world.pass(SECOND);
    assert_eq!(
        world.take(&[10, 10]).at.to_vec(),
        [START + 61 * SECOND, START + HOUR + 61 * SECOND]
    );
}

/// Admitted through a child and by its parent alone, each in turn, while the clock goes back by a
/// step.
fn admitted_beside_a_step(step: Micros) -> u64 {
    let child = vec![sliding(1, 100, MINUTE, 60)];
    let parent = vec![sliding(2, 100, MINUTE, 60)];
    let mut world = World::with_buckets(vec![child, parent]);
    let mut admitted = 0;
    let both = |world: &mut World| {
        let op = Op::Reserve(world.demand(&[1, 1]));
        let sent = world.send(SESSION, &[op]);
        is_granted(&sent.verdicts[0])
    };
    let alone =
        |world: &mut World| is_granted(&world.send_on(SESSION, &[1], &[reserve(&[1])]).verdicts[0]);
    for round in 0..6 {
        while both(&mut world) || alone(&mut world) {
            admitted += 1;
        }
        match round {
            1 => world.wall -= step,
            _ => world.pass(9 * SECOND),
        }
    }
    admitted
}

/// 190 of 100 when the child's time, behind its parent's, was that of both.
#[test]
fn a_step_back_beside_a_parent_admits_nothing_twice() {
    for step in [MS, SECOND, SECOND + 1, MINUTE, HOUR, DAY] {
        assert_eq!(admitted_beside_a_step(step), 100, "a step back of {step}");
    }
}

#[test]
fn a_settle_from_before_a_loss_of_state_refunds_nothing() {
    let rules = [token_bucket(1, 60, MINUTE, 60), sliding(1, 60, MINUTE, 60), fixed(1, 60, DAY, 0)];
    for rule in rules {
        let mut world = World::new([rule]);
        let lost = world.take(&[60]);
        world.pass(1);
        world.states[0] = BucketState::unused();
        world.beat(SESSION);
        world.settle(&lost, &[0]);
        assert_eq!(world.available(0), 60);

        world.take(&[40]);
        for actual in [0, 59] {
            world.settle(&lost, &[actual]);
            assert_eq!((world.available(0), world.level(0).in_flight), (20, 40));
        }
        world.settle(&lost, &[60 + 10]);
        assert!(world.available(0) <= 20);
    }
}

#[test]
fn a_state_that_was_lost_shows_in_its_birth() {
    let mut world = World::new([sliding(1, 60, MINUTE, 60)]);
    world.take(&[1]);
    let born = world.seen(0).born;
    world.pass(SECOND);
    world.take(&[1]);
    assert_eq!(world.seen(0).born, born);
    world.states[0] = BucketState::unused();
    world.take(&[1]);
    assert_eq!(world.seen(0).born, world.wall);
}

/// A store whose clock is stepped back, over and over, by more and by less than a second.
#[derive(Clone, Debug)]
enum Act {
    Pass(Micros),
    Back(Micros),
    /// Of the child and the parent, of the other child and the parent, or of the parent alone;
    /// parts of the limit, in 10.
    Take(usize, u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let one = prop_oneof![
        3 => prop_oneof![0..SECOND, 0..30 * SECOND].prop_map(Act::Pass),
        2 => prop_oneof![0..2 * SECOND, 0..HOUR, 0..400 * DAY].prop_map(Act::Back),
        6 => (0..3usize, 1..=10u64).prop_map(|(on, parts)| Act::Take(on, parts)),
    ];
    proptest::collection::vec(one, 1..80)
}

proptest! {
    #![proptest_config(cases(256))]

    /// Whatever a clock does, time itself goes on: no window of it holds more than the limit.
    #[test]
    fn no_step_back_admits_anything_twice(acts in acts()) {
        let buckets = [1, 2, 3].map(|id| vec![sliding(id, 100, MINUTE, 60)]).to_vec();
        let mut world = World::with_buckets(buckets);
        let mut time = START;
        let mut logs = [const { Vec::<(Micros, u64)>::new() }; 3];
        for act in &acts {
            match *act {
                Act::Pass(passed) => {
                    time += passed;
                    world.pass(passed);
                }
                Act::Back(step) => world.wall -= step,
                Act::Take(which, parts) => {
                    let buckets: &[u16] = [&[0, 2][..], &[1, 2], &[2]][which];
                    let cost = 10 * parts;
                    let demand = on(&[0, 1][..buckets.len()], &vec![cost; buckets.len()]);
                    let applied = world.send_on(SESSION, buckets, &[Op::Reserve(demand)]);
                    if is_granted(&applied.verdicts[0]) {
                        for &bucket in buckets {
                            let log = &mut logs[usize::from(bucket)];
                            log.push((time, cost));
                            let recent = log.iter().filter(|(at, _)| at + MINUTE >= time);
                            let used: u64 = recent.map(|(_, cost)| cost).sum();
                            prop_assert!(used <= 100, "{} of 100 in bucket {}", used, bucket);
                        }
                    }
                }
            }
        }
    }
}
