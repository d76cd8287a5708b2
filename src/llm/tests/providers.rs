//! Each provider's request, answer, stream, broken stream and refusal.

use super::{Account, EVENTS, Ending, JSON, charged, fixtures::FIXTURES, full, response};
use crate::llm::{AtEnd, Charge, Output, anthropic, azure, compatible, openai};

#[test]
fn requests_ask_for_what_the_provider_counts() {
    for fixture in FIXTURES {
        let demand = fixture.demand(&(fixture.rules)());
        let reserved = super::METRICS.map(|metric| demand.usage().get(metric).unwrap());
        assert_eq!(reserved, fixture.reserved, "{}", fixture.name);
        assert_eq!(demand.buckets().collect::<Vec<_>>(), [fixture.bucket], "{}", fixture.name);
    }
}

#[tokio::test(start_paused = true)]
async fn json_is_settled_on_what_it_tells() {
    for fixture in FIXTURES {
        let (rules, json) = ((fixture.rules)(), fixture.json.as_bytes());
        for size in [1, 7, json.len()] {
            let after =
                charged(&rules, fixture.request, JSON, json.chunks(size), Ending::Read).await;
            assert_eq!(after, fixture.after_json, "{} in pieces of {size}", fixture.name);
        }
        // A body that is cut tells no more than it told.
        let cut = json.len() / 2;
        let after = charged(&rules, fixture.request, JSON, [&json[..cut]], Ending::Failed).await;
        assert!(
            after.iter().zip(fixture.reserved).all(|(after, reserved)| *after >= reserved),
            "{}",
            fixture.name
        );
    }
}

