//! Share an API's rate limits between tasks, processes and machines.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod calendar;
mod demand;
pub mod engine;
mod error;
mod limiter;
mod limits;
mod observe;
mod quota;
pub mod store;
mod usage;

pub use demand::Demand;
pub use error::{BadDemand, BoxError, Refusal, Shortage, Throttled};
pub use limiter::{
    Limiter, LimiterBuilder, OnUnavailable, QuotaStatus, Reservation, ReservationId, Retries, Settlement,
    Settling, Status, Tracked,
};
pub use limits::{Limits, LimitsError, Undeclared};
pub use observe::{Event, Observer};
pub use quota::{ChargeAt, Quota};
pub use store::{MemoryStore, Store};
pub use usage::Usage;
