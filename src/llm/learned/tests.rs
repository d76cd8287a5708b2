use proptest::prelude::*;

use super::*;

/// Outputs that spread as those of chats do: by a factor of `e` around this many.
pub(in crate::llm) fn outputs(seed: u64, middle: f64) -> impl Iterator<Item = u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || {
        // Of Box and Muller.
        let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * random.f64()).cos();
        (middle * normal.exp()).ceil() as u64
    })
}

fn whole(output: u64) -> Observed {
    Observed { estimated: 100, input: Some(100), output: Some(output), is_cut: false }
}

fn cut(output: u64) -> Observed {
    Observed { is_cut: true, ..whole(output) }
}

fn after(observed: impl IntoIterator<Item = Observed>) -> Habits {
    let mut habits = Habits::default();
    observed.into_iter().for_each(|observed| habits.observe(observed));
    habits
}

fn output(observed: impl IntoIterator<Item = Observed>) -> Option<u64> {
    after(observed).expected().output
}

#[test]
fn nothing_is_expected_before_there_are_enough() {
    assert_eq!(Habits::default().expected(), Expected::UNKNOWN);
    assert_eq!(output((1..=8).map(whole)), None);
    assert_eq!(output((1..=9).map(whole)), Some(9));
    assert_eq!(output((1..=99).map(whole)), Some(90));
}

/// A value is believed only from those before it, as the next call is.
#[test]
fn nine_tenths_stay_within_what_is_learned() {
    for seed in 0..5 {
        let (mut habits, mut within, mut calls) = (Habits::default(), 0, 0);
        for output in outputs(seed, 200.0).take(5_000) {
            if let Some(expected) = habits.expected().output {
                within += u32::from(output <= expected);
                calls += 1;
            }
            habits.observe(whole(output));
        }
        let share = f64::from(within) / f64::from(calls);
        assert!((0.88..0.92).contains(&share), "{share}");
    }
}

#[test]
fn another_workload_is_followed() {
    let mut habits = after(outputs(1, 200.0).take(500).map(whole));
    let before = habits.expected().output.unwrap();
    outputs(2, 2_000.0).take(OUTPUTS).for_each(|output| habits.observe(whole(output)));
    let longer = habits.expected().output.unwrap();
    outputs(3, 20.0).take(OUTPUTS).for_each(|output| habits.observe(whole(output)));
    let shorter = habits.expected().output.unwrap();
    // Nine tenths are within 3.6 times the middle.
    assert!(
        (480..1_080).contains(&before) && (4_800..10_800).contains(&longer),
        "{before} {longer}"
    );
    assert!((48..108).contains(&shorter), "{shorter}");
}

/// Half of the calls may be no longer than 300 tokens, and many are cut off there.
#[test]
fn what_was_cut_off_is_not_taken_for_whole() {
    let bounded = |output: u64, index: usize| match index % 2 {
        0 if output > 300 => cut(300),
        _ => whole(output),
    };
    let mut sum = 0;
    for seed in 0..40 {
        let cut = outputs(seed, 200.0)
            .take(OUTPUTS)
            .enumerate()
            .map(|(index, output)| bounded(output, index));
        sum += output(cut).unwrap();
    }
    // As if nothing had been cut off: 200 x exp(1.28).
    let mean = sum / 40;
    assert!((600..880).contains(&mean), "{mean}");

    // Where all are cut off, nobody knows how long they would have been.
    assert_eq!(output((0..OUTPUTS).map(|_| cut(300))), None);
}

#[test]
fn memory_is_bounded() {
    let learned = Learned::default();
    for bucket in 0..2 * BUCKETS {
        (0..20).for_each(|_| learned.observe(&format!("b{bucket}"), whole(7)));
    }
    assert_eq!(learned.lock().len(), BUCKETS);
    assert_eq!(learned.expected("b0").output, Some(7));
    assert_eq!(learned.expected(&format!("b{BUCKETS}")), Expected::UNKNOWN);

    let habits = after(outputs(1, 200.0).take(10_000).map(whole));
    assert_eq!((habits.outputs.len(), habits.outputs.capacity()), (OUTPUTS, OUTPUTS));
}

#[test]
fn input_is_corrected_by_how_far_estimates_were_off() {
    let call =
        |estimated, input| Observed { estimated, input: Some(input), output: None, is_cut: false };
    let ratio = |calls: &[Observed]| after(calls.iter().copied()).expected().ratio;
    // One odd call is no rule.
    assert!((ratio(&[call(100, 20_000)]) - 1.182).abs() < 0.001);
    // Large calls count for more.
    assert!((ratio(&[call(10, 30), call(10_000, 10_000)]) - 1.002).abs() < 0.001);
    let mut calls = vec![call(100, 120); 200];
    assert!((ratio(&calls) - 1.2).abs() < 0.001);
    calls.extend([call(100, 80); 100]);
    assert!((ratio(&calls) - 0.8).abs() < 0.01);
    assert_eq!(Expected { output: None, ratio: 1.2 }.input(1_001), 1_202);
}

#[test]
fn numbers_that_cannot_be_do_no_harm() {
    let extreme = [0, 1, LONGEST, u64::MAX];
    let mut habits = after((0..50).map(|_| whole(100)));
    for (estimated, input) in extreme.into_iter().flat_map(|one| extreme.map(|other| (one, other)))
    {
        habits.observe(Observed {
            estimated,
            input: Some(input),
            output: Some(u64::MAX),
            is_cut: false,
        });
        let expected = habits.expected();
        assert_eq!(expected.output, Some(100), "not believed");
        assert!(
            (1.0 / FACTOR..=FACTOR).contains(&expected.ratio),
            "{estimated} {input}: {}",
            expected.ratio
        );
    }
    assert_eq!(Expected { output: None, ratio: FACTOR }.input(u64::MAX), u64::MAX);
    assert_eq!(output((0..50).map(|_| whole(0))), Some(0));
}

fn observed() -> impl Strategy<Value = Observed> {
    let amount = || prop_oneof![0..10_000_u64, any::<u64>()];
    let amounts =
        (amount(), proptest::option::of(amount()), proptest::option::of(amount()), any::<bool>());
    amounts.prop_map(|(estimated, input, output, is_cut)| Observed {
        estimated,
        input,
        output,
        is_cut,
    })
}

proptest! {
    #[test]
    fn a_cut_never_lowers_what_is_expected(
        before in proptest::collection::vec((0..1_000_u64, any::<bool>()), 0..OUTPUTS - 1),
        at in 0..1_000_u64,
    ) {
        let mut habits = after(before.into_iter().map(|(output, is_cut)| Observed { is_cut, ..whole(output) }));
        let unknown = u64::MAX;
        let before = habits.expected().output.unwrap_or(unknown);
        habits.observe(cut(at));
        // One more makes enough of them at best.
        prop_assert!(before == unknown || habits.expected().output.unwrap_or(unknown) >= before);
    }

    #[test]
    fn no_calls_are_too_odd(calls in proptest::collection::vec(observed(), 0..300)) {
        let expected = after(calls).expected();
        prop_assert!((1.0 / FACTOR - 1e-9..=FACTOR + 1e-9).contains(&expected.ratio), "{}", expected.ratio);
        prop_assert!(expected.output.is_none_or(|output| output <= LONGEST));
    }
}