#[tokio::test(start_paused = true)]
async fn streams_are_settled_on_what_they_tell() {
    for fixture in FIXTURES {
        let (rules, stream) = ((fixture.rules)(), fixture.stream.as_bytes());
        for size in [1, 3, 64, stream.len()] {
            for ending in [Ending::Read, Ending::Dropped] {
                let after =
                    charged(&rules, fixture.request, EVENTS, stream.chunks(size), ending).await;
                assert_eq!(
                    after, fixture.after_stream,
                    "{} in pieces of {size}, {ending:?}",
                    fixture.name
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn broken_streams_are_charged_what_was_seen_and_no_less_than_was_reserved() {
    for fixture in FIXTURES {
        let (rules, stream) = ((fixture.rules)(), fixture.stream);
        let cut =
            stream.rfind(r#""usage":{"#).or(stream.rfind(r#""usageMetadata":{"#)).unwrap_or(3);
        for ending in [Ending::Read, Ending::Dropped, Ending::Failed] {
            let after =
                charged(&rules, fixture.request, EVENTS, [&stream.as_bytes()[..cut]], ending).await;
            assert_eq!(after, fixture.after_break, "{} {ending:?}", fixture.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_charged_by_the_provider_s_rule() {
    for fixture in FIXTURES {
        let account = Account::new();
        let refused = response(429, JSON, full(fixture.refusal));
        let refused = account.call(&(fixture.rules)(), fixture.request, refused).await;
        assert_eq!(
            account.charged().await,
            fixture.after_refusal,
            "{} before its body",
            fixture.name
        );
        drop(refused);
        assert_eq!(account.charged().await, fixture.after_refusal, "{}", fixture.name);
    }
}

#[tokio::test(start_paused = true)]
async fn other_statuses_are_charged_by_the_rules_too() {
    let request = FIXTURES[3].request;
    let reserved = FIXTURES[3].reserved;
    let changed = anthropic::rules()
        .on_status(500..=503, Charge::Nothing)
        .on_status(502..=502, Charge::Request);
    for (rules, status, expected) in [
        (anthropic::rules(), 529, [1, 0, 0, 0]),
        (anthropic::rules(), 500, reserved),
        // A wrong key must not use up what all share.
        (anthropic::rules(), 400, [1, 0, 0, 0]),
        (anthropic::rules(), 401, [1, 0, 0, 0]),
        (openai::rules(), 404, [1, 0, 0, 0]),
        (compatible::rules(), 413, [1, 0, 0, 0]),
        (anthropic::rules(), 408, reserved),
        (anthropic::rules().on_status(400..=499, Charge::Reserved), 401, reserved),
        (changed.clone(), 500, [0; 4]),
        (changed.clone(), 502, [1, 0, 0, 0]),
        (changed, 529, [1, 0, 0, 0]),
    ] {
        let account = Account::new();
        let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        drop(account.call(&rules, request, response(status, JSON, full(body))).await);
        assert_eq!(account.charged().await, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn rules_can_be_changed() {
    let chat = &FIXTURES[0];
    let after = async |rules| {
        charged(&rules, chat.request, JSON, [chat.json.as_bytes()], Ending::Read).await
    };
    assert_eq!(after(openai::rules().tokens_at_end(AtEnd::Actual)).await, [1, 29, 61, 90]);
    assert_eq!(
        after(openai::rules().tokens_at_end(AtEnd::Actual).cached(0.5)).await,
        [1, 21, 61, 82]
    );

    let reserved = |rules: crate::llm::Rules| {
        let demand = rules.demand(FIXTURES[3].request.as_bytes()).unwrap();
        super::METRICS.map(|metric| demand.usage().get(metric).unwrap())
    };
    assert_eq!(reserved(anthropic::rules().output(Output::Expected(200)))[2], 200);
    assert_eq!(
        reserved(anthropic::rules().output(Output::Expected(9_000)))[2],
        1_024,
        "no more than it may"
    );
    assert_eq!(reserved(anthropic::rules().estimator(|_: &str| 10.0))[1], 10 + 10 + 3 + 3);
}

#[test]
fn cohere_s_texts_to_embed_are_counted_on_demand() {
    let request = br#"{"model":"embed-v4.0","texts":["a","b","c"],"input_type":"classification"}"#;
    assert_eq!(compatible::cohere().demand(request).unwrap().usage().get("inputs"), None);
    let demand = compatible::cohere().inputs("inputs").demand(request).unwrap();
    assert_eq!(demand.usage().get("inputs"), Some(3));
    assert_eq!(demand.usage().get("output_tokens"), Some(0));
}

/// What Cohere counts, and not what it bills, in whatever order they come.
#[tokio::test(start_paused = true)]
async fn cohere_s_first_api_tells_its_usage_in_meta() {
    let request = r#"{"model":"command-r","max_tokens":50,"message":"Hi"}"#;
    let (billed, counted) = (
        r#""billed_units":{"input_tokens":2,"output_tokens":3}"#,
        r#""tokens":{"input_tokens":68,"output_tokens":4}"#,
    );
    for (meta, right) in [
        (format!("{billed},{counted}"), [1, 68, 4, 72]),
        (format!("{counted},{billed}"), [1, 68, 4, 72]),
        (billed.to_owned(), [1, 2, 3, 5]),
    ] {
        let answer = format!(
            r#"{{"text":"Hi!","finish_reason":"COMPLETE","meta":{{"api_version":{{"version":"1"}},{meta}}}}}"#
        );
        let stream = format!(
            "{{\"is_finished\":false,\"event_type\":\"text-generation\",\"text\":\"Hi!\"}}\n\
             {{\"is_finished\":true,\"event_type\":\"stream-end\",\"finish_reason\":\"COMPLETE\",\"response\":{answer}}}\n"
        );
        let events: String = stream.lines().map(|line| format!("data: {line}\n\n")).collect();
        for (content, body) in [
            (JSON, &answer),
            (JSON, &stream),
            ("application/stream+json", &stream),
            (EVENTS, &events),
        ] {
            let pieces = body.as_bytes().chunks(50);
            let after =
                charged(&compatible::cohere(), request, content, pieces, Ending::Read).await;
            assert_eq!(after, right, "{content}: {body}");
        }
    }
}

/// Moonshot tells the usage of a stream within its last choice.
#[tokio::test(start_paused = true)]
async fn a_usage_may_be_told_within_a_choice() {
    let request = r#"{"model":"kimi","max_tokens":50,"stream":true,"messages":[]}"#;
    let stream = concat!(
        r#"data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#,
        "\n\n",
        r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":19,"completion_tokens":13,"total_tokens":32}}]}"#,
        "\n\n",
    );
    for size in [1, 9, stream.len()] {
        let pieces = stream.as_bytes().chunks(size);
        let after = charged(&compatible::rules(), request, EVENTS, pieces, Ending::Dropped).await;
        assert_eq!(after, [1, 19, 13, 32], "in pieces of {size}");
    }
}

/// Azure charges each of the answers among which it chooses, and corrects nothing at the end.
#[tokio::test(start_paused = true)]
async fn azure_charges_the_bound_of_each_answer_that_it_makes() {
    let request = r#"/openai/deployments/d/completions?api-version=1
{"max_tokens":50,"n":1,"best_of":3,"prompt":"Hi"}"#;
    let json = r#"{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":9,"total_tokens":10}}"#;
    let rules = azure::rules();
    let after = charged(&rules, request, JSON, [json.as_bytes()], Ending::Read).await;
    assert_eq!((after[2], after[3] / 150), (9, 1), "{after:?}");
    let after = charged(&rules, request, JSON, [&json.as_bytes()[..30]], Ending::Failed).await;
    assert_eq!(after[2], 150, "three times 50");
}

#[test]
fn haiku_3_5_counts_what_it_reads_from_its_cache() {
    let json = |model| {
        format!(
            r#"{{"model":"{model}","usage":{{"input_tokens":10,"cache_read_input_tokens":90,"output_tokens":1}}}}"#
        )
    };
    let input =
        |model| anthropic::rules().usage(json(model).as_bytes()).unwrap().get("input_tokens");
    assert_eq!(
        (input("claude-haiku-4-5"), input("claude-3-5-haiku-20241022")),
        (Some(10), Some(100))
    );
}

#[test]
fn a_bucket_is_the_request_s_and_can_be_named_otherwise() {
    let rules =
        openai::rules().bucket(|model| model.split('/').next_back().unwrap_or_default().to_owned());
    let demand = rules.demand(br#"{"model":"acme/gpt-4o","messages":[]}"#).unwrap();
    assert_eq!(demand.buckets().collect::<Vec<_>>(), ["gpt-4o"]);
}
