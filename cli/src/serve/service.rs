//! One request: what it is for, and its way through.

use std::{convert::Infallible, fmt, sync::Arc, time::Instant};

use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use tower_throttle::{Limiter, llm::BadRequest};

use super::{
    body::{RequestBody, discard, is_counted, is_readable},
    caller::Caller,
    errors::{ErrorShape, ServeError},
    forward,
    log::Log,
    monitor::{self, Recorder},
    upstream::{ResponseBody, Upstream},
};

/// All that requests need.
pub(super) struct Gateway {
    upstreams: Vec<Upstream>,
    limiter: Limiter,
    recorder: Recorder,
    longest_body: usize,
    log: Log,
}

impl Gateway {
    pub(super) fn new(
        upstreams: Vec<Upstream>,
        limiter: Limiter,
        recorder: Recorder,
        longest_body: usize,
        log: Log,
    ) -> Self {
        Self { upstreams, limiter, recorder, longest_body, log }
    }

    /// Warns of something that is about no call.
    pub(super) fn warn(&self, line: fmt::Arguments<'_>) {
        self.log.warn(line);
    }

    /// Tidies up for as long as it is polled.
    pub(super) async fn tidy(&self) -> Infallible {
        self.recorder.tidy().await
    }

    /// Refuses calls from now on, and those that wait. Ends when what was used has reached the
    /// store.
    pub(super) async fn close(&self) {
        self.limiter.close().await;
    }

    /// Responds to a request, whatever it is.
    pub(super) async fn respond(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let (name, _) = forward::split(request.uri());
        match name {
            "healthz" => return monitor::alive().map(ResponseBody::from),
            "readyz" => return monitor::ready(&self.limiter).await.map(ResponseBody::from),
            "metrics" => {
                return self.recorder.scrape(&self.limiter).await.map(ResponseBody::from);
            }
            _ => {}
        }
        let Some(upstream) = self.upstreams.iter().find(|upstream| upstream.name() == name) else {
            discard(request.into_body()).await;
            return self.no_such_path().response(ErrorShape::OpenAi).map(ResponseBody::from);
        };
        let (began, method) = (Instant::now(), request.method().clone());
        let response = match self.forward(upstream, request).await {
            Ok(response) => forward::hand_on(response),
            Err(error) => error.response(upstream.shape()).map(ResponseBody::from),
        };
        self.tell(upstream, &method, &response, began);
        response
    }

    async fn forward(
        &self,
        upstream: &Upstream,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, ServeError> {
        let (mut head, body) = request.into_parts();
        let checked = Self::prepare(upstream, &mut head);
        if let Err(error) = checked {
            discard(body).await;
            return Err(error);
        }
        let body = RequestBody::of(&head, body, self.longest_body).await?;
        upstream.call(Request::from_parts(head, body)).await
    }

    /// Makes a head that goes to the upstream, with what the caller said as an extension.
    fn prepare(
        upstream: &Upstream,
        head: &mut hyper::http::request::Parts,
    ) -> Result<(), ServeError> {
        if upstream.refuses_unreadable() && is_counted(&head.method) && !is_readable(head) {
            return Err(upstream.unreadable(BadRequest::Unreadable));
        }
        let caller = Caller::take(&mut head.headers)?;
        head.extensions.insert(caller);
        let uri = head.uri.clone();
        let (_, rest) = forward::split(&uri);
        forward::aim(head, upstream.url(), rest)
    }

    fn no_such_path(&self) -> ServeError {
        let paths = self.upstreams.iter().map(|upstream| format!("/{}", upstream.name()));
        let own = ["/healthz", "/readyz", "/metrics"].map(str::to_owned);
        let all: Vec<_> = paths.chain(own).collect();
        let message = format!("there is nothing at this path; there is {}", all.join(", "));
        ServeError::new(StatusCode::NOT_FOUND, "no_upstream", message)
    }

    fn tell(
        &self,
        upstream: &Upstream,
        method: &Method,
        response: &Response<ResponseBody>,
        began: Instant,
    ) {
        // A method may be any word of the caller's.
        let method = if is_counted(method) { "POST" } else { "other" };
        let (status, millis) = (response.status().as_u16(), began.elapsed().as_millis());
        self.log.tell(format_args!("{} {method} {status} after {millis} ms", upstream.name()));
    }
}
