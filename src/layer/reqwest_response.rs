//! reqwest's response stays itself while its body is followed.

use std::time::Duration;

use http::{HeaderMap, StatusCode, response::Parts};
use reqwest::{Body, Response, ResponseBuilderExt};

use super::body::MeteredBody;
use crate::{
    inspect::{BodyObserver, Carrier, HasStatus, body::sealed::Sealed, retry_after::retry_after},
    limiter::Reservation,
};

impl HasStatus for Response {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn retry_after(&self) -> Option<Duration> {
        retry_after(self.headers())
    }
}

impl Sealed for Response {}

impl Carrier for Response {
    type Metered = Self;

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }

    fn metered(
        self,
        reservation: Reservation,
        observer: impl FnOnce(&Parts) -> Box<dyn BodyObserver>,
    ) -> Self {
        // The conversion forgets the URL, which is given back as an extension.
        let url = http::response::Builder::new().url(self.url().clone()).body(());
        let (mut head, body) = http::Response::<Body>::from(self).into_parts();
        if let Ok(url) = url {
            head.extensions.extend(url.into_parts().0.extensions);
        }
        let body = MeteredBody::new(body, reservation, observer(&head));
        http::Response::from_parts(head, Body::wrap(body)).into()
    }
}
