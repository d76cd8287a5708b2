//! The real SDK against a server on the loopback. The last test really waits, for 20 seconds.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_bedrockruntime::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    types::{ContentBlock, ConversationRole, InferenceConfiguration, Message},
};
use aws_smithy_http_client::Builder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_throttle::{Limiter, Limits, Quota, llm::bedrock};

const MODEL: &str = "us.anthropic.claude-sonnet-4-20250514-v1:0";
const BUCKET: &str = "us.anthropic.claude-sonnet-4";
const ANSWER: &str = r#"{"metrics":{"latencyMs":5},"output":{"message":{"content":[{"text":"Hi"}],"role":"assistant"}},
    "stopReason":"end_turn","usage":{"inputTokens":9,"outputTokens":3,"totalTokens":12}}"#;

/// Starts a server that serves every request, and counts them.
async fn start() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // The client may hang up at any time.
            tokio::spawn(serve(connection, counted.clone()));
        }
    });
    (address, attempts)
}

async fn serve(mut connection: TcpStream, attempts: Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        if connection.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&received).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        if body.len() < length {
            continue;
        }
        attempts.fetch_add(1, Ordering::Relaxed);
        received.clear();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            ANSWER.len()
        );
        connection.write_all((head + ANSWER).as_bytes()).await?;
    }
}

fn client(address: SocketAddr, limiter: &Limiter) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
        .endpoint_url(format!("http://{address}"))
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .build();
    bedrock_example::client(config, Builder::new().build_http(), limiter.clone())
}

async fn call(client: &Client) -> Result<String, String> {
    let message = Message::builder()
        .role(ConversationRole::User)
        .content(ContentBlock::Text("Hi".into()))
        .build()
        .map_err(|error| error.to_string())?;
    let most = InferenceConfiguration::builder().max_tokens(64).build();
    let call = client.converse().model_id(MODEL).messages(message).inference_config(most);
    let answer = call.send().await.map_err(|error| format!("{error:?}"))?;
    Ok(format!("{:?}", answer.usage))
}

#[tokio::test]
async fn a_call_is_settled_on_what_it_used() {
    let (address, attempts) = start().await;
    let quotas = bedrock::quotas().rpm(10).tpm(10_000);
    let limiter = Limiter::new(Limits::new().bucket(BUCKET, quotas)).expect("valid limits");
    call(&client(address, &limiter)).await.expect("an answer");
    let status = limiter.status(BUCKET).await.expect("its status");
    let charged: Vec<_> = status.quotas.iter().map(|quota| quota.charged).collect();
    // Output weighs five times.
    assert_eq!(charged, [1.0, 9.0 + 5.0 * 3.0]);
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refused_call_is_not_sent_and_not_tried_again() {
    let (address, attempts) = start().await;
    let limiter = Limiter::new(Limits::new().bucket("another", [Quota::concurrency(1)]));
    let error = call(&client(address, &limiter.expect("valid limits"))).await.expect_err("refused");
    assert!(error.contains("is not declared"), "{error}");
    assert_eq!(attempts.load(Ordering::Relaxed), 0);
}

/// The SDK takes an upload that does not go on for stalled after a few seconds, and tries again.
#[tokio::test]
async fn a_wait_of_twenty_seconds_is_one_attempt() {
    let (address, attempts) = start().await;
    let window = Duration::from_secs(20);
    let quota = Quota::sliding_window("requests", 1, window).guard(Duration::ZERO).slots(1_000);
    let limiter = Limiter::new(Limits::new().bucket(BUCKET, [quota])).expect("valid limits");
    let client = client(address, &limiter);
    call(&client).await.expect("an answer");
    let start = Instant::now();
    call(&client).await.expect("an answer after the wait");
    let waited = start.elapsed();
    assert!(waited > window - Duration::from_secs(1), "{waited:?}");
    assert_eq!(attempts.load(Ordering::Relaxed), 2, "one for each call");
}
