//! Events of a limiter as `tracing` events.

use tracing::{debug, error, info, warn};

use super::{Event, Shadow};

/// Emits an event in the present span.
pub(super) fn emit(event: &Event<'_>) {
    match event {
        Event::WaitStarted { id, buckets, class, share, position, bucket, quota } => {
            debug!(id, %buckets, class, share, position, bucket, quota, "waiting for quota");
        }
        Event::LongWait {
            id,
            buckets,
            class,
            share,
            waited,
            position,
            bucket,
            quota,
            predicted,
        } => {
            warn!(
                id,
                %buckets,
                class, share,
                ?waited,
                position,
                bucket,
                quota,
                ?predicted,
                "still waiting for quota"
            );
        }
        Event::Granted { id, buckets, class, share, waited, degraded, .. } => {
            debug!(id, %buckets, class, share, ?waited, degraded, "granted");
        }
        Event::Adjusted { id, buckets, class, share, actual, .. } => {
            debug!(id, %buckets, class, share, ?actual, "adjusted");
        }
        Event::Detached { id, buckets, class, share } => {
            debug!(id, %buckets, class, share, "detached")
        }
        Event::Settled { id, buckets, class, share, actual, .. } => {
            debug!(id, %buckets, class, share, ?actual, "settled");
        }
        Event::Refused { id, buckets, class, share, error } => {
            debug!(id, %buckets, class, share, %error, "refused");
        }
        Event::Shadowed { id, buckets, class, share, shadow } => match shadow {
            Shadow::Wait { refusal, predicted } => {
                info!(id, %buckets, class, share, ?predicted, %refusal, "would have waited");
            }
            Shadow::Refuse { error } => {
                info!(id, %buckets, class, share, %error, "would have been refused");
            }
            Shadow::Fail { error } => info!(id, error, "no demand could be read"),
        },
        Event::Cancelled { id, buckets, class, share, waited } => {
            debug!(id, %buckets, class, share, ?waited, "cancelled");
        }
        Event::Paused { bucket, quota, asked, applied } if applied < asked => {
            warn!(
                bucket,
                quota,
                ?asked,
                ?applied,
                "the provider said to wait, for longer than `longest_pause`"
            );
        }
        Event::Paused { bucket, quota, applied, .. } => {
            info!(bucket, quota, ?applied, "the provider said to wait");
        }
        Event::NeverCharged { bucket, quota, demands } => {
            warn!(bucket, quota, demands, "no demand has charged this quota");
        }
        Event::StateLost { bucket } => warn!(bucket, "the store has lost the state of a bucket"),
        Event::Degraded { error } => error!(%error, "degraded"),
        Event::Recovered => info!("recovered"),
        Event::DroppedDegraded => debug!("dropped while degraded"),
    }
}
