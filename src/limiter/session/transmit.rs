//! One batch to the store: time-out, retries, and calendars that have to be looked up again.

use tokio::time::{Instant, sleep, timeout};

use super::{Session, batch::Batch};
use crate::{
    engine::{Answer, Outcome},
    error::Throttled,
    observe::StoreBatch,
    store::{Reply, StoreError},
};

/// A calendar that does not reach to the store's present after so many looks at it never will.
pub(super) const MAX_CHARTS: u32 = 2;

/// Sends a batch until it is answered or there is no point in going on.
pub(super) async fn transmit(session: &Session, batch: &mut Batch) -> Result<Answer, StoreError> {
    let (context, mut failed, mut charted) = (session.context(), 0, 0);
    let options = context.options();
    // While the store is known to be down, one attempt tells whether it still is.
    let retries = if session.health.is_degraded() { 0 } else { options.retries.max };
    loop {
        let reply = context.store().apply(&session.as_sent(batch));
        let result = match reply {
            Reply::Now(answer) => Ok(answer),
            // There may be no runtime to wait in.
            Reply::Later(_) if context.in_process() => {
                Err(StoreError::Rejected("a store in this process has to reply at once".into()))
            }
            Reply::Later(answer) => {
                let began = Instant::now();
                let result = timeout(options.attempt_timeout, answer).await.unwrap_or_else(|_| {
                    let error = format!("no answer within {:?}", options.attempt_timeout);
                    Err(StoreError::Unavailable(error.into()))
                });
                context.tell_batch(|| StoreBatch {
                    took: began.elapsed(),
                    operations: batch.ops().len(),
                    buckets: batch.buckets().as_slice().len(),
                    error: result.as_ref().err(),
                });
                result
            }
        };
        match result {
            Ok(Answer { wall, outcome: Outcome::Uncharted }) if charted < MAX_CHARTS => {
                charted += 1;
                batch.chart(wall);
            }
            Err(StoreError::Unavailable(_)) if failed < retries => {
                batch.doubt(session.clock.now());
                sleep(options.retries.pause(failed)).await;
                failed += 1;
            }
            result => return result,
        }
    }
}

/// What is told of a batch that can never be answered.
pub(super) fn unanswerable() -> Throttled {
    let error = "the store is not in a state to answer: it knows a later batch of this session \
                 (was it restored from a copy?), or its clock is beyond all calendars";
    Throttled::Store(StoreError::Rejected(error.into()).into())
}
