//! A provider's refusal that asks for a longer wait than the pause refuses demands at once, for as
//! long as the pause lasts.

use super::*;

fn surface(quota: Option<u64>, asked: Micros, lasts: Micros) -> Op {
    // Granted before every pause: none of them doubles another.
    Op::Refused { bucket: 0, quota, at: 0, asked, lasts, longest: DAY }
}

fn two_quotas() -> World {
    World::new([sliding(1, 100, MINUTE, 60), sliding(2, 100, MINUTE, 60)])
}

/// A reserve that waits.
fn queued(costs: &[u64]) -> Op {
    Op::Reserve(Reserve { mode: Mode::Wait, ..demand(costs) })
}

/// What is left of the wait that was asked for, by a refusal of these costs.
fn asked(world: &World, costs: &[u64]) -> Option<Micros> {
    world.clone().refused(costs).iter().filter_map(|violation| violation.asked).max()
}

/// Until when the bucket is paused, and until when the provider asked to wait.
fn paused(world: &World) -> (Micros, Micros) {
    let level = world.status(0);
    (level.paused_until, level.asked_until)
}

#[test]
fn it_lasts_no_longer_than_the_pause_and_tells_what_is_left_of_what_was_asked() {
    let mut world = two_quotas();
    world.one(SESSION, surface(None, HOUR, 5 * MINUTE));
    let refusal = world.refused(&[0, 0]);
    assert_eq!((refusal[0].by, refusal[0].wait), (RefusedBy::Pause(0), Some(5 * MINUTE)));
    assert_eq!((refusal[0].at_best, refusal[0].asked), (5 * MINUTE, Some(HOUR)));
    let (until, asked_until) = (world.wall + 5 * MINUTE, world.wall + HOUR);
    assert_eq!(paused(&world), (until, asked_until));
    assert!(world.seen(0).expires >= until);

    world.pass(MINUTE);
    assert_eq!(asked(&world, &[1, 1]), Some(59 * MINUTE));
    world.pass(4 * MINUTE - 1);
    assert_eq!(asked(&world, &[1, 1]), Some(55 * MINUTE + 1));
    world.pass(1);
    assert_eq!(paused(&world), (0, 0));
    world.take(&[100, 100]);

    // Nothing of it is left in a later pause, or in a shorter wait that is asked for later.
    world.one(SESSION, Op::Pause { bucket: 0, lasts: MINUTE });
    assert_eq!(asked(&world, &[0, 0]), None);
    world.pass(MINUTE);
    world.one(SESSION, surface(None, 10 * MINUTE, 5 * MINUTE));
    assert_eq!(asked(&world, &[0, 0]), Some(10 * MINUTE));
}

#[test]
fn a_demand_for_nothing_of_the_quota_passes() {
    let mut world = two_quotas();
    world.one(SESSION, surface(Some(1), DAY, MINUTE));
    let refusal = world.refused(&[1, 1]);
    assert_eq!(refusal.len(), 1);
    assert_eq!((refusal[0].by, refusal[0].available), (RefusedBy::Rule(0), 0));
    assert_eq!(
        (refusal[0].wait, refusal[0].at_best, refusal[0].asked),
        (Some(MINUTE), MINUTE, Some(DAY))
    );
    assert_eq!((world.level(0).asked, world.level(0).withheld), (Some(DAY), 100));
    assert_eq!((world.level(1).asked, paused(&world)), (None, (0, 0)));
    world.take(&[0, 1]);
    world.pass(MINUTE);
    assert_eq!(world.level(0).asked, None);
    world.take(&[100, 1]);
}

#[test]
fn all_that_it_refuses_are_told_so_and_block_no_other() {
    let mut world = two_quotas();
    world.take(&[0, 95]);
    world.one(SESSION, surface(Some(1), DAY, MINUTE));
    let ops = [&[0, 6][..], &[1, 0], &[1, 6], &[0, 6], &[100, 5], &[0, 5]].map(queued);
    let Sent { verdicts, .. } = world.send(SESSION, &ops);
    let asked =
        |verdict: &Verdict| violations(verdict).iter().find_map(|violation| violation.asked);
    let told = [None, Some(DAY), Some(DAY), None, Some(DAY), None];
    assert_eq!(verdicts.iter().map(asked).collect::<Vec<_>>(), told);
    let reasons = violations(&verdicts[3]).iter().map(|reason| reason.by).collect::<Vec<_>>();
    assert_eq!(reasons, [RefusedBy::Rule(1)], "it waits, behind another");

    // Without the first of them, which waits, what goes away does not stand before the last.
    let Sent { verdicts, .. } = world.send(SESSION, &ops[4..]);
    assert!(is_granted(&verdicts[1]));
}

