//! A connection to a cluster that is replaced when a node does not reply. It knows nothing of
//! buckets.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::FutureExt;
use redis::{RedisResult, Value, aio::ConnectionLike};
use tokio::runtime::Handle;

use super::{
    connection::{BoxFuture, Commands, Connection},
    error::spoils_connection,
};
use crate::sync::{Mutex, lock};

/// A connection to a cluster. Another one is made whenever a node does not reply in time: redis-rs
/// looks for a new master only when a node says so, which one that hangs does not. Until the other
/// one is there this one goes on to serve what other nodes have.
pub(super) struct Renewing<C> {
    connect: Box<dyn Fn() -> BoxFuture<RedisResult<C>> + Send + Sync>,
    current: Mutex<C>,
    is_renewing: AtomicBool,
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Renewing<C> {
    /// Uses a connection, and then others that `connect` makes.
    pub(super) fn new<F>(current: C, connect: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = RedisResult<C>> + Send + 'static,
    {
        let connect = Box::new(move || connect().boxed());
        Self { connect, current: Mutex::new(current), is_renewing: AtomicBool::new(false) }
    }

    /// Awaits a reply. Also if the caller stops waiting for it the connection is renewed.
    async fn proved<T>(
        self: Arc<Self>,
        reply: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let mut doubt = RenewOnDrop(Some(self));
        let result = reply.await;
        if !result.as_ref().is_err_and(spoils_connection) {
            doubt.0 = None;
        }
        result
    }

    fn renew(self: Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.is_renewing.swap(true, Ordering::Relaxed) {
            return;
        }
        let renewal = Renewal(self);
        runtime.spawn(async move {
            // Without one it is tried again when the next reply does not come.
            if let Ok(connection) = (renewal.0.connect)().await {
                *lock(&renewal.0.current) = connection;
            }
        });
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Connection for Renewing<C> {
    fn send(self: Arc<Self>, commands: Commands) -> BoxFuture<RedisResult<Vec<Value>>> {
        let mut connection = lock(&self.current).clone();
        self.proved(async move { commands.send(&mut connection).await }).boxed()
    }
}

/// Renews a connection when dropped, unless it proved good.
struct RenewOnDrop<C: ConnectionLike + Clone + Send + Sync + 'static>(Option<Arc<Renewing<C>>>);

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Drop for RenewOnDrop<C> {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.renew();
        }
    }
}

/// The attempt to renew a connection, which ends when dropped: also if its runtime does.
struct Renewal<C>(Arc<Renewing<C>>);

impl<C> Drop for Renewal<C> {
    fn drop(&mut self) {
        self.0.is_renewing.store(false, Ordering::Relaxed);
    }
}
