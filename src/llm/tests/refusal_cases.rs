//! What providers really say of limits, and how they refuse: each case by its name, with the value
//! that is right.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{EVENTS, JSON};
use crate::{
    Feedback, Named, Usage,
    llm::{Rules, anthropic, azure, compatible, gemini, openai},
    usage,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn said(rules: &Rules, status: u16, lines: &[(&'static str, &str)], body: &str) -> Feedback {
    rules.feedback(status, &headers(lines), Some(body.as_bytes()))
}

fn wait(feedback: &Feedback) -> Option<(Duration, Option<Named>)> {
    feedback.wait.as_ref().map(|wait| (wait.time, wait.of.clone()))
}

#[test]
fn waits_are_the_longest_plausible_ones() {
    let rules = compatible::rules().default_pause(3 * SECOND);
    let date = ("date", "Mon, 05 Jan 2015 07:00:00 GMT");
    let two = [("retry-after-ms", "0"), ("retry-after", "1")];
    assert_eq!(
        wait(&said(&rules, 429, &two, "")),
        Some((SECOND, None)),
        "two waits, one of them 0 (Azure)"
    );
    let odd = [("retry-after-ms", "1500"), ("retry-after", "99999999999")];
    assert_eq!(said(&rules, 429, &odd, "").retry_after(), Some(Duration::from_millis(1_500)));
    for value in ["0", "-5", "nan", "", "0s", "soon", "Mon, 05 Jan 2015 06:59:00 GMT"] {
        let feedback = said(&rules, 429, &[date, ("retry-after", value)], "");
        assert_eq!(wait(&feedback), Some((3 * SECOND, None)), "a wait of nothing: {value}");
    }
    let zero =
        r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"0s"}]}}"#;
    assert_eq!(
        wait(&said(&rules, 429, &[], zero)),
        Some((3 * SECOND, None)),
        "a retryDelay of nothing"
    );
    let longer = r#"{"error":{"code":429,"details":[{"retryDelay":"48s"}]}}"#;
    assert_eq!(said(&rules, 429, &[("retry-after", "5")], longer).retry_after(), Some(48 * SECOND));
    let number = r#"{"error":{"message":"slow down"},"retry_after":12.5}"#;
    let told = said(&rules, 429, &[], number).retry_after();
    assert_eq!(told, Some(Duration::from_millis(12_500)), "a number in the body");
    let passed = [
        date,
        ("x-ratelimit-limit-tokens", "100"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "2015-01-05T06:59:55Z"),
    ];
    let feedback = said(&rules, 429, &passed, "");
    assert_eq!(feedback.left, [], "a reset that has passed");
    assert_eq!(feedback.retry_after(), Some(3 * SECOND));
}

#[test]
fn a_reset_is_of_no_longer_window_than_is_told() {
    let minute = |limit| Named::metric("requests").limit(limit).window(MINUTE);
    for rules in [openai::rules(), azure::rules(), compatible::rules()] {
        let azure = [
            ("x-ratelimit-limit-requests", "120"),
            ("x-ratelimit-remaining-requests", "119"),
            ("x-ratelimit-reset-requests", "500"),
            ("x-ratelimit-renewalperiod-requests", "60"),
        ];
        let right = Feedback::new().with_left(minute(120), 119, Some(Duration::from_millis(500)));
        assert_eq!(said(&rules, 200, &azure, "{}"), right, "milliseconds without a unit (Azure)");
        let others = [
            ("x-ratelimit-limit-requests", "1000"),
            ("x-ratelimit-remaining-requests", "999"),
            ("x-ratelimit-reset-requests", "59"),
        ];
        let right = Feedback::new().with_left(minute(1_000), 999, Some(59 * SECOND));
        assert_eq!(
            said(&rules, 200, &others, "{}"),
            right,
            "seconds without a unit, whole window (others)"
        );

        let old = [("x-rate-limit-reset-tokens", "55")];
        let body = r#"{"error":{"code":"429","message":"Requests have exceeded token rate limit. Please retry after 55 seconds."}}"#;
        let right = (55 * SECOND, Some(Named::metric("tokens").window(MINUTE)));
        for body in ["", body] {
            let feedback = said(&rules, 429, &old, body);
            assert_eq!(wait(&feedback), Some(right.clone()), "old spelling, no Retry-After");
        }
    }
}

