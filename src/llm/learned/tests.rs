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

const SHAPE: CallShape = CallShape { input: 100, bound: None, has_tools: false, has_format: false };

fn whole(output: u64) -> Observed {
    Observed { shape: SHAPE, input: Some(100), output: Some(output), is_cut: false }
}

fn cut(output: u64) -> Observed {
    Observed { is_cut: true, ..whole(output) }
}

/// Calls that follow one another.
fn after(observed: impl IntoIterator<Item = Observed>) -> BucketStats {
    let mut stats = BucketStats::default();
    observed.into_iter().for_each(|observed| call(&mut stats, observed));
    stats
}

fn call(stats: &mut BucketStats, observed: Observed) {
    let number = stats.begin();
    stats.observe(number, observed);
}

fn output(observed: impl IntoIterator<Item = Observed>) -> Option<u64> {
    after(observed).expected(&SHAPE).output
}

#[test]
fn nothing_is_expected_before_there_are_enough() {
    assert_eq!(BucketStats::default().expected(&SHAPE), Expected::UNKNOWN);
    assert_eq!(output((1..NEEDED).map(|_| whole(7))), None);
    assert_eq!(output((0..NEEDED).map(|_| whole(7))), Some(7));
    assert!(output((1..=9).map(whole)).unwrap() > 5, "more than the mean");
}

#[test]
fn calls_one_by_one_hardly_ever_use_more_than_is_expected() {
    for seed in 0..5 {
        let (mut stats, mut within, mut calls) = (BucketStats::default(), 0, 0);
        for output in outputs(seed, 200.0).take(5_000) {
            if let Some(expected) = stats.expected(&SHAPE).output {
                within += u32::from(output <= expected);
                calls += 1;
            }
            call(&mut stats, whole(output));
        }
        let share = f64::from(within) / f64::from(calls);
        assert!((0.96..1.0).contains(&share), "{share}");
    }
}

/// What is expected after this many calls, all with answers of as many tokens.
pub(in crate::llm) fn after_alike(calls: u64, output: u64, bound: u64) -> u64 {
    // Of one call and of what is not known of the mean.
    let deviations = 2.0 * (1.0 + 1.0 / calls as f64).sqrt();
    let margin = deviations * 0.2 * (bound - output) as f64;
    (output + margin.ceil() as u64).min(bound)
}

/// The margin of a call beside this many in flight.
fn margin(in_flight: u64) -> f64 {
    let mut stats = after(outputs(1, 200.0).take(CALLS - 1).map(whole));
    // All of these began before the last one, which ends.
    (0..in_flight).for_each(|_| _ = stats.begin());
    call(&mut stats, whole(200));
    let likely = stats.likely(&SHAPE).unwrap();
    stats.output(&SHAPE).unwrap() as f64 - likely.mean
}

#[test]
fn calls_in_flight_share_a_margin() {
    let normal = |in_flight| {
        let likely = Likely { mean: 1_000.0, variance: 100.0 * 100.0, calls: 1e9 };
        likely.margin(None, in_flight)
    };
    let [alone, two, many] = [1, 2, 60].map(normal);
    assert!((199.0..201.0).contains(&alone) && two < 0.8 * alone, "{alone} {two}");
    // No less than what each has for itself: 1.45 deviations, and 10 since the long ones last.
    assert!((154.0..156.0).contains(&many), "{many}");
    // And all margins together cover two deviations of the sum.
    let deviation = after(outputs(1, 200.0).take(CALLS).map(whole)).likely(&SHAPE).unwrap();
    let deviation = deviation.variance.sqrt();
    for in_flight in [8, 60] {
        let (margin, calls) = (margin(in_flight), in_flight as f64);
        assert!(calls * margin > 2.0 * deviation * calls.sqrt(), "{in_flight}: {margin}");
    }
}

/// Of calls that begin together the short ones end first, and others get what they leave. What is
/// reserved of those that remain covers what they use, at any time.
#[test]
fn a_burst_is_covered_to_its_end() {
    let (mut bursts, mut short) = (0, 0);
    for seed in 0..200 {
        let mut stats = after(outputs(seed, 200.0).take(CALLS - 1).map(whole));
        (0..40).for_each(|_| _ = stats.begin());
        call(&mut stats, whole(200));
        // What is odd may have been taken for a change.
        let Some(expected) = stats.output(&SHAPE) else { continue };
        let mut burst: Vec<_> = outputs(seed + 1_000, 200.0).take(40).collect();
        burst.sort_unstable();
        let is_short = |rest: &[u64]| rest.iter().sum::<u64>() > rest.len() as u64 * expected;
        // The last few may use more than their part, which is a matter of one call's margin.
        short += u32::from((8..=40).any(|left| is_short(&burst[40 - left..])));
        bursts += 1;
    }
    assert!(bursts > 100 && short <= bursts / 10, "{short} of {bursts}");
}

