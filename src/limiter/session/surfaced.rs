//! Pauses that are not to be waited out, as an answer told them: what they hold back is refused.

use smallvec::SmallVec;

use super::waiter::{Ask, LineId};
use crate::{engine::Violation, error::Throttled};

/// Pauses that are not to be waited out.
#[derive(Debug, Default)]
pub(super) struct Surfaced(Vec<(LineId, Violation)>);

impl Surfaced {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes those among the reasons for which a demand was refused.
    pub(super) fn note(&mut self, ask: &Ask, violations: &[Violation]) {
        for violation in violations.iter().filter(|violation| violation.asked.is_some()) {
            if let Some(id) = LineId::of(ask.set(), violation.by)
                && self.0.iter().all(|(other, _)| *other != id)
            {
                self.0.push((id, *violation));
            }
        }
    }

    /// Why a waiter is refused, if they hold it back.
    pub(super) fn refusal_of(&self, ask: &Ask) -> Option<Throttled> {
        let held_back = self.0.iter().filter(|(id, _)| id.holds_back(ask));
        let violations = held_back.filter_map(|(id, violation)| {
            Some(Violation { by: id.refuses_by(ask.set())?, ..*violation })
        });
        ask.refused(&violations.collect::<SmallVec<[Violation; 2]>>())
    }
}
