//! The error of a failed call, in a form that closures of spawned services can take.

use std::{error::Error, fmt, ops::Deref};

/// The error of a call that failed without a response.
///
/// It dereferences to the error: `is`, `downcast_ref`, `to_string` and `source` work as they do
/// there. A closure that took a `&dyn Error` instead could not be spawned ("`FnOnce` is not general
/// enough").
///
/// ```
/// use tower_throttle::{Settlement, inspect::{self, CallError}};
///
/// fn was_reset(error: CallError<'_>) -> Option<Settlement> {
///     let error = error.downcast_ref::<std::io::Error>()?;
///     (error.kind() == std::io::ErrorKind::ConnectionReset).then_some(Settlement::Release)
/// }
///
/// let inspector = inspect::on_failure(inspect::KeepReserved, was_reset);
/// ```
#[derive(Clone, Copy)]
pub struct CallError<'e>(&'e (dyn Error + Send + Sync + 'static));

impl<'e> CallError<'e> {
    /// Wraps an error, as the layer does before it asks an inspector.
    pub fn new(error: &'e (dyn Error + Send + Sync + 'static)) -> Self {
        Self(error)
    }

    /// Returns the error, for as long as it is borrowed.
    pub fn get_ref(self) -> &'e (dyn Error + Send + Sync + 'static) {
        self.0
    }
}

impl Deref for CallError<'_> {
    type Target = dyn Error + Send + Sync + 'static;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl fmt::Debug for CallError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for CallError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)
    }
}
