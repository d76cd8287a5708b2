//! Notifications and channels.

use std::fmt;

pub use tokio::sync::futures;
use tokio::sync::futures::Notified;

use crate::point;

/// Tokio's, with a point to switch at before each notification.
#[derive(Debug, Default)]
pub struct Notify(tokio::sync::Notify);

impl Notify {
    /// Without a permit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes one task, or the next one to wait.
    pub fn notify_one(&self) {
        point();
        self.0.notify_one();
    }

    /// Wakes those that wait now.
    pub fn notify_waiters(&self) {
        point();
        self.0.notify_waiters();
    }

    /// Waits for a notification.
    pub fn notified(&self) -> Notified<'_> {
        point();
        self.0.notified()
    }
}

/// A channel for one value.
pub mod oneshot {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    pub use tokio::sync::oneshot::error;

    use super::*;

    /// The end that sends.
    pub struct Sender<T>(tokio::sync::oneshot::Sender<T>);

    /// The end that receives.
    pub struct Receiver<T>(tokio::sync::oneshot::Receiver<T>);

    /// Both ends.
    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Sender(sender), Receiver(receiver))
    }

    impl<T> Sender<T> {
        /// Sends the value.
        ///
        /// # Errors
        /// The receiver is closed: the value itself.
        pub fn send(self, value: T) -> Result<(), T> {
            point();
            self.0.send(value)
        }

        /// True if the receiver is closed.
        pub fn is_closed(&self) -> bool {
            point();
            self.0.is_closed()
        }
    }

    impl<T> Receiver<T> {
        /// Refuses what was not sent yet.
        pub fn close(&mut self) {
            point();
            self.0.close();
        }

        /// The value, if it was sent.
        ///
        /// # Errors
        /// It was not sent yet, or will not be.
        pub fn try_recv(&mut self) -> Result<T, error::TryRecvError> {
            point();
            self.0.try_recv()
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, error::RecvError>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            point();
            Pin::new(&mut self.0).poll(context)
        }
    }

    impl<T> fmt::Debug for Sender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Sender")
        }
    }

    impl<T> fmt::Debug for Receiver<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Receiver")
        }
    }
}
