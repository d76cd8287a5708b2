//! One Lua script call per batch: the engine once more, in `redis/*.lua`, on state in Redis or
//! Valkey. This puts keys, connections, hints and the script together; what operations mean, only
//! the script knows.

/// Commands that the server's user needs, for the documentation, the advice of an error and the
/// tests.
macro_rules! commands {
    () => {
        "EVALSHA, EVAL, TIME, HMGET, HGET, HKEYS, HSET, HDEL, PEXPIRE, ZADD, ZCARD, \
         ZRANGEBYSCORE, ZREM, \
         PUBLISH, SUBSCRIBE, UNSUBSCRIBE"
    };
}

mod client;
mod connection;
mod error;
mod hints;
mod keys;
mod recovery;
#[cfg(feature = "redis-cluster")]
mod renewing;
mod script;
mod steer;
#[cfg(test)]
mod tests;
mod view;
mod wire;

pub use self::view::{
    BucketDetail, BucketView, QueuedView, QuotaKind, QuotaView, RedisView, SessionView,
};

use std::{fmt, sync::Arc};

use redis::{
    Client, ErrorKind, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use self::{
    connection::{Connection, Own, Reconnecting, query},
    error::{is_outage, rejected, store_error, wrong_server},
    hints::Hints,
    keys::PartitionKeys,
    script::ApplyScript,
    wire::Unreadable,
};
use super::{Batch, Hint, Listening, Reply, Store, StoreError};
use crate::engine::Answer;

/// A node of a cluster that takes longer to reply is in doubt.
#[cfg(feature = "redis-cluster")]
const REPLY_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Keeps the state of buckets in Redis (6.2 or later) or Valkey, for any number of processes and
/// machines.
///
/// A batch is one call of a Lua script and one round trip: atomic, on the server's clock, applied
/// once however often it arrives.
///
/// # Keys
/// A bucket is two keys: `prefix:{partition}:name`, a hash, and `prefix:{partition}:name!due`, a
/// sorted set of what ends there when. The server forgets both by itself when they mean nothing any
/// more. A server that evicts keys before that (any `maxmemory-policy` but `noeviction`) may forget
/// what was used. All keys of a partition are in one slot of a cluster.
///
/// # Hints
/// Waiters look for capacity by themselves. Hints make that faster: a batch that makes room for a
/// waiter of another process publishes a message on the channel `prefix:{partition}:wake:session`,
/// and the waiter's process looks at once. They take a second connection, which exists while any
/// limiter uses the store. Nothing depends on them: without hints a waiter starts later.
///
/// A store that was made from a URL or a client has hints. One that uses a connection of yours has
/// them after [`hints_from`](Self::hints_from) or, on a cluster, `hints_from_cluster`
/// (`connect_cluster` has them). A store without hints sends none either, so set them in every
/// process or in none.
///
/// # Permissions
#[doc = concat!("The server's user needs the commands ", commands!(), ".")]
/// On a cluster `SPUBLISH`, `SSUBSCRIBE` and `SUNSUBSCRIBE` take the place of the last three, and
/// `CLUSTER SLOTS` is needed. A URL with a database also needs `SELECT`. The user needs the keys
/// below the prefix and, for hints, the channels:
///
/// ```text
/// ACL SETUSER app on >password ~throttle:* resetchannels &throttle:* +evalsha +eval ..
/// ```
///
/// A user that may not subscribe has no hints, which is no error.
///
/// [Looking](Self::view) needs less. [`pause`](Self::pause) and [`resume`](Self::resume) also need
/// HGETALL, [`reset`](Self::reset) DEL.
///
/// # Cloning
/// Cloning is cheap and shares the connections.
///
/// ```no_run
/// # async fn example() -> Result<(), tower_throttle::store::StoreError> {
/// use tower_throttle::store::RedisStore;
///
/// let store = RedisStore::connect("redis://user:password@localhost:6379/0").await?;
/// let store = store.prefix("myapp");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    connection: Arc<dyn Connection>,
    script: Arc<ApplyScript>,
    prefix: Arc<str>,
    hints: Option<Hints>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("server", &self.connection.server())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Connects to the server that `url` names: `redis://user:password@host:port/db`,
    /// `redis+unix:///path?user=..&pass=..&db=..`, or, with feature `redis-tls`, `rediss://..`.
    ///
    /// With TLS the authorities that the machine trusts are trusted, or those in the file that
    /// `SSL_CERT_FILE` names. Cryptography is that of the process's default provider of rustls;
    /// where there is none, ring becomes it. For certificates of your own see
    /// [`from_client`](Self::from_client).
    ///
    /// All batches share one connection. It is replaced whenever it is in doubt: after an error, a
    /// reply that did not come in time, a master that became a replica. So an outage ends when the
    /// server's does.
    ///
    /// ```
    /// use tower_throttle::{BoxError, Limiter, Limits, Quota, store::RedisStore};
    ///
    /// async fn shared() -> Result<Limiter, BoxError> {
    ///     let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 500)]);
    ///     let store = RedisStore::connect("redis://127.0.0.1").await?.prefix("acme-prod");
    ///     Ok(Limiter::with_store(limits, store)?)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the server cannot be reached within 3 seconds or is not
    /// ready; [`StoreError::Rejected`] if the URL is malformed, the server refuses the credentials,
    /// or a file of certificates cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let client = client::client(url).map_err(|error| store_error(error, ""))?;
        let (store, connection) = Self::reconnecting(client);
        connection.connect().await.map_err(|error| store_error(error, connection.server()))?;
        Ok(store)
    }

    /// Uses the server that `url` names, as [`connect`](Self::connect) does, but connects when the
    /// first batch is sent. This is for a service that must start while its server is down.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] if the URL is malformed.
    pub fn lazy(url: &str) -> Result<Self, StoreError> {
        Ok(Self::from_client(client::client(url).map_err(|error| store_error(error, ""))?))
    }

    /// Uses the server that `client` leads to, as [`lazy`](Self::lazy) does. This is for
    /// certificates of your own: see `redis::Client::build_with_tls`.
    pub fn from_client(client: Client) -> Self {
        Self::reconnecting(client).0
    }

    /// Connects to the cluster of which these URLs name some nodes, with its [hints](Self#hints)
    /// where it has sharded pub/sub: Redis 7.0 or later, or Valkey.
    ///
    /// It follows the cluster when slots move or a master fails. All buckets that one demand
    /// needs are on one node, since a [partition](crate::Limits::partition) is in one slot. A node
    /// that does not reply within a second is in doubt.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), tower_throttle::store::StoreError> {
    /// use tower_throttle::store::RedisStore;
    ///
    /// let nodes = ["redis://redis-1:6379", "redis://redis-2:6379"];
    /// let store = RedisStore::connect_cluster(nodes).await?.prefix("acme-prod");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if none of the nodes can be reached, [`StoreError::Rejected`] if
    /// a URL is malformed or the server refuses the credentials.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    #[cfg(feature = "redis-cluster")]
    pub async fn connect_cluster<N: redis::IntoConnectionInfo>(
        nodes: impl IntoIterator<Item = N>,
    ) -> Result<Self, StoreError> {
        use redis::cluster::ClusterClientBuilder;

        let in_doubt = |error| store_error(error, "the cluster");
        let nodes = nodes.into_iter().map(redis::IntoConnectionInfo::into_connection_info);
        let nodes =
            nodes.collect::<RedisResult<Vec<_>>>().map_err(|error| store_error(error, ""))?;
        nodes.iter().for_each(client::prepare_tls);
        // Without a time-out a node that hangs keeps redis-rs from following the others.
        let builder = || {
            let tcp = nodes.first().map(|node| node.tcp_settings().clone()).unwrap_or_default();
            let builder = ClusterClientBuilder::new(nodes.clone());
            builder.tcp_settings(tcp.set_nodelay(true)).response_timeout(REPLY_WITHIN)
        };
        let client = builder().build().map_err(in_doubt)?;
        let connection = match client.get_async_connection().await {
            Ok(connection) => connection,
            Err(error) => return Err(refusal(&nodes).await.unwrap_or_else(|| in_doubt(error))),
        };
        let connect = move || {
            let client = client.clone();
            async move { client.get_async_connection().await }
        };
        let connection = Arc::new(renewing::Renewing::new(connection, connect));
        Self::with(connection, None).hints_from_cluster(builder())
    }

    /// Uses connections that `connect` makes, and replaces them as [`connect`](Self::connect) does.
    /// This is for servers that redis-rs finds in other ways, as by Sentinel.
    ///
    /// There are no hints: see [`hints_from`](Self::hints_from).
    ///
    /// ```no_run
    /// use redis::Client;
    /// use tower_throttle::store::RedisStore;
    ///
    /// # fn address_of_the_master() -> String { String::new() }
    /// let store = RedisStore::connect_with(|| async {
    ///     Client::open(address_of_the_master())?.get_multiplexed_async_connection().await
    /// });
    /// ```
    pub fn connect_with<C, F>(connect: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
        F: Future<Output = RedisResult<C>> + Send + 'static,
    {
        Self::with(Arc::new(Reconnecting::new(String::new(), connect)), None)
    }

    /// Uses a connection of your own, which decides what happens when it breaks.
    ///
    /// * A [`MultiplexedConnection`] never recovers.
    /// * A `ConnectionManager` (feature `redis-connection-manager`) recovers after the server
    ///   closed it, with a backoff of its own. It stays with a silent connection, and with a server
    ///   that became a replica.
    /// * A `ClusterConnection` (feature `redis-cluster`) recovers from most errors.
    ///
    /// [`connect`](Self::connect), [`from_client`](Self::from_client) and
    /// [`connect_with`](Self::connect_with) recover from all of these, also with connections of
    /// these types.
    ///
    /// A connection has a time-out of its own for replies, half a second unless you set another; a
    /// `ClusterConnection` has none unless you do, and then waits for a node that hangs.
    /// There are no hints: see [`hints_from`](Self::hints_from).
    pub fn new<C>(connection: C) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Self::with(Arc::new(Own(connection)), None)
    }

    fn reconnecting(client: Client) -> (Self, Arc<Reconnecting<MultiplexedConnection>>) {
        let hints = Hints::from_server(client.clone());
        let connection = Arc::new(client::reconnecting(client));
        (Self::with(connection.clone(), Some(hints)), connection)
    }

    fn with(connection: Arc<dyn Connection>, hints: Option<Hints>) -> Self {
        Self { connection, script: Arc::new(ApplyScript::new()), prefix: "throttle".into(), hints }
    }

    /// Takes [hints](Self#hints) from the server that `client` leads to. It has to be the server of
    /// the connection, or one that gets its messages.
    #[must_use]
    pub fn hints_from(self, client: Client) -> Self {
        Self { hints: Some(Hints::from_server(client)), ..self }
    }

    /// Takes [hints](Self#hints) from a cluster of Redis 7.0 or later, or Valkey, for a connection
    /// with settings of your own: [`connect_cluster`](Self::connect_cluster) does it by itself. The
    /// protocol becomes RESP3.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use redis::cluster::ClusterClientBuilder;
    /// use tower_throttle::store::RedisStore;
    ///
    /// let nodes = ["redis://localhost:7000", "redis://localhost:7001"];
    /// let cluster = || ClusterClientBuilder::new(nodes).response_timeout(Duration::from_secs(1));
    /// let connection = cluster().build()?.get_async_connection().await?;
    /// let store = RedisStore::new(connection).hints_from_cluster(cluster())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Rejected`] if the settings do not fit together.
    #[cfg(feature = "redis-cluster")]
    pub fn hints_from_cluster(
        self,
        builder: redis::cluster::ClusterClientBuilder,
    ) -> Result<Self, StoreError> {
        let client = builder.use_protocol(redis::ProtocolVersion::RESP3).build();
        let client = client.map_err(|error| store_error(error, ""))?;
        Ok(Self { hints: Some(Hints::from_cluster(client)), ..self })
    }

    /// Sets what all keys and channels begin with: "throttle" unless set. Stores with different
    /// prefixes share nothing.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into().into(), ..self }
    }

    /// For tests that step time: replaces the one line of the script that reads the clock, which
    /// must define a function `clock` that returns microseconds since the epoch.
    #[doc(hidden)]
    pub fn with_clock(self, line: &str) -> Self {
        Self { script: Arc::new(self.script.with_clock(line)), ..self }
    }

    /// For tests that see wake-ups: replaces the one line of the script that sends one `to` a
    /// channel.
    #[cfg(test)]
    fn with_wakes(self, line: &str) -> Self {
        Self { script: Arc::new(self.script.with_wakes(line)), ..self }
    }

    async fn call(
        &self,
        keys: &[Vec<u8>],
        arguments: &[Vec<u8>],
        ops: usize,
    ) -> Result<Answer, StoreError> {
        let query = |command| query(&self.connection, command);
        let reply = match query(self.script.evalsha(keys, arguments)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                query(self.script.eval(keys, arguments)).await
            }
            reply => reply,
        };
        if let Some(hints) = &self.hints {
            match &reply {
                Ok(_) => hints.recovery().answered(),
                Err(error) if wrong_server(error) => hints.doubt(),
                Err(error) if is_outage(error) => hints.recovery().failed(),
                Err(_) => {}
            }
        }
        let reply = reply.map_err(|error| store_error(error, self.connection.server()))?;
        let answer = match &reply {
            Value::BulkString(bytes) => wire::decode(bytes, keys.len() / 2, ops),
            _ => Err(Unreadable::Foreign),
        };
        answer.map_err(|unreadable| match unreadable {
            Unreadable::Cut => {
                StoreError::Unavailable("the server's reply was cut on its way".into())
            }
            Unreadable::Foreign => rejected("the server's reply is none of the script's"),
        })
    }

    fn partition_keys(&self, partition: &str) -> PartitionKeys {
        PartitionKeys::new(&self.prefix, partition)
    }

    /// What the channels begin with that the script publishes on. Empty if the store has no hints:
    /// then nothing is published.
    fn channel_prefix(&self, keys: &PartitionKeys) -> Vec<u8> {
        self.hints.as_ref().map(|_| keys.channel_prefix()).unwrap_or_default()
    }
}

