//! rig's providers within limits: an HTTP client of rig's around another one.
//!
//! Every provider of rig sends through an [`HttpClientExt`], so this throttles all of them, each by
//! the rules that the layer is made of.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use rig_core::{
    ProviderError,
    http_client::{
        BoxedStream, Error, HttpClientExt, LazyBody, MultipartForm, Result, StreamingResponse,
    },
};
use tower::{Layer, service_fn};
use tower_throttle::{
    ThrottleLayer, Throttled,
    llm::{Extract, Inspect},
};

type Body = UnsyncBoxBody<Bytes, Error>;

/// An HTTP client of rig's whose requests wait for what a limiter declares.
///
/// Give it to a provider: `OpenAIConfig::from_env()?.connect(ThrottledClient::new(client, layer))`.
#[derive(Clone, Debug)]
pub struct ThrottledClient<H> {
    client: H,
    layer: ThrottleLayer<Extract, Inspect>,
}

impl<H: HttpClientExt + Clone + 'static> ThrottledClient<H> {
    /// Throttles a client by a layer, such as `ThrottleLayer::openai(limiter)`.
    pub fn new(client: H, layer: ThrottleLayer<Extract, Inspect>) -> Self {
        Self { client, layer }
    }

    /// Sends a request once it is granted. The call is settled when the body of the response has
    /// ended, or is dropped.
    fn call(
        &self,
        request: Request<Bytes>,
    ) -> impl Future<Output = Result<StreamingResponse>> + Send + 'static {
        let client = self.client.clone();
        let service = service_fn(move |request: Request<Bytes>| {
            let client = client.clone();
            async move { answered(client.send_streaming(request).await) }
        });
        let response = self.layer.layer(service).oneshot(request);
        async move {
            let (head, body) = response.await.map_err(Error::Instance)?.into_parts();
            let body: BoxedStream = Box::pin(body.into_data_stream());
            if head.status.is_success() {
                return Ok(Response::from_parts(head, body));
            }
            let text = String::from_utf8_lossy(&whole(body).await?).into_owned();
            Err(Error::non_success_with_details(head.status, head.headers, text))
        }
    }

    /// Sends a request, and reads the response's body where it is asked for.
    fn call_whole<U: From<Bytes> + Send + 'static>(
        &self,
        request: Request<Bytes>,
    ) -> impl Future<Output = Result<Response<LazyBody<U>>>> + Send + 'static {
        let response = self.call(request);
        async move {
            let lazy =
                |body| -> LazyBody<U> { Box::pin(async move { Ok(U::from(whole(body).await?)) }) };
            Ok(response.await?.map(lazy))
        }
    }
}

impl<H: HttpClientExt + Clone + 'static> HttpClientExt for ThrottledClient<H> {
    fn send<T, U>(
        &self,
        request: Request<T>,
    ) -> impl Future<Output = Result<Response<LazyBody<U>>>> + Send + 'static
    where
        T: Into<Bytes> + Send,
        U: From<Bytes> + Send + 'static,
    {
        self.call_whole(request.map(Into::into))
    }

    /// A form tells no rules what it asks for: what `Rules::unreadable` says is reserved.
    fn send_multipart<U>(
        &self,
        request: Request<MultipartForm>,
    ) -> impl Future<Output = Result<Response<LazyBody<U>>>> + Send + 'static
    where
        U: From<Bytes> + Send + 'static,
    {
        let (mut head, form) = request.into_parts();
        let (boundary, body) = form.encode();
        let content = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"));
        let response = content.map(|content| {
            head.headers.insert(CONTENT_TYPE, content);
            self.call_whole(Request::from_parts(head, body))
        });
        async move { response?.await }
    }

    fn send_streaming<T>(
        &self,
        request: Request<T>,
    ) -> impl Future<Output = Result<StreamingResponse>> + Send
    where
        T: Into<Bytes> + Send,
    {
        self.call(request.map(Into::into))
    }
}

/// Makes a response again of what rig takes for an error, so that the layer sees its status, its
/// headers and its body.
#[allow(clippy::result_large_err, reason = "rig's error")]
fn answered(result: Result<StreamingResponse>) -> Result<Response<Body>> {
    let response = match result {
        Ok(response) => response,
        Err(Error::InvalidStatusCodeWithDetails { status, body, headers }) => {
            let mut response =
                Response::new(Full::from(body).map_err(|never| match never {}).boxed_unsync());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            return Ok(response);
        }
        Err(error) => return Err(error),
    };
    Ok(response.map(|body| BodyExt::boxed_unsync(StreamBody::new(body.map_ok(Frame::data)))))
}

async fn whole(mut body: BoxedStream) -> Result<Bytes> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes.into())
}

/// Finds a refusal of the limiter in an error of rig's, which does not tell its source.
pub fn refusal(error: &ProviderError) -> Option<&Throttled> {
    match error {
        ProviderError::Http(error) => Throttled::find(&**error),
        _ => Throttled::find(error),
    }
}
