//! Calls that ask for several answers, in one stream that tells its usage as it goes.

use super::{EVENTS, Ending, charged};
use crate::llm::{Output, anthropic, compatible, gemini};

const REQUEST: &str = r#"{"model":"t1","n":2,"max_tokens":100,"stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;

fn chunk(index: u64, finish: &str, output: u64) -> String {
    let total = 9 + output;
    format!(
        "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\"a\"}},\"finish_reason\":{finish}}}],\
         \"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{output},\"total_tokens\":{total}}}}}\n\n"
    )
}

#[tokio::test(start_paused = true)]
async fn the_end_of_one_answer_is_not_the_end_of_all() {
    let one_is_over = [chunk(0, "null", 1), chunk(1, "null", 2), chunk(0, "\"stop\"", 30)].concat();
    let all_are_over = [one_is_over.clone(), chunk(1, "\"stop\"", 45)].concat();
    for rules in [compatible::rules(), compatible::vllm(), anthropic::rules()] {
        for ending in [Ending::Dropped, Ending::Failed] {
            let pieces = || [one_is_over.as_bytes()];
            let after = charged(&rules, REQUEST, EVENTS, pieces(), ending).await;
            assert_eq!(after[2], 200, "what was reserved, {ending:?}");
            let after = charged(&rules, REQUEST, EVENTS, [all_are_over.as_bytes()], ending).await;
            assert_eq!(after, [1, 9, 45, 54], "{ending:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_before_another_begins_is_not_all() {
    let stream = [chunk(0, "null", 1), chunk(0, "\"length\"", 100)].concat();
    let rules = compatible::rules();
    let pieces = || [stream.as_bytes()];
    let after = charged(&rules, REQUEST, EVENTS, pieces(), Ending::Dropped).await;
    assert_eq!(after[2], 200);
    let one = REQUEST.replace("\"n\":2", "\"n\":1");
    let after = charged(&rules, &one, EVENTS, pieces(), Ending::Dropped).await;
    assert_eq!(after, [1, 9, 100, 109], "of one answer it is");
}

#[tokio::test(start_paused = true)]
async fn answers_of_one_event_end_each_by_itself() {
    let request = "/v1beta/models/gemini-2.5-pro:streamGenerateContent\n\
        {\"contents\":[],\"generationConfig\":{\"maxOutputTokens\":64,\"candidateCount\":2}}";
    let event = |second: &str| {
        format!(
            "data: {{\"candidates\":[{{\"content\":{{}},\"finishReason\":\"STOP\",\"index\":0}},\
             {{\"content\":{{}},{second}\"index\":1}}],\
             \"usageMetadata\":{{\"promptTokenCount\":9,\"candidatesTokenCount\":7,\"totalTokenCount\":16}}}}\n\n"
        )
    };
    let rules = gemini::rules().output(Output::Bound);
    for (stream, output) in [(event(""), 128), (event("\"finishReason\":\"STOP\","), 7)] {
        let after = charged(&rules, request, EVENTS, [stream.as_bytes()], Ending::Dropped).await;
        assert_eq!(after[2], output, "{stream}");
    }
}
