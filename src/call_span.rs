//! The span of a demand and of its reservation: it begins when the demand is asked for and ends
//! when the reservation is settled. Without the feature `tracing` it is nothing.
//!
//! A subscriber that panics is no concern of the limiter: whatever calls it is guarded.

use std::time::Duration;

use crate::{demand::Demand, error::Throttled, observe::Buckets, usage::Usage};

/// The span of a demand and of its reservation.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallSpan {
    #[cfg(feature = "tracing")]
    inner: imp::GuardedSpan,
}

#[cfg(feature = "tracing")]
impl CallSpan {
    /// Begins in the present span. Nothing is asked for unless a subscriber wants the span.
    pub(crate) fn begin<'a>(
        id: impl FnOnce() -> u64,
        demand: &'a Demand,
        buckets: impl FnOnce() -> Buckets<'a>,
    ) -> Self {
        Self { inner: imp::GuardedSpan::begin(id, demand, buckets) }
    }

    /// True if no subscriber wants it.
    pub(crate) fn is_off(&self) -> bool {
        self.inner.span().is_disabled()
    }

    pub(crate) fn span(&self) -> &tracing::Span {
        self.inner.span()
    }

    /// The demand has to wait for this quota.
    pub(crate) fn waits_for(&self, bucket: &str, quota: &str) {
        self.inner.record(|span| {
            span.record("quota", format_args!("{bucket}: {quota}").to_string());
        });
    }

    pub(crate) fn granted(&self, waited: Duration, reserved: &Usage, degraded: bool) {
        self.inner.record(|span| {
            span.record("waited", waited.as_secs_f64());
            span.record("reserved", tracing::field::debug(reserved));
            if degraded {
                span.record("degraded", true);
            }
        });
    }

    pub(crate) fn refused(&self, error: &Throttled) {
        self.inner.record(|span| {
            span.record("refused", error.kind());
            if let Some(shortage) = error.refusal().and_then(|refusal| refusal.binding()) {
                self.waits_for(&shortage.bucket, &shortage.quota);
            }
        });
    }

    pub(crate) fn settled(&self, actual: &Usage) {
        self.inner.record(|span| {
            span.record("settled", tracing::field::debug(actual));
        });
    }

    /// Enters it until the guard is dropped.
    pub(crate) fn enter(&self) -> impl Sized + '_ {
        self.inner.enter()
    }
}

#[cfg(not(feature = "tracing"))]
impl CallSpan {
    #[inline]
    pub(crate) fn begin<'a>(
        _: impl FnOnce() -> u64,
        _: &'a Demand,
        _: impl FnOnce() -> Buckets<'a>,
    ) -> Self {
        Self {}
    }

    #[inline]
    pub(crate) fn is_off(&self) -> bool {
        true
    }

    #[inline]
    pub(crate) fn waits_for(&self, _: &str, _: &str) {}

    #[inline]
    pub(crate) fn granted(&self, _: Duration, _: &Usage, _: bool) {}

    #[inline]
    pub(crate) fn refused(&self, _: &Throttled) {}

    #[inline]
    pub(crate) fn settled(&self, _: &Usage) {}

    #[inline]
    pub(crate) fn enter(&self) -> impl Sized + '_ {}
}

#[cfg(feature = "tracing")]
mod imp {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tracing::{Span, field::Empty, info_span, span::Entered};

    use crate::{
        demand::Demand,
        observe::{Buckets, guarded},
    };

    /// A span whose subscriber may panic.
    #[derive(Debug)]
    pub(super) struct GuardedSpan(Span);

    impl GuardedSpan {
        pub(super) fn begin<'a>(
            id: impl FnOnce() -> u64,
            demand: &'a Demand,
            buckets: impl FnOnce() -> Buckets<'a>,
        ) -> Self {
            let begin = || {
                let span = info_span!(
                    target: "tower_throttle",
                    "reservation",
                    id = id(),
                    buckets = Empty,
                    class = demand.class_name(),
                    share = demand.share_name(),
                    waited = Empty,
                    quota = Empty,
                    reserved = Empty,
                    settled = Empty,
                    degraded = Empty,
                    refused = Empty,
                );
                if !span.is_disabled() {
                    span.record("buckets", tracing::field::display(buckets()));
                }
                span
            };
            Self(catch_unwind(AssertUnwindSafe(begin)).unwrap_or_else(|_| Span::none()))
        }

        pub(super) fn span(&self) -> &Span {
            &self.0
        }

        pub(super) fn record(&self, record: impl FnOnce(&Span)) {
            if !self.0.is_disabled() {
                guarded(|| record(&self.0));
            }
        }

        pub(super) fn enter(&self) -> GuardedEntry<'_> {
            GuardedEntry(catch_unwind(AssertUnwindSafe(|| self.0.enter())).ok())
        }
    }

    /// The span is entered. Leaving it calls the subscriber, too.
    pub(super) struct GuardedEntry<'a>(Option<Entered<'a>>);

    impl Drop for GuardedEntry<'_> {
        fn drop(&mut self) {
            if let Some(entered) = self.0.take() {
                guarded(|| drop(entered));
            }
        }
    }

    impl Default for GuardedSpan {
        fn default() -> Self {
            Self(Span::none())
        }
    }

    impl Clone for GuardedSpan {
        fn clone(&self) -> Self {
            let clone = catch_unwind(AssertUnwindSafe(|| self.0.clone()));
            Self(clone.unwrap_or_else(|_| Span::none()))
        }
    }

    impl Drop for GuardedSpan {
        fn drop(&mut self) {
            let span = std::mem::replace(&mut self.0, Span::none());
            guarded(|| drop(span));
        }
    }
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use tracing::{Event, Metadata, Subscriber, span};

    use super::*;

    /// Panics whenever a span is left.
    struct Broken;

    impl Subscriber for Broken {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {
            panic!("exit");
        }
    }

    #[test]
    fn a_subscriber_that_panics_where_a_span_is_left_breaks_nothing() {
        let quietly = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let left = std::panic::catch_unwind(|| {
            tracing::subscriber::with_default(Broken, || {
                let demand = Demand::new("a", Usage::new());
                let call = CallSpan::begin(|| 7, &demand, || Buckets::new(["a"]));
                assert!(!call.is_off());
                drop(call.enter());
            });
        });
        std::panic::set_hook(quietly);
        assert!(left.is_ok());
    }
}
