//! Reads demands from HTTP requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_ENCODING, CONTENT_LENGTH},
};

use super::{request::BadRequest, rules::Rules, stream_options::asking_for_usage};
use crate::{
    demand::Demand,
    extract::{ExtractError, Extractor},
};

/// An [`Extractor`] that reads demands by a provider's [`Rules`]: see [`Rules::extractor`].
///
/// It takes an `http::Request` whose body is [`Peek`], and with feature `reqwest` a
/// `reqwest::Request`. For a request of another type, a closure with [`Rules::demand`] is one too.
#[derive(Clone, Debug)]
pub struct Extract {
    rules: Arc<Rules>,
}

impl Rules {
    /// Makes the extractor that reads requests by these rules.
    #[must_use]
    pub fn extractor(&self) -> Extract {
        Extract { rules: Arc::new(self.clone()) }
    }
}

/// A body whose bytes are at hand, so that they can be read without consuming it.
pub trait Peek {
    /// Returns all bytes of the body, if they are at hand.
    fn peek(&self) -> Option<impl AsRef<[u8]>>;

    /// Replaces the body's bytes.
    fn replace(&mut self, bytes: Bytes);
}

impl Peek for Bytes {
    fn peek(&self) -> Option<impl AsRef<[u8]>> {
        Some(self)
    }

    fn replace(&mut self, bytes: Bytes) {
        *self = bytes;
    }
}

impl Peek for Vec<u8> {
    fn peek(&self) -> Option<impl AsRef<[u8]>> {
        Some(self)
    }

    fn replace(&mut self, bytes: Bytes) {
        *self = bytes.into();
    }
}

impl Peek for String {
    fn peek(&self) -> Option<impl AsRef<[u8]>> {
        Some(self)
    }

    fn replace(&mut self, bytes: Bytes) {
        // What was put into a text is a text.
        *self = String::from_utf8_lossy(&bytes).into_owned();
    }
}

impl Peek for http_body_util::Full<Bytes> {
    fn peek(&self) -> Option<impl AsRef<[u8]>> {
        let mut body = std::pin::pin!(self.clone());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match http_body::Body::poll_frame(body.as_mut(), &mut context) {
            std::task::Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
            std::task::Poll::Ready(None) => Some(Bytes::new()),
            _ => None,
        }
    }

    fn replace(&mut self, bytes: Bytes) {
        *self = Self::new(bytes);
    }
}

#[cfg(feature = "reqwest")]
impl Peek for Option<reqwest::Body> {
    fn peek(&self) -> Option<impl AsRef<[u8]>> {
        self.as_ref().map_or(Some(&[][..]), reqwest::Body::as_bytes)
    }

    fn replace(&mut self, bytes: Bytes) {
        *self = Some(bytes.into());
    }
}

impl Extract {
    fn demand(
        &self,
        path: &str,
        body: &mut impl Peek,
        headers: &mut HeaderMap,
    ) -> Result<Demand, ExtractError> {
        let is_encoded = headers.contains_key(CONTENT_ENCODING);
        let Some(bytes) = body.peek().filter(|_| !is_encoded) else {
            return self.rules.unreadable.clone().ok_or_else(|| BadRequest::Unreadable.into());
        };
        let demand = self.rules.demand_at(path, bytes.as_ref())?;
        let changed = self.rules.include_usage.then(|| asking_for_usage(bytes.as_ref())).flatten();
        drop(bytes);
        if let Some(changed) = changed {
            if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
                *length = HeaderValue::from(changed.len());
            }
            body.replace(changed.into());
        }
        Ok(demand)
    }
}

impl<B: Peek> Extractor<http::Request<B>> for Extract {
    fn extract(&self, request: &mut http::Request<B>) -> Result<Demand, ExtractError> {
        let mut headers = std::mem::take(request.headers_mut());
        let path = request.uri().path().to_owned();
        let demand = self.demand(&path, request.body_mut(), &mut headers);
        *request.headers_mut() = headers;
        demand
    }
}

