//! How calls are made.

use std::fmt;

/// How calls are held back, or not. Whatever it is, a refused call is made again: after the time
/// that the provider tells, or else after half a second and twice as long each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// Nothing is held back: calls are made, and again when they were refused.
    RetriesOnly,
    /// Each minute of a clock has its count. A call is counted with its `max_tokens`, and corrected
    /// when it ends if that is in the same window.
    FixedWindowCount,
    /// A token bucket for each limit. A call takes its `max_tokens`, and what it did not use is put
    /// back when it ends, as if it had never been taken.
    NaiveRefund,
    /// This crate, whose reservations are never settled: a call is charged its `max_tokens`.
    WithoutSettle,
    /// This crate: a call reserves its `max_tokens` and is settled on what it used.
    Bound,
    /// This crate: a call reserves what calls like it used
    /// ([`Output::Learned`](crate::llm::Output::Learned)), and is settled.
    Learned,
    /// This crate, told in advance what each call will use.
    Exact,
}

impl Strategy {
    /// Those that a program can follow, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::RetriesOnly,
        Self::FixedWindowCount,
        Self::NaiveRefund,
        Self::WithoutSettle,
        Self::Bound,
        Self::Learned,
    ];

    /// Returns its name: a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::RetriesOnly => "retries only",
            Self::FixedWindowCount => "fixed-window count",
            Self::NaiveRefund => "token bucket, naive refund",
            Self::WithoutSettle => "reserve without settle",
            Self::Bound => "tower-throttle",
            Self::Learned => "tower-throttle, learned",
            Self::Exact => "tower-throttle, exact",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
