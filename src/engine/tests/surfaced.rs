//! A wait that is longer than anybody is to sleep refuses at once, for a while.

use super::*;

fn surface(quota: Option<u64>, asked: Micros, lasts: Micros) -> Op {
    Op::Surface { quota, asked, lasts }
}

fn two_quotas() -> World {
    World::new([sliding(1, 100, MINUTE, 60), sliding(2, 100, MINUTE, 60)])
}

/// How a reserve that waits, and asks for no reasons, is refused among others of its batch.
fn queued(costs: &[u64]) -> Op {
    Op::Reserve { costs: costs.into(), headroom: 0, explain: false, mode: Mode::Wait }
}

/// What is left of the wait that was asked for, by a refusal of these costs.
fn asked(world: &World, costs: &[u64]) -> Option<Micros> {
    world.clone().refused(costs).iter().filter_map(|violation| violation.asked).max()
}

fn paused(world: &World) -> Paused {
    match world.clone().one(0, Op::Status) {
        Verdict::Status(_, paused) => paused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_lasts_no_longer_than_the_pause_and_tells_what_is_left_of_what_was_asked() {
    let mut world = two_quotas();
    world.one(LANE, surface(None, HOUR, 5 * MINUTE));
    let refusal = world.refused(&[0, 0]);
    assert_eq!((refusal[0].by, refusal[0].wait), (RefusedBy::Pause(0), Some(5 * MINUTE)));
    assert_eq!((refusal[0].at_best, refusal[0].asked), (5 * MINUTE, Some(HOUR)));
    let (until, asked_until) = (world.wall + 5 * MINUTE, world.wall + HOUR);
    assert_eq!(paused(&world), Paused { until, asked_until });
    assert!(world.states[0].expires >= until);

    world.pass(MINUTE);
    assert_eq!(asked(&world, &[1, 1]), Some(59 * MINUTE));
    world.pass(4 * MINUTE - 1);
    assert_eq!(asked(&world, &[1, 1]), Some(55 * MINUTE + 1));
    world.pass(1);
    assert_eq!(paused(&world), Paused::default());
    world.take(&[100, 100]);

    // Nothing of it is left in a later pause, or in a shorter wait that is asked for later.
    world.one(LANE, Op::Pause(MINUTE));
    assert_eq!(asked(&world, &[0, 0]), None);
    world.pass(MINUTE);
    world.one(LANE, surface(None, 10 * MINUTE, 5 * MINUTE));
    assert_eq!(asked(&world, &[0, 0]), Some(10 * MINUTE));
}

#[test]
fn whoever_needs_nothing_of_the_quota_passes() {
    let mut world = two_quotas();
    world.one(LANE, surface(Some(1), DAY, MINUTE));
    let refusal = world.refused(&[1, 1]);
    assert_eq!(refusal.len(), 1);
    assert_eq!((refusal[0].by, refusal[0].available), (RefusedBy::Rule(0), 0));
    assert_eq!(
        (refusal[0].wait, refusal[0].at_best, refusal[0].asked),
        (Some(MINUTE), MINUTE, Some(DAY))
    );
    assert_eq!((world.level(0).asked, world.level(0).withheld), (Some(DAY), 100));
    assert_eq!((world.level(1).asked, paused(&world)), (None, Paused::default()));
    world.take(&[0, 1]);
    world.pass(MINUTE);
    assert_eq!(world.level(0).asked, None);
    world.take(&[100, 1]);
}

#[test]
fn all_that_it_refuses_are_told_so_and_stand_in_nobody_s_way() {
    let mut world = two_quotas();
    world.take(&[0, 95]);
    world.one(LANE, surface(Some(1), DAY, MINUTE));
    let ops = [&[0, 6][..], &[1, 0], &[1, 6], &[0, 6], &[100, 5], &[0, 5]].map(queued);
    let (_, verdicts) = world.send(LANE, &ops);
    let asked = |verdict: &Verdict| match verdict {
        Verdict::Refused(violations) => violations.iter().find_map(|violation| violation.asked),
        other => panic!("{other:?}"),
    };
    let told = [None, Some(DAY), Some(DAY), None, Some(DAY), None];
    assert_eq!(verdicts.iter().map(asked).collect::<Vec<_>>(), told);
    assert_eq!(verdicts[3], Verdict::Refused(Box::default()), "it waits, behind another");

    // Without the first of them, which waits, what goes away does not stand before the last.
    let (_, verdicts) = world.send(LANE, &ops[4..]);
    assert_eq!(verdicts[1], Verdict::Granted);
}

#[test]
fn a_pause_as_long_as_was_asked_is_waited_out() {
    for quota in [None, Some(1)] {
        let mut world = two_quotas();
        let pause = |lasts| match quota {
            None => Op::Pause(lasts),
            Some(quota) => Op::Cap { quota, left: None, at: 0, lasts },
        };
        world.one(LANE, surface(quota, MINUTE, MINUTE));
        assert_eq!(asked(&world, &[1, 0]), None, "as long as was asked");
        world.one(LANE, surface(quota, HOUR, 5 * MINUTE));
        assert_eq!(asked(&world, &[1, 0]), Some(HOUR));

        // A shorter one changes nothing before its turn.
        world.one(LANE, pause(10 * MINUTE));
        let mut shorter = world.clone();
        assert_eq!(asked(&shorter, &[1, 0]), Some(HOUR));
        shorter.pass(5 * MINUTE);
        let refusal = shorter.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(5 * MINUTE), None));

        world.one(LANE, pause(HOUR));
        let refusal = world.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(HOUR), None));
        // Whoever is paused by both is refused for what is asked beyond it.
        world.one(LANE, surface(quota, DAY, 5 * MINUTE));
        let refusal = world.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(HOUR), Some(DAY)));
    }
}

