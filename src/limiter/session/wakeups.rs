//! Hints from the store that a head of the session now fits. They are only hints: the session also
//! looks by itself.

use crate::{
    store::Listening,
    sync::{Mutex, lock},
};

/// The hints of a session, for as long as this lives.
#[derive(Debug, Default)]
pub(super) struct Wakeups(Mutex<Asked>);

/// Whether the store was asked for hints, and what it answered.
#[derive(Debug, Default)]
enum Asked {
    #[default]
    NotYet,
    Answered(Option<Listening>),
}

impl Wakeups {
    /// Whether hints arrive. Asks for them with `listen` if that was not done yet; only the driver
    /// does, so that it is done once.
    pub(super) fn work(&self, listen: impl FnOnce() -> Option<Listening>) -> bool {
        let is_asked = !matches!(&*lock(&self.0), Asked::NotYet);
        if !is_asked {
            // The store's code runs, with no lock held.
            let listening = listen();
            *lock(&self.0) = Asked::Answered(listening);
        }
        matches!(&*lock(&self.0), Asked::Answered(Some(listening)) if listening.works())
    }

    /// Ends the hints: the session takes another name.
    pub(super) fn end(&self) {
        let ended = std::mem::take(&mut *lock(&self.0));
        // The store's code runs, with no lock held.
        drop(ended);
    }
}
