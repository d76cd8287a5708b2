//! Connections to upstreams. Over HTTP/2 a client sends all of its calls on one connection, where a
//! server admits a hundred or so at a time and lets the others wait, though they were granted. So
//! there are several clients, each for so many calls at a time.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    Request,
    body::{Body, Frame, Incoming, SizeHint},
};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, ResponseFuture, connect::HttpConnector};
use pin_project_lite::pin_project;

use super::body::RequestBody;

pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, RequestBody>;

/// What most servers admit on one connection.
const CALLS_PER_LANE: usize = 100;

/// Clients, as many as are needed.
pub(super) struct Lanes {
    make: Box<dyn Fn() -> HttpClient + Send + Sync>,
    lanes: Mutex<Vec<Arc<HttpClient>>>,
}

/// A place in the lane of a client, for as long as the value lives.
pub(super) struct Place {
    client: Arc<HttpClient>,
}

impl Lanes {
    pub(super) fn new(make: impl Fn() -> HttpClient + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), lanes: Mutex::new(Vec::new()) }
    }

    /// A free place. That of the first client is taken, so that connections are used again.
    pub(super) fn take(&self) -> Place {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |lane: &&Arc<HttpClient>| Arc::strong_count(lane) <= CALLS_PER_LANE;
        let client = lanes.iter().find(is_free).cloned().unwrap_or_else(|| {
            let client = Arc::new((self.make)());
            lanes.push(client.clone());
            client
        });
        Place { client }
    }
}

impl Place {
    /// Sends a request.
    pub(super) fn send(&self, request: Request<RequestBody>) -> ResponseFuture {
        self.client.request(request)
    }
}

pin_project! {
    /// The body of an upstream's response, which keeps its place in a lane until it ends.
    pub(super) struct UpstreamBody {
        #[pin]
        body: Incoming,
        place: Option<Place>,
    }
}

impl UpstreamBody {
    pub(super) fn new(body: Incoming, place: Place) -> Self {
        Self { body, place: Some(place) }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            *this.place = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_has_so_many_places_and_they_are_free_again() {
        let roots = rustls::RootCertStore::empty();
        let lanes = Lanes::new(super::super::upstream::maker(roots).expect("a client"));
        let count = |lanes: &Lanes| lanes.lanes.lock().expect("it is whole").len();
        let mut places: Vec<_> = (0..=CALLS_PER_LANE).map(|_| lanes.take()).collect();
        assert_eq!(count(&lanes), 2);
        places.truncate(CALLS_PER_LANE - 1);
        places.push(lanes.take());
        assert_eq!(Arc::strong_count(&lanes.lanes.lock().expect("it is whole")[0]), 101);
        assert_eq!(count(&lanes), 2);
    }
}