/// Calls that were all alike may become as long as their bound at once.
#[test]
fn more_is_expected_where_the_bound_leaves_more() {
    let stats = after((0..CALLS).map(|_| whole(50)));
    let expected = |bound| stats.expected(&CallShape { bound, ..SHAPE }).output.unwrap();
    assert_eq!([None, Some(50), Some(20)].map(expected), [50, 50, 20]);
    assert!((430..=435).contains(&expected(Some(1_000))), "{}", expected(Some(1_000)));
}

/// The first to end are the short ones.
#[test]
fn the_first_answers_are_not_taken_for_all() {
    let mut stats = BucketStats::default();
    let numbers: Vec<_> = (0..40).map(|_| stats.begin()).collect();
    let mut expected = Vec::new();
    for (number, output) in numbers.into_iter().rev().zip(1..) {
        expected.push(stats.expected(&SHAPE).output);
        stats.observe(number, whole(100 + output));
    }
    assert_eq!(expected[31], None, "31 have ended, which is less than four times nine");
    assert!(expected[32].is_some_and(|expected| expected > 125), "{expected:?}");
}

#[test]
fn calls_that_end_without_an_answer_are_forgotten() {
    let learned = Arc::new(Learned::default());
    let open: Vec<_> = (0..50).map(|_| learned.begin("b", SHAPE).1).collect();
    for _ in 0..20 {
        learned.begin("b", SHAPE).1.observe(whole(7));
    }
    assert_eq!(learned.begin("b", SHAPE).0.output, None, "fifty were overtaken");
    drop(open);
    assert_eq!(learned.begin("b", SHAPE).0.output, Some(7));
    assert!(learned.lock()["b"].open.is_empty());
}

/// As in the trace of a chat service: one kind of prompt has long answers.
#[test]
fn what_the_request_tells_counts() {
    let shape = |input, has_tools, has_format| CallShape { input, has_tools, has_format, ..SHAPE };
    let kinds = [
        (shape(400, false, false), 100),
        (shape(1_050, false, false), 410),
        (shape(400, true, false), 30),
        (shape(400, false, true), 700),
    ];
    let calls = (0..CALLS).map(|index| {
        let (shape, output) = kinds[index % kinds.len()];
        Observed { shape, ..whole(output + index as u64 % 7) }
    });
    let stats = after(calls);
    assert!(stats.answers.len() > CALLS / 2, "kinds that take turns are no change");
    for (shape, output) in kinds {
        let mean = stats.likely(&shape).unwrap().mean;
        assert!((mean - output as f64).abs() < 0.2 * output as f64 + 20.0, "{shape:?}: {mean}");
    }
}

#[test]
fn no_more_is_expected_than_the_request_allows() {
    let stats = after(outputs(1, 200.0).take(CALLS).map(whole));
    let mean = |bound| stats.likely(&CallShape { bound: Some(bound), ..SHAPE }).unwrap().mean;
    assert!(mean(50) <= 50.0);
    assert!(mean(100) < mean(1_000));
}

#[test]
fn another_workload_is_followed() {
    let mut stats = after(outputs(1, 200.0).take(500).map(whole));
    let mean = |stats: &BucketStats| stats.likely(&SHAPE).unwrap().mean;
    let before = mean(&stats);
    outputs(2, 2_000.0).take(CALLS).for_each(|output| call(&mut stats, whole(output)));
    let longer = mean(&stats);
    outputs(3, 20.0).take(CALLS).for_each(|output| call(&mut stats, whole(output)));
    let shorter = mean(&stats);
    // The mean is 1.65 times the middle.
    assert!((230.0..460.0).contains(&before), "{before}");
    assert!((2_300.0..4_600.0).contains(&longer), "{longer}");
    assert!((23.0..46.0).contains(&shorter), "{shorter}");
}

#[test]
fn a_jump_makes_it_forget() {
    let mut stats = after((0..CALLS).map(|_| whole(50)));
    (0..3).for_each(|_| call(&mut stats, whole(900)));
    assert_eq!(stats.expected(&SHAPE).output, None, "the bound is reserved");
    (0..NEEDED).for_each(|_| call(&mut stats, whole(900)));
    assert_eq!(stats.expected(&SHAPE).output, Some(900));

    // One odd answer is none.
    let mut stats = after((0..CALLS).map(|_| whole(50)));
    call(&mut stats, whole(9_000));
    assert!(stats.expected(&SHAPE).output.is_some());

    // Refusals are evidence too, if there is more than one.
    let mut stats = after((0..CALLS).map(|_| whole(50)));
    stats.refused();
    assert!(stats.expected(&SHAPE).output.is_some());
    stats.refused();
    assert_eq!(stats.expected(&SHAPE).output, None);
}

