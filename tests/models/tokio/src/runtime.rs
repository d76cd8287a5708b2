//! Runtimes that share shuttle's scheduler and can be shut down.

use std::{
    cell::RefCell,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shuttle::future::AbortHandle;
pub use shuttle::future::JoinHandle;

shuttle::thread_local! {
    /// The runtime of a task.
    static CURRENT: RefCell<Option<Handle>> = RefCell::new(None);
}

/// A runtime.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Mutex<Tasks>>);

/// The tasks of a runtime, until it is shut down.
#[derive(Debug)]
enum Tasks {
    Run(Vec<AbortHandle>),
    Ended,
}

/// There is no runtime.
#[derive(Debug)]
pub struct TryCurrentError(());

impl fmt::Display for TryCurrentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no runtime")
    }
}

impl Error for TryCurrentError {}

impl Default for Handle {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Tasks::Run(Vec::new()))))
    }
}

impl Handle {
    /// A new runtime.
    pub fn new() -> Self {
        Self::default()
    }

    /// The runtime of this task.
    ///
    /// # Errors
    /// There is none.
    pub fn try_current() -> Result<Self, TryCurrentError> {
        CURRENT.with(|current| current.borrow().clone()).ok_or(TryCurrentError(()))
    }

    /// Runs a future in the runtime. Where that was shut down the future is dropped.
    pub fn spawn<F>(&self, future: F) -> Option<JoinHandle<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        crate::point();
        if self.is_ended() {
            // Its destructors may use the runtime.
            drop(future);
            return None;
        }
        let runtime = self.clone();
        let task = shuttle::future::spawn(async move {
            CURRENT.with(|current| *current.borrow_mut() = Some(runtime));
            future.await
        });
        // It may have ended meanwhile.
        if !self.keep(task.abort_handle()) {
            task.abort();
        }
        Some(task)
    }

    /// Drops all tasks of the runtime, and whatever is spawned there from now on.
    pub fn shut_down(&self) {
        crate::point();
        let ended = std::mem::replace(&mut *self.tasks(), Tasks::Ended);
        if let Tasks::Run(tasks) = ended {
            tasks.iter().for_each(AbortHandle::abort);
        }
    }

    fn is_ended(&self) -> bool {
        matches!(*self.tasks(), Tasks::Ended)
    }

    fn keep(&self, task: AbortHandle) -> bool {
        match &mut *self.tasks() {
            Tasks::Run(tasks) => tasks.push(task),
            Tasks::Ended => return false,
        }
        true
    }

    /// Not held where shuttle may switch: this lock is none of its own.
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
