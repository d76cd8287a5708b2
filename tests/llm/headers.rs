//! What providers say of limits: from a server on the loopback, through a client and the layer, to
//! the status of the limiter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::Layer;
use tower_throttle::{
    Limiter, Limits, ThrottleLayer,
    limiter::{QuotaStatus, Status},
    limits::Undeclared,
    llm::{Quotas, Rules, azure, compatible, gemini},
};

/// One answer of a provider, and how its bucket stands after it.
struct Said {
    provider: &'static str,
    rules: Rules,
    quotas: Quotas,
    path: &'static str,
    status: u16,
    /// `NOW` stands for the milliseconds since 1970.
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    /// What each quota has left.
    left: &'static [f64],
    /// For how many seconds everything is paused.
    paused: Option<u64>,
}

const CHAT: &str = "/v1/chat/completions";
const REQUEST: &str = r#"{"model":"t1","max_tokens":50,"messages":[],"contents":[]}"#;
const USED: &str = r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}"#;

/// Calls that were made use 1 request, 9 tokens of input and 3 of output.
fn said() -> Vec<Said> {
    vec![
        Said {
            provider: "Mistral",
            rules: compatible::mistral(),
            quotas: compatible::mistral_quotas().rpm(100).tpm(100_000).tokens_per_month(4_000_000),
            path: CHAT,
            status: 200,
            headers: &[
                ("x-ratelimit-limit-req-minute", "100"),
                ("x-ratelimit-remaining-req-minute", "40"),
                ("x-ratelimit-limit-tokens-minute", "100000"),
                ("x-ratelimit-remaining-tokens-minute", "5000"),
                ("x-ratelimit-limit-tokens-month", "4000000"),
                ("x-ratelimit-remaining-tokens-month", "70000"),
                ("x-ratelimit-tokens-query-cost", "12"),
            ],
            body: USED,
            // What was reserved and not used is left besides.
            left: &[40.0, 5_000.0 + 41.0, 70_000.0 + 41.0],
            paused: None,
        },
        Said {
            provider: "Mistral, off the plan",
            rules: compatible::mistral(),
            quotas: compatible::mistral_quotas().tpm(100_000),
            path: CHAT,
            status: 429,
            headers: &[
                ("x-ratelimit-limit-tokens-minute", "0"),
                ("x-ratelimit-remaining-tokens-minute", "0"),
            ],
            body: r#"{"message":"Requests rate limit exceeded"}"#,
            left: &[100_000.0],
            paused: None,
        },
        Said {
            provider: "Together",
            rules: compatible::together(),
            quotas: compatible::together_quotas().rpm(60).tpm(100_000),
            path: CHAT,
            status: 200,
            headers: &[
                ("x-ratelimit-limit", "60"),
                ("x-ratelimit-remaining", "7"),
                ("x-ratelimit-reset", "2"),
                ("x-tokenlimit-limit", "100000"),
                ("x-tokenlimit-remaining", "800"),
            ],
            body: USED,
            left: &[7.0, 800.0 + 41.0],
            paused: None,
        },
        Said {
            provider: "Cohere",
            rules: compatible::cohere(),
            quotas: compatible::cohere_quotas().rpm(20),
            path: "/v2/chat",
            status: 200,
            headers: &[
                ("x-trial-endpoint-call-limit", "20"),
                ("x-trial-endpoint-call-remaining", "6"),
            ],
            body: r#"{"finish_reason":"COMPLETE","usage":{"tokens":{"input_tokens":9,"output_tokens":3}}}"#,
            left: &[6.0],
            paused: None,
        },
        Said {
            provider: "Cohere, the month is used up",
            rules: compatible::cohere(),
            quotas: compatible::cohere_quotas().rpm(20),
            path: "/v2/chat",
            status: 429,
            headers: &[],
            body: r#"{"message":"You are using a Trial key, which is limited to 1000 API calls / month."}"#,
            left: &[20.0],
            paused: None,
        },
        Said {
            provider: "xAI",
            rules: compatible::xai(),
            quotas: compatible::xai_quotas().rpm(480).tpm(200_000),
            path: CHAT,
            status: 200,
            headers: &[
                ("x-ratelimit-limit-requests", "480"),
                ("x-ratelimit-remaining-requests", "12"),
                ("x-ratelimit-limit-tokens", "200000"),
                ("x-ratelimit-remaining-tokens", "3000"),
            ],
            body: r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":312,"completion_tokens_details":{"reasoning_tokens":300}}}"#,
            // What was used beyond the estimate had been counted by then.
            left: &[12.0, 3_000.0],
            paused: None,
        },
        Said {
            provider: "xAI, out of credits",
            rules: compatible::xai(),
            quotas: compatible::xai_quotas().rpm(480),
            path: CHAT,
            status: 429,
            headers: &[],
            body: r#"{"code":"x","error":"Your team has either used all available credits or reached its monthly spending limit"}"#,
            left: &[480.0],
            paused: None,
        },
        Said {
            provider: "OpenRouter",
            rules: compatible::openrouter(),
            quotas: compatible::openrouter_quotas().rpm(20).rpd(50),
            path: "/api/v1/chat/completions",
            status: 429,
            headers: &[],
            body: r#"{"error":{"code":429,"message":"Rate limit exceeded: free-models-per-day. ","metadata":{"headers":
                {"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"NOW"}}}}"#,
            left: &[20.0, 0.0],
            paused: None,
        },
        Said {
            provider: "Azure",
            rules: azure::rules(),
            quotas: azure::quotas()
                .tpm(50_000)
                .and(tower_throttle::Quota::per_minute("requests", 300)),
            path: "/openai/deployments/t1/chat/completions?api-version=2024-10-21",
            status: 200,
            headers: &[
                ("x-ratelimit-limit-requests", "300"),
                ("x-ratelimit-remaining-requests", "250"),
                ("x-ratelimit-renewalperiod-requests", "60"),
                ("x-ratelimit-limit-tokens", "50000"),
                ("x-ratelimit-remaining-tokens", "900"),
            ],
            body: USED,
            // Tokens stay as they were reserved.
            left: &[900.0, 250.0],
            paused: None,
        },
        Said {
            provider: "Azure, refused",
            rules: azure::rules(),
            quotas: azure::quotas().tpm(50_000),
            path: "/openai/deployments/t1/chat/completions?api-version=2024-10-21",
            status: 429,
            headers: &[("retry-after-ms", "0"), ("retry-after", "20")],
            body: r#"{"error":{"code":"429","message":"Too many requests."}}"#,
            left: &[50_000.0],
            paused: Some(20),
        },
        Said {
            provider: "Gemini",
            rules: gemini::rules(),
            quotas: gemini::quotas().rpm(150).itpm(1_000_000),
            path: "/v1beta/models/t1:streamGenerateContent?alt=sse",
            status: 429,
            headers: &[("content-type", "text/event-stream")],
            body: r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[
                {"violations":[{"quotaId":"GenerateContentPaidTierInputTokensPerModelPerMinute","quotaValue":"1000000"}]},
                {"retryDelay":"48s"}]}}"#,
            // The refused call counts as a request. No tokens are left for 48 s.
            left: &[149.0, 0.0],
            paused: None,
        },
    ]
}

