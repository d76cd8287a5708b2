//! The layer around the HTTP client of an AWS SDK, below the SDK's own retries.

use std::{
    fmt,
    task::{Context, Poll},
};

use aws_smithy_runtime_api::{
    box_error::BoxError as SmithyError,
    client::{
        connector_metadata::ConnectorMetadata,
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpClient, SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
    },
};
use aws_smithy_types::{body::SdkBody, config_bag::ConfigBag};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use tower_layer::Layer;
use tower_service::Service;

use super::{body::MeteredBody, throttle_layer::ThrottleLayer};
use crate::{box_error::BoxError, extract::Extractor, inspect::Inspector};

/// The content type of requests that are streams of events, which have no end to be read to.
const EVENTS: &[u8] = b"application/vnd.amazon.eventstream";

/// An HTTP client of AWS SDKs that throttles another one: see [`ThrottleLayer::http_client`].
pub struct SmithyClient<E, I> {
    layer: ThrottleLayer<E, I>,
    inner: SharedHttpClient,
}

impl<E, I> ThrottleLayer<E, I> {
    /// Throttles the HTTP client of an AWS SDK. It waits below the SDK's retries: a call that waits
    /// is one attempt.
    ///
    /// A request's body is read to its end first, and a copy of it is sent. The SDK watches
    /// uploads, and would take one that waits for quota for stalled. Timeouts of attempts and
    /// operations that are set in the SDK have to leave room for the wait. A request that is itself
    /// a stream of events has no end to be read to: it passes without a demand.
    ///
    /// A request that is refused fails with a `ConnectorError` of the user's kind, which the SDK
    /// does not try again. [`Throttled::find`](crate::Throttled::find) finds the reason in it.
    #[must_use]
    pub fn http_client(self, client: impl HttpClient + 'static) -> SmithyClient<E, I> {
        SmithyClient { layer: self, inner: SharedHttpClient::new(client) }
    }
}

impl<E, I> HttpClient for SmithyClient<E, I>
where
    E: Extractor<Request<Full<Bytes>>> + Send + Sync + 'static,
    I: Inspector<Response<SdkBody>, Inspected = Response<MeteredBody<SdkBody>>>
        + Send
        + Sync
        + 'static,
{
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connector = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(SmithyConnector { layer: self.layer.clone(), connector })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), SmithyError> {
        self.inner.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), SmithyError> {
        self.inner.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.inner.connector_metadata()
    }
}

impl<E, I> Clone for SmithyClient<E, I> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), inner: self.inner.clone() }
    }
}

impl<E, I> fmt::Debug for SmithyClient<E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmithyClient").field("inner", &self.inner).finish_non_exhaustive()
    }
}

struct SmithyConnector<E, I> {
    layer: ThrottleLayer<E, I>,
    connector: SharedHttpConnector,
}

impl<E, I> HttpConnector for SmithyConnector<E, I>
where
    E: Extractor<Request<Full<Bytes>>> + Send + Sync + 'static,
    I: Inspector<Response<SdkBody>, Inspected = Response<MeteredBody<SdkBody>>>
        + Send
        + Sync
        + 'static,
{
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let content = request.headers().get(CONTENT_TYPE.as_str()).map(str::as_bytes);
        if content.is_some_and(|content| content.eq_ignore_ascii_case(EVENTS)) {
            return self.connector.call(request);
        }
        let service = self.layer.layer(ConnectorService(self.connector.clone()));
        HttpConnectorFuture::new(async move {
            let request = read(request).await?;
            let response = service.oneshot(request).await.map_err(connector_error)?;
            let response = response.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| other(error.into()))
        })
    }
}

impl<E, I> fmt::Debug for SmithyConnector<E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmithyConnector").field("inner", &self.connector).finish_non_exhaustive()
    }
}

/// Reads a request's body to its end.
async fn read(request: HttpRequest) -> Result<Request<Full<Bytes>>, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| other(error.into()))?;
    let (head, body) = request.into_parts();
    let body = BodyExt::collect(body).await.map_err(other)?.to_bytes();
    Ok(Request::from_parts(head, Full::new(body)))
}

/// The error of the connector, or the reason why the request was not sent.
fn connector_error(error: BoxError) -> ConnectorError {
    match error.downcast::<ConnectorError>() {
        Ok(error) => *error,
        Err(error) => ConnectorError::user(error),
    }
}

fn other(error: BoxError) -> ConnectorError {
    ConnectorError::other(error, None)
}

/// A connector as a service.
#[derive(Clone, Debug)]
struct ConnectorService(SharedHttpConnector);

impl Service<Request<Full<Bytes>>> for ConnectorService {
    type Response = Response<SdkBody>;
    type Error = ConnectorError;
    type Future = BoxFuture<'static, Result<Response<SdkBody>, ConnectorError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectorError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let connector = self.0.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => SdkBody::from(body.to_bytes()),
                Err(never) => match never {},
            };
            let request = Request::from_parts(head, body);
            let request = HttpRequest::try_from(request).map_err(|error| other(error.into()))?;
            let response = connector.call(request).await?;
            response.try_into_http1x().map_err(|error| other(error.into()))
        }
        .boxed()
    }
}
