//! Settles calls by what their responses tell.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    call_estimate::CallEstimate,
    feedback::pauses,
    format::Format,
    rules::Rules,
    usage_reader::{FeedbackListener, UsageReader},
};
use crate::{
    error::Throttled,
    inspect::{CallError, Carrier, HasStatus, Inspector, never_connected},
    limiter::{Origin, Reservation, Settlement},
};

/// An [`Inspector`] that settles calls by a provider's [`Rules`]: see [`Rules::inspector`].
///
/// | response | is charged |
/// |---|---|
/// | a status that the rules name | what they say |
/// | another 4xx, but 408 and 499 | a request and no tokens, unless the rules say otherwise |
/// | JSON, or a stream to its end | the usage that it tells |
/// | a stream that breaks off or is dropped | what was reserved, or what was seen if that is more |
/// | a stream that tells of an error | what the rules say |
/// | no usage, an encoding that cannot be read, other content | what was reserved |
/// | none, since the connection, or another throttle inside, refused | nothing |
///
/// Bodies pass on unchanged and undelayed. Their bytes decide how they are read, not their content
/// type.
///
/// What responses say of limits holds back all that share the bucket: see [`Rules::feedback`]. A
/// refusal whose head asks for a wait and does not say of what is told when its body has ended or
/// was dropped, since the body may name the quota; until then nothing that it reserved is given
/// back.
#[derive(Clone, Debug)]
pub struct Inspect {
    rules: Arc<Rules>,
}

impl Rules {
    /// Makes the inspector that settles by these rules.
    #[must_use]
    pub fn inspector(&self) -> Inspect {
        Inspect { rules: Arc::new(self.clone()) }
    }
}

impl<R: Carrier + HasStatus> Inspector<R> for Inspect {
    type Inspected = R::Metered;

    fn inspect(&self, response: R, mut reservation: Reservation) -> R::Metered {
        let reserved = reservation.usage().clone();
        let status = response.status().as_u16();
        let head = self.rules.feedback_of_head(status, response.headers());
        let format = Format::of(response.headers());
        let mut origin = reservation.origin();
        if pauses(status) {
            origin = origin.map(Origin::of_refusal);
        }
        // The body may name what the wait is for. Until then nothing is given back, either.
        let held = (head.is_unnamed(status) && format != Format::Unreadable).then(Instant::now);
        let at_once = origin.as_ref().filter(|_| held.is_none());
        // Before anything is given back: another call must not take that and be refused too.
        drop(at_once.map(|origin| origin.wait(&head.feedback)));
        if status < 400 && head.feedback.wait.is_none() {
            // The body may take long: what waits behind a probe need not wait for its end.
            drop(reservation.answered());
        }
        let charge = self.rules.after_status(status);
        let mut settlement = charge.map(|charge| charge.settlement(&reserved, None));
        if let Some(settlement) = settlement.take_if(|_| held.is_none()) {
            reservation.conclude_early(&settlement);
        }
        // What a refused call gives back was not counted, and is not left besides.
        drop(at_once.map(|origin| origin.left(&head.feedback)));
        let estimate = reservation.note::<Arc<CallEstimate>>().cloned();
        if let Some(estimate) = estimate.as_ref().filter(|_| pauses(status)) {
            estimate.refused();
        }
        let is_permanent = head.feedback.is_permanent();
        let origin = origin.filter(|_| !is_permanent);
        let listener = origin.map(|origin| FeedbackListener { origin, status, head, held });
        response.metered(reservation, |response| {
            let mut reader = Box::new(UsageReader::new(self.rules.clone(), format));
            reader.read_for(reserved, estimate);
            reader.take_headers(&response.headers);
            reader.take_status(status);
            reader.settle_on(settlement);
            reader.tell_to(listener);
            reader
        })
    }

    fn failed(&self, error: CallError<'_>) -> Settlement {
        let error = error.get_ref();
        // Another throttle inside may have let nothing pass.
        match never_connected(error) || Throttled::find(error).is_some() {
            true => Settlement::Release,
            false => Settlement::Keep,
        }
    }
}
