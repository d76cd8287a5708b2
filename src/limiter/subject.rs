//! What is known of a pending demand wherever it is told of.

#[cfg(feature = "tracing")]
use std::panic::catch_unwind;

#[cfg(feature = "tracing")]
use crate::observe::guarded;
use crate::{call_span::CallSpan, name::Name};

/// What events of a pending demand tell besides its id and its buckets, and where they are emitted.
#[derive(Debug)]
pub(crate) struct Subject {
    class: Option<Name>,
    share: Option<Name>,
    /// Its own span.
    pub(crate) call: CallSpan,
    /// The span in which the demand was asked for. A task that is not its caller's may tell of it.
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl Subject {
    /// A demand of this class and share that is asked for in the present span.
    pub(crate) fn new(class: Option<Name>, share: Option<Name>, call: CallSpan) -> Self {
        #[cfg(feature = "tracing")]
        return {
            let current = catch_unwind(tracing::Span::current);
            let span = current.unwrap_or_else(|_| tracing::Span::none());
            Self { class, share, call, span }
        };
        #[cfg(not(feature = "tracing"))]
        Self { class, share, call }
    }

    pub(crate) fn class(&self) -> Option<&str> {
        self.class.as_ref().map(Name::as_str)
    }

    pub(crate) fn share(&self) -> Option<&str> {
        self.share.as_ref().map(Name::as_str)
    }

    /// Runs `tell` in the span of the demand's caller.
    pub(crate) fn in_span(&self, tell: impl FnOnce()) {
        // A span is the subscriber's too.
        #[cfg(feature = "tracing")]
        guarded(|| self.span.in_scope(tell));
        #[cfg(not(feature = "tracing"))]
        tell();
    }
}