/// The refusal of a node that is asked by itself: redis-rs takes whatever keeps it from connecting
/// to a cluster for an outage.
#[cfg(feature = "redis-cluster")]
async fn refusal(nodes: &[redis::ConnectionInfo]) -> Option<StoreError> {
    for node in nodes {
        let connection = client::reconnecting(Client::open(node.clone()).ok()?);
        let connected = connection.connect().await;
        let error = connected.err().map(|error| store_error(error, connection.server()));
        if let Some(refusal) = error.filter(|error| !error.is_unavailable()) {
            return Some(refusal);
        }
    }
    None
}

impl Store for RedisStore {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        if let Some(hints) = &self.hints {
            hints.revive();
        }
        // All buckets of a batch are in one partition.
        let partition = batch.buckets.first().map_or("", |bucket| bucket.key.partition());
        let keys = self.partition_keys(partition);
        let sharded = self.hints.as_ref().is_some_and(Hints::are_sharded);
        let arguments = wire::encode(batch, &self.channel_prefix(&keys), sharded);
        let keys: Vec<_> =
            batch.buckets.iter().flat_map(|bucket| keys.of_bucket(bucket.key.name())).collect();
        let (store, ops) = (self.clone(), batch.ops.len());
        Reply::Later(Box::pin(async move {
            let arguments = arguments.map_err(rejected)?;
            store.call(&keys, &arguments, ops).await
        }))
    }

    fn listen(&self, partition: &str, session: u64, hint: Hint) -> Option<Listening> {
        Some(self.hints.as_ref()?.listen(self.partition_keys(partition), session, hint))
    }
}
