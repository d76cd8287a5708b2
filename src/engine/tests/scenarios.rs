//! The arithmetic of the documentation's examples, to the unit.

use super::*;

#[test]
fn scenario_1_a_bucket_fills_and_a_debt_is_paid_at_its_rate() {
    let rule = token_bucket(1, 100_000, MINUTE, 100_000);
    let mut world = World::new([rule.clone()]);
    world.take(&[100_000]);
    for available in [50_000, 100_000, 100_000, 100_000] {
        world.pass(30 * SECOND);
        assert_eq!(world.available(0), available);
    }

    let mut world = World::new([rule]);
    let grant = world.take(&[100_000]);
    world.settle(&grant, &[200_000]);
    for available in [-50_000, 0] {
        world.pass(30 * SECOND);
        assert_eq!(world.available(0), available);
    }
}

#[test]
fn scenario_2_a_burst_above_the_limit() {
    let mut world = World::new([token_bucket(1, 10_000, MINUTE, 15_000)]);
    world.take(&[15_000]);
    for (pass, available) in [(60, 10_000), (30, 15_000), (30, 15_000)] {
        world.pass(pass * SECOND);
        assert_eq!(world.available(0), available);
    }
}

#[test]
fn scenario_3_a_refusal_is_exact_to_the_microsecond() {
    let mut world = World::new([token_bucket(1, 10_000, MINUTE, 10_000)]);
    world.take(&[10_000]);
    assert_eq!(world.refused(&[1_000])[0].wait, Some(6 * SECOND));
    world.pass(6 * SECOND - 1);
    assert_eq!(world.refused(&[1_000])[0].wait, Some(1));
    world.pass(1);
    world.take(&[1_000]);
}

#[test]
fn scenario_4_a_debt_is_waited_out_by_a_demand_for_nothing() {
    let mut world = World::new([token_bucket(1, 10_000, MINUTE, 10_000)]);
    let grant = world.take(&[500]);
    world.settle(&grant, &[2_000]);
    assert_eq!(world.available(0), 8_000);

    world.take(&[7_500]);
    let grant = world.take(&[500]);
    world.settle(&grant, &[2_000]);
    assert_eq!(world.available(0), -1_500);
    assert_eq!(world.refused(&[0])[0].wait, Some(9 * SECOND));
    world.pass(9 * SECOND);
    world.take(&[0]);
    world.refused(&[1]);
}

#[test]
fn scenario_5_more_than_there_ever_is_changes_nothing() {
    let mut world = World::new([token_bucket(1, 10_000, MINUTE, 10_000)]);
    for left in [10_000, 5_000, 0] {
        assert_eq!(world.refused(&[20_000])[0].wait, None);
        assert_eq!(world.available(0), left);
        let _ = world.reserve(&[5_000]);
    }
}

#[test]
fn scenario_6_quotas_of_different_lengths_share_no_stamp() {
    let daily = token_bucket(2, 1_000, DAY, 1_000);
    let mut world = World::new([token_bucket(1, 100, SECOND, 100), daily]);
    world.take(&[100, 100]);
    world.take(&[0, 900]);
    for _ in 0..3_000 {
        world.pass(20 * MS);
        world.take(&[2, 0]);
    }
    assert_eq!(world.left(0), 0);
    // 0.694 of a token, whose units are the microseconds of a day.
    assert_eq!(world.left(1), (1_000 * MINUTE) as i64);
    assert_eq!(world.left(1) * 1_000 / DAY as i64, 694);
}

#[test]
fn scenario_7_a_pacer_and_a_window() {
    let mut world = World::new([token_bucket(1, 1, 3 * SECOND, 1), sliding(2, 20, MINUTE, 60)]);
    world.wall = START / SECOND * SECOND;
    for _ in 0..20 {
        world.take(&[1, 1]);
        assert_eq!(world.refused(&[1, 0])[0].wait, Some(3 * SECOND));
        world.pass(3 * SECOND);
    }
    let refusal = world.refused(&[1, 1]);
    assert_eq!(refusal.len(), 1);
    assert_eq!((refusal[0].by, refusal[0].wait), (RefusedBy::Rule(1), Some(SECOND)));
}

#[test]
fn scenario_8_smoothing() {
    let mut world = World::new([token_bucket(1, 10, SECOND, 1)]);
    for _ in 0..2 {
        for _ in 0..5 {
            world.take(&[1]);
            assert_eq!(world.refused(&[1])[0].wait, Some(100 * MS));
            world.pass(100 * MS);
        }
        world.pass(30 * SECOND);
    }
}

