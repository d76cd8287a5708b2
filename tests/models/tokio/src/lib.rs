//! What the crate uses of tokio, for models: shuttle schedules the tasks, time stands still unless
//! a model lets it pass, and a runtime can be shut down at any point.
//!
//! Channels and notifications are tokio's own, which its maintainers check. They are single steps
//! here, and shuttle may switch to another task before each.

pub mod runtime;
pub mod sync;
pub mod time;

/// Tasks.
pub mod task {
    pub use shuttle::future::yield_now;
}

/// Shuttle may switch to another task here.
fn point() {
    use shuttle::sync::atomic::{AtomicBool, Ordering};
    AtomicBool::new(false).load(Ordering::SeqCst);
}
