//! The times of a session as numbers. No arrival is before all time: they are counted from long
//! before the session began.

use std::time::Duration;

use tokio::time::Instant;

use crate::{engine::Micros, quota::micros};

/// At the beginning of the session.
const EPOCH: Micros = 400 * 86_400 * 1_000_000;

/// A session's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionClock {
    began: Instant,
}

impl SessionClock {
    /// Begins now.
    pub(super) fn start() -> Self {
        Self { began: Instant::now() }
    }

    pub(super) fn now(self) -> Micros {
        self.time_of(Instant::now())
    }

    /// An instant as a number. Instants of another runtime may be before the session began.
    pub(super) fn time_of(self, instant: Instant) -> Micros {
        match instant.checked_duration_since(self.began) {
            Some(after) => EPOCH.saturating_add(micros(after)),
            None => EPOCH.saturating_sub(micros(self.began.duration_since(instant))),
        }
    }

    pub(super) fn instant_of(self, time: Micros) -> Instant {
        self.began + Duration::from_micros(time.saturating_sub(EPOCH))
    }
}
