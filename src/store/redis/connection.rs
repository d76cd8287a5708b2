//! Ways to send a command: a connection of the user's, or one that is replaced whenever it is in
//! doubt. They know nothing of buckets.

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use futures_util::future::{FutureExt, Shared};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Value, aio::ConnectionLike};

use super::error::{lost_reply, spoils_connection};
use crate::sync::{Mutex, lock};

/// An attempt to connect that takes longer than this has failed.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Commands that are sent at once.
pub(super) enum Commands {
    /// An error that the server says to it is one.
    One(Cmd),
    /// They only read. An error that the server says to one of them is a value.
    Reading(Pipeline),
}

impl Commands {
    pub(super) async fn send<C: ConnectionLike>(&self, on: &mut C) -> RedisResult<Vec<Value>> {
        match self {
            Self::One(command) => Ok(vec![on.req_packed_command(command).await?.extract_error()?]),
            Self::Reading(commands) => on.req_packed_commands(commands, 0, commands.len()).await,
        }
    }
}

/// Sends commands to a server.
pub(super) trait Connection: Send + Sync {
    fn send(self: Arc<Self>, commands: Commands) -> BoxFuture<RedisResult<Vec<Value>>>;

    /// Where the server is, for messages; empty if that is not known.
    fn server(&self) -> &str {
        ""
    }
}

/// Sends one command. Returns its reply as what that is to be.
pub(super) async fn query<T: FromRedisValue>(
    to: &Arc<dyn Connection>,
    command: Cmd,
) -> RedisResult<T> {
    let mut replies = to.clone().send(Commands::One(command)).await?;
    Ok(redis::from_redis_value(replies.pop().unwrap_or(Value::Nil))?)
}

/// A connection of the user's.
pub(super) struct Own<C>(pub(super) C);

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Connection for Own<C> {
    fn send(self: Arc<Self>, commands: Commands) -> BoxFuture<RedisResult<Vec<Value>>> {
        let mut connection = self.0.clone();
        async move { commands.send(&mut connection).await }.boxed()
    }
}

/// One connection for all commands, made on demand. It is replaced after an error that puts it in
/// doubt, and after a caller stopped waiting for a reply: most likely because none came in time.
/// Replies that are still pending then stay with the connection they belong to.
pub(super) struct Reconnecting<C> {
    connect: Arc<dyn Fn() -> BoxFuture<RedisResult<C>> + Send + Sync>,
    server: String,
    current: Mutex<Option<Link<C>>>,
}

/// A connection, or the attempt to make it, for which all commands wait that come meanwhile.
type Link<C> = Shared<BoxFuture<RedisResult<C>>>;

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Reconnecting<C> {
    /// Connections that `connect` makes, to the server of this name.
    pub(super) fn new<F>(server: String, connect: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = RedisResult<C>> + Send + 'static,
    {
        Self { connect: Arc::new(move || connect().boxed()), server, current: Mutex::new(None) }
    }

    /// Makes the connection if there is none.
    pub(super) async fn connect(&self) -> RedisResult<()> {
        self.connection(&self.link()).await.map(drop)
    }

    fn link(&self) -> Link<C> {
        let link = self.current_or_new();
        // An attempt may have failed long ago, when no command waited for it any more.
        if link.peek().is_none() {
            let _ = link.clone().now_or_never();
        }
        if link.peek().is_some_and(RedisResult::is_err) {
            self.discard(&link);
            return self.current_or_new();
        }
        link
    }

    fn current_or_new(&self) -> Link<C> {
        lock(&self.current).get_or_insert_with(|| self.new_link()).clone()
    }

    fn new_link(&self) -> Link<C> {
        let connect = self.connect.clone();
        // A task of its own: it goes on while callers that wait for it come and go.
        let connecting = tokio::spawn(async move {
            let late = |_| broken(io::ErrorKind::TimedOut, "no connection in time");
            tokio::time::timeout(CONNECT_WITHIN, connect()).await.map_err(late)?
        });
        let connection = async {
            let ended =
                |_| broken(io::ErrorKind::ConnectionAborted, "the task that connects was ended");
            connecting.await.map_err(ended)?
        };
        connection.boxed().shared()
    }

    async fn connection(&self, link: &Link<C>) -> RedisResult<C> {
        let connected = link.clone().await;
        if connected.is_err() {
            self.discard(link);
        }
        connected
    }

    async fn send_on(&self, link: &Link<C>, commands: &Commands) -> RedisResult<Vec<Value>> {
        let mut connection = self.connection(link).await?;
        let mut doubt = Unproved { of: self, link, proved: false };
        let result = commands.send(&mut connection).await;
        doubt.proved = !result.as_ref().is_err_and(spoils_connection);
        result
    }
}

impl<C> Reconnecting<C> {
    fn discard(&self, link: &Link<C>) {
        let mut current = lock(&self.current);
        if current.as_ref().is_some_and(|current| current.ptr_eq(link)) {
            *current = None;
        }
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Connection for Reconnecting<C> {
    fn send(self: Arc<Self>, commands: Commands) -> BoxFuture<RedisResult<Vec<Value>>> {
        async move {
            let link = self.link();
            let idle_before = link.peek().is_some();
            match self.send_on(&link, &commands).await {
                // A connection that was closed while it was idle is no reason to fail. Should the
                // command have arrived all the same: a batch is applied once.
                Err(error) if idle_before && lost_reply(&error) => {
                    self.send_on(&self.link(), &commands).await
                }
                result => result,
            }
        }
        .boxed()
    }

    fn server(&self) -> &str {
        &self.server
    }
}

/// Discards a connection when dropped, unless it proved good: also when the caller stops waiting
/// for a reply.
struct Unproved<'a, C> {
    of: &'a Reconnecting<C>,
    link: &'a Link<C>,
    proved: bool,
}

impl<C> Drop for Unproved<'_, C> {
    fn drop(&mut self) {
        if !self.proved {
            self.of.discard(self.link);
        }
    }
}

fn broken(kind: io::ErrorKind, message: &str) -> RedisError {
    io::Error::new(kind, message).into()
}
