//! Share an API's rate limits between tasks, processes and machines.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod calendar;
mod demand;
pub mod engine;
mod error;
mod extract;
mod future;
pub mod inspect;
mod layer;
mod limiter;
mod limits;
mod observe;
mod quota;
#[cfg(feature = "reqwest")]
mod reqwest_response;
mod respond;
#[cfg(feature = "routes")]
mod routes;
mod service;
pub mod store;
mod usage;

pub use body::MeteredBody;
pub use demand::Demand;
pub use error::{BadDemand, BoxError, Refusal, Shortage, Throttled};
pub use extract::Extractor;
pub use future::ResponseFuture;
pub use inspect::Inspector;
pub use layer::ThrottleLayer;
pub use limiter::{
    Limiter, LimiterBuilder, OnUnavailable, QuotaStatus, Reservation, ReservationId, Retries, Settlement,
    Settling, Status, Tracked,
};
pub use limits::{Limits, LimitsError, Undeclared};
pub use observe::{Event, Observer};
pub use quota::{ChargeAt, Quota};
pub use respond::{Respond, RespondFuture, RespondLayer};
#[cfg(feature = "routes")]
pub use routes::{Route, RouteError, Routes, RoutesBuilder, RoutesError};
pub use service::Throttle;
pub use store::{MemoryStore, Store};
pub use usage::Usage;
