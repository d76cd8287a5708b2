//! A response body that takes its reservation along and settles it once, at its end.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    inspect::body_observer::{BodyEnd, BodyObserver},
    limiter::Reservation,
};

pin_project! {
    /// A body that passes on unchanged, frame by frame, while an observer follows it.
    ///
    /// Its reservation is settled once: at the end, which is also when as many bytes as announced
    /// were seen, at an error, or when it is dropped.
    pub struct MeteredBody<B> {
        #[pin]
        content: Content<B>,
        meter: BodyMeter,
    }
}

pin_project! {
    #[project = ContentProjection]
    enum Content<B> {
        Inner { #[pin] body: B },
        Text { text: Option<Bytes> },
    }
}

struct BodyMeter {
    account: Option<(Reservation, Box<dyn BodyObserver>)>,
    /// Bytes still to come, if that is known.
    remaining: Option<u64>,
}

impl BodyMeter {
    fn data(&mut self, piece: &[u8]) {
        self.remaining =
            self.remaining.map(|remaining| remaining.saturating_sub(piece.len() as u64));
        if let Some((_, observer)) = &mut self.account {
            observer.data(piece);
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some((_, observer)) = &mut self.account {
            observer.trailers(trailers);
        }
    }

    fn close(&mut self, end: BodyEnd) {
        if let Some((reservation, mut observer)) = self.account.take() {
            drop(reservation.conclude(observer.end(end)));
        }
    }
}

impl Drop for BodyMeter {
    fn drop(&mut self) {
        self.close(BodyEnd::Dropped);
    }
}

impl<B: Body<Data = Bytes>> MeteredBody<B> {
    pub(crate) fn new(body: B, reservation: Reservation, observer: Box<dyn BodyObserver>) -> Self {
        let mut meter = BodyMeter {
            account: Some((reservation, observer)),
            remaining: body.size_hint().exact(),
        };
        // A body without content may never be polled.
        if body.is_end_stream() {
            meter.close(BodyEnd::Complete);
        }
        Self { content: Content::Inner { body }, meter }
    }
}

/// A body of its own, which nothing is charged for.
impl<B> From<String> for MeteredBody<B> {
    fn from(text: String) -> Self {
        let text = Some(Bytes::from(text)).filter(|text| !text.is_empty());
        Self {
            content: Content::Text { text },
            meter: BodyMeter { account: None, remaining: None },
        }
    }
}

impl<B: Body<Data = Bytes>> Body for MeteredBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let mut body = match this.content.project() {
            ContentProjection::Inner { body } => body,
            ContentProjection::Text { text } => {
                return Poll::Ready(text.take().map(|text| Ok(Frame::data(text))));
            }
        };
        let frame = ready!(body.as_mut().poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.meter.data(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.meter.trailers(trailers);
                }
                // Nothing comes after trailers, so the body may not be polled again.
                if frame.is_trailers() || this.meter.remaining == Some(0) || body.is_end_stream() {
                    this.meter.close(BodyEnd::Complete);
                }
            }
            Some(Err(_)) => this.meter.close(BodyEnd::Failed),
            None => this.meter.close(BodyEnd::Complete),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Inner { body } => body.is_end_stream(),
            Content::Text { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Inner { body } => body.size_hint(),
            Content::Text { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for MeteredBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("MeteredBody");
        if let Content::Inner { body } = &self.content {
            debug.field("body", body);
        }
        debug.field("settled", &self.meter.account.is_none()).finish()
    }
}
