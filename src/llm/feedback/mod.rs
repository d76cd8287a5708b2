//! What responses say of limits, read from their status, their headers and the errors in their
//! bodies.

pub(crate) mod error_report;
pub(crate) mod header_spec;
mod time;
mod words;

use std::time::Duration;

use http::{HeaderMap, header::RETRY_AFTER};

use self::{
    error_report::{ErrorReport, is_transient},
    header_spec::{Reading, text},
    time::Clock,
};
use super::rules::Rules;
use crate::feedback::{Feedback, Left, Named, Wait};

/// A longer wait counts only if no other is told.
const LONGEST_PLAUSIBLE: Duration = Duration::from_secs(31 * 86_400);
/// The header in which AWS names an error.
const ERROR_NAME: &str = "x-amzn-errortype";

/// What the head of a response says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HeadFeedback {
    pub(super) feedback: Feedback,
    /// The quota that the refusal is about, if the headers name one.
    of: Option<Named>,
    /// The headers name an error that passes.
    names_transient: bool,
    clock: Clock,
}

impl Rules {
    /// Reads the status and the headers of a response.
    pub(super) fn feedback_of_head(&self, status: u16, headers: &HeaderMap) -> HeadFeedback {
        let clock = Clock::of(headers);
        let readings = self.readings(status, headers, clock);
        let of = only(readings.iter().filter_map(|reading| reading.exhausted.clone()));
        let of = of.filter(|_| status == 429);
        let reset = only(readings.iter().filter_map(|reading| reading.reset_alone.clone()));
        let says = |name: &str| headers.get(name).and_then(text);
        let names_transient = status >= 400 && says(ERROR_NAME).is_some_and(is_transient);
        let never = || says("x-should-retry") == Some("false");
        let is_off_plan = readings.iter().any(|reading| reading.is_zero);
        let permanent = status == 402 || is_off_plan || is_refusal(status) && never();
        let left: Vec<Left> = readings.into_iter().filter_map(|reading| reading.left).collect();

        let time = if is_refusal(status) { retry_after(headers, clock) } else { None };
        let (of, time) = match (of, time, reset) {
            (None, time, Some((of, reset))) => (Some(of), time.max(Some(reset))),
            (of, time, _) => (of, time),
        };
        let wait = time.map(|time| Wait { of: of.clone(), time });
        HeadFeedback { feedback: Feedback { left, wait, permanent }, of, names_transient, clock }
    }

    fn readings(&self, status: u16, headers: &HeaderMap, clock: Clock) -> Vec<Reading> {
        let specs = self.headers().iter();
        let readings = specs.map(|spec| spec.read(headers, clock, status == 429));
        readings.filter(|reading| *reading != Reading::default()).collect()
    }

    /// Reads what an error in a body says beyond the head: its wait is longer, or the head told
    /// none.
    pub(super) fn feedback_of_body(
        &self,
        status: u16,
        head: &HeadFeedback,
        error: Option<&ErrorReport>,
    ) -> Feedback {
        let mut feedback = Feedback::new();
        let Some(error) = error else {
            feedback.wait = self.wait(status, head, &ErrorReport::default());
            return feedback;
        };
        let window = error.of.as_ref().and_then(|of| of.window);
        let readings = self.readings(429, &error.headers, head.clock).into_iter();
        feedback.left = readings.filter_map(|reading| reading.left).collect();
        // Words tell the window better than the time to a reset does.
        let left = feedback.left.iter_mut().filter(|_| window.is_some());
        left.for_each(|left| left.of.window = window);
        feedback.permanent = error.permanent;
        if !error.permanent {
            feedback.wait = self.wait(status, head, error);
        }
        feedback
    }

    fn wait(&self, status: u16, head: &HeadFeedback, error: &ErrorReport) -> Option<Wait> {
        let told = head.feedback.wait.as_ref();
        let passes = head.passes(status) || error.transient;
        let delay = error.delay.filter(|_| passes || is_refusal(status));
        let default = || (passes && told.is_none()).then_some(self.default_pause);
        let time = delay.or_else(default)?;
        let is_longer = told.is_none_or(|told| told.time < time);
        is_longer.then(|| Wait { of: error.of.clone().or_else(|| head.of.clone()), time })
    }

    /// Reads a whole response.
    pub(super) fn feedback_of_whole(
        &self,
        status: u16,
        head: HeadFeedback,
        error: Option<&ErrorReport>,
    ) -> Feedback {
        let body = self.feedback_of_body(status, &head, error);
        let mut feedback = head.feedback;
        feedback.permanent |= body.permanent;
        feedback.left.extend(body.left);
        feedback.wait = body.wait.or(feedback.wait);
        if let Some(wait) = &mut feedback.wait {
            wait.of = wait.of.take().or_else(|| error?.of.clone());
        }
        feedback
    }
}

impl HeadFeedback {
    /// True if nothing is sent for a while, whatever the body says.
    pub(super) fn passes(&self, status: u16) -> bool {
        pauses(status) || self.names_transient
    }

    /// True if a refusal asks for a wait and does not say of what: its body may.
    pub(super) fn is_unnamed(&self, status: u16) -> bool {
        let wait = self.feedback.wait.as_ref();
        is_refusal(status) && !self.feedback.permanent && wait.is_some_and(|wait| wait.of.is_none())
    }
}

/// The only item, if there is but one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}

/// True for statuses that ask for less, or may.
fn is_refusal(status: u16) -> bool {
    pauses(status) || status == 503
}

/// True for statuses after which nothing is sent for a while, whatever else is said.
pub(super) fn pauses(status: u16) -> bool {
    matches!(status, 429 | 529)
}

/// The longest wait of those that are told. Zero, a time that has passed and what is no time are
/// not told.
fn retry_after(headers: &HeaderMap, clock: Clock) -> Option<Duration> {
    let told = |name: &str| {
        headers.get_all(name).iter().filter_map(|value| clock.read(text(value)?)?.ahead())
    };
    let millis =
        told("retry-after-ms").chain(told("x-ms-retry-after-ms")).map(|seconds| seconds / 1_000);
    let waits: Vec<_> = millis.chain(told(RETRY_AFTER.as_str())).collect();
    let plausible = waits.iter().copied().filter(|wait| *wait <= LONGEST_PLAUSIBLE).max();
    plausible.or_else(|| waits.into_iter().max())
}
