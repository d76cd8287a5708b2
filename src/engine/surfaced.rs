//! A wait that a provider asked for and that is longer than anybody is to sleep. The pause for it is shorter, and whoever
//! it holds back is refused at once.

use super::Micros;

/// What makes a pause one that nobody waits out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surfaced {
    /// For as long as this; the pause lasts no less.
    until: Micros,
    /// The end of the wait that was asked for.
    asked_until: Micros,
}

impl Surfaced {
    /// A wait never shortens another that is not over.
    pub(crate) fn surface(&mut self, until: Micros, asked_until: Micros, now: Micros) {
        if self.until <= now {
            *self = Self::default();
        }
        self.until = self.until.max(until);
        self.asked_until = self.asked_until.max(asked_until);
    }

    /// What is left of the wait that was asked for. Nothing, if the pause until `paused_until` is one to wait out: because
    /// this is over, or since the pause lasts as long as was asked.
    pub(crate) fn asked(&self, paused_until: Micros, now: Micros) -> Option<Micros> {
        let refuses = self.until > now && self.asked_until > paused_until;
        refuses.then(|| self.asked_until.saturating_sub(now))
    }
}