#[test]
fn a_wait_never_shortens_another() {
    for quota in [None, Some(1)] {
        let mut world = two_quotas();
        world.one(LANE, surface(quota, HOUR, 5 * MINUTE));
        world.pass(MINUTE);
        world.one(LANE, surface(quota, 10 * MINUTE, MINUTE));
        let refusal = world.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(4 * MINUTE), Some(59 * MINUTE)));
        world.one(LANE, surface(quota, DAY, 5 * MINUTE));
        let refusal = world.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(5 * MINUTE), Some(DAY)));
    }
}

#[test]
fn an_end_of_a_pause_is_one_of_all_pauses_and_of_nothing_else() {
    let mut world = two_quotas();
    world.one(LANE, surface(None, HOUR, 5 * MINUTE));
    world.one(LANE, surface(Some(1), HOUR, 5 * MINUTE));
    world.one(LANE, Op::Cap { quota: 2, left: None, at: 0, lasts: MINUTE });
    world.one(LANE, Op::Cap { quota: 2, left: Some(7), at: world.wall, lasts: MINUTE });
    world.one(LANE, Op::Pause(0));
    assert_eq!((paused(&world), world.level(0).asked), (Paused::default(), None));
    world.refused(&[100, 8]);
    world.take(&[100, 7]);
    world.one(LANE, Op::Pause(MINUTE));
    assert_eq!(asked(&world, &[0, 0]), None);
}

#[test]
fn of_several_buckets_the_first_is_paused_and_holds_all_back() {
    let mut world =
        World::with_buckets(vec![vec![sliding(1, 10, MINUTE, 60)], vec![concurrency(2, 3)]]);
    world.one(LANE, surface(Some(2), DAY, MINUTE));
    world.one(LANE, surface(Some(77), DAY, MINUTE));
    let taken = world.take(&[1, 1]);
    world.settle(&taken, &[1, 1]);
    world.one(LANE, surface(None, DAY, MINUTE));
    assert_eq!(asked(&world, &[0, 1]), Some(DAY));
    world.states.remove(0);
    world.rules.remove(0);
    world.take(&[1]);

    // Calls in flight are not a provider's to pause.
    world.one(LANE, surface(Some(2), DAY, MINUTE));
    world.take(&[1]);
}
