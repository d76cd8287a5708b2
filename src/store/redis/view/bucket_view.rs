//! How a bucket stands, what waits for it, and which processes use it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::quota_view::QuotaView;
use crate::store::BucketKey;

/// How a bucket stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BucketView {
    /// Its partition and name.
    pub key: Arc<BucketKey>,
    /// When this was, by the server's clock.
    pub at: SystemTime,
    /// Its quotas, as the process declared them that used it last.
    pub quotas: Vec<QuotaView>,
    /// How many demands wait for it, of all processes, as of their last batches.
    pub waiting: u64,
    /// Time until a demand would start that comes now and asks for one of everything that the
    /// quotas count; nothing if that depends on calls in flight.
    pub predicted: Option<Duration>,
    /// Until when it is paused.
    pub paused_until: Option<SystemTime>,
    /// Until when a provider asked to wait, if that is longer than the pause.
    pub asked_until: Option<SystemTime>,
    /// How many demands were granted since the state began.
    pub granted: u64,
    /// How many looks at a demand found no room since then. A demand that is refused counts once;
    /// one that waits counts whenever it is looked at and does not fit.
    pub looks_refused: u64,
    /// When the state began.
    pub since: SystemTime,
    /// When a process used it last.
    pub used: SystemTime,
}

impl BucketView {
    /// Returns the quota of this name.
    pub fn quota(&self, name: &str) -> Option<&QuotaView> {
        self.quotas.iter().find(|quota| *quota.name == *name)
    }
}

/// How a bucket stands, what waits for it, and which processes use it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BucketDetail {
    /// How it stands.
    pub bucket: BucketView,
    /// What waits, in the order in which it came.
    pub queue: Vec<QueuedView>,
    /// The sessions of processes that used it in the last ten minutes, and detached reservations.
    pub sessions: Vec<SessionView>,
}

/// The front of those that wait in one process for one quota, of one class and share.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueuedView {
    /// Identifies the session.
    pub session: u64,
    /// The quota that it waits for.
    pub quota: Arc<str>,
    /// The part of the limit that its class leaves to others.
    pub headroom: f64,
    /// Identifies its share, if it has one. It is a number made from the share's name.
    pub share: Option<u64>,
    /// When the first one came; with a head start, earlier than it did.
    pub arrived: SystemTime,
    /// What the first one asks of the quota.
    pub cost: u64,
    /// How many wait there.
    pub count: u64,
    /// What all of them ask.
    pub sum: u64,
    /// Its process has not come back in time: others pass it.
    pub is_late: bool,
}

/// What a bucket knows of a session of a process, or of a detached reservation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SessionView {
    /// Identifies it.
    pub id: u64,
    /// It is a detached reservation.
    pub is_detached: bool,
    /// How long its lease lasts from now on; nothing if that has ended.
    pub lease: Option<Duration>,
    /// What it has in flight, by quota.
    pub in_flight: Vec<(Arc<str>, u64)>,
}
