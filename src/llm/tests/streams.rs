//! What streams do that go wrong, in each provider's format.

use proptest::prelude::*;

use super::{Account, EVENTS, Ending, JSON, METRICS, charged, fixtures::FIXTURES, full, response};
use crate::{
    Limiter, Limits, Quota,
    inspect::{BodyEnd, BodyObserver},
    llm::{AtEnd, Charge, Format, Rules, anthropic, compatible, openai},
};

const ANTHROPIC: &str = r#"{"model":"claude-sonnet-4-5","max_tokens":1000,"messages":[]}"#;

/// Whoever of the fixtures has a stream.
fn streaming() -> impl Iterator<Item = &'static super::fixtures::Fixture> {
    FIXTURES.iter().filter(|fixture| fixture.stream.contains("usage"))
}

/// Mixed mode: combined, input and output quotas on one call must all allow it, and are settled apart.
#[tokio::test(start_paused = true)]
async fn s16_s17_weighted_and_split_quotas_in_every_format() {
    for fixture in streaming() {
        let [_, input, output, _] = fixture.reserved;
        let quotas = [
            Quota::per_minute("input_tokens", 1_000_000).weight("output_tokens", 5.0),
            Quota::per_minute("input_tokens", 4_000_000),
            Quota::per_minute("output_tokens", 128_000),
        ];
        let limiter = Limiter::new(Limits::new().bucket(fixture.bucket, quotas)).unwrap();
        let account = Account { limiter, ..Account::new() };
        let rules = (fixture.rules)();
        let charged = async || {
            let status = account.limiter.status(fixture.bucket).await.unwrap();
            [0, 1, 2].map(|quota| status.quotas[quota].charged as u64)
        };
        let answered = account
            .call(&rules, fixture.request, response(200, EVENTS, full(fixture.stream)))
            .await;
        assert_eq!(charged().await, [input + 5 * output, input, output], "{}", fixture.name);

        let mut body = answered.into_body();
        http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        let [_, input, output, _] = fixture.after_stream;
        assert_eq!(charged().await, [input + 5 * output, input, output], "{}", fixture.name);
    }
}

/// Of an estimated 1,000 tokens a few are seen: never settled at those, nor at 0.
#[tokio::test(start_paused = true)]
async fn s28_dropped_and_silent_streams_keep_what_they_reserved() {
    for fixture in FIXTURES {
        let (rules, stream) = ((fixture.rules)(), fixture.stream.as_bytes());
        for cut in (0..stream.len()).step_by(37) {
            for ending in [Ending::Dropped, Ending::Failed] {
                let after =
                    charged(&rules, fixture.request, EVENTS, [&stream[..cut]], ending).await;
                let kept =
                    after.iter().zip(fixture.reserved).all(|(after, reserved)| *after >= reserved);
                let context = format!("{} {ending:?} at {cut}: {after:?}", fixture.name);
                assert!(kept || after == fixture.after_stream, "{context}");
            }
        }
        let silent = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let after =
            charged(&rules, fixture.request, EVENTS, [silent.as_bytes()], Ending::Read).await;
        assert_eq!(after, fixture.reserved, "{}", fixture.name);
    }
}

/// A body whose end nobody polls, or that has no content.
#[tokio::test(start_paused = true)]
async fn s29_bodies_are_settled_without_a_last_poll() {
    for fixture in streaming() {
        let (rules, account) = ((fixture.rules)(), Account::new());
        let answered = account
            .call(&rules, fixture.request, response(200, EVENTS, full(fixture.stream)))
            .await;
        let mut body = answered.into_body();
        http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        assert_eq!(account.charged().await, fixture.after_stream, "{}", fixture.name);
        drop(body);
        assert_eq!(account.charged().await, fixture.after_stream, "{}", fixture.name);

        let account = Account::new();
        let empty = account.call(&rules, fixture.request, response(204, JSON, full(""))).await;
        assert_eq!(account.charged().await, fixture.reserved, "{}", fixture.name);
        drop(empty);
    }
}

