//! What goes with a [`Quota`], and with the [`Usage`](crate::Usage) that it counts.

pub(crate) mod declaration;

pub use self::declaration::ChargeAt;
pub(crate) use self::declaration::{Meter, Quota, micros};
#[cfg(feature = "redis")]
pub(crate) use self::declaration::{QuotaNote, Resets};
pub use crate::usage::UsageIter;