#[cfg(feature = "reqwest")]
impl Extractor<reqwest::Request> for Extract {
    fn extract(&self, request: &mut reqwest::Request) -> Result<Demand, ExtractError> {
        let mut headers = std::mem::take(request.headers_mut());
        let mut body = request.body_mut().take();
        let demand = self.demand(request.url().path(), &mut body, &mut headers);
        *request.body_mut() = body;
        *request.headers_mut() = headers;
        demand
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Full;

    use crate::{Demand, Extractor, llm::openai, usage};

    const REQUEST: &str = r#"{"model":"gpt-4o-mini","stream":true,"max_tokens":90,"messages":[]}"#;

    #[test]
    fn bodies_at_hand_are_read_and_left_as_they_are() {
        let extract = openai::rules().extractor();
        let full = &mut Request::new(Full::new(REQUEST.into()));
        let expected = extract.extract(full).unwrap();
        assert_eq!(expected.buckets().collect::<Vec<_>>(), ["gpt-4o-mini"]);
        assert_eq!(expected.usage().get("tokens"), Some(90));

        let mut bytes = Request::new(bytes::Bytes::from(REQUEST));
        let mut text = Request::new(REQUEST.to_owned());
        let mut vector = Request::new(REQUEST.as_bytes().to_vec());
        assert_eq!(extract.extract(&mut bytes).unwrap(), expected);
        assert_eq!(extract.extract(&mut text).unwrap(), expected);
        assert_eq!(extract.extract(&mut vector).unwrap(), expected);
        assert_eq!((&bytes.body()[..], text.body().as_str()), (REQUEST.as_bytes(), REQUEST));
    }

    #[test]
    fn what_the_provider_says_is_about_the_model_whatever_else_is_asked() {
        for rules in [openai::rules(), openai::rules().output(crate::llm::Output::Learned)] {
            let demand = rules.extractor().extract(&mut Request::new(REQUEST.to_owned())).unwrap();
            assert_eq!(demand.clone().and("company").account_index(), Some(0));
            assert_eq!(demand.and_first("tenant").account_index(), Some(1));
        }
    }

    #[test]
    fn the_usage_of_a_stream_is_asked_for_on_demand() {
        let mut request = Request::new(REQUEST.to_owned());
        request.headers_mut().insert("content-length", REQUEST.len().into());
        openai::rules().include_usage().extractor().extract(&mut request).unwrap();
        let body: serde_json::Value = serde_json::from_str(request.body()).unwrap();
        assert_eq!(body["stream_options"]["include_usage"], true);
        assert_eq!(body["model"], "gpt-4o-mini");
        assert_eq!(request.headers()["content-length"], request.body().len().to_string());
    }

    #[test]
    fn a_body_that_cannot_be_read_is_what_the_user_says() {
        let refuse = openai::rules();
        let charge = openai::rules().unreadable(Demand::new("others", usage! { tokens: 1_000 }));
        let extract = |rules: &crate::llm::Rules, body: &str, encoding: Option<&'static str>| {
            let mut request = Request::new(body.to_owned());
            if let Some(encoding) = encoding {
                request
                    .headers_mut()
                    .insert("content-encoding", http::HeaderValue::from_static(encoding));
            }
            let demand = rules.extractor().extract(&mut request);
            assert_eq!(request.body(), body);
            demand.map(|demand| demand.buckets().next().unwrap_or_default().to_owned())
        };
        for (body, encoding, reason) in [
            (REQUEST, Some("gzip"), "cannot be read ahead"),
            ("", None, "no JSON"),
            ("{}", None, "names no model"),
        ] {
            assert!(
                extract(&refuse, body, encoding).unwrap_err().to_string().contains(reason),
                "{body}"
            );
            assert_eq!(extract(&charge, body, encoding).unwrap(), "others");
        }
    }

    #[cfg(feature = "reqwest")]
    #[test]
    fn requests_of_reqwest_are_read() {
        let extract = openai::rules().include_usage().extractor();
        let client = reqwest::Client::new().post("http://localhost/v1/chat/completions");
        let mut request = client.body(REQUEST).build().unwrap();
        assert_eq!(extract.extract(&mut request).unwrap().usage().get("tokens"), Some(90));
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap();
        assert!(body.ends_with(&REQUEST.as_bytes()[1..]) && body.len() > REQUEST.len());
    }
}