#[tokio::test(start_paused = true)]
async fn errors_in_a_stream_are_charged_by_the_rules() {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n";
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let stream = [start.as_bytes(), error.as_bytes()];
    let seen = charged(&anthropic::rules(), ANTHROPIC, EVENTS, stream, Ending::Read).await;
    assert_eq!(seen, [1, 25, 1_000, 1_025]);
    let rules = anthropic::rules().on_stream_error(Charge::Request);
    for ending in [Ending::Read, Ending::Dropped, Ending::Failed] {
        assert_eq!(
            charged(&rules, ANTHROPIC, EVENTS, stream, ending).await,
            [1, 0, 0, 0],
            "{ending:?}"
        );
    }

    let request = FIXTURES[7].request;
    let rules = compatible::openrouter().on_stream_error(Charge::Nothing);
    for failing in [
        r#"{"error":{"code":502,"message":"Provider disconnected"},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}"#,
        r#"{"choices":[{"finish_reason":"error"}]}"#,
        r#"{"choices":[{"error":{"code":502}}]}"#,
        r#"{"type":"response.failed","response":{"usage":null}}"#,
    ] {
        let stream = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"H\"}}}}]}}\n\ndata: {failing}\n\n"
        );
        assert_eq!(
            charged(&rules, request, EVENTS, [stream.as_bytes()], Ending::Read).await,
            [0; 4],
            "{failing}"
        );
        assert_eq!(
            charged(&rules, request, JSON, [failing.as_bytes()], Ending::Read).await,
            [0; 4],
            "{failing}"
        );
    }
    // A usage that was told all the same is what counts.
    let told = "data: {\"type\":\"response.failed\",\"response\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":2}}}\n\ndata: [DONE]\n\n";
    assert_eq!(
        charged(&rules, request, EVENTS, [told.as_bytes()], Ending::Read).await,
        [1, 9, 2, 11]
    );
}

/// The whole so far comes with every event: the last one counts, and those before it are a lower bound.
#[tokio::test(start_paused = true)]
async fn running_totals_count_once() {
    let event = |output: u64, finish: &str| {
        format!(
            "data: {{\"choices\":[{{\"finish_reason\":{finish}}}],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{output}}}}}\n\n"
        )
    };
    let rules = compatible::rules();
    let request = r#"{"model":"m","max_tokens":5,"messages":[]}"#;
    let events = [event(1, "null"), event(60, "null"), event(70, "\"stop\"")].concat();
    assert_eq!(
        charged(&rules, request, EVENTS, [events.as_bytes()], Ending::Dropped).await,
        [1, 9, 70, 79]
    );
    let events = [event(1, "null"), event(60, "null")].concat();
    assert_eq!(
        charged(&rules, request, EVENTS, [events.as_bytes()], Ending::Dropped).await,
        [1, 9, 60, 69]
    );
    let events = event(1, "null");
    assert_eq!(
        charged(&rules, request, EVENTS, [events.as_bytes()], Ending::Dropped).await,
        [1, 9, 5, 14]
    );
}

#[tokio::test(start_paused = true)]
async fn input_that_grows_in_a_stream_counts() {
    let stream = concat!(
        "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":500,\"cache_read_input_tokens\":70,\"output_tokens\":1}}}\n\n",
        "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":null},\"usage\":{\"input_tokens\":900,\"output_tokens\":30}}\n\n",
        "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":44,",
        "\"iterations\":[{\"type\":\"compaction\",\"input_tokens\":5000,\"output_tokens\":300},{\"type\":\"message\",\"input_tokens\":900,\"output_tokens\":44}]}}\n\n",
        "data: {\"type\":\"message_stop\"}\n\n",
    );
    let after =
        charged(&anthropic::rules(), ANTHROPIC, EVENTS, stream.as_bytes().chunks(11), Ending::Read)
            .await;
    assert_eq!(after, [1, 5_900, 344, 6_244]);
}

