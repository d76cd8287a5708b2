//! Connections to upstreams. Over HTTP/2 a client sends all of its calls on one connection, where a
//! server admits a hundred or so at a time and lets the others wait, though they were granted. So
//! there are several clients, each for so many calls at a time.

use std::sync::{Arc, Mutex, PoisonError};

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};

use super::body::RequestBody;

pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, RequestBody>;

/// What most servers admit on one connection.
const CALLS_PER_LANE: usize = 100;

/// Clients, as many as are needed.
pub(super) struct Lanes {
    make: Box<dyn Fn() -> HttpClient + Send + Sync>,
    lanes: Mutex<Vec<Lane>>,
}

struct Lane {
    client: HttpClient,
    /// A place is a clone of it.
    places: Arc<()>,
}

/// A place in a lane, for as long as the value lives.
#[derive(Debug)]
pub(super) struct Place {
    _lane: Arc<()>,
}

impl Lanes {
    pub(super) fn new(make: impl Fn() -> HttpClient + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), lanes: Mutex::new(Vec::new()) }
    }

    /// A client with a free place. The first is taken, so that connections are used again.
    pub(super) fn take(&self) -> (HttpClient, Place) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |lane: &&Lane| Arc::strong_count(&lane.places) <= CALLS_PER_LANE;
        let free = lanes.iter().find(is_free).map(Lane::place);
        free.unwrap_or_else(|| {
            let lane = Lane { client: (self.make)(), places: Arc::new(()) };
            let place = lane.place();
            lanes.push(lane);
            place
        })
    }
}

impl Lane {
    fn place(&self) -> (HttpClient, Place) {
        (self.client.clone(), Place { _lane: self.places.clone() })
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
        assert_eq!(Arc::strong_count(&lanes.lanes.lock().expect("it is whole")[0].places), 101);
        assert_eq!(count(&lanes), 2);
    }
}