#[test]
fn words_tell_what_nothing_else_does() {
    let message = |time: &str| {
        format!(
            "Rate limit reached for m in organization org-1 on tokens per min (TPM): Limit 30000, Used 22999, \
             Requested 12528. Please try again in {time}. Visit https://example.org/account/rate-limits"
        )
    };
    let of = Named::metric("tokens").limit(30_000).window(MINUTE);
    for (time, right) in
        [("11.054s", 11.054), ("28ms", 0.028), ("15m55.6s", 955.6), ("2 seconds", 2.0)]
    {
        let message = message(time);
        let event = format!(
            r#"{{"type":"response.failed","response":{{"status":"failed","error":{{"code":"rate_limit_exceeded","message":"{message}"}},"usage":null}}}}"#
        );
        let stream = format!("event: response.failed\ndata: {event}\n\n");
        let json = format!(
            r#"{{"error":{{"code":"rate_limit_exceeded","type":"tokens","message":"{message}"}}}}"#
        );
        let right = Some((Duration::from_secs_f64(right), Some(of.clone())));
        let events = [("content-type", EVENTS)];
        assert_eq!(
            wait(&said(&openai::rules(), 200, &events, &stream)),
            right,
            "words only, status 200"
        );
        assert_eq!(wait(&said(&openai::rules(), 200, &[], &json)), right, "words only in JSON");
        assert_eq!(wait(&said(&openai::rules(), 429, &[], &message)), right, "words alone");
    }
}