/// Sends one response.
async fn answer(mut connection: TcpStream, said: &Said) -> std::io::Result<()> {
    // The request is small, yet its head and its body may come one after the other.
    let mut request = Vec::new();
    while !request.ends_with(REQUEST.as_bytes()) {
        if connection.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let soon = soon + Duration::from_secs(3_600);
    let body = said.body.replace("NOW", &soon.as_millis().to_string());
    let mut head = format!(
        "HTTP/1.1 {} x\r\ncontent-length: {}\r\nconnection: close\r\n",
        said.status,
        body.len()
    );
    for (name, value) in said.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    connection.write_all((head + "\r\n" + &body).as_bytes()).await?;
    connection.shutdown().await
}

/// How the bucket stands after a call.
async fn status_after(said: &Said) -> (Limiter, Status) {
    let limits = Limits::new()
        .bucket("all", said.quotas.clone())
        .undeclared(Undeclared::Bucket("all".into()));
    let limiter = Limiter::new(limits).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}{}", listener.local_addr().unwrap(), said.path);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let layer = ThrottleLayer::openai_compatible(limiter.clone(), said.rules.clone());
    let request = Request::post(url).body(Full::from(REQUEST)).unwrap();
    let call = async {
        let response = layer.layer(client).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    };
    let serve = async {
        let (connection, _) = listener.accept().await.unwrap();
        answer(connection, said).await.unwrap();
    };
    tokio::join!(call, serve);
    let status = limiter.status("all").await.unwrap();
    (limiter, status)
}

#[tokio::test]
async fn what_providers_say_reaches_the_limiter() {
    for said in said() {
        let provider = said.provider;
        let (_, status) = status_after(&said).await;
        let is_told = |(quota, told): (&QuotaStatus, &f64)| {
            // What may have come back since the grant is left besides: a sixtieth at most.
            let back = if *told > 0.0 { quota.limit as f64 / 60.0 } else { 0.0 };
            let most = told + back + 0.5;
            (told - 0.5..=most.min(quota.limit as f64)).contains(&quota.available)
        };
        assert!(
            status.quotas.len() == said.left.len()
                && status.quotas.iter().zip(said.left).all(is_told),
            "{provider}: {:?} and not {:?}",
            status.quotas,
            said.left
        );
        let paused = status.paused_until.map(|until| {
            let wait = until.duration_since(SystemTime::now()).unwrap_or_default();
            wait.as_secs_f64().ceil() as u64
        });
        assert_eq!(paused, said.paused, "{provider}");
    }
}

#[tokio::test]
async fn a_quota_that_a_provider_names_is_held_alone() {
    use tower_throttle::{Demand, usage};
    let all = said();
    let gemini = all.iter().find(|said| said.provider == "Gemini").unwrap();
    let (limiter, _) = status_after(gemini).await;
    let wait = async |usage| limiter.time_until_available(Demand::new("all", usage)).await.unwrap();
    let tokens = wait(usage! { requests: 1, input_tokens: 5 }).await.unwrap();
    assert!((46..=48).contains(&tokens.as_secs()), "{tokens:?}");
    assert_eq!(wait(usage! { requests: 1, input_tokens: 0 }).await, Some(Duration::ZERO));
}
