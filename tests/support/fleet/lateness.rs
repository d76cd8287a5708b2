//! How late the machine is, so that a test can tell it from what is under test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{micros_of, ms};

/// From the order of a test to what it sees the time goes through so many processes and timers.
const HOPS: u32 = 4;

/// Measures how late the machine is with a thread that is due every millisecond.
pub struct Lateness {
    most: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Lateness {
    /// Measures until the value is dropped.
    pub fn watch() -> Self {
        let (most, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (noted, ends) = (most.clone(), is_over.clone());
        thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let asleep = Instant::now();
                thread::sleep(ms(1));
                let late = asleep.elapsed().saturating_sub(ms(1));
                noted.fetch_max(micros_of(late), Ordering::Relaxed);
            }
        });
        Self { most, is_over }
    }

    /// By how much anything may be late for which the machine is to blame, so far.
    pub fn so_far(&self) -> Duration {
        HOPS * Duration::from_micros(self.most.load(Ordering::Relaxed))
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
