//! From a URL, or a client of redis-rs, to connections that are ready for commands.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisResult, ServerErrorKind, aio::MultiplexedConnection,
};

use super::{connection::Reconnecting, error::while_connecting};

/// A caller without a bound of its own does not wait longer than this for a reply.
const REPLY_WITHIN: Duration = Duration::from_secs(30);

/// A client for the server that `url` names.
pub(super) fn client(url: &str) -> RedisResult<Client> {
    let info: ConnectionInfo = url.into_connection_info()?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Client::open(info.set_tcp_settings(tcp))
}

/// A connection to the server that `client` leads to.
pub(super) fn reconnecting(client: Client) -> Reconnecting<MultiplexedConnection> {
    let info = client.get_connection_info().clone();
    prepare_tls(&info);
    let server = info.addr().to_string();
    // User, password and database are presented here and not by redis-rs, which hides what the
    // server says to them.
    let settings = info.redis_settings().clone();
    let client = with_settings(client, |_| RedisConnectionInfo::default());
    let connect = move || {
        let (client, settings) = (client.clone(), settings.clone());
        async move { connect(&client, &settings).await.map_err(while_connecting) }
    };
    Reconnecting::new(server, connect)
}

/// The client with other settings, and without what redis-rs would send to tell the server its
/// name.
pub(super) fn with_settings(
    client: Client,
    set: impl FnOnce(RedisConnectionInfo) -> RedisConnectionInfo,
) -> Client {
    let info = client.get_connection_info().clone();
    let settings = set(info.redis_settings().clone());
    let settings = settings.set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    // What a client consists of makes a client.
    Client::open(info.set_redis_settings(settings)).unwrap_or(client)
}

async fn connect(
    client: &Client,
    settings: &RedisConnectionInfo,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(Some(REPLY_WITHIN));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    introduce(&mut connection, settings).await?;
    Ok(connection)
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
    // The reply shows that the server is ready, and that no password is missing. A user without
    // the permission to ping gets here as well.
    match redis::cmd("PING").exec_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(()),
        result => result,
    }
}

/// Sees to it that rustls finds cryptography: redis-rs takes the process's provider, and panics
/// where there is none.
#[cfg_attr(
    not(feature = "redis-tls"),
    expect(unused_variables, reason = "without TLS there is no need")
)]
pub(super) fn prepare_tls(info: &ConnectionInfo) {
    #[cfg(feature = "redis-tls")]
    if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        use rustls::crypto::{CryptoProvider, ring};

        if CryptoProvider::get_default().is_none() {
            // Another one that comes first is as good.
            let _ = ring::default_provider().install_default();
        }
    }
}
