//! What Gemini, Azure, Bedrock and Vertex AI are known for: what counts, by which name, and what
//! their refusals mean. The windows are tested beside `Quotas`, the headers in `refusal_cases`.

use http_body_util::BodyExt;

use super::{Account, Ending, JSON, charged, full, response};
use crate::llm::{Output, Rules, azure, bedrock, gemini, vertex};

const CONVERSE: &str = r#"{"messages":[{"role":"user","content":[{"text":"Hi"}]}]"#;

/// What `tokens` is reserved, and charged in the end, for 90 of input and 20 of output.
async fn bedrock_tokens(model: &str, settings: &str) -> (u64, u64) {
    let request = format!("/model/{model}/converse\n{CONVERSE}{settings}}}");
    let answer = r#"{"stopReason":"end_turn","usage":{"inputTokens":90,"outputTokens":20,"totalTokens":110}}"#;
    let (path, body) = request.split_once('\n').unwrap();
    let demand = bedrock::rules().demand_at(path, body.as_bytes()).unwrap();
    let output = demand.usage().get("output_tokens").unwrap();
    let after = charged(&bedrock::rules(), &request, JSON, [answer.as_bytes()], Ending::Read).await;
    (output, after[3])
}

#[tokio::test(start_paused = true)]
async fn output_burns_down_five_times_for_some_models_of_bedrock() {
    for (model, most, weight) in [
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", 64_000, 5),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1%3A0", 64_000, 5),
        ("eu.anthropic.claude-sonnet-4-20250514-v1:0", 64_000, 5),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", 64_000, 5),
        ("anthropic.claude-opus-4-20250514-v1:0", 32_000, 5),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", 32_000, 5),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", 64_000, 1),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", 8_192, 1),
        ("anthropic.claude-3-haiku-20240307-v1:0", 4_096, 1),
        ("amazon.nova-lite-v1:0", 10_000, 1),
        ("apac.amazon.nova-pro-v1:0", 10_000, 1),
        ("meta.llama3-3-70b-instruct-v1:0", 2_048, 1),
        ("a.model.of.tomorrow-v1:0", 4_096, 1),
    ] {
        let bounded = r#","inferenceConfig":{"maxTokens":64}"#;
        assert_eq!(bedrock_tokens(model, bounded).await, (64, 90 + weight * 20), "{model}");
        assert_eq!(bedrock_tokens(model, "").await, (most, 90 + weight * 20), "{model}, no bound");
    }
}

#[tokio::test(start_paused = true)]
async fn bedrock_counts_what_it_writes_to_a_cache_and_not_what_it_reads() {
    let request = format!("/model/amazon.nova-lite-v1:0/converse\n{CONVERSE}}}");
    let answer = r#"{"stopReason":"end_turn","usage":{"inputTokens":9,"outputTokens":3,"totalTokens":162,"cacheReadInputTokens":100,"cacheWriteInputTokens":50}}"#;
    let after = charged(&bedrock::rules(), &request, JSON, [answer.as_bytes()], Ending::Read).await;
    assert_eq!(after, [1, 59, 3, 62]);
}

/// How a response pauses the account, after its body.
async fn pause_after(
    rules: &Rules,
    status: u16,
    headers: &[(&'static str, &'static str)],
    body: &str,
) -> bool {
    let account = Account::new();
    let mut answer = response(status, JSON, full(body));
    for (name, value) in headers {
        answer.headers_mut().insert(*name, value.parse().unwrap());
    }
    let request = "/model/m/converse\n{\"messages\":[]}";
    account.call(rules, request, answer).await.into_body().collect().await.unwrap();
    account.limiter.status("all").await.unwrap().paused_until.is_some()
}

