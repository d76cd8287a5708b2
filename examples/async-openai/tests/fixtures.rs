//! What the crate's own tests take for OpenAI's answers is what async-openai takes for them.

use std::fmt::Debug;

use async_openai::types::{
    chat::{
        CreateChatCompletionRequest, CreateChatCompletionResponse,
        CreateChatCompletionStreamResponse,
    },
    embeddings::{CreateEmbeddingRequest, CreateEmbeddingResponse},
    responses::{CreateResponse, Response, ResponseStreamEvent},
};
use serde::de::DeserializeOwned;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../src/llm/tests/fixtures/openai_", $name))
    };
}

fn read<T: DeserializeOwned + Debug>(json: &str) -> T {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// The data of each event, but for the one that says that there are no more.
fn events<T: DeserializeOwned + Debug>(stream: &str) -> Vec<T> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(read).collect()
}

#[test]
fn chat_completions_are_what_async_openai_reads() {
    let request: CreateChatCompletionRequest = read(fixture!("chat.request.json"));
    assert_eq!(
        (request.max_completion_tokens, request.n, request.messages.len()),
        (Some(400), Some(2), 2)
    );

    let response: CreateChatCompletionResponse = read(fixture!("chat.json"));
    let usage = response.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (29, 61, 90));
    assert_eq!(usage.prompt_tokens_details.unwrap().cached_tokens, Some(16));

    let chunks: Vec<CreateChatCompletionStreamResponse> = events(fixture!("chat.sse"));
    assert_eq!(chunks[1].choices[0].delta.content.as_deref(), Some("空が青いのは🟦"));
    let told: Vec<_> =
        chunks.iter().map(|chunk| chunk.usage.as_ref().map(|usage| usage.total_tokens)).collect();
    assert_eq!(told, [None, None, None, Some(62)]);
}

#[test]
fn responses_are_what_async_openai_reads() {
    let request: CreateResponse = read(fixture!("responses.request.json"));
    assert_eq!(request.max_output_tokens, Some(250));

    let response: Response = read(fixture!("responses.json"));
    assert_eq!(response.output_text().as_deref(), Some("Rhine, Nile, Amur."));
    assert_eq!(
        response.usage.map(|usage| (usage.input_tokens, usage.output_tokens)),
        Some((18, 12))
    );

    let events: Vec<ResponseStreamEvent> = events(fixture!("responses.sse"));
    let [
        ResponseStreamEvent::ResponseCreated(created),
        ResponseStreamEvent::ResponseOutputTextDelta(delta),
        ResponseStreamEvent::ResponseCompleted(completed),
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert!(created.response.usage.is_none());
    assert_eq!(delta.delta, "Rhine");
    assert_eq!(completed.response.usage.as_ref().unwrap().output_tokens, 9);
}

#[test]
fn embeddings_are_what_async_openai_reads() {
    let _: CreateEmbeddingRequest = read(fixture!("embeddings.request.json"));
    let response: CreateEmbeddingResponse = read(fixture!("embeddings.json"));
    assert_eq!((response.data.len(), response.usage.prompt_tokens), (2, 8));
}
