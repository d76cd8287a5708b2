//! Whether the server answers commands, for what tries to reach it by another connection: once
//! commands are answered again there is no reason to wait any longer.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The end of an outage.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// The last command found no server.
    failing: AtomicBool,
    recovered: Notify,
}

impl Recovery {
    /// A command found no server.
    pub(super) fn failed(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// A command was answered.
    pub(super) fn answered(&self) {
        // Nearly always there was no outage.
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            self.recovered.notify_one();
        }
    }

    /// Waits for the first answer after an outage, be it one that was not waited for.
    pub(super) async fn recovers(&self) {
        self.recovered.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_first_answer_after_an_outage_ends_it_once() {
        let recovery = Recovery::default();
        let has_recovered = || recovery.recovers().now_or_never().is_some();
        recovery.answered();
        assert!(!has_recovered(), "it answered all the time");
        recovery.failed();
        assert!(!has_recovered());
        recovery.answered();
        recovery.answered();
        assert!(has_recovered() && !has_recovered());
    }
}
