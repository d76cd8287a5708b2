//! Events of a limiter as `tracing` events.

use tracing::{debug, error, info, warn};

use super::{Event, Shadow};

/// Emits an event in the present span.
pub(super) fn emit(event: &Event<'_>) {
    match event {
        Event::WaitStarted { id, buckets, class, position, bucket, quota } => {
            debug!(id, %buckets, class, position, bucket, quota, "waiting for quota");
        }
        Event::LongWait { id, buckets, class, waited, position, bucket, quota, predicted } => {
            warn!(
                id,
                %buckets,
                class,
                ?waited,
                position,
                bucket,
                quota,
                ?predicted,
                "still waiting for quota"
            );
        }
        Event::Granted { id, buckets, class, waited, degraded, .. } => {
            debug!(id, %buckets, class, ?waited, degraded, "granted");
        }
        Event::Adjusted { id, buckets, class, actual, .. } => {
            debug!(id, %buckets, class, ?actual, "adjusted");
        }
        Event::Detached { id, buckets, class } => debug!(id, %buckets, class, "detached"),
        Event::Settled { id, buckets, class, actual, .. } => {
            debug!(id, %buckets, class, ?actual, "settled");
        }
        Event::Refused { id, buckets, class, error } => {
            debug!(id, %buckets, class, %error, "refused");
        }
        Event::Shadowed { id, buckets, class, shadow } => match shadow {
            Shadow::Wait { refusal, predicted } => {
                info!(id, %buckets, class, ?predicted, %refusal, "would have waited");
            }
            Shadow::Refuse { error } => {
                info!(id, %buckets, class, %error, "would have been refused");
            }
            Shadow::Fail { error } => info!(id, error, "no demand could be read"),
        },
        Event::Cancelled { id, buckets, class, waited } => {
            debug!(id, %buckets, class, ?waited, "cancelled");
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
