//! One Lua script call per batch: the engine once more, in `redis/*.lua`, on state in Redis or Valkey. It knows
//! keys, connections and the script; what operations mean, only the script knows.

/// The commands that the server's user needs: kept here for the documentation, the advice of an error and the tests.
macro_rules! commands {
    () => {
        "EVALSHA, EVAL, TIME, HMGET, HGET, HGETALL, HSET, HDEL, PEXPIRE, ZADD, ZRANGEBYSCORE, ZREM, PUBLISH, \
         SUBSCRIBE, UNSUBSCRIBE"
    };
}

mod connection;
mod error;
mod script;
#[cfg(test)]
mod tests;
mod wire;

use std::{fmt, fmt::Write, sync::Arc};

use redis::{ErrorKind, ServerErrorKind, Value, aio::ConnectionLike};

use self::{
    connection::{Connection, Own, Reconnecting},
    error::{rejected, store_error},
    script::ApplyScript,
};
use super::{Batch, BucketKey, Reply, Store, StoreError};
use crate::engine::Answer;

/// Keeps the state of buckets in Redis (6.2 or later) or Valkey, for any number of processes and machines.
///
/// A batch is one call of a Lua script and one round trip: atomic, on the server's clock, applied once however often
/// it arrives. A bucket is one hash, `prefix:{partition}:name`, which the server forgets by itself when it means
/// nothing any more; a server that evicts keys before that (any `maxmemory-policy` but `noeviction`) may forget what
/// was used. All keys of a partition are in one slot of a cluster.
///
/// The server's user needs the commands `EVALSHA`, `EVAL`, `HMGET`, `HGET`, `HGETALL`, `HSET`, `HDEL`, `PEXPIRE`
/// and `TIME`. Cloning is cheap and shares the connection.
///
/// ```no_run
/// # async fn example() -> Result<(), tower_throttle::store::StoreError> {
/// use tower_throttle::store::RedisStore;
///
/// let store = RedisStore::connect("redis://user:password@localhost:6379/0").await?.prefix("myapp");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    connection: Arc<dyn Connection>,
    script: Arc<ApplyScript>,
    prefix: Arc<str>,
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
    /// With TLS the authorities that the machine trusts are trusted, or those in the file that `SSL_CERT_FILE` names.
    /// Cryptography is that of the process's default provider of rustls; where there is none, ring becomes it. For
    /// certificates of your own see `redis::Client::build_with_tls` and [`new`](Self::new).
    ///
    /// The connection is one for all, and made anew whenever it is in doubt: after an error, a reply that nobody waited
    /// for to its end, a master that became a replica. So an outage ends when the server's does.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the server cannot be reached within 3 seconds or is not ready;
    /// [`StoreError::Rejected`] if the URL is malformed or the server refuses the credentials.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let connection = Reconnecting::new(url).map_err(|error| store_error(error, ""))?;
        connection.connect().await.map_err(|error| store_error(error, connection.server()))?;
        Ok(Self::with(Arc::new(connection)))
    }

    /// The same without connecting yet, for a service that must start while its server is down.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] if the URL is malformed.
    pub fn lazy(url: &str) -> Result<Self, StoreError> {
        let connection = Reconnecting::new(url).map_err(|error| store_error(error, ""))?;
        Ok(Self::with(Arc::new(connection)))
    }

    /// Uses a connection of your own; it decides what happens when it breaks. A
    /// [`MultiplexedConnection`](redis::aio::MultiplexedConnection) stays broken; `ConnectionManager` (feature
    /// `redis-connection-manager`) and `ClusterConnection` (feature `redis-cluster`) recover from most errors.
    ///
    /// Mind its own time-out for replies, which is half a second unless you set another.
    pub fn new<C>(connection: C) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        Self::with(Arc::new(Own(connection)))
    }

    fn with(connection: Arc<dyn Connection>) -> Self {
        Self { connection, script: Arc::new(ApplyScript::new()), prefix: "throttle".into() }
    }

    /// What all keys begin with, "throttle" unless set. Stores with different prefixes share nothing.
    pub fn prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// For tests that step time: replaces the one line of the script that reads the clock, which must define a
    /// function `clock` that returns microseconds since the epoch.
    #[doc(hidden)]
    pub fn with_clock(self, line: &str) -> Self {
        Self { script: Arc::new(ApplyScript::with_clock(line)), ..self }
    }

    fn key(&self, key: &BucketKey) -> Vec<u8> {
        let mut name = String::with_capacity(self.prefix.len() + 64);
        escape(&mut name, &self.prefix);
        name.push_str(":{");
        escape(&mut name, key.partition());
        name.push_str("}:");
        escape(&mut name, key.name());
        name.into_bytes()
    }
}

/// Appends `part` with all that could mean something in a key or in a log percent-encoded.
fn escape(to: &mut String, part: &str) {
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' | b'@' => {
                to.push(byte.into());
            }
            // Writing to a string cannot fail.
            _ => _ = write!(to, "%{byte:02X}"),
        }
    }
}

impl Store for RedisStore {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let keys: Vec<_> = batch.buckets.iter().map(|bucket| self.key(&bucket.key)).collect();
        let arguments = wire::encode(batch);
        let (connection, script) = (self.connection.clone(), self.script.clone());
        Reply::Later(Box::pin(async move {
            let arguments = arguments.map_err(rejected)?;
            call(&connection, &script, &keys, &arguments).await
        }))
    }
}

async fn call(
    connection: &Arc<dyn Connection>,
    script: &ApplyScript,
    keys: &[Vec<u8>],
    arguments: &[Vec<u8>],
) -> Result<Answer, StoreError> {
    let reply = match connection.clone().query(script.evalsha(keys, arguments)).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            connection.clone().query(script.eval(keys, arguments)).await
        }
        reply => reply,
    };
    let reply = reply.map_err(|error| store_error(error, connection.server()))?;
    let answer = match &reply {
        Value::BulkString(bytes) => wire::decode(bytes, keys.len()),
        _ => None,
    };
    answer.ok_or_else(|| rejected("the server's reply is none of the script's"))
}
