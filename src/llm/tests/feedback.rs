//! Whole calls whose responses say something of limits.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::advance;
use tower::Layer;

use super::{Account, EVENTS, JSON, full, response};
use crate::{
    BoxError, Demand, Limiter, Limits, Quota, ThrottleLayer, Throttled,
    layer::MeteredBody,
    llm::{Quotas, Rules, anthropic, compatible, openai},
    observe::Event,
    usage,
};

pub(super) const REQUEST: &str = r#"{"model":"t1","max_tokens":100,"messages":[]}"#;
const LIMITED: &str = r#"{"error":{"message":"..","type":"tokens","code":"rate_limit_exceeded"}}"#;
const BROKE: &str =
    r#"{"error":{"message":"..","type":"insufficient_quota","code":"insufficient_quota"}}"#;

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn account() -> Account {
    Account::with([
        Quota::per_minute("requests", 100),
        Quota::per_minute("tokens", 10_000),
        Quota::per_day("requests", 1_000),
    ])
}

fn with_headers<B>(
    mut response: Response<B>,
    headers: &[(&'static str, &'static str)],
) -> Response<B> {
    let pairs = headers.iter().map(|(name, value)| (*name, HeaderValue::from_static(value)));
    pairs.for_each(|(name, value)| drop(response.headers_mut().insert(name, value)));
    response
}

impl Account {
    pub(super) async fn available(&self) -> Vec<f64> {
        let status = self.limiter.status("all").await.unwrap();
        status.quotas.iter().map(|quota| quota.available).collect()
    }

    /// For how long a demand is refused, and by what; nothing if it is not.
    async fn refuses(&self, demand: Demand) -> Option<(u64, String)> {
        let wait = self.limiter.time_until_available(demand.clone()).await.unwrap();
        if wait == Some(Duration::ZERO) {
            return None;
        }
        let Err(Throttled::NotNow(refusal)) = self.limiter.try_reserve(demand).await else {
            panic!("granted")
        };
        Some((refusal.retry_after()?.as_secs(), refusal.binding()?.quota.to_string()))
    }

    async fn is_paused_for(&self) -> Option<u64> {
        self.refuses(one()).await.map(|(wait, _)| wait)
    }
}

pub(super) fn one() -> Demand {
    Demand::new("all", usage! { requests: 1, tokens: 1 })
}