#[test]
fn scenario_9_exactly_the_limit() {
    let rules = [
        token_bucket(1, 100, MINUTE, 100),
        sliding(2, 100, MINUTE, 60),
        fixed(3, 100, MINUTE, 0),
        held(sliding(4, 100, MINUTE, 60)),
        concurrency(5, 100),
    ];
    for rule in rules {
        let mut world = World::new([rule]);
        world.take(&[40]);
        world.take(&[60]);
        assert_eq!(world.refused(&[1])[0].available, 0);
        assert_eq!(world.available(0), 0);
    }
}

#[test]
fn scenario_11_a_refund_gives_out_nothing_twice() {
    let mut world = World::new([token_bucket(1, 100_000, MINUTE, 100_000)]);
    let first = world.take(&[80_000]);
    world.pass(48 * SECOND);
    world.take(&[100_000]);
    world.settle(&first, &[2_000]);
    // With 2,000 at the start the bucket was full again after 1.2 s: the 100,000 left nothing.
    assert_eq!(world.left(0), 0);
    world.refused(&[1]);

    let mut world = World::new([token_bucket(1, 100_000, MINUTE, 100_000)]);
    let first = world.take(&[80_000]);
    world.take(&[20_000]);
    world.pass(6 * SECOND);
    world.settle(&first, &[2_000]);
    assert!(world.available(0) >= 88_000 - 4_200, "{}", world.available(0));
}

#[test]
fn scenario_14_what_counts_from_its_end() {
    let mut world = World::new([held(sliding(1, 100, MINUTE, 60))]);
    world.wall = START / SECOND * SECOND;
    let grant = world.take(&[100]);
    for _ in 0..10 {
        world.pass(5 * SECOND);
        assert_eq!(world.refused(&[1])[0].wait, None);
    }
    world.settle(&grant, &[40]);
    assert_eq!(world.available(0), 60);
    world.pass(61 * SECOND - 1);
    assert_eq!(world.available(0), 60);
    world.pass(1);
    assert_eq!(world.available(0), 100);
}

#[test]
fn scenario_15_a_refused_try_takes_nothing() {
    let mut world = World::new([token_bucket(1, 1, MINUTE, 1), token_bucket(2, 1, MINUTE, 1)]);
    world.take(&[1, 0]);
    let refusal = world.refused(&[1, 1]);
    assert_eq!(
        refusal.iter().map(|violation| violation.by).collect::<Vec<_>>(),
        [RefusedBy::Rule(0)]
    );
    world.take(&[0, 1]);
}

#[test]
fn scenarios_16_and_17_several_quotas_on_one_call() {
    // What 3,000 in and 1,000 out cost on a combined quota of weight 5, an input and an output
    // quota.
    let minute = |id, limit| sliding(id, limit, MINUTE, 60);
    let mut world = World::new([minute(1, 8_000), minute(2, 100_000), minute(3, 100_000)]);
    let grant = world.take(&[8_000, 3_000, 1_000]);
    world.refused(&[5, 0, 1]);
    world.settle(&grant, &[4_000, 3_000, 200]);
    assert_eq!([0, 1, 2].map(|rule| world.level(rule).charged), [4_000, 3_000, 200]);
    world.take(&[4_000, 1_500, 500]);

    let mut world = World::new([minute(1, 4_000_000), minute(2, 128_000)]);
    let grant = world.take(&[50_000, 10_000]);
    world.settle(&grant, &[50_000, 2_000]);
    assert_eq!([0, 1].map(|rule| world.level(rule).charged), [50_000, 2_000]);
}

#[test]
fn scenario_18_a_child_and_its_parent() {
    let child = vec![token_bucket(1, 800, MINUTE, 800)];
    let parent = vec![token_bucket(2, 1_000, MINUTE, 1_000)];
    let mut world = World::with_buckets(vec![child, parent]);
    let grant = world.take(&[600, 600]);
    world.settle(&grant, &[500, 500]);
    assert_eq!((world.available(0), world.available(1)), (300, 500));

    let mut alone =
        World { states: vec![world.states[1].clone()], ..World::new([world.rules[1][0].clone()]) };
    alone.reserve_by(9, &[400]).unwrap();
    world.states[1] = alone.states.remove(0);
    let refusal = world.refused(&[200, 200]);
    assert_eq!(refusal.len(), 1);
    assert_eq!((refusal[0].by, refusal[0].wait), (RefusedBy::Rule(1), Some(6 * SECOND)));
    assert_eq!((world.available(0), world.available(1)), (300, 100));
}