/// Half of the calls may be no longer than 300 tokens, and many are cut off there.
#[test]
fn what_was_cut_off_is_not_taken_for_whole() {
    let bounded = |output: u64, index: usize| match index % 2 {
        0 if output > 300 => cut(300),
        _ => whole(output),
    };
    let mut sum = 0.0;
    for seed in 0..40 {
        let mut stats = BucketStats::default();
        let calls = outputs(seed, 200.0).take(CALLS).enumerate();
        calls.for_each(|(index, output)| {
            stats.observe_output(
                SHAPE,
                bounded(output, index).output.unwrap(),
                bounded(output, index).is_cut,
            );
        });
        sum += stats.likely(&SHAPE).unwrap().mean;
    }
    // As if nothing had been cut off: 200 x exp(0.5).
    let mean = sum / 40.0;
    assert!((300.0..370.0).contains(&mean), "{mean}");

    // Where all are cut off, it is not known how long they would have been.
    assert_eq!(output((0..CALLS).map(|_| cut(300))), None);
    let bounded = CallShape { bound: Some(1_000), ..SHAPE };
    assert_eq!(after((0..20).map(|_| cut(300))).expected(&bounded).output, Some(1_000));
}

#[test]
fn memory_is_bounded() {
    let learned = Arc::new(Learned::default());
    for bucket in 0..2 * BUCKETS {
        (0..20).for_each(|_| learned.begin(&format!("b{bucket}"), SHAPE).1.observe(whole(7)));
    }
    assert_eq!(learned.lock().len(), BUCKETS);
    assert_eq!(learned.begin("b0", SHAPE).0.output, Some(7));
    assert_eq!(learned.begin(&format!("b{BUCKETS}"), SHAPE).0, Expected::UNKNOWN);

    let stats = after(outputs(1, 200.0).take(10_000).map(whole));
    assert!(stats.answers.len() <= CALLS && stats.answers.capacity() <= CALLS);
    assert!(stats.open.is_empty());
}

#[test]
fn input_is_corrected_by_how_far_estimates_were_off() {
    let call = |estimated, input| Observed {
        shape: CallShape { input: estimated, ..SHAPE },
        input: Some(input),
        output: None,
        is_cut: false,
    };
    let ratio = |calls: &[Observed]| after(calls.iter().copied()).expected(&SHAPE).ratio;
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
    let mut stats = after((0..50).map(|_| whole(100)));
    for (input, counted) in extreme.into_iter().flat_map(|one| extreme.map(|other| (one, other))) {
        let shape = CallShape { input, ..SHAPE };
        let odd = Observed { shape, input: Some(counted), output: Some(u64::MAX), is_cut: false };
        call(&mut stats, odd);
        let expected = stats.expected(&SHAPE);
        assert_eq!(expected.output, Some(100), "not believed");
        assert!(
            (1.0 / FACTOR..=FACTOR).contains(&expected.ratio),
            "{input} {counted}: {}",
            expected.ratio
        );
    }
    assert_eq!(Expected { output: None, ratio: FACTOR }.input(u64::MAX), u64::MAX);
    assert_eq!(output((0..50).map(|_| whole(0))), Some(0));
}

fn observed() -> impl Strategy<Value = Observed> {
    let amount = || prop_oneof![0..10_000_u64, any::<u64>()];
    let shape = (amount(), proptest::option::of(amount()), any::<bool>(), any::<bool>());
    let shape = shape.prop_map(|(input, bound, has_tools, has_format)| CallShape {
        input,
        bound,
        has_tools,
        has_format,
    });
    let amounts =
        (shape, proptest::option::of(amount()), proptest::option::of(amount()), any::<bool>());
    amounts.prop_map(|(shape, input, output, is_cut)| Observed { shape, input, output, is_cut })
}

proptest! {
    #[test]
    fn a_cut_never_lowers_what_calls_use(
        before in proptest::collection::vec((0..1_000_u64, any::<bool>()), 0..CALLS - 1),
        at in 0..1_000_u64,
    ) {
        let with = |is_cut: bool| {
            let mut stats = BucketStats::default();
            for (output, is_cut) in &before {
                stats.observe_output(SHAPE, *output, *is_cut);
            }
            stats.observe_output(SHAPE, at, is_cut);
            stats.likely(&SHAPE).map_or(f64::MAX, |likely| likely.mean)
        };
        // The others that were cut off are no longer for it.
        let others = before.iter().all(|(_, is_cut)| !is_cut);
        prop_assert!(!others || with(true) >= with(false) - 1e-6);
    }

    #[test]
    fn no_calls_are_too_odd(calls in proptest::collection::vec(observed(), 0..300)) {
        let stats = after(calls.iter().copied());
        for shape in calls.iter().map(|call| call.shape).chain([SHAPE]) {
            let expected = stats.expected(&shape);
            prop_assert!(
                (1.0 / FACTOR - 1e-9..=FACTOR + 1e-9).contains(&expected.ratio),
                "{}",
                expected.ratio
            );
            if let Some(Likely { mean, variance, .. }) = stats.likely(&shape) {
                prop_assert!(mean.is_finite() && variance.is_finite());
                let longest = shape.bound.unwrap_or(LONGEST).max(LONGEST) as f64;
                prop_assert!(mean <= longest * 1.000_001);
            }
        }
    }
}
