//! The sessions of this process that want hints.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use super::{Hint, Listening};
use crate::sync::{Mutex, lock};

/// The hints of sessions, by session.
#[derive(Clone, Default)]
pub(super) struct LocalHints(Arc<Mutex<HashMap<u64, Hint>>>);

impl LocalHints {
    /// Hints for a session, until what is returned is dropped.
    pub(super) fn listen(&self, session: u64, hint: Hint) -> Listening {
        lock(&self.0).insert(session, hint);
        let guard = Registered { session, hints: self.clone() };
        Listening::new(Arc::new(AtomicBool::new(true)), guard)
    }

    /// Says that a head of a session may fit in `bucket`. Returns whether the session listens here.
    pub(super) fn hint(&self, session: u64, bucket: &str) -> bool {
        // The session's code runs, with no lock held.
        let hint = lock(&self.0).get(&session).cloned();
        if let Some(hint) = &hint {
            hint.call(bucket);
        }
        hint.is_some()
    }
}

#[cfg(feature = "sqlite")]
impl LocalHints {
    /// Whether a session listens here.
    pub(super) fn knows(&self, session: u64) -> bool {
        lock(&self.0).contains_key(&session)
    }
}

impl fmt::Debug for LocalHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.0).keys()).finish()
    }
}

/// Ends the hints of a session when dropped.
struct Registered {
    session: u64,
    hints: LocalHints,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.hints.0).remove(&self.session);
    }
}
