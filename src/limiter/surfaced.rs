//! Pauses that nobody waits out, as a batch came upon them: whoever waits for what they hold back is refused with those
//! that travelled.

use smallvec::SmallVec;

use super::queue::Ask;
use crate::{
    engine::{RefusedBy, Violation},
    error::Throttled,
};

#[derive(Debug, Default)]
pub(super) struct Surfaced(SmallVec<[Violation; 1]>);

impl Surfaced {
    /// Takes note of what refused a demand.
    pub(super) fn note(&mut self, violations: &[Violation]) {
        for violation in violations.iter().filter(|violation| violation.asked.is_some()) {
            if self.0.iter().all(|known| known.by != violation.by) {
                self.0.push(*violation);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The refusal of a demand that they hold back.
    pub(super) fn refuses(&self, ask: &Ask) -> Option<Throttled> {
        let holds_back = |violation: &&Violation| match violation.by {
            RefusedBy::Pause(_) => true,
            RefusedBy::Rule(index) => ask.costs.get(index).is_some_and(|cost| *cost > 0),
        };
        let violations: SmallVec<[_; 1]> = self.0.iter().filter(holds_back).copied().collect();
        if violations.is_empty() { None } else { ask.refused(&violations) }
    }
}
