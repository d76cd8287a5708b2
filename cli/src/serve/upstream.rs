//! One upstream: the layer of the library around an HTTP client.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::{Request, Response, StatusCode, Uri, body::Incoming};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tower_layer::Layer;
use tower_service::Service;
use tower_throttle::{
    BoxError, Demand, ExtractError, Extractor, Limiter, Settlement, ThrottleLayer, Throttled,
    file::{LimitsFile, Upstream as Declared},
    inspect::{self, CallError, OnFailure},
    layer::{MeteredBody, Throttle},
    limits::Undeclared,
    llm::{BadRequest, Extract, Inspect},
};

use super::{
    body::{RequestBody, is_counted},
    caller::Caller,
    errors::{ErrorShape, ServeError},
    lanes::{HttpClient, Lanes, UpstreamBody},
    log::Log,
};
use crate::failure::Failure;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How often a connection over HTTP/2 is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(20);

/// What is sent to a client.
pub(super) type ResponseBody = MeteredBody<UpstreamBody>;

type OnCallError = fn(CallError<'_>) -> Option<Settlement>;
type Stack = Throttle<Sender, ReadDemand, OnFailure<Inspect, OnCallError>>;

/// An upstream, and all that is needed to send calls there.
pub(super) struct Upstream {
    name: String,
    url: Uri,
    shape: ErrorShape,
    refuses_unreadable: bool,
    stack: Stack,
    /// True since a call failed, until one does not.
    is_down: AtomicBool,
    log: Log,
}

/// Makes clients, which trust these roots.
pub(super) fn maker(
    roots: RootCertStore,
) -> Result<impl Fn() -> HttpClient + Clone + Send + Sync + 'static, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(move || {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_WITHIN));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config.clone())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(PING_EVERY)
            .build(connector)
    })
}

/// The roots of the machine, if an upstream needs them.
pub(super) fn roots(upstreams: &[Declared]) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    if upstreams.iter().all(|upstream| upstream.url().scheme_str() == Some("http")) {
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map_or(String::new(), |error| format!(": {error}"));
        return Err(Failure::Other(format!(
            "no root certificates are installed, so that no https:// upstream can be trusted{why}"
        )));
    }
    Ok(roots)
}

impl Upstream {
    /// Makes an upstream that shares its limits with all that use `limiter`.
    pub(super) fn new(
        declared: &Declared,
        file: &LimitsFile,
        limiter: &Limiter,
        lanes: Lanes,
        log: Log,
    ) -> Self {
        let rules = declared.rules().prices(file.prices()).declared_in(limiter);
        let inspector = inspect::on_failure(rules.inspector(), never_sent as OnCallError);
        let layer = ThrottleLayer::new(limiter.clone(), ReadDemand { rules: rules.extractor() });
        let layer = layer.inspector(inspector);
        let layer = match declared.max_wait() {
            Some(max_wait) => layer.max_wait(max_wait),
            None => layer.reject(),
        };
        let sender = Sender { lanes: Arc::new(lanes), timeout: declared.timeout() };
        Self {
            name: declared.name().to_owned(),
            url: declared.url().clone(),
            shape: ErrorShape::of(declared.provider()),
            refuses_unreadable: matches!(declared.unreadable(), Undeclared::Refuse),
            stack: layer.layer(sender),
            is_down: AtomicBool::new(false),
            log,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    pub(super) fn shape(&self) -> ErrorShape {
        self.shape
    }

    /// True if a request fails from which the rules read no model.
    pub(super) fn refuses_unreadable(&self) -> bool {
        self.refuses_unreadable
    }

    /// Sends a request as soon as it fits.
    pub(super) async fn call(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, ServeError> {
        match self.stack.clone().oneshot(request).await {
            Ok(response) => {
                self.is_up();
                Ok(response)
            }
            Err(error) => Err(self.error(&error)),
        }
    }

    /// What becomes of a request that the rules cannot read.
    pub(super) fn unreadable(&self, error: BadRequest) -> ServeError {
        let why = match error {
            BadRequest::Unreadable => "the request's body is none that can be read",
            BadRequest::NotJson => "the request's body is no JSON object",
            _ => "the request names no model",
        };
        let message = format!(
            "{why}, so that it cannot be counted; `unreadable` below [upstreams.{}] of the limits \
             file lets such requests pass, or names their bucket",
            self.name
        );
        ServeError::new(StatusCode::BAD_REQUEST, "unreadable", message)
    }

    fn error(&self, error: &BoxError) -> ServeError {
        if let Some(throttled) = Throttled::find(error.as_ref()) {
            return ServeError::refused(throttled);
        }
        if let Some(bad) = error.downcast_ref::<BadRequest>() {
            return self.unreadable(*bad);
        }
        let why = with_sources(error.as_ref());
        if !self.is_down.swap(true, Ordering::Relaxed) {
            self.log.warn(format_args!("upstream {}: {why}", self.name));
        }
        let message = format!("upstream {}: {why}", self.name);
        match error.downcast_ref() {
            // Such a call may have been charged, and so would be the next one.
            Some(SendError::Late(_)) => late(message).not_again(),
            Some(SendError::Failed(error)) if is_timeout(error) => late(message),
            _ => ServeError::new(StatusCode::BAD_GATEWAY, "upstream_failed", message),
        }
    }

    fn is_up(&self) {
        if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
            self.log.warn(format_args!("upstream {}: answers again", self.name));
        }
    }
}

/// Gives a call back that never left, since no connection could be made.
fn never_sent(error: CallError<'_>) -> Option<Settlement> {
    match error.downcast_ref()? {
        SendError::Failed(error) if error.is_connect() => Some(Settlement::Release),
        _ => None,
    }
}

fn late(message: String) -> ServeError {
    ServeError::new(StatusCode::GATEWAY_TIMEOUT, "upstream_late", message)
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        || error.source().is_some_and(is_timeout)
}

/// An error with those that it stems from.
fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// Reads demands by the rules, and by what the caller said.
struct ReadDemand {
    rules: Extract,
}

impl Extractor<Request<RequestBody>> for ReadDemand {
    fn extract(&self, request: &mut Request<RequestBody>) -> Result<Demand, ExtractError> {
        let caller: Caller = request.extensions_mut().remove().unwrap_or_default();
        if !is_counted(request.method()) {
            return Ok(Demand::unlimited());
        }
        self.rules.extract(request).map(|demand| caller.applied(demand))
    }
}

/// The HTTP client as a service.
#[derive(Clone)]
struct Sender {
    lanes: Arc<Lanes>,
    timeout: Duration,
}

impl Service<Request<RequestBody>> for Sender {
    type Response = Response<UpstreamBody>;
    type Error = SendError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, SendError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let place = self.lanes.take();
        let (response, timeout) = (place.send(request), self.timeout);
        Box::pin(async move {
            let response: Response<Incoming> = match tokio::time::timeout(timeout, response).await {
                Ok(response) => response.map_err(SendError::Failed)?,
                Err(_) => return Err(SendError::Late(timeout)),
            };
            Ok(response.map(|body| UpstreamBody::new(body, place)))
        })
    }
}

/// Why there is no response.
#[derive(Debug)]
enum SendError {
    Late(Duration),
    Failed(hyper_util::client::legacy::Error),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(timeout) => write!(f, "no response within {timeout:?}"),
            Self::Failed(_) => f.write_str("no response"),
        }
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Late(_) => None,
            Self::Failed(error) => Some(error),
        }
    }
}