#[tokio::test(start_paused = true)]
async fn headers_lower_what_is_left_before_the_body_is_read() {
    let account = account();
    let headers = [
        ("x-ratelimit-limit-requests", "1000"),
        ("x-ratelimit-remaining-requests", "40"),
        ("x-ratelimit-reset-requests", "82944s"),
        ("x-ratelimit-limit-tokens", "10000"),
        ("x-ratelimit-remaining-tokens", "700"),
        ("x-ratelimit-reset-tokens", "55.8s"),
    ];
    let answer =
        with_headers(response(200, JSON, full(r#"{"usage":{"total_tokens":90}}"#)), &headers);
    let answer = account.call(&compatible::rules(), REQUEST, answer).await;
    assert_eq!(account.available().await, [99.0, 700.0, 40.0]);
    answer.into_body().collect().await.unwrap();
    assert_eq!(
        account.available().await,
        [99.0, 713.0, 40.0],
        "what was reserved and not used is left besides"
    );
    advance(seconds(63)).await;
    assert_eq!(account.available().await, [100.0, 10_000.0, 40.0]);
    advance(seconds(300)).await;
    assert_eq!(account.available().await[2], 999.0, "not for longer than the longest pause");
}

/// A provider's limits, what its headers say, and what is left then. A call has reserved 1 request
/// and 100 tokens.
struct Said {
    rules: Rules,
    quotas: Quotas,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    left: &'static [f64],
}

fn said_by_providers() -> Vec<Said> {
    vec![
        Said {
            rules: openai::rules(),
            quotas: openai::quotas().rpm(500).rpd(10_000).tpm(30_000),
            status: 200,
            headers: &[
                ("x-ratelimit-limit-requests", "10000"),
                ("x-ratelimit-remaining-requests", "321"),
                ("x-ratelimit-reset-requests", "23h13m46.56s"),
                ("x-ratelimit-limit-tokens", "150000"), // of the organisation; ours are fewer
                ("x-ratelimit-remaining-tokens", "20000"),
                ("x-ratelimit-reset-tokens", "52s"),
            ],
            left: &[499.0, 321.0, 20_000.0],
        },
        Said {
            rules: openai::rules(), // Azure
            quotas: openai::quotas().rpm(60).tpm(10_000),
            status: 200,
            headers: &[
                ("x-ratelimit-limit-requests", "-1"),
                ("x-ratelimit-remaining-requests", "-1"),
                ("x-ratelimit-remaining-tokens", "8000"),
            ],
            left: &[59.0, 8_000.0],
        },
        Said {
            rules: anthropic::rules(),
            quotas: anthropic::quotas().rpm(50).itpm(30_000).otpm(8_000),
            status: 200,
            headers: &[
                ("anthropic-ratelimit-requests-limit", "50"),
                ("anthropic-ratelimit-requests-remaining", "12"),
                ("anthropic-ratelimit-requests-reset", "2036-01-05T07:00:46Z"),
                ("anthropic-ratelimit-input-tokens-limit", "30000"),
                ("anthropic-ratelimit-input-tokens-remaining", "4000"),
                ("anthropic-ratelimit-input-tokens-reset", "2036-01-05T07:00:52Z"),
                ("anthropic-ratelimit-tokens-limit", "38000"),
                ("anthropic-ratelimit-tokens-remaining", "0"),
                ("date", "Sat, 05 Jan 2036 07:00:00 GMT"),
            ],
            left: &[12.0, 4_500.0, 7_900.0],
        },
        Said {
            rules: compatible::groq(),
            quotas: compatible::groq_quotas().rpm(30).rpd(14_400).tpm(6_000),
            status: 200,
            headers: &[
                ("x-ratelimit-limit-requests", "14000"), // of a day, whatever the number
                ("x-ratelimit-remaining-requests", "20"),
                ("x-ratelimit-reset-requests", "5s"),
                ("x-ratelimit-limit-tokens", "6000"),
                ("x-ratelimit-remaining-tokens", "1500"),
                ("x-ratelimit-reset-tokens", "45s"),
            ],
            left: &[29.0, 20.0, 1_500.0],
        },
        Said {
            rules: compatible::mistral(),
            quotas: compatible::mistral_quotas().tpm(500_000).tokens_per_month(1_000_000_000),
            status: 200,
            headers: &[
                ("x-ratelimitbysize-limit-minute", "500000"),
                ("x-ratelimitbysize-remaining-minute", "77"),
                ("x-ratelimitbysize-limit-month", "1000000000"),
                ("x-ratelimitbysize-remaining-month", "88"),
            ],
            left: &[77.0, 88.0],
        },
        Said {
            rules: compatible::openrouter(),
            quotas: compatible::openrouter_quotas().rpm(20).rpd(50),
            status: 429,
            headers: &[("x-ratelimit-limit", "50"), ("x-ratelimit-remaining", "0")],
            left: &[20.0, 0.0],
        },
    ]
}

#[tokio::test(start_paused = true)]
async fn each_provider_s_headers_find_their_quotas() {
    for Said { rules, quotas, status, headers, left } in said_by_providers() {
        let account = Account::with(quotas);
        let answer = account
            .call(&rules, REQUEST, with_headers(response(status, JSON, full("{}")), headers))
            .await;
        assert_eq!(account.available().await, left, "{rules:?}");
        drop(answer);
    }
}

/// A demand that needs no tokens.
fn requests_alone() -> Demand {
    Demand::new("all", usage! { requests: 1, tokens: 0 })
}

/// Refusals that may ask for a wait.
fn refusals() -> [(u16, Rules); 3] {
    [(429, openai::rules()), (529, anthropic::rules()), (503, compatible::rules())]
}

/// A call that is refused, whose head asks for 7.2 s and names nothing.
async fn refused_for_a_while(
    (status, rules): (u16, Rules),
    body: &'static str,
) -> (Account, Response<MeteredBody<Full<Bytes>>>) {
    let account = account();
    let response = with_headers(response(status, JSON, full(body)), &[("retry-after", "7.2")]);
    let response = account.call(&rules, REQUEST, response).await;
    (account, response)
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_the_head_holds_only_what_the_body_names() {
    for refusal in refusals() {
        let (account, refused) = refused_for_a_while(refusal, LIMITED).await;
        assert_eq!(account.refuses(one()).await, None, "the body may name it");
        assert_eq!(refused.into_body().collect().await.unwrap().to_bytes(), LIMITED);
        assert_eq!(account.refuses(one()).await, Some((7, "tokens per minute".into())));
        assert_eq!(account.refuses(requests_alone()).await, None);
        account.assert_settled_once();
        advance(Duration::from_millis(7_200)).await;
        assert_eq!(account.refuses(one()).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_the_head_holds_all_where_the_body_names_nothing() {
    for body in ["{}", "<p>slow down</p>", r#"{"error":{"message":"slow down"}}"#] {
        for refusal in refusals() {
            let (account, refused) = refused_for_a_while(refusal, body).await;
            refused.into_body().collect().await.unwrap();
            assert_eq!(account.refuses(requests_alone()).await, Some((7, "paused".into())));
            account.assert_settled_once();
            advance(Duration::from_millis(7_200)).await;
            assert_eq!(account.refuses(one()).await, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_the_head_holds_all_where_the_body_is_not_read() {
    for refusal in refusals() {
        let (account, refused) = refused_for_a_while(refusal, LIMITED).await;
        advance(seconds(1)).await;
        drop(refused);
        let rest = account.refuses(requests_alone()).await;
        assert_eq!(rest, Some((6, "paused".into())), "of 7.2 s since the head");
        account.assert_settled_once();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_the_head_holds_all_at_once_where_nothing_can_follow() {
    for refusal in refusals() {
        let (account, refused) = refused_for_a_while(refusal, "").await;
        assert_eq!(account.refuses(requests_alone()).await, Some((7, "paused".into())));
        drop(refused);
    }
    // Nor can a body be read that is compressed.
    let account = account();
    let headers = [("retry-after", "7.2"), ("content-encoding", "gzip")];
    let refused = with_headers(response(429, JSON, full(LIMITED)), &headers);
    let refused = account.call(&openai::rules(), REQUEST, refused).await;
    assert_eq!(account.refuses(requests_alone()).await, Some((7, "paused".into())));
    drop(refused);
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_the_head_holds_nothing_where_the_body_says_that_waiting_is_no_use() {
    for refusal in refusals() {
        let (account, refused) = refused_for_a_while(refusal, BROKE).await;
        refused.into_body().collect().await.unwrap();
        assert_eq!(account.refuses(one()).await, None);
        account.assert_settled_once();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_told_after_the_settlement_where_the_head_s_wait_is_held_back() {
    let headers = [
        ("retry-after", "7.2"),
        ("x-ratelimit-limit-requests", "100"),
        ("x-ratelimit-remaining-requests", "99"),
        ("x-ratelimit-limit-tokens", "10000"),
        ("x-ratelimit-remaining-tokens", "700"),
    ];
    let account = account();
    let refused = with_headers(response(429, JSON, full(LIMITED)), &headers);
    let refused = account.call(&compatible::rules(), REQUEST, refused).await;
    refused.into_body().collect().await.unwrap();
    assert_eq!(account.available().await[1], 0.0, "they are held");
    advance(Duration::from_millis(7_200)).await;
    assert_eq!(account.available().await[1], 700.0, "what was given back is not left besides");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_with_a_long_time_passes_and_refuses_the_next_call_at_once() {
    let limits = Limits::new().bucket("t1", openai::quotas().rpm(100).tpm(10_000));
    let limiter = Limiter::new(limits).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = tower::service_fn(move |_: http::Request<String>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let refused = with_headers(response(429, JSON, full(LIMITED)), &[("retry-after", "3600")]);
        async { Ok::<_, BoxError>(refused) }
    });
    let client = ThrottleLayer::openai(limiter.clone()).layer(service);
    let call = || client.clone().oneshot(http::Request::new(REQUEST.to_owned()));
    let refused = call().await.expect("the provider's answer");
    assert_eq!(
        (refused.status(), &refused.headers()["retry-after"]),
        (http::StatusCode::TOO_MANY_REQUESTS, &HeaderValue::from_static("3600"))
    );
    assert_eq!(refused.into_body().collect().await.unwrap().to_bytes(), LIMITED);

    for left in [3_600, 3_540] {
        let began = tokio::time::Instant::now();
        let error = call().await.map(drop).unwrap_err();
        let throttled = Throttled::find(error.as_ref()).expect("it is the limiter's");
        assert!(matches!(throttled, Throttled::Paused(_)), "{throttled}");
        assert_eq!(
            (throttled.retry_after(), began.elapsed()),
            (Some(seconds(left)), Duration::ZERO)
        );
        advance(seconds(60)).await;
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    advance(seconds(180)).await;
    assert!(call().await.is_ok(), "asked again, the provider says again");
    assert!(call().await.is_err());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

/// Waits longer than the longest pause; those that are no times are refusals that do not say when.
const HOSTILE: &[(&str, &str, bool)] = &[
    ("retry-after", "301", true),
    ("retry-after", "18446744073709549568", true), // the largest that is a time
    ("retry-after", "18446744073709551615", true), // milliseconds since 1970
    ("retry-after", "1e300", false),
    ("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT", true),
    ("retry-after", "9999-12-30T00:00:00Z", true),
    ("retry-after", "9999-12-31T23:59:59Z", false),
    ("retry-after", "99999999d", true),
    ("retry-after-ms", "18446744073709549568", true),
    ("retry-after-ms", "18446744073709551615", true),
];

#[tokio::test(start_paused = true)]
async fn no_hostile_time_holds_back_for_longer_than_the_longest_pause() {
    for &(name, value, surfaces) in HOSTILE {
        let account = account();
        let refused = with_headers(response(429, JSON, full(LIMITED)), &[(name, value)]);
        drop(account.call(&openai::rules(), REQUEST, refused).await.into_body().collect().await);
        if surfaces {
            let error = account.limiter.reserve(one()).await.unwrap_err();
            assert!(matches!(error, Throttled::Paused(_)), "{value}: {error}");
            assert!(error.retry_after() > Some(seconds(300)), "{value}: {error}");
        } else {
            assert_eq!(account.is_paused_for().await, Some(1), "{value}");
        }
        advance(seconds(300)).await;
        assert_eq!(account.refuses(one()).await, None, "{value}");
        assert_eq!(account.limiter.status("all").await.unwrap().asked_until, None);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_nothing_left_is_paused_alone() {
    let account = account();
    let headers = [
        ("x-ratelimit-limit-requests", "100"),
        ("x-ratelimit-remaining-requests", "99"),
        ("x-ratelimit-limit-tokens", "10000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("retry-after", "7"),
    ];
    drop(
        account
            .call(
                &compatible::rules(),
                REQUEST,
                with_headers(response(429, JSON, full("")), &headers),
            )
            .await,
    );
    let requests = || Demand::new("all", usage! { requests: 1 });
    assert_eq!(account.refuses(requests()).await, None);
    assert_eq!(
        account.refuses(one()).await.map(|(_, quota)| quota),
        Some("tokens per minute".into())
    );
}

/// How long a bucket is paused after a refusal that says no time in its head.
async fn paused_after(rules: &Rules, status: u16, content: &str, body: &str) -> Option<u64> {
    let account = account();
    let refused = account.call(rules, REQUEST, response(status, content, full(body))).await;
    assert_eq!(account.is_paused_for().await, None, "nothing is known yet");
    let read = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read, body, "bytes pass unchanged");
    account.assert_settled_once();
    account.is_paused_for().await
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_a_time_is_understood_at_its_end() {
    let rules = compatible::rules().default_pause(seconds(3));
    assert_eq!(paused_after(&rules, 429, JSON, LIMITED).await, Some(3));
    assert_eq!(paused_after(&rules, 429, JSON, BROKE).await, None);
    assert_eq!(paused_after(&rules, 429, JSON, "no JSON at all").await, Some(3));
    assert_eq!(paused_after(&rules, 429, "text/html", "<p>slow down</p>").await, Some(3));
    assert_eq!(
        paused_after(&rules, 529, JSON, r#"{"error":{"type":"overloaded_error"}}"#).await,
        Some(3)
    );
    assert_eq!(paused_after(&rules, 503, JSON, r#"{"error":{"type":"slow_down"}}"#).await, Some(3));
    assert_eq!(paused_after(&rules, 503, JSON, "{}").await, None);
    assert_eq!(
        paused_after(&rules, 400, JSON, r#"{"error":{"type":"invalid_request_error"}}"#).await,
        None
    );
    assert_eq!(paused_after(&rules, 200, JSON, r#"{"usage":{"total_tokens":9}}"#).await, None);
    let details =
        r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"34s"}]}}"#;
    assert_eq!(paused_after(&rules, 429, JSON, details).await, Some(34));

    // It is not read, or not to its end.
    let account = account();
    drop(account.call(&rules, REQUEST, response(429, JSON, full(LIMITED))).await);
    assert_eq!(account.is_paused_for().await, Some(3));

    let never = with_headers(response(429, JSON, full(LIMITED)), &[("x-should-retry", "false")]);
    let account = self::account();
    drop(account.call(&rules, REQUEST, never).await);
    assert_eq!(account.is_paused_for().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_names_a_quota_pauses_just_that() {
    let account = account();
    let body = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[
        {"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":"1000"}]},{"retryDelay":"34s"}]}}"#;
    let refused =
        account.call(&compatible::rules(), REQUEST, response(429, JSON, full(body))).await;
    refused.into_body().collect().await.unwrap();
    assert_eq!(account.refuses(one()).await, Some((34, "requests per day".into())));
    let tokens = Demand::new("all", usage! { requests: 0, tokens: 5 });
    assert_eq!(account.refuses(tokens).await, None);
}

/// The head asks for a wait and names no quota; the body says that it is about tokens.
#[tokio::test(start_paused = true)]
async fn told_as_a_whole_a_wait_is_of_the_quota_that_the_body_names() {
    for rules in [openai::rules(), compatible::rules(), anthropic::rules()] {
        let account = account();
        let head = with_headers(response(429, JSON, full("")), &[("retry-after", "20")]);
        let feedback = rules.feedback(429, head.headers(), Some(LIMITED.as_bytes()));
        assert_eq!(feedback.retry_after(), Some(seconds(20)));
        account.limiter.feedback("all", &feedback).await.unwrap();
        let tokens = Demand::new("all", usage! { requests: 0, tokens: 5 });
        assert_eq!(account.refuses(tokens).await, Some((20, "tokens per minute".into())));
        let none = Demand::new("all", usage! { requests: 1, tokens: 0 });
        assert_eq!(account.refuses(none).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_overload_within_a_stream_pauses_before_the_stream_is_over() {
    let account = account();
    let stream = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
    );
    let rules = anthropic::rules().default_pause(seconds(3));
    let mut body =
        account.call(&rules, REQUEST, response(200, EVENTS, full(stream))).await.into_body();
    assert_eq!(account.is_paused_for().await, None);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), stream);
    assert_eq!(account.is_paused_for().await, Some(3));
    drop(body);
    assert_eq!(account.is_paused_for().await, Some(3), "said once");
}

#[tokio::test(start_paused = true)]
async fn no_call_takes_what_a_refused_call_gives_back_before_the_pause() {
    let shared = Arc::new(OnceLock::<Limiter>::new());
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (seen, noted) = (shared.clone(), taken.clone());
    // Another call is there the moment it is given back.
    let observer = move |event: &Event<'_>| {
        if let (Event::Settled { .. }, Some(limiter)) = (event, seen.get()) {
            let granted =
                limiter.try_reserve(one()).now_or_never().is_some_and(|outcome| outcome.is_ok());
            noted.lock().unwrap().push(granted);
        }
    };
    let limits = Limits::new().bucket("t1", [Quota::per_minute("requests", 1)]).family("all", "t1");
    let limiter =
        shared.get_or_init(|| Limiter::builder(limits).observer(observer).build().unwrap());
    let layer = ThrottleLayer::openai_compatible(limiter.clone(), compatible::rules());
    let service = tower::service_fn(async |_: http::Request<String>| {
        let refused = response(429, JSON, full(LIMITED));
        Ok::<_, BoxError>(with_headers(refused, &[("retry-after", "20")]))
    });
    drop(layer.layer(service).oneshot(http::Request::new(REQUEST.to_owned())).await.unwrap());
    assert_eq!(*taken.lock().unwrap(), [false]);
    advance(seconds(20)).await;
    assert!(limiter.try_reserve(one()).await.is_ok(), "it was given back");
}
