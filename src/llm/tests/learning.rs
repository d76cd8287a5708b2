//! Learning from whole calls, and what it is good for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::{Layer, service_fn};

use super::{Account, EVENTS, JSON, fixtures::FIXTURES, full, response};
use crate::{
    Limiter, Limits, Quota, ThrottleLayer,
    llm::{
        Output, Rules, anthropic, compatible,
        learned::tests::{after_alike, outputs},
        openai,
    },
    usage,
};

const REQUEST: &str = r#"{"model":"claude-sonnet-4-5","max_tokens":8192,"messages":[{"role":"user","content":"Why?"}]}"#;

fn reserved(rules: &Rules, request: &str) -> u64 {
    let (path, body) = request
        .split_once('\n')
        .filter(|(path, _)| path.starts_with('/'))
        .unwrap_or(("/", request));
    rules.demand_at(path, body.as_bytes()).unwrap().usage().get("output_tokens").unwrap()
}

/// Ten calls that are answered with this.
async fn ten_calls(rules: &Rules, request: &str, content: &str, answer: &str) {
    let account = Account::new();
    for _ in 0..10 {
        let answer = account.call(rules, request, response(200, content, full(answer))).await;
        answer.into_body().collect().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn every_format_teaches() {
    for fixture in
        FIXTURES.iter().filter(|fixture| fixture.reserved[2] > 0 && fixture.stream.contains("\""))
    {
        let contents = [
            (JSON, fixture.json, fixture.after_json),
            (EVENTS, fixture.stream, fixture.after_stream),
        ];
        for (content, answer, used) in contents {
            let rules = (fixture.rules)().output(Output::Learned);
            assert_eq!(
                reserved(&rules, fixture.request),
                fixture.reserved[2],
                "{} knows nothing",
                fixture.name
            );
            ten_calls(&rules, fixture.request, content, answer).await;
            // Of each answer that was asked for, unless it was cut off.
            let choices = if fixture.name == "OpenAI chat" { 2 } else { 1 };
            let expected = match answer.contains(r#""length""#) {
                true => fixture.reserved[2],
                false => {
                    let bound = fixture.reserved[2] / choices;
                    after_alike(10, used[2].div_ceil(choices).min(bound), bound) * choices
                }
            };
            assert_eq!(reserved(&rules, fixture.request), expected, "{} {content}", fixture.name);
            // After ten calls what they used weighs as much as the estimate.
            let demand = fixture.demand(&rules);
            let (input, estimate) =
                (demand.usage().get("input_tokens").unwrap(), fixture.reserved[1]);
            let halfway =
                (estimate + used[1].clamp(estimate.div_ceil(3), 3 * estimate)).div_ceil(2);
            assert!(
                input.abs_diff(halfway) <= 1,
                "{} {content}: {input} for {halfway}",
                fixture.name
            );
        }
    }
}

/// How each provider tells that an answer was cut off, in the place of `FINISH` and beside `USAGE`.
const CUT: &[(&str, &str, &str)] = &[
    (JSON, "max_tokens", r#"{"stop_reason":"FINISH",USAGE}"#),
    (JSON, "length", r#"{"choices":[{"finish_reason":"FINISH"}],USAGE}"#),
    (
        JSON,
        "max_output_tokens",
        r#"{"status":"incomplete","incomplete_details":{"reason":"FINISH"},USAGE}"#,
    ),
    (JSON, "MAX_TOKENS", r#"{"finish_reason":"FINISH",USAGE}"#),
    (EVENTS, "max_tokens", r#"{"type":"message_delta","delta":{"stop_reason":"FINISH"},USAGE}"#),
    (EVENTS, "length", r#"{"choices":[{"finish_reason":"FINISH"}],USAGE}"#),
    (EVENTS, "model_length", r#"{"choices":[{"finish_reason":"FINISH"}],USAGE}"#),
    (
        EVENTS,
        "max_output_tokens",
        r#"{"type":"response.incomplete","response":{"incomplete_details":{"reason":"FINISH"},USAGE}}"#,
    ),
    (EVENTS, "MAX_TOKENS", r#"{"type":"message-end","delta":{"finish_reason":"FINISH",USAGE}}"#),
];

#[tokio::test(start_paused = true)]
async fn what_was_cut_off_teaches_nothing_but_that() {
    for (content, cut, answer) in CUT {
        for (finish, expected) in [(*cut, 8_192), ("stop", after_alike(10, 50, 8_192))] {
            let answer = answer.replace("FINISH", finish);
            let answer =
                answer.replace("USAGE", r#""usage":{"input_tokens":9,"output_tokens":50}"#);
            let answer = if *content == EVENTS { format!("data: {answer}\n\n") } else { answer };
            let rules = anthropic::rules();
            ten_calls(&rules, REQUEST, content, &answer).await;
            assert_eq!(reserved(&rules, REQUEST), expected, "{answer}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_learns_of_its_bucket_alone_and_no_more_than_a_request_allows() {
    let rules = anthropic::rules();
    ten_calls(&rules, REQUEST, JSON, r#"{"usage":{"input_tokens":9,"output_tokens":700}}"#).await;
    let learned = after_alike(10, 700, 8_192);
    assert_eq!(reserved(&rules, REQUEST), learned);
    assert_eq!(reserved(&rules, &REQUEST.replace("8192", "300")), 300);
    assert_eq!(reserved(&rules, &REQUEST.replace("sonnet-4-5", "haiku-4-5")), 8_192);
    assert_eq!(reserved(&rules.clone(), REQUEST), learned, "clones learn together");
    assert_eq!(reserved(&rules.clone().output(Output::Bound), REQUEST), 8_192);
    assert_eq!(reserved(&anthropic::rules(), REQUEST), 8_192, "others do not");
    // Errors, and answers that tell nothing.
    ten_calls(&rules, REQUEST, JSON, r#"{"type":"error","usage":{"output_tokens":1}}"#).await;
    ten_calls(&rules, REQUEST, JSON, "{}").await;
    assert_eq!(reserved(&rules, REQUEST), learned);
}

/// Unless no limit admits what it would ask for.
#[tokio::test(start_paused = true)]
async fn a_demand_that_waits_is_estimated_again_when_answers_become_longer() {
    let learned = after_alike(10, 50, 8_192);
    for (limit, expected) in [(100_000, 8_192), (5_000, learned)] {
        let rules = anthropic::rules();
        let answer =
            |output| format!(r#"{{"usage":{{"input_tokens":9,"output_tokens":{output}}}}}"#);
        ten_calls(&rules, REQUEST, JSON, &answer(50)).await;
        let quotas = [Quota::concurrency(1), Quota::per_minute("output_tokens", limit)];
        let limiter = Limiter::new(Limits::new().bucket("claude-sonnet-4-5", quotas)).unwrap();
        let reserve = || limiter.reserve(rules.demand(REQUEST.as_bytes()).unwrap());
        let first = reserve().await.unwrap();
        assert_eq!(first.usage().get("output_tokens"), Some(learned));
        let waiting = tokio::spawn(reserve());
        sleep(Duration::from_secs(1)).await;

        ten_calls(&rules, REQUEST, JSON, &answer(8_000)).await;
        first.settle(usage! { output_tokens: 50 }).await.unwrap();
        let second = waiting.await.unwrap().unwrap();
        assert_eq!(second.usage().get("output_tokens"), Some(expected));
        let charged = limiter.status("claude-sonnet-4-5").await.unwrap().quotas[1].charged;
        assert_eq!(charged, (50 + expected) as f64);
    }
}

/// Each clone of it, and also where it is asked for elsewhere.
#[tokio::test(start_paused = true)]
async fn a_demand_that_is_asked_for_again_is_estimated_again() {
    let rules = anthropic::rules();
    let answer = |output| format!(r#"{{"usage":{{"input_tokens":9,"output_tokens":{output}}}}}"#);
    ten_calls(&rules, REQUEST, JSON, &answer(50)).await;
    let limits = |partition, most| {
        let quotas = [Quota::concurrency(most), Quota::per_minute("output_tokens", 100_000)];
        Limits::new().bucket_in(partition, "claude-sonnet-4-5", quotas)
    };
    let limiter = Limiter::new(limits("one", 1)).unwrap();
    let demand = rules.demand(REQUEST.as_bytes()).unwrap();
    let first = limiter.reserve(demand.clone()).await.unwrap();
    let waiting = [(); 3].map(|()| tokio::spawn(limiter.reserve(demand.clone())));
    sleep(Duration::from_secs(1)).await;

    ten_calls(&rules, REQUEST, JSON, &answer(8_000)).await;
    first.release().await.unwrap();
    let [second, third, fourth] = waiting;
    let second = second.await.unwrap().unwrap();
    sleep(Duration::from_secs(1)).await;
    limiter.update(limits("another", 2)).unwrap();
    for granted in [second, third.await.unwrap().unwrap(), fourth.await.unwrap().unwrap()] {
        assert_eq!(granted.usage().get("output_tokens"), Some(8_192));
    }
}

#[tokio::test(start_paused = true)]
async fn providers_that_charge_the_bound_are_mirrored() {
    for rules in [openai::rules(), compatible::rules(), compatible::mistral()] {
        ten_calls(&rules, REQUEST, JSON, r#"{"usage":{"input_tokens":9,"output_tokens":700}}"#)
            .await;
        assert_eq!(reserved(&rules, REQUEST), 8_192);
    }
}

const OTPM: u64 = 100_000;
const MINUTES: u64 = 6;

/// The share of the limit that 300 callers use up who never pause: answers of about 330 tokens, at
/// 60 a second, and a bound of 8,192 that hardly any comes near.
async fn utilisation(rules: Rules) -> f64 {
    let quotas = anthropic::quotas().otpm(OTPM);
    let limiter = Limiter::new(Limits::new().bucket("claude-sonnet-4-5", quotas)).unwrap();
    let layer = ThrottleLayer::openai_compatible(limiter, rules);
    let (start, used) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    // First, the callers that came before anything was known have to be through, and what the
    // bucket saved up.
    let from = Duration::from_secs(240);
    let until = from + Duration::from_secs(60 * MINUTES);
    let callers = (0..300).map(|seed| {
        let (layer, used) = (layer.clone(), used.clone());
        async move {
            for output in outputs(seed, 200.0) {
                let provider = service_fn(async |_: http::Request<String>| {
                    sleep(Duration::from_secs(1) + Duration::from_secs(output) / 60).await;
                    let answer =
                        format!(r#"{{"usage":{{"input_tokens":5,"output_tokens":{output}}}}}"#);
                    Ok::<_, crate::BoxError>(response(200, JSON, full(&answer)))
                });
                let answer = layer
                    .layer(provider)
                    .oneshot(http::Request::new(REQUEST.to_owned()))
                    .await
                    .unwrap();
                answer.into_body().collect().await.unwrap();
                if start.elapsed() >= from && start.elapsed() < until {
                    used.fetch_add(output, Ordering::Relaxed);
                }
                if start.elapsed() >= until {
                    break;
                }
            }
        }
    });
    futures_util::future::join_all(callers).await;
    used.load(Ordering::Relaxed) as f64 / (OTPM * MINUTES) as f64
}

/// The numbers of the documentation.
#[tokio::test(start_paused = true)]
async fn learning_uses_up_what_bounds_leave_idle() {
    let bound = utilisation(anthropic::rules().output(Output::Bound)).await;
    let learned = utilisation(anthropic::rules()).await;
    println!("utilisation: {bound:.2} with max_tokens, {learned:.2} with what was learned");
    assert!((0.35..0.5).contains(&bound), "{bound}");
    assert!((0.9..=1.03).contains(&learned), "{learned}");
}
