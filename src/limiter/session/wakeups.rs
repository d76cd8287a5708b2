//! Hints from the store that a head of the session now fits. They are only hints: the session also
//! looks by itself.

use std::{fmt, sync::Weak};

use super::Session;
use crate::{
    store::{Hint, Listening},
    sync::{Mutex, lock},
};

/// The hints of a session, for as long as this lives.
pub(super) struct Wakeups {
    session: Weak<Session>,
    listening: Mutex<Asked>,
}

/// Whether the store was asked for hints, and what it answered.
#[derive(Debug)]
enum Asked {
    NotYet,
    Answered(Option<Listening>),
}

impl Wakeups {
    pub(super) fn new(session: Weak<Session>) -> Self {
        Self { session, listening: Mutex::new(Asked::NotYet) }
    }

    /// Whether hints arrive. Asks `listen` for them if that was not done yet; only the driver does,
    /// so that it is done once.
    pub(super) fn work(&self, listen: impl FnOnce(Hint) -> Option<Listening>) -> bool {
        let is_asked = !matches!(&*lock(&self.listening), Asked::NotYet);
        if !is_asked {
            // The store's code runs, with no lock held.
            let listening = listen(self.hint());
            *lock(&self.listening) = Asked::Answered(listening);
        }
        matches!(&*lock(&self.listening), Asked::Answered(Some(listening)) if listening.works())
    }

    /// Ends the hints: the session takes another name.
    pub(super) fn end(&self) {
        let ended = std::mem::replace(&mut *lock(&self.listening), Asked::NotYet);
        // The store's code runs, with no lock held.
        drop(ended);
    }

    fn hint(&self) -> Hint {
        let session = self.session.clone();
        Hint::new(move |bucket| {
            if let Some(session) = session.upgrade() {
                session.hinted(bucket);
            }
        })
    }
}

impl fmt::Debug for Wakeups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wakeups").field(&*lock(&self.listening)).finish()
    }
}
