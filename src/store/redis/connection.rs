//! Ways to a server. [`Reconnecting`] is our own: one multiplexed connection, replaced whenever it is in doubt.
//! It knows nothing of buckets.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::{FutureExt, Shared};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use super::error::spoils_connection;

/// A connection that is not there after this long is given up.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// A caller without a bound of its own does not wait longer than this for a reply.
const REPLY_WITHIN: Duration = Duration::from_secs(30);

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends commands to a server.
pub(super) trait Connection: Send + Sync {
    fn query(self: Arc<Self>, cmd: Cmd) -> BoxFuture<RedisResult<Value>>;

    /// Where the server is, for messages; empty if that is not known.
    fn server(&self) -> &str;
}

/// A connection of the user's.
pub(super) struct Own<C>(pub(super) C);

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Connection for Own<C> {
    fn query(self: Arc<Self>, cmd: Cmd) -> BoxFuture<RedisResult<Value>> {
        let mut connection = self.0.clone();
        async move { connection.req_packed_command(&cmd).await?.extract_error() }.boxed()
    }

    fn server(&self) -> &str {
        ""
    }
}

/// One multiplexed connection, made on demand. It is replaced after an error that puts it in doubt, and after a
/// caller stopped waiting for a reply: most likely because none came in time.
pub(super) struct Reconnecting {
    client: Client,
    /// User, password and database. Presented here and not by redis-rs, which hides what the server says to them.
    settings: RedisConnectionInfo,
    server: String,
    current: Mutex<Option<Link>>,
}

/// A connection, or one being made: whoever asks meanwhile waits for the same one.
#[derive(Clone)]
struct Link(Shared<BoxFuture<RedisResult<MultiplexedConnection>>>);

impl Reconnecting {
    pub(super) fn new(url: &str) -> RedisResult<Self> {
        let info: ConnectionInfo = url.into_connection_info()?;
        let settings = info.redis_settings().clone();
        #[cfg(feature = "redis-tls")]
        if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            provide_cryptography();
        }
        let server = info.addr().to_string();
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let bare = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        let client = Client::open(info.set_tcp_settings(tcp).set_redis_settings(bare))?;
        Ok(Self { client, settings, server, current: Mutex::new(None) })
    }

    /// Makes the connection if there is none.
    pub(super) async fn connect(&self) -> RedisResult<()> {
        let link = self.link();
        let connected = link.0.clone().await;
        if connected.is_err() {
            self.discard(&link);
        }
        connected.map(|_| ())
    }

    fn link(&self) -> Link {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.get_or_insert_with(|| self.new_link()).clone()
    }

    fn new_link(&self) -> Link {
        let (client, settings) = (self.client.clone(), self.settings.clone());
        // A task of its own: it goes on while those who wait for it come and go.
        let connecting = tokio::spawn(async move { connect(&client, &settings).await });
        let connection = async { connecting.await.unwrap_or_else(|_| Err(lost())) };
        Link(connection.boxed().shared())
    }

    async fn query_on(&self, link: &Link, cmd: &Cmd) -> RedisResult<Value> {
        let mut connection = match link.0.clone().await {
            Ok(connection) => connection,
            Err(error) => {
                self.discard(link);
                return Err(error);
            }
        };
        let mut doubt = Doubt { of: self, link, proved: false };
        let result = connection.req_packed_command(cmd).await.and_then(Value::extract_error);
        doubt.proved = !result.as_ref().is_err_and(spoils_connection);
        result
    }

    fn discard(&self, link: &Link) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.0.ptr_eq(&link.0)) {
            *current = None;
        }
    }
}

impl Connection for Reconnecting {
    fn query(self: Arc<Self>, cmd: Cmd) -> BoxFuture<RedisResult<Value>> {
        async move {
            let link = self.link();
            let idle_before = link.0.peek().is_some();
            match self.query_on(&link, &cmd).await {
                // A connection that was closed while nobody used it is no reason to fail. Should the command have
                // arrived all the same: a batch is applied once.
                Err(error) if idle_before && error.is_connection_dropped() => {
                    self.query_on(&self.link(), &cmd).await
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

/// Discards a connection when dropped, unless it proved good: also when the caller stops waiting for a reply.
struct Doubt<'a> {
    of: &'a Reconnecting,
    link: &'a Link,
    proved: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.proved {
            self.of.discard(self.link);
        }
    }
}

async fn connect(
    client: &Client,
    settings: &RedisConnectionInfo,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(Some(REPLY_WITHIN));
    let connecting = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        introduce(&mut connection, settings).await?;
        Ok(connection)
    };
    let late =
        |_| RedisError::from(io::Error::new(io::ErrorKind::TimedOut, "no connection in time"));
    tokio::time::timeout(CONNECT_WITHIN, connecting).await.map_err(late)?
}

async fn introduce(
    connection: &mut MultiplexedConnection,
    settings: &RedisConnectionInfo,
) -> RedisResult<()> {
    if let Some(password) = settings.password() {
        redis::cmd("AUTH").arg(settings.username()).arg(password).exec_async(connection).await?;
    }
    if settings.db() != 0 {
        redis::cmd("SELECT").arg(settings.db()).exec_async(connection).await?;
    }
    // Whether it answers at all, and without a password. A user who may not ping is one all the same.
    match redis::cmd("PING").exec_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(()),
        result => result,
    }
}

/// redis-rs takes the process's provider, and panics where there is none. Another one that comes first is as good.
#[cfg(feature = "redis-tls")]
fn provide_cryptography() {
    use rustls::crypto::{CryptoProvider, ring};

    if CryptoProvider::get_default().is_none() {
        let _ = ring::default_provider().install_default();
    }
}

/// The task that made the connection is gone, and its runtime too.
fn lost() -> RedisError {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the runtime of the connection has ended")
        .into()
}
