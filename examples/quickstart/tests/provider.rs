//! The provider, asked over HTTP.

use std::time::{Duration, Instant};

use quickstart_example::{Counts, Provider, ProviderLimits};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_secs(3_600);

fn body(words: usize, answer: u64, stream: bool) -> String {
    json!({
        "model": "m",
        "max_tokens": 50,
        "stream": stream,
        "messages": [{ "role": "user", "content": "word ".repeat(words) }],
        "metadata": { "answer_tokens": answer.to_string() },
    })
    .to_string()
}

async fn post(url: &str, body: String) -> reqwest::Response {
    reqwest::Client::new().post(url).body(body).send().await.expect("an answer")
}

async fn json_of(response: reqwest::Response) -> Value {
    serde_json::from_slice(&response.bytes().await.expect("a body")).expect("JSON")
}

#[tokio::test]
async fn no_request_more_than_the_window_admits_passes() {
    let limits = ProviderLimits { window: HOUR, requests: 25, tokens: 1_000_000, burst: 1_000_000 };
    let provider = Provider::start(limits).expect("a provider");
    let mut tasks = JoinSet::new();
    for _ in 0..60 {
        let url = provider.url();
        tasks.spawn(async move { post(&url, body(3, 4, false)).await.status().as_u16() });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|&&status| status == 200).count(), 25);
    assert_eq!(answers.iter().filter(|&&status| status == 429).count(), 35);
    assert_eq!(provider.counts(), Counts { requests: 25, tokens: 25 * 7, rejected: 35 });
}

#[tokio::test]
async fn the_bucket_says_when_it_will_hold_enough() {
    let window = Duration::from_secs(10);
    let limits = ProviderLimits { window, requests: 1_000, tokens: 1_000, burst: 100 };
    let provider = Provider::start(limits).expect("a provider");
    assert_eq!(post(&provider.url(), body(90, 10, false)).await.status(), 200);
    let asked = Instant::now();
    let refused = post(&provider.url(), body(25, 25, false)).await;
    assert_eq!(refused.status(), 429);
    let retry_after =
        refused.headers()["retry-after"].to_str().expect("ASCII").parse().expect("seconds");
    assert!(
        (0.0..=0.5).contains(&retry_after),
        "50 tokens take half a second, some of which has passed"
    );
    tokio::time::sleep(Duration::from_secs_f64(retry_after)).await;
    assert_eq!(post(&provider.url(), body(25, 25, false)).await.status(), 200);
    // Charged was what it was worth: nothing is left of what has flowed back since.
    let left = post(&provider.url(), body(60, 40, false)).await;
    assert_eq!(left.status(), 429, "{:?} later", asked.elapsed());
}

#[tokio::test]
async fn answers_tell_their_usage_and_stop_at_max_tokens() {
    let limits = ProviderLimits { window: HOUR, requests: 10, tokens: 1_000, burst: 1_000 };
    let provider = Provider::start(limits).expect("a provider");
    let whole = json_of(post(&provider.url(), body(7, 9, false)).await).await;
    assert_eq!(
        whole["usage"],
        json!({"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16})
    );

    let streamed = post(&provider.url(), body(7, 999, true)).await;
    assert_eq!(streamed.headers()["content-type"], "text/event-stream");
    let text = streamed.text().await.expect("text");
    let events: Vec<_> = text.split_terminator("\n\n").collect();
    assert_eq!((events.len(), events[5]), (6, "data: [DONE]"));
    let events: Vec<Value> = events[..5]
        .iter()
        .map(|event| {
            serde_json::from_str(event.strip_prefix("data: ").expect("an event")).expect("JSON")
        })
        .collect();
    let words = |event: &Value| {
        event["choices"][0]["delta"]["content"]
            .as_str()
            .map_or(0, |text| text.split_whitespace().count())
    };
    assert_eq!(events.iter().map(words).sum::<usize>(), 50);
    assert!(events[..4].iter().all(|event| event["usage"].is_null()));
    assert_eq!(events[4]["usage"]["total_tokens"], 57);
    assert_eq!(provider.counts(), Counts { requests: 2, tokens: 16 + 57, rejected: 0 });
}

#[tokio::test]
async fn what_is_not_a_call_costs_nothing() {
    let limits = ProviderLimits { window: HOUR, requests: 1, tokens: 100, burst: 100 };
    let provider = Provider::start(limits).expect("a provider");
    for wrong in ["", "{}", "[1]", r#"{"max_tokens": -1, "messages": []}"#, r#"{"max_tokens": 1}"#]
    {
        assert_eq!(post(&provider.url(), wrong.into()).await.status(), 400, "{wrong}");
    }
    assert_eq!(post(&provider.url().replace("chat", "x"), body(1, 1, false)).await.status(), 404);
    assert_eq!(provider.counts(), Counts::default());
    let never = post(&provider.url(), body(90, 11, false)).await;
    assert_eq!(never.status(), 429);
    assert!(!never.headers().contains_key("retry-after"));
    assert_eq!(post(&provider.url(), body(90, 10, false)).await.status(), 200);
}
