//! What a [`Limiter`] returns and refuses with: reserve, call, settle; without tower.

mod acquire;
mod bucket_handle;
mod bucket_set;
pub(crate) mod builder;
mod charge_watch;
mod context;
pub(crate) mod handle;
mod inner;
mod provider_feedback;
mod registry;
pub(crate) mod reservation;
mod reservation_id;
mod session;
mod settle;
mod state_loss;
mod status;
mod subject;
mod target;
mod tracked_stream;

pub use self::{
    builder::{LimiterBuilder, Retries},
    handle::Update,
    reservation_id::ReservationId,
    settle::Settling,
    status::{BucketInfo, QuotaStatus, Status, Waiting},
    tracked_stream::Tracked,
};
pub(crate) use self::{
    handle::Limiter,
    reservation::{Reservation, Settlement},
};
#[cfg(feature = "llm")]
pub(crate) use self::{provider_feedback::Origin, registry::Naming};
pub use crate::error::{BadDemand, Refusal, Shortage};