#[tokio::test(start_paused = true)]
async fn bedrock_names_its_errors_in_a_header() {
    const NAME: &str = "x-amzn-errortype";
    for (status, name, pauses) in [
        (429, "ThrottlingException", true),
        (400, "ThrottlingException", true),
        (400, "throttlingException:http://internal.example.com/coral/bedrock/", true),
        (429, "ModelNotReadyException", true),
        (503, "ServiceUnavailableException", true),
        (400, "ServiceQuotaExceededException", true),
        (400, "ValidationException", false),
        (403, "AccessDeniedException", false),
        (500, "InternalServerException", false),
    ] {
        for body in [r#"{"message":null}"#, ""] {
            let paused = pause_after(&bedrock::rules(), status, &[(NAME, name)], body).await;
            assert_eq!(paused, pauses, "{status} {name} {body}");
        }
        let body = format!(r#"{{"__type":"{name}","message":null}}"#);
        let paused = pause_after(&bedrock::rules(), status, &[], &body).await;
        assert_eq!(paused, pauses, "{status} {body}");
    }
}

/// Shared capacity of Vertex AI that is used up names no time and no quota.
#[tokio::test(start_paused = true)]
async fn capacity_of_vertex_that_is_used_up_pauses_for_a_while() {
    let body = r#"[{"error":{"code":429,"message":"Resource exhausted. Please try again later.","status":"RESOURCE_EXHAUSTED"}}]"#;
    for rules in [vertex::gemini_rules(), vertex::claude_rules(), gemini::rules()] {
        for status in [429, 503] {
            assert!(pause_after(&rules, status, &[], body).await, "{rules:?} {status}");
        }
    }
    let overloaded = r#"{"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}"#;
    assert!(pause_after(&gemini::rules(), 503, &[], overloaded).await);
}

#[tokio::test(start_paused = true)]
async fn failed_requests_count_at_gemini() {
    let request = "/v1beta/models/gemini-2.5-pro:generateContent\n{\"contents\":[]}";
    for rules in [gemini::rules(), vertex::gemini_rules()] {
        for status in [400, 403, 404, 429, 500, 503, 504] {
            let account = Account::new();
            let body = r#"{"error":{"code":1,"message":"no"}}"#;
            let answer = response(status, JSON, full(body));
            let rules = rules.clone().output(Output::Bound);
            account.call(&rules, request, answer).await.into_body().collect().await.unwrap();
            assert_eq!(account.charged().await[0], 1, "{rules:?} {status}");
        }
    }
}

/// Both ways to write Azure's URLs; the model that answers says nothing of the deployment.
#[tokio::test(start_paused = true)]
async fn a_deployment_of_azure_is_its_bucket() {
    let body =
        r#"{"model":"chat-prod","max_tokens":64,"messages":[{"role":"user","content":"Hi"}]}"#;
    let without = body.replace(r#""model":"chat-prod","#, "");
    for (path, body) in [
        ("/openai/deployments/chat-prod/chat/completions", without.as_str()),
        ("/openai/v1/chat/completions", body),
        ("/openai/v1/responses", body),
    ] {
        let demand = azure::rules().demand_at(path, body.as_bytes()).unwrap();
        assert_eq!(demand.buckets().collect::<Vec<_>>(), ["chat-prod"], "{path}");
        let reserved = demand.usage().get("output_tokens");
        assert_eq!(reserved, Some(64), "{path}");
    }
    let dated = body.replace("chat-prod", "gpt-4o-2024-11-20");
    let demand = azure::rules().demand_at("/openai/v1/responses", dated.as_bytes()).unwrap();
    assert_eq!(demand.buckets().collect::<Vec<_>>(), ["gpt-4o-2024-11-20"], "a name of one's own");
}

/// A base model's versions share a bucket; other regions and publishers are told by the path.
#[test]
fn a_model_of_vertex_is_its_base_model() {
    let body = br#"{"max_tokens":9,"messages":[],"contents":[]}"#;
    let bucket = |rules: Rules, path: &str| {
        let demand = rules.demand_at(path, body).unwrap();
        demand.buckets().next().unwrap().to_owned()
    };
    let claude = |version: &str, method: &str| {
        let place = "/v1/projects/p/locations/global/publishers/anthropic/models";
        bucket(vertex::claude_rules(), &format!("{place}/claude-sonnet-4{version}:{method}"))
    };
    for version in ["", "@20250514", "@default"] {
        for method in ["rawPredict", "streamRawPredict"] {
            assert_eq!(claude(version, method), "claude-sonnet-4", "{version}:{method}");
        }
    }
    let gemini = "/v1/projects/p/locations/l/publishers/google/models/gemini-2.0-flash-001";
    for method in ["generateContent", "streamGenerateContent"] {
        let path = format!("{gemini}:{method}");
        assert_eq!(bucket(vertex::gemini_rules(), &path), "gemini-2.0-flash");
    }
}