#[test]
fn used_up_credit_is_permanent_in_any_words() {
    for (status, body) in [
        (
            429,
            r#"{"code":"Some resource has been exhausted","error":"Your team has either used all available credits or reached its monthly spending limit"}"#,
        ),
        (429, r#"{"error":"insufficient_quota"}"#),
        (
            403,
            r#"{"error":{"message":"Your credit balance is too low","type":"invalid_request_error"}}"#,
        ),
        (402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error"}}"#),
        (429, r#"{"error":{"code":"billing_not_active","message":"Your account is not active"}}"#),
        (
            429,
            r#"{"message":"You are using a Trial key, which is limited to 1000 API calls / month."}"#,
        ),
        (429, r#"{"detail":"You have run out of credits."}"#),
        (429, "Out of credits"),
        (429, r#"{"error":{"code":"1113","message":"余额不足或无可用资源包,请充值。"}}"#),
        (403, r#"{"error":{"message":"Key limit exceeded (monthly limit)","code":403}}"#),
        (200, "data: {\"error\":\"You exceeded your credit limit\"}\n\n"),
    ] {
        let feedback = said(&compatible::rules(), status, &[], body);
        assert!(feedback.is_permanent() && feedback.wait.is_none(), "{body}: {feedback:?}");
    }
    let google = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"You exceeded your current quota, please check your plan and billing details.",
        "details":[{"violations":[{"quotaId":"GenerateContentInputTokensPerModelPerMinute-FreeTier","quotaValue":"250000"}]},{"retryDelay":"48s"}]}}"#;
    let feedback = said(&gemini::rules(), 429, &[], google);
    assert!(!feedback.is_permanent(), "it tells when to come back");
}

#[test]
fn limits_are_read_inside_of_an_error_s_body() {
    let reset = "1420444800000"; // the next hour
    let body = format!(
        r#"{{"error":{{"code":429,"message":"Rate limit exceeded: free-models-per-day.","metadata":{{"headers":{{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"{reset}"}}}}}}}}"#
    );
    let date = [("date", "Mon, 05 Jan 2015 07:00:00 GMT")];
    for rules in [compatible::openrouter(), compatible::rules()] {
        let feedback = said(&rules, 429, &date, &body);
        let day = Named::metric("requests").limit(50).window(DAY);
        let right = Feedback::new().with_left(day, 0, Some(3_600 * SECOND));
        assert_eq!(feedback.left, right.left, "headers inside the body (OpenRouter)");
        assert_eq!(wait(&feedback), Some((SECOND, Some(Named::metric("requests").window(DAY)))));
    }
}

#[test]
fn headers_by_other_names() {
    let left = |rules: Rules, lines: &[(&'static str, &str)]| said(&rules, 200, lines, "{}").left;
    let named =
        |metric: &'static str, limit, window| Named::metric(metric).limit(limit).window(window);
    for rules in [compatible::cohere(), compatible::rules()] {
        let trial =
            [("x-trial-endpoint-call-limit", "20"), ("x-trial-endpoint-call-remaining", "6")];
        let right = Feedback::new().with_left(named("requests", 20, MINUTE), 6, None);
        assert_eq!(left(rules, &trial), right.left, "trial keys (Cohere)");
    }
    for rules in [compatible::mistral(), compatible::rules()] {
        let today = [
            ("x-ratelimit-limit-req-minute", "100"),
            ("x-ratelimit-remaining-req-minute", "94"),
            ("x-ratelimit-limit-tokens-minute", "100000"),
            ("x-ratelimit-remaining-tokens-minute", "98863"),
            ("x-ratelimit-limit-tokens-month", "4000000"),
            ("x-ratelimit-remaining-tokens-month", "3998863"),
            ("x-ratelimit-limit-req-10-second", "60"),
            ("x-ratelimit-tokens-query-cost", "26"),
        ];
        let right = Feedback::new()
            .with_left(named("requests", 100, MINUTE), 94, None)
            .with_left(named("tokens", 100_000, MINUTE), 98_863, None)
            .with_left(named("tokens", 4_000_000, 30 * DAY), 3_998_863, None);
        assert_eq!(left(rules.clone(), &today), right.left, "Mistral's names of today");
        let none = [
            ("x-ratelimit-limit-tokens-minute", "0"),
            ("x-ratelimit-remaining-tokens-minute", "0"),
        ];
        assert!(said(&rules, 429, &none, "{}").is_permanent(), "limit 0 is permanent");
    }
    for rules in [compatible::together(), compatible::rules(), compatible::openrouter()] {
        let together = [
            ("x-ratelimit-limit", "2"),
            ("x-ratelimit-remaining", "1"),
            ("x-ratelimit-reset", "2"),
        ];
        let right = Feedback::new().with_left(named("requests", 2, MINUTE), 1, Some(2 * SECOND));
        let told = left(rules, &together);
        assert_eq!((told[0].amount, told[0].reset), (1, right.left[0].reset), "Together");
    }
    let fireworks = [
        ("x-ratelimit-limit-tokens-prompt", "60000"),
        ("x-ratelimit-remaining-tokens-prompt", "5"),
    ];
    assert_eq!(
        left(compatible::fireworks(), &fireworks)[0].of,
        named("input_tokens", 60_000, MINUTE)
    );
}

#[test]
fn google_s_429_may_be_called_a_stream() {
    let body = r#"{
      "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
          {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
              { "quotaId": "GenerateContentPaidTierInputTokensPerModelPerMinute", "quotaValue": "1000000" }
            ]
          },
          { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "48s" }
        ]
      }
    }"#;
    let of = Named::metric("input_tokens").limit(1_000_000).window(MINUTE);
    for (content, body) in
        [(EVENTS, body.to_owned()), (JSON, body.to_owned()), (JSON, format!("[{body}]"))]
    {
        for rules in [gemini::rules(), compatible::rules()] {
            let feedback = said(&rules, 429, &[("content-type", content)], &body);
            assert_eq!(wait(&feedback), Some((48 * SECOND, Some(of.clone()))), "{content}");
        }
    }
}

/// A limiter with a minute and a day of requests, and a minute of tokens.
fn account() -> super::Account {
    super::Account::with([
        crate::Quota::per_minute("requests", 100),
        crate::Quota::per_day("requests", 10_000),
        crate::Quota::per_minute("tokens", 30_000),
    ])
}

const CALL: &str = r#"{"model":"m","max_tokens":100,"messages":[]}"#;

#[tokio::test(start_paused = true)]
async fn what_is_named_is_held_and_nothing_else() {
    let account = account();
    let mut answer = super::response(200, JSON, super::full("{}"));
    for (name, value) in [
        ("x-ratelimit-limit-requests", "120"),
        ("x-ratelimit-remaining-requests", "119"),
        ("x-ratelimit-reset-requests", "500"),
        ("x-ratelimit-renewalperiod-requests", "60"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    drop(account.call(&azure::rules(), CALL, answer).await);
    assert_eq!(account.available().await[..2], [99.0, 9_999.0], "the day is untouched");

    let event = r#"{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"Rate limit reached on tokens per min (TPM): Limit 30000, Used 22999, Requested 12528. Please try again in 11.054s."}}}"#;
    let stream = format!("data: {event}\n\n");
    let answer = account
        .call(&openai::rules(), CALL, super::response(200, EVENTS, super::full(&stream)))
        .await;
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    let wait = async |usage: Usage| {
        account.limiter.time_until_available(crate::Demand::new("all", usage)).await.unwrap()
    };
    let tokens = wait(usage! { requests: 1, tokens: 5 }).await.unwrap();
    assert_eq!(tokens, Duration::from_millis(11_054), "of the tokens per minute");
    assert_eq!(
        wait(usage! { requests: 1, tokens: 0 }).await,
        Some(Duration::ZERO),
        "no tokens, no wait"
    );
}

/// The tenant in front has nothing to do with what the provider says.
#[tokio::test(start_paused = true)]
async fn whose_limit() {
    let minute = || [crate::Quota::per_minute("requests", 100)];
    let limits = ["tenant", "another", "account"]
        .into_iter()
        .fold(crate::Limits::new(), |limits, bucket| limits.bucket(bucket, minute()));
    let limiter = crate::Limiter::new(limits).unwrap();
    let rules = openai::rules();
    let layer = crate::ThrottleLayer::from_fn(limiter.clone(), |_: &mut http::Request<String>| {
        Ok(crate::Demand::new("tenant", usage! { requests: 1 }).and("account"))
    });
    let service = tower::service_fn(async |_: http::Request<String>| {
        let mut refused = super::response(429, JSON, super::full("{}"));
        refused.headers_mut().insert("retry-after", HeaderValue::from_static("20"));
        Ok::<_, crate::BoxError>(refused)
    });
    let service = tower::Layer::layer(&layer.inspector(rules.inspector()), service);
    drop(service.oneshot(http::Request::new(CALL.to_owned())).await.unwrap());
    let wait = async |bucket| {
        let demand = crate::Demand::new(bucket, usage! { requests: 1 });
        limiter.time_until_available(demand).await.unwrap()
    };
    assert_eq!(wait("tenant").await, Some(Duration::ZERO), "whose limit");
    assert_eq!(wait("account").await, Some(20 * SECOND), "for all tenants");
    let other = crate::Demand::new("another", usage! { requests: 1 }).and("account");
    assert_eq!(limiter.time_until_available(other).await.unwrap(), Some(20 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn used_up_credit_pauses_nothing() {
    let account = account();
    let body = r#"{"code":"x","error":"Your team has either used all available credits or reached its monthly spending limit"}"#;
    let answer =
        account.call(&compatible::xai(), CALL, super::response(429, JSON, super::full(body))).await;
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    let status = account.limiter.status("all").await.unwrap();
    assert!(
        status.paused_until.is_none() && status.quotas.iter().all(|quota| quota.withheld == 0.0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_is_a_request_and_no_tokens() {
    let request = r#"{"model":"m","max_tokens":900,"messages":[]}"#;
    for rules in [openai::rules(), anthropic::rules(), compatible::rules(), gemini::rules()] {
        for status in [400, 401, 403, 404, 413, 422] {
            let account = super::Account::new();
            let body = r#"{"error":{"message":"no","type":"invalid_request_error"}}"#;
            drop(
                account
                    .call(&rules, request, super::response(status, JSON, super::full(body)))
                    .await,
            );
            assert_eq!(account.charged().await, [1, 0, 0, 0], "4xx of a bad request: {status}");
        }
    }
    let usage = usage! { requests: 1 };
    assert_eq!(usage.get("tokens"), None);
}
