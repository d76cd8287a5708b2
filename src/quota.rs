//! What goes with a [`Quota`], and with the [`Usage`](crate::Usage) that it counts.

pub(crate) mod declaration;

pub use self::declaration::ChargeAt;
#[cfg(feature = "redis")]
pub(crate) use self::declaration::{MAX_SLOTS, QuotaNote, Resets};
pub(crate) use self::declaration::{Meter, Quota, micros};
pub use crate::usage::UsageIter;