#[test]
fn a_pause_as_long_as_was_asked_is_waited_out() {
    for quota in [None, Some(1)] {
        let mut world = two_quotas();
        let pause = |lasts| match quota {
            None => Op::Pause { bucket: 0, lasts },
            Some(_) => surface(quota, lasts, lasts),
        };
        world.one(SESSION, surface(quota, MINUTE, MINUTE));
        assert_eq!(asked(&world, &[1, 0]), None, "as long as was asked");
        world.one(SESSION, surface(quota, HOUR, 5 * MINUTE));
        assert_eq!(asked(&world, &[1, 0]), Some(HOUR));

        // A shorter one changes nothing before its turn.
        world.one(SESSION, pause(10 * MINUTE));
        let mut shorter = world.clone();
        assert_eq!(asked(&shorter, &[1, 0]), Some(HOUR));
        shorter.pass(5 * MINUTE);
        let refusal = shorter.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(5 * MINUTE), None));

        world.one(SESSION, pause(HOUR));
        let refusal = world.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(HOUR), None));
        // A demand that both pause is refused for what is asked beyond it.
        world.one(SESSION, surface(quota, DAY, 5 * MINUTE));
        let refusal = world.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(HOUR), Some(DAY)));
    }
}

#[test]
fn a_wait_never_shortens_another() {
    for quota in [None, Some(1)] {
        let mut world = two_quotas();
        world.one(SESSION, surface(quota, HOUR, 5 * MINUTE));
        world.pass(MINUTE);
        world.one(SESSION, surface(quota, 10 * MINUTE, MINUTE));
        let refusal = world.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(4 * MINUTE), Some(59 * MINUTE)));
        world.one(SESSION, surface(quota, DAY, 5 * MINUTE));
        let refusal = world.refused(&[1, 0]);
        assert_eq!((refusal[0].wait, refusal[0].asked), (Some(5 * MINUTE), Some(DAY)));
    }
}

#[test]
fn an_end_of_a_pause_is_one_of_all_pauses_and_of_nothing_else() {
    let mut world = two_quotas();
    world.one(SESSION, surface(None, HOUR, 5 * MINUTE));
    world.one(SESSION, surface(Some(1), HOUR, 5 * MINUTE));
    world.one(SESSION, surface(Some(2), MINUTE, MINUTE));
    world.one(SESSION, Op::Cap { bucket: 0, quota: 2, left: 7, at: world.wall, lasts: MINUTE });
    world.one(SESSION, Op::Pause { bucket: 0, lasts: 0 });
    assert_eq!((paused(&world), world.level(0).asked), ((0, 0), None));
    world.refused(&[100, 8]);
    world.take(&[100, 7]);
    world.one(SESSION, Op::Pause { bucket: 0, lasts: MINUTE });
    assert_eq!(asked(&world, &[0, 0]), None);
}

#[test]
fn of_several_buckets_the_first_is_paused_and_holds_all_back() {
    let mut world =
        World::with_buckets(vec![vec![sliding(1, 10, MINUTE, 60)], vec![concurrency(2, 3)]]);
    world.one(SESSION, surface(Some(2), DAY, MINUTE));
    world.one(SESSION, surface(Some(77), DAY, MINUTE));
    let taken = world.take(&[1, 1]);
    world.settle(&taken, &[1, 1]);
    world.one(SESSION, surface(None, DAY, MINUTE));
    assert_eq!(asked(&world, &[0, 1]), Some(DAY));
    world.states.remove(0);
    world.rules.remove(0);
    world.take(&[1]);

    // Calls in flight are not a provider's to pause.
    world.one(SESSION, surface(Some(2), DAY, MINUTE));
    world.take(&[1]);
}
