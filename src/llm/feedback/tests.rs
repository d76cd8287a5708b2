//! What responses say, as plain data; headers and bodies are our own.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    Feedback, Named,
    llm::{Rules, anthropic, compatible, openai},
};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn headers(lines: &str) -> HeaderMap {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let pairs = lines.map(|line| line.split_once(": ").unwrap());
    let header = |(name, value): (&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    pairs.map(|(name, value)| header((name.to_owned().leak(), value.to_owned().leak()))).collect()
}

fn said(rules: &Rules, status: u16, lines: &str, body: Option<&str>) -> Feedback {
    rules.feedback(status, &headers(lines), body.map(str::as_bytes))
}

fn named(metric: &'static str, limit: u64, window: Duration) -> Named {
    Named::metric(metric).limit(limit).window(window)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn openai_s_requests_may_be_per_day_and_its_resets_tell() {
    let lines = "x-ratelimit-limit-requests: 10000
        x-ratelimit-remaining-requests: 9999
        x-ratelimit-reset-requests: 8.64s
        x-ratelimit-limit-tokens: 30000
        x-ratelimit-remaining-tokens: 20000
        x-ratelimit-reset-tokens: 20s
        x-ratelimit-limit-project-tokens: 15000
        x-ratelimit-remaining-project-tokens: 12345
        x-ratelimit-reset-project-tokens: 10.62s";
    let expected = Feedback::new()
        .with_left(named("requests", 10_000, DAY), 9_999, Some(seconds(8.64)))
        .with_left(named("tokens", 30_000, MINUTE), 20_000, Some(seconds(20.0)))
        .with_left(named("tokens", 15_000, seconds(60.0)), 12_345, Some(seconds(10.62)));
    assert_eq!(said(&openai::rules(), 200, lines, None), expected);
}

#[test]
fn what_azure_does_not_know_is_ignored() {
    let rules = openai::rules();
    for lines in [
        "x-ratelimit-limit-tokens: -1\nx-ratelimit-remaining-tokens: -1",
        "x-ratelimit-limit-tokens: 0\nx-ratelimit-remaining-tokens: 0",
        "x-ratelimit-limit-tokens: -1\nx-ratelimit-remaining-tokens: 0",
        "x-ratelimit-limit-tokens: ?\nx-ratelimit-remaining-tokens: 5",
        "x-ratelimit-remaining-tokens: -1",
        "x-ratelimit-remaining-tokens: 0",
        "x-rate-limit-remaining-requests: 0",
    ] {
        assert_eq!(said(&rules, 200, lines, None), Feedback::new(), "{lines}");
    }
    // Nothing left is something said where the limit is known, and where the call was refused.
    let nothing = Feedback::new().with_left(Named::metric("tokens").limit(100), 0, None);
    let lines = "x-ratelimit-limit-tokens: 100\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 0";
    assert_eq!(said(&rules, 200, lines, None), nothing);
    let nothing = Feedback::new().with_left(Named::metric("requests"), 0, None);
    assert_eq!(said(&rules, 429, "x-rate-limit-remaining-requests: 0", None), nothing);
}

#[test]
fn anthropic_s_resets_are_times_of_full_refill_and_its_tokens_are_rounded() {
    let lines = "date: Mon, 05 Jan 2015 07:00:00 GMT
        anthropic-ratelimit-requests-limit: 50
        anthropic-ratelimit-requests-remaining: 49
        anthropic-ratelimit-requests-reset: 2015-01-05T07:00:01Z
        anthropic-ratelimit-input-tokens-limit: 30000
        anthropic-ratelimit-input-tokens-remaining: 12000
        anthropic-ratelimit-input-tokens-reset: 2015-01-05T07:00:36Z
        anthropic-ratelimit-output-tokens-limit: 8000
        anthropic-ratelimit-output-tokens-remaining: 0
        anthropic-ratelimit-output-tokens-reset: 2015-01-05T07:01:00Z
        retry-after: 9";
    let left = Feedback::new()
        .with_left(named("requests", 50, MINUTE), 49, Some(seconds(1.0)))
        .with_left(named("input_tokens", 30_000, MINUTE), 12_500, Some(seconds(36.0)))
        .with_left(named("output_tokens", 8_000, MINUTE), 500, Some(MINUTE));
    assert_eq!(
        said(&anthropic::rules(), 200, lines, None),
        left,
        "no time to wait but in a refusal"
    );
    let refused =
        left.clone().with_retry_after_of(named("output_tokens", 8_000, MINUTE), seconds(9.0));
    assert_eq!(said(&anthropic::rules(), 429, lines, None), refused);
    assert_eq!(said(&anthropic::rules(), 529, lines, None), left.with_retry_after(seconds(9.0)));
}

#[test]
fn others_have_names_and_windows_of_their_own() {
    let groq = "x-ratelimit-limit-requests: 14400
        x-ratelimit-remaining-requests: 14370
        x-ratelimit-reset-requests: 2m59.56s
        x-ratelimit-limit-tokens: 18000
        x-ratelimit-remaining-tokens: 17997
        x-ratelimit-reset-tokens: 7.66ms";
    let expected = Feedback::new()
        .with_left(named("requests", 14_400, DAY), 14_370, Some(seconds(179.56)))
        .with_left(named("tokens", 18_000, MINUTE), 17_997, Some(seconds(0.00766)));
    assert_eq!(said(&compatible::groq(), 200, groq, None), expected);

    let mistral = "x-ratelimitbysize-limit-minute: 500000
        x-ratelimitbysize-remaining-minute: 467500
        ratelimitbysize-reset: 33
        ratelimitbysize-query-cost: 32500
        x-ratelimitbysize-limit-month: 1000000000
        x-ratelimitbysize-remaining-month: 999000000";
    let expected = Feedback::new()
        .with_left(named("tokens", 500_000, MINUTE), 467_500, Some(seconds(33.0)))
        .with_left(named("tokens", 1_000_000_000, 30 * DAY), 999_000_000, None);
    assert_eq!(said(&compatible::mistral(), 200, mistral, None), expected);

    let openrouter = "date: Mon, 05 Jan 2015 07:00:00 GMT
        x-ratelimit-limit: 20
        x-ratelimit-remaining: 0
        x-ratelimit-reset: 1420441240000";
    let all = named("requests", 20, seconds(40.0));
    let expected = Feedback::new().with_left(all.clone(), 0, Some(seconds(40.0)));
    let body = r#"{"error":{"message":"Rate limit exceeded: free-models-per-min","code":429}}"#;
    assert_eq!(said(&compatible::openrouter(), 429, openrouter, None), expected);
    let told = said(&compatible::openrouter(), 429, openrouter, Some(body));
    assert_eq!(told, expected.with_retry_after(seconds(1.0)));

    assert_eq!(said(&compatible::deepseek(), 200, "x-request-id: t1", None), Feedback::new());
}

#[test]
fn times_to_wait_come_in_every_form_and_only_refusals_tell_any() {
    let rules = compatible::rules();
    let wait = |status, lines| {
        said(&rules, status, lines, None).retry_after().map(|time| time.as_secs_f64())
    };
    for (lines, expected) in [
        ("retry-after-ms: 250\nretry-after: 9", Some(0.25)),
        ("retry-after-ms: x\nretry-after: 9", Some(9.0)),
        ("retry-after: 2.5", Some(2.5)),
        ("retry-after: 0", Some(0.0)),
        (
            "date: Mon, 05 Jan 2015 07:00:00 GMT\nretry-after: Mon, 05 Jan 2015 07:00:30 GMT",
            Some(30.0),
        ),
        ("retry-after: Mon, 05 Jan 2015 07:00:30 GMT", Some(0.0)),
        ("retry-after: -5", None),
        ("retry-after: soon", None),
    ] {
        for status in [429, 503, 529] {
            assert_eq!(wait(status, lines), expected, "{lines}");
        }
        assert_eq!(wait(200, lines), None);
        assert_eq!(wait(500, lines), None);
    }
}

#[test]
fn what_no_waiting_helps_is_told_apart() {
    let never =
        |status, lines, body| said(&compatible::rules(), status, lines, body).is_permanent();
    for (status, lines, body) in [
        (
            429,
            "",
            r#"{"error":{"message":"..","type":"insufficient_quota","code":"insufficient_quota"}}"#,
        ),
        (429, "retry-after: 5", r#"{"error":{"code":"insufficient_quota"}}"#),
        (
            429,
            "",
            r#"{"type":"error","error":{"type":"enforced_spend_limit_reached","message":".."}}"#,
        ),
        (
            429,
            "x-should-retry: false",
            r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#,
        ),
        (
            429,
            "",
            r#"{"error":{"message":"Request too large for m: Limit 9, Requested 10","code":"rate_limit_exceeded"}}"#,
        ),
        (413, "", r#"{"type":"error","error":{"type":"request_too_large","message":".."}}"#),
        (402, "", r#"{"error":{"message":"Insufficient credits","code":402}}"#),
        (200, "", r#"[{"error":{"code":402,"message":".."}}]"#),
    ] {
        assert!(never(status, lines, Some(body)), "{body}");
        assert_eq!(
            said(&compatible::rules(), status, lines, Some(body)).retry_after(),
            None,
            "{body}"
        );
    }
    for (status, lines, body) in [
        (429, "", r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#),
        (
            429,
            "x-should-retry: true",
            r#"{"object":"error","message":"Requests rate limit exceeded"}"#,
        ),
        (200, "x-should-retry: false", r#"{"usage":{"prompt_tokens":1}}"#),
        (400, "", r#"{"error":{"message":"bad","type":"invalid_request_error"}}"#),
        (529, "", r#"{"type":"error","error":{"type":"overloaded_error","message":".."}}"#),
        (429, "", "<html>"),
        (429, "", r#"{"error":"insufficient_quota"}"#),
    ] {
        assert!(!never(status, lines, Some(body)), "{body}");
    }
}

const GOOGLE: &str = r#"{"error":{"code":429,"message":"You exceeded your current quota.","status":"RESOURCE_EXHAUSTED",
    "details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[
    {"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests",
    "quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaDimensions":{"model":"t1"},"quotaValue":"50"}]},
    {"@type":"type.googleapis.com/google.rpc.Help","links":[]},
    {"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.4s"}]}}"#;

#[test]
fn bodies_tell_how_long_and_for_what() {
    let wait = |status, body| {
        let Feedback { wait, .. } = said(&compatible::rules(), status, "", Some(body));
        wait.map(|wait| (wait.time.as_secs_f64(), wait.of))
    };
    assert_eq!(wait(429, GOOGLE), Some((34.4, Some(named("requests", 50, DAY)))));
    let two = GOOGLE
        .replace(r#"quotaValue":"50"}"#, r#"quotaValue":"50"},{"quotaId":"TokensPerMinute"}"#);
    assert_eq!(wait(429, &two), Some((34.4, None)), "which of two is not said");
    let by_token = GOOGLE.replace("GenerateRequestsPerDay", "GenerateContentInputTokensPerMinute");
    assert_eq!(wait(429, &by_token), Some((34.4, Some(named("input_tokens", 50, MINUTE)))));

    let openai = r#"{"error":{"message":"Rate limit reached for t1 on tokens per min (TPM): Limit 9","type":"tokens","code":"rate_limit_exceeded"}}"#;
    assert_eq!(wait(429, openai), Some((1.0, Some(Named::metric("tokens").window(MINUTE)))));
    assert_eq!(wait(200, r#"{"error":{"type":"overloaded_error"}}"#), Some((1.0, None)));
    assert_eq!(wait(429, ""), Some((1.0, None)), "it is over, and said nothing");
    assert_eq!(wait(503, r#"{"error":{"type":"slow_down"}}"#), Some((1.0, None)));
    assert_eq!(wait(503, ""), None);
    assert_eq!(wait(400, r#"{"error":{"details":[{"retryDelay":"5s"}]}}"#), None, "no refusal");
    let slower = compatible::rules().default_pause(seconds(5.0));
    assert_eq!(
        slower.feedback(429, &HeaderMap::new(), Some(b"")).retry_after(),
        Some(seconds(5.0))
    );
    assert_eq!(
        slower.feedback(429, &HeaderMap::new(), None),
        Feedback::new(),
        "nothing is known yet"
    );
}
