//! Gemini's other ways: streams that are one JSON array, and embeddings, there and on Vertex AI.

use http_body_util::BodyExt;

use super::{Account, Ending, JSON, METRICS, charged, full, response};
use crate::{
    Quota,
    llm::{Output, Rules, gemini, vertex},
};

const STREAM: &str = "/v1beta/models/gemini-2.5-pro:streamGenerateContent\n\
    {\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"Hi\"}]}],\"generationConfig\":{\"maxOutputTokens\":64}}";

/// A stream without `alt=sse`: an array of chunks, the last of which tells all.
const ARRAY: &str = r#"[{"candidates":[{"content":{"parts":[{"text":"H"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9},"modelVersion":"gemini-2.5-pro"}
,
{"candidates":[{"content":{"parts":[{"text":"i"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":2,"totalTokenCount":11},"modelVersion":"gemini-2.5-pro"}
,
{"candidates":[{"content":{"parts":[{"text":"!"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":9,"cachedContentTokenCount":4,"candidatesTokenCount":3,"thoughtsTokenCount":20,"toolUsePromptTokenCount":5,"totalTokenCount":37},"modelVersion":"gemini-2.5-pro"}
]
"#;

fn all_rules() -> [Rules; 2] {
    [gemini::rules(), vertex::gemini_rules()].map(|rules| rules.output(Output::Bound))
}

#[tokio::test(start_paused = true)]
async fn the_last_chunk_of_an_array_counts() {
    for rules in all_rules() {
        for size in [1, 7, 100, ARRAY.len()] {
            let pieces = ARRAY.as_bytes().chunks(size);
            let after = charged(&rules, STREAM, JSON, pieces, Ending::Read).await;
            assert_eq!(after, [1, 14, 23, 37], "in pieces of {size}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_array_that_is_cut_keeps_what_was_reserved() {
    let (second, last) = (ARRAY.find("\n,\n").unwrap(), ARRAY.rfind("\n,\n").unwrap());
    for rules in all_rules() {
        for (cut, ending) in [second, last, ARRAY.len() - 3]
            .into_iter()
            .flat_map(|cut| [Ending::Failed, Ending::Dropped].map(|ending| (cut, ending)))
        {
            let pieces = [&ARRAY.as_bytes()[..cut]];
            let after = charged(&rules, STREAM, JSON, pieces, ending).await;
            assert_eq!(after[2], 64, "output at {cut}, {ending:?}");
            assert!(after[1] >= 9, "input at {cut}, {ending:?}");
        }
    }
}

/// Requests to embed, how many texts they are, what is answered, and the tokens charged for it;
/// none where the estimate stays.
const EMBEDDINGS: &[(&str, u64, &str, Option<u64>)] = &[
    (
        "/v1beta/models/gemini-embedding-001:embedContent\n\
         {\"content\":{\"parts\":[{\"text\":\"one text\"}]},\"taskType\":\"RETRIEVAL_QUERY\"}",
        1,
        r#"{"embedding":{"values":[0.1,0.2]}}"#,
        None,
    ),
    (
        "/v1beta/models/gemini-embedding-001:batchEmbedContents\n\
         {\"requests\":[{\"model\":\"models/gemini-embedding-001\",\"content\":{\"parts\":[{\"text\":\"one\"}]}},\
         {\"model\":\"models/gemini-embedding-001\",\"content\":{\"parts\":[{\"text\":\"two\"}]}}]}",
        2,
        r#"{"embeddings":[{"values":[0.1]},{"values":[0.2]}],"usageMetadata":{"promptTokenCount":12}}"#,
        Some(12),
    ),
    (
        "/v1/projects/p/locations/l/publishers/google/models/text-embedding-005:predict\n\
         {\"instances\":[{\"content\":\"one\",\"task_type\":\"RETRIEVAL_DOCUMENT\"},{\"content\":\"two\"},{\"content\":\"three\"}]}",
        3,
        r#"{"predictions":[{"embeddings":{"statistics":{"token_count":4,"truncated":false},"values":[0.1]}},
            {"embeddings":{"values":[0.2],"statistics":{"truncated":false,"token_count":5}}},
            {"embeddings":{"statistics":{"token_count":6},"values":[0.3]}}],"metadata":{"billableCharacterCount":11}}"#,
        Some(15),
    ),
];

#[tokio::test(start_paused = true)]
async fn embeddings_are_counted_per_text() {
    for rules in all_rules() {
        let rules = rules.inputs("inputs");
        for (request, texts, answer, counted) in EMBEDDINGS {
            let (path, body) = request.split_once('\n').unwrap();
            let demand = rules.demand_at(path, body.as_bytes()).unwrap();
            let get = |metric: &str| demand.usage().get(metric).unwrap();
            let estimated = get("input_tokens");
            assert_eq!((get("inputs"), get("output_tokens")), (*texts, 0), "{path}");
            assert!((*texts..=8 * texts).contains(&estimated), "{path}: {estimated}");

            let quotas = METRICS.iter().chain([&"inputs"]);
            let quotas = quotas.map(|metric| Quota::per_minute(*metric, 1_000_000));
            let account = Account::with(quotas.collect::<Vec<_>>());
            let response = response(200, JSON, full(answer));
            account.call(&rules, request, response).await.into_body().collect().await.unwrap();
            let input = counted.unwrap_or(estimated);
            assert_eq!(account.charged().await, [1, input, 0, input], "{path}");
            let status = account.limiter.status("all").await.unwrap();
            assert_eq!(status.quotas[4].charged, *texts as f64, "{path}");
        }
    }
}
