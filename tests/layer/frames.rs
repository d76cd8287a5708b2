//! A body of given frames.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tower_throttle::BoxError;

/// Gives out these frames, and an error after them if told so.
#[derive(Debug)]
pub(crate) struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    fails: bool,
    size: SizeHint,
}

impl Frames {
    pub(crate) fn of(pieces: &[&'static str]) -> Self {
        let frames =
            pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes()))).collect();
        Self { frames, fails: false, size: SizeHint::default() }
    }

    pub(crate) fn announced(mut self) -> Self {
        let length =
            self.frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        self.size = SizeHint::with_exact(length);
        self
    }

    pub(crate) fn failing(mut self) -> Self {
        self.fails = true;
        self
    }

    pub(crate) fn with_trailers(mut self, name: &'static str, value: &'static str) -> Self {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )]);
        self.frames.push_back(Frame::trailers(trailers));
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if std::mem::take(&mut self.fails) => Poll::Ready(Some(Err("reset".into()))),
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}