/// The last word of Anthropic's streams makes of what was seen what was used, also without a reason to stop.
#[tokio::test(start_paused = true)]
async fn a_message_that_stopped_is_known() {
    let told = r#"data: {"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}

data: {"type":"message_delta","delta":{},"usage":{"output_tokens":8}}

"#;
    let stopped = [told, "data: {\"type\":\"message_stop\"}\n\n"].concat();
    let rules = anthropic::rules();
    for ending in [Ending::Read, Ending::Dropped, Ending::Failed] {
        assert_eq!(
            charged(&rules, ANTHROPIC, EVENTS, [told.as_bytes()], ending).await,
            [1, 25, 1_000, 1_025]
        );
        assert_eq!(
            charged(&rules, ANTHROPIC, EVENTS, [stopped.as_bytes()], ending).await,
            [1, 25, 8, 33]
        );
    }
}

#[cfg(feature = "reqwest")]
#[tokio::test(start_paused = true)]
async fn reqwest_s_requests_and_responses_are_followed() {
    let fixture = &FIXTURES[3];
    let account = Account::new();
    let layer = crate::ThrottleLayer::anthropic(account.limiter.clone());
    let service = tower::service_fn(async |_: reqwest::Request| {
        Ok::<_, crate::BoxError>(reqwest::Response::from(response(200, EVENTS, fixture.stream)))
    });
    let request = reqwest::Client::new()
        .post("http://localhost/v1/messages")
        .body(fixture.request)
        .build()
        .unwrap();
    let answer =
        tower::ServiceExt::oneshot(tower::Layer::layer(&layer, service), request).await.unwrap();
    assert_eq!(account.now().await, fixture.reserved);
    assert_eq!(answer.text().await.unwrap(), fixture.stream);
    assert_eq!(account.charged().await, fixture.after_stream);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_keeps_its_charge_and_passes() {
    let fixture = &FIXTURES[4];
    for (content, encoding, body) in [
        (JSON, "gzip", fixture.json),
        (EVENTS, "br", fixture.stream),
        ("text/html", "identity", fixture.json),
        ("application/vnd.amazon.eventstream", "identity", fixture.stream),
        (JSON, "identity", "<html>usage</html>"),
        (
            EVENTS,
            "identity",
            "data: {\"usage\":[1,2]}\n\ndata: {\"usage\":{\"prompt_tokens\":\"x\"}}\n\n",
        ),
    ] {
        let account = Account::new();
        let mut answer = response(200, content, full(body));
        answer.headers_mut().insert("content-encoding", encoding.parse().unwrap());
        let answer = account.call(&(fixture.rules)(), fixture.request, answer).await;
        let passed = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        assert_eq!(passed, body);
        assert_eq!(account.charged().await, fixture.reserved, "{content} {encoding}");
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_models_make_no_buckets() {
    let limits = Limits::new().bucket("gpt-4o", openai::quotas().rpm(5));
    let limiter = Limiter::new(limits).unwrap();
    let layer = crate::ThrottleLayer::openai(limiter);
    let service = tower::service_fn(async |_: http::Request<String>| {
        Ok::<_, crate::BoxError>(response(200, JSON, full("{}")))
    });
    let service = tower::Layer::layer(&layer, service);
    let request = |model| http::Request::new(format!(r#"{{"model":"{model}","messages":[]}}"#));
    assert!(
        tower::ServiceExt::oneshot(service.clone(), request("gpt-4o-2024-08-06")).await.is_ok()
    );
    let error = tower::ServiceExt::oneshot(service, request("gpt-4o-huge")).await.unwrap_err();
    assert!(error.to_string().contains("`gpt-4o-huge` is not declared"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_layer_leaves_names_alone_that_its_limits_declare() {
    let limits = Limits::new()
        .bucket("claude-sonnet-4-6", anthropic::quotas().rpm(5))
        .bucket("claude-haiku-4-5", anthropic::quotas().rpm(5))
        .bucket("opus", anthropic::quotas().rpm(5))
        .bucket("other", anthropic::quotas().rpm(5))
        .family("*", "other")
        .family("claude-opus-4-*", "opus");
    let limiter = Limiter::new(limits).unwrap();
    let layer = crate::ThrottleLayer::anthropic(limiter.clone());
    let service = tower::service_fn(async |_: http::Request<String>| {
        Ok::<_, crate::BoxError>(response(200, JSON, full("{}")))
    });
    let service = tower::Layer::layer(&layer, service);
    for model in [
        "claude-sonnet-4-6",
        "claude-haiku-4-5-20251001",
        "claude-opus-4-1",
        "claude-opus-4-5-20251101",
        "claude-2",
    ] {
        let request =
            http::Request::new(format!(r#"{{"model":"{model}","max_tokens":1,"messages":[]}}"#));
        tower::ServiceExt::oneshot(service.clone(), request).await.expect(model);
    }
    for (bucket, calls) in
        [("claude-sonnet-4-6", 1.0), ("claude-haiku-4-5", 1.0), ("opus", 2.0), ("other", 1.0)]
    {
        assert_eq!(limiter.status(bucket).await.unwrap().quotas[0].charged, calls, "{bucket}");
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    proptest::sample::select(FIXTURES)
        .prop_map(|fixture| (fixture.rules)().tokens_at_end(AtEnd::Actual))
}

proptest! {
    #[test]
    fn any_bytes_in_any_split_are_settled_alike(
        rules in rules(),
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            proptest::collection::vec(
                proptest::sample::select(&["data:", "{", "}", "\"usage\"", ":", ",", "\n", "\n\n", "\r", "[DONE]", "\"output_tokens\"", "7", "\"type\"",
                    "\"message_stop\"", "null", "[", "]", "\"message\"", "event: error", "é"][..]),
                0..80,
            ).prop_map(|words| words.concat().into_bytes()),
        ],
        size in 1usize..30,
        end in proptest::sample::select(&[BodyEnd::Complete, BodyEnd::Failed, BodyEnd::Dropped][..]),
    ) {
        for format in [Format::Json, Format::Events, Format::Unreadable] {
            let settle = |size| {
                let mut reader = rules.reader(format);
                bytes.chunks(size).for_each(|piece| reader.data(piece));
                reader.end(end)
            };
            prop_assert_eq!(settle(size), settle(bytes.len().max(1)));
        }
    }

    /// Events that are at hand as a whole are looked through in another way than those that come in pieces.
    #[test]
    fn whole_events_read_as_those_in_pieces(
        rules in rules(),
        events in proptest::collection::vec(
            proptest::collection::vec(
                proptest::sample::select(&["{", "}", "\"usage\"", ":", ":", ",", " ", "\"output_tokens\"", "7", "\"type\"", "\"message_stop\"", "\"ping\"",
                    "null", "[", "]", "\"error\"", "\"finish_reason\"", "\"stop\"", "{\"usage\":{\"output_tokens\":5}}", "{\"choices\":[{\"finish_reason\":",
                    "{\"type\":", "\"model\"", "\"a\\\"b\"", "\"message\""][..]),
                0..14,
            ),
            0..6,
        ),
        end in proptest::sample::select(&["\n\n", "\r\n\r\n"][..]),
    ) {
        let stream: String = events.iter().map(|event| format!("data: {}{end}", event.concat())).collect();
        let settle = |size: usize| {
            let mut reader = rules.reader(Format::Events);
            stream.as_bytes().chunks(size).for_each(|piece| reader.data(piece));
            reader.end(BodyEnd::Complete)
        };
        prop_assert_eq!(settle(stream.len().max(1)), settle(1), "{}", stream);
    }

    #[test]
    fn a_stream_cut_and_spoilt_anywhere_is_settled_once(
        fixture in 0..FIXTURES.len(),
        size in 1usize..100,
        cut in 0usize..2_000,
        spoilt in (0usize..2_000, any::<u8>()),
        ending in proptest::sample::select(&[Ending::Read, Ending::Dropped, Ending::Failed][..]),
    ) {
        let fixture = &FIXTURES[fixture];
        let mut stream = fixture.stream.as_bytes().to_vec();
        if let Some(byte) = stream.get_mut(spoilt.0) {
            *byte = spoilt.1;
        }
        stream.truncate(cut);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let charged = runtime.block_on(charged(&(fixture.rules)(), fixture.request, EVENTS, stream.chunks(size), ending));
        prop_assert_eq!(charged[0], 1);
        prop_assert_eq!(charged.len(), METRICS.len());
    }
}
