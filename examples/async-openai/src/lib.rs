//! async-openai within limits. Its own retry layer stays outside, so that each attempt is a
//! reservation of its own.

use std::time::Duration;

use async_openai::{
    Client,
    config::OpenAIConfig,
    error::OpenAIError,
    middleware::{HttpRequestFactory, retry::OpenAIRetryLayer},
    types::chat::{
        ChatCompletionRequestUserMessage, ChatCompletionStreamOptions, CreateChatCompletionRequest,
        CreateChatCompletionRequestArgs,
    },
};
use examples_common::{
    meter::Meter,
    openai::{self, completion, last_piece, piece},
    provider::{self, Provider},
};
use futures_util::StreamExt;
use reqwest::{Request, Response};
use serde_json::json;
use tower::{Layer, Service, ServiceBuilder};
use tower_throttle::{
    BoxError, Demand, ExtractError, Limiter, Limits, Quota, ThrottleLayer, Throttled,
};

/// A client of the provider at `url`, all of whose calls keep within the limits.
pub fn client(limiter: Limiter, url: &str) -> Client<OpenAIConfig> {
    let layer = ThrottleLayer::new(
        limiter,
        openai::demand as fn(&mut Request) -> Result<Demand, ExtractError>,
    );
    client_through(layer.inspector(openai::inspect()).layer(reqwest::Client::new()), url)
}

/// A client of the provider at `url` whose attempts all go through a throttled service.
pub fn client_through<S>(throttled: S, url: &str) -> Client<OpenAIConfig>
where
    S: Service<Request, Response = Response, Error = BoxError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let service = ServiceBuilder::new()
        .layer(OpenAIRetryLayer::default())
        .map_err(own_error)
        .filter_async(async |attempt: HttpRequestFactory| attempt.build().await)
        .service(throttled);
    let config = OpenAIConfig::new().with_api_base(url).with_api_key("secret");
    Client::with_config(config).with_http_service(service)
}

/// async-openai's own error where there is one: its retry layer looks for that, and takes no boxed
/// one for a connection that failed.
fn own_error(error: BoxError) -> OpenAIError {
    let error = match error.downcast::<reqwest::Error>() {
        Ok(error) => return OpenAIError::Reqwest(*error),
        Err(error) => error,
    };
    error.downcast::<OpenAIError>().map_or_else(OpenAIError::Boxed, |error| *error)
}

/// A question with an answer of at most 300 tokens.
///
/// # Errors
/// None.
pub fn question() -> Result<CreateChatCompletionRequest, OpenAIError> {
    CreateChatCompletionRequestArgs::default()
        .model("gpt-4o")
        .max_completion_tokens(300_u32)
        .messages([ChatCompletionRequestUserMessage::from("May I?").into()])
        .build()
}

/// A question whose answer is a stream that tells its usage, which it would not do unless asked to.
///
/// # Errors
/// None.
pub fn streamed_question() -> Result<CreateChatCompletionRequest, OpenAIError> {
    let options =
        ChatCompletionStreamOptions { include_usage: Some(true), include_obfuscation: None };
    Ok(CreateChatCompletionRequest { stream_options: Some(options), ..question()? })
}

/// A completion and a stream, then a question that has to wait, and one that cannot.
///
/// # Errors
/// When something does not come out as it should.
pub async fn demo() -> Result<(), BoxError> {
    let provider = Provider::start(|request| {
        if request.body().windows(13).any(|part| part == br#""stream":true"#) {
            provider::events(&[piece(), last_piece(40), json!("[DONE]")])
        } else {
            provider::json(&completion(60))
        }
    })
    .await?;
    let meter = Meter::default();
    // Two at once, and one more each half a second.
    let quotas = [
        Quota::token_bucket("requests", 2, Duration::from_secs(1)),
        Quota::per_minute("tokens", 700),
    ];
    let limiter = Limiter::builder(Limits::new().bucket("gpt-4o", quotas))
        .observer(meter.observer())
        .build()?;
    let client = client(limiter.clone(), &provider.url());

    client.chat().create(question()?).await?;
    let mut stream = client.chat().create_stream(streamed_question()?).await?;
    let mut pieces = 0;
    while let Some(piece) = stream.next().await {
        piece?;
        pieces += 1;
    }
    meter.settled(2).await?;
    client.chat().create(question()?).await?;
    let too_much =
        CreateChatCompletionRequest { max_completion_tokens: Some(1_000), ..question()? };
    let Err(refused) = client.chat().create(too_much).await else {
        return Err("a thousand tokens passed where there are 700".into());
    };
    limiter.close().await;

    let totals = meter.totals();
    println!("two completions, and a stream in {pieces} pieces");
    println!("{totals}");
    println!("refused: {refused}");
    assert!(Throttled::find(&refused).is_some_and(Throttled::is_permanent));
    // Two tokens for the question, 300 for the answer.
    assert_eq!((totals.reservations, totals.reserved), (3, 3 * 302));
    assert_eq!((totals.charged, totals.refunded()), (60 + 40 + 60, 242 + 262 + 242));
    assert!(totals.waited > Duration::from_millis(300), "for the third request: {totals}");
    assert_eq!(provider.calls(), 3);
    Ok(())
}
