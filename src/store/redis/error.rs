//! What an error of the server or of its connection means for a limiter: an outage, after which the
//! same batch may be sent again, or a refusal. It knows codes and messages, neither connections nor
//! the script.

use std::{borrow::Cow, env, fmt, io, sync::Arc};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::StoreError;

/// Codes of a server that is there but cannot serve now. redis-rs has no kind for most of them.
const OUTAGES: [&str; 7] =
    ["BUSY", "UNKILLABLE", "NOREPLICAS", "MISCONF", "MASTERDOWN", "READONLY", "OOM"];

/// Tells outages from refusals, and says what to do about them.
pub(super) fn store_error(error: RedisError, server: &str) -> StoreError {
    let outage = is_outage(&error);
    let cause = Box::new(ServerError { advice: advice(&error), server: server.to_owned(), error });
    if outage { StoreError::Unavailable(cause) } else { StoreError::Rejected(cause) }
}

/// A refusal that no error of redis-rs stands for.
pub(super) fn rejected(message: &'static str) -> StoreError {
    StoreError::Rejected(message.into())
}

/// True if the connection is of no more use after this error.
pub(super) fn spoils_connection(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed | ErrorKind::Client => {
            true
        }
        _ => wrong_server(error) || code(error) == Some("NOAUTH"),
    }
}

/// True if the user may not do this.
pub(super) fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// True if the server is a replica: the address may lead to another server by now.
pub(super) fn wrong_server(error: &RedisError) -> bool {
    matches!(code(error), Some("READONLY" | "MASTERDOWN"))
}

/// True if the connection ended before the reply, or in the middle of it. The command may have been
/// executed.
pub(super) fn lost_reply(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.kind() == ErrorKind::Parse
}

/// What an error of a connection that is being made means. Its first reply shows whether the server
/// is a Redis server at all; later, a reply that cannot be read was cut or mixed up on its way.
pub(super) fn while_connecting(error: RedisError) -> RedisError {
    if error.kind() != ErrorKind::Parse || error.to_string().contains("end of input") {
        return error;
    }
    let message = error.to_string();
    let line = message.lines().next().unwrap_or_default();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{line}; is this the port of a Redis server?"),
    )
    .into()
}

/// True if a server that works again may accept what it refused with this error.
pub(super) fn is_outage(error: &RedisError) -> bool {
    let by_code = code(error).is_some_and(|code| OUTAGES.contains(&code));
    let full = error.detail().is_some_and(|detail| detail.contains("max number of clients"));
    by_code
        || full
        || match error.kind() {
            ErrorKind::Parse => true,
            ErrorKind::Io => io_outage(error),
            ErrorKind::Server(kind) => matches!(
                kind,
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
            ),
            ErrorKind::ClusterConnectionNotFound
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::NoValidReplicasFoundBySentinel => true,
            _ => false,
        }
}

fn io_outage(error: &RedisError) -> bool {
    match io_source(error).map(|source| source.downcast_ref::<io::Error>()) {
        // A certificate that is not trusted, a socket that may not be opened.
        Some(Some(error)) => {
            !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied)
        }
        // A host name that is none, certificates that cannot be read.
        Some(None) => false,
        None => true,
    }
}

fn io_source(error: &RedisError) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    type Shared = Arc<dyn std::error::Error + Send + Sync>;
    Some(&**std::error::Error::source(error)?.downcast_ref::<Shared>()?)
}

/// What a server says of a command in a script that the user may not run, or of a key that it may
/// not access. Redis 6.2 and 7.0; Redis since 7.2, and Valkey.
const FORBIDDEN: [&str; 2] = ["The user executing the script", "ACL failure in script"];

/// Returns the code of a server's error. Before Redis 7, an error of a command in a script is
/// wrapped: `ERR Error running script (call to f_..): @user_script:9: -WRONGTYPE Operation ..`.
/// What the user may not do has no code of its own there: see [`FORBIDDEN`].
fn code(error: &RedisError) -> Option<&str> {
    match error.code()? {
        "ERR" => {
            let detail = error.detail().unwrap_or_default();
            let is_forbidden = FORBIDDEN.iter().any(|words| detail.contains(words));
            Some(if is_forbidden { "NOPERM" } else { wrapped_code(detail).unwrap_or("ERR") })
        }
        code => Some(code),
    }
}

fn wrapped_code(detail: &str) -> Option<&str> {
    let (_, wrapped) = detail.strip_prefix("Error running script")?.split_once(": -")?;
    wrapped.split_whitespace().next()
}

/// Returns what to do about an error, to be appended to its message.
fn advice(error: &RedisError) -> Cow<'static, str> {
    if error.to_string().contains("UnknownIssuer") {
        return match env::var_os("SSL_CERT_FILE") {
            Some(file) => format!("; SSL_CERT_FILE is {}", file.display()).into(),
            None => "; name a file with the certificate of its authority in SSL_CERT_FILE".into(),
        };
    }
    known_advice(error).into()
}

fn known_advice(error: &RedisError) -> &'static str {
    match error.kind() {
        ErrorKind::AuthenticationFailed => return "; check user and password of the URL",
        ErrorKind::InvalidClientConfig if error.to_string().contains("TLS") => {
            return "; `rediss://` needs the feature `redis-tls` of tower-throttle";
        }
        ErrorKind::InvalidClientConfig => {
            return "; write redis://[user:password@]host[:port][/database], rediss:// for TLS, or \
                    unix:// and a path";
        }
        ErrorKind::Io if error.to_string().contains(" PEM ") => {
            return "; the file of SSL_CERT_FILE, or one in SSL_CERT_DIR, must be readable and hold \
                    certificates";
        }
        _ => {}
    }
    match code(error) {
        Some("WRONGPASS" | "NOAUTH") => "; check user and password of the URL",
        Some("NOPERM") => {
            concat!("; the user needs the commands ", commands!(), " and the keys below the prefix")
        }
        Some("WRONGTYPE") => "; another program uses the key, choose another prefix",
        Some("OOM") => "; raise the server's maxmemory, or move other data to another server",
        Some("CROSSSLOT") => "; buckets that share a demand must be of one partition",
        _ => "",
    }
}

/// An error of the server or of the connection to it.
struct ServerError {
    /// Where it is, if that is known here; never with a password.
    server: String,
    error: RedisError,
    advice: Cow<'static, str>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.server.is_empty() {
            write!(f, "{}: ", self.server)?;
        }
        let what = match (self.error.code(), self.error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => self.error.to_string(),
        };
        let line = what.lines().next().unwrap_or_default();
        write!(f, "{}{}", without_arguments(line).trim_end_matches('.'), self.advice)
    }
}

/// Returns an error's line without what the server was sent, which it repeats if it does not know a
/// command. For AUTH that is the password.
fn without_arguments(line: &str) -> &str {
    line.split(", with args").next().unwrap_or_default()
}

/// Printed where `main` returns the error.
impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let tells_arguments =
            self.error.detail().is_some_and(|detail| without_arguments(detail) != detail);
        if tells_arguments { None } else { Some(&self.error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(line: &str) -> RedisError {
        let reply = format!("-{line}\r\n");
        let value = redis::parse_redis_value(reply.as_bytes()).expect("an error reply");
        value.extract_error().expect_err("an error reply")
    }

    #[test]
    fn outages_and_refusals_are_told_apart() {
        for outage in [
            "LOADING Redis is loading the dataset in memory",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN The cluster is down",
            "MOVED 3999 127.0.0.1:6381",
            "READONLY You can't write against a read only replica. script: 5f, on @user_script:9.",
            "ERR Error running script (call to f_5f): @user_script:9: \
             -READONLY You can't write against a replica.",
            "MASTERDOWN Link with MASTER is down",
            "BUSY Redis is busy running a script.",
            "NOREPLICAS Not enough good replicas to write.",
            "MISCONF Redis is configured to save RDB snapshots",
            "ERR max number of clients reached",
            "OOM command not allowed when used memory > 'maxmemory'. \
             script: 5f, on @user_script:9.",
            "ERR Error running script (call to f_5f): @user_script:9: \
             @user_script: 9: -OOM command not allowed",
        ] {
            assert!(
                matches!(store_error(server(outage), ""), StoreError::Unavailable(_)),
                "{outage}"
            );
        }
        for refusal in [
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOAUTH Authentication required.",
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "ERR The user executing the script can't run this command or subcommand \
             script: 5f, on @user_script:9.",
            "ERR ACL failure in script: User app has no permissions to run the 'hset' command \
             script: 5f, on @user_script:9.",
            "ERR Error running script (call to f_5f): @user_script:9: @user_script: 9: \
             The user executing the script can't run this command or subcommand",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR Error running script (call to f_5f): @user_script:9: \
             -WRONGTYPE Operation against a key",
            "ERR user_script:20: the state of this bucket is cut short",
            "CROSSSLOT Keys in request don't hash to the same slot",
        ] {
            assert!(
                matches!(store_error(server(refusal), ""), StoreError::Rejected(_)),
                "{refusal}"
            );
        }
        let refused = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(matches!(store_error(refused, ""), StoreError::Unavailable(_)));
        let untrusted = RedisError::from(io::Error::new(io::ErrorKind::InvalidData, "certificate"));
        assert!(matches!(store_error(untrusted, ""), StoreError::Rejected(_)));
    }

    #[test]
    fn a_reply_that_is_cut_is_a_lost_one() {
        for cut in ["$5\r\n123", "*2\r\n+OK\r\n", "%"] {
            let error = redis::parse_redis_value(cut.as_bytes()).expect_err("half a reply");
            assert!(lost_reply(&error), "{cut:?}: {error}");
            assert!(
                matches!(store_error(while_connecting(error), ""), StoreError::Unavailable(_)),
                "{cut:?}"
            );
        }
        let foreign = redis::parse_redis_value(b"HTTP/1.1 400 Bad Request").expect_err("no reply");
        assert!(matches!(
            store_error(while_connecting(foreign.clone()), ""),
            StoreError::Rejected(_)
        ));
        assert!(
            matches!(store_error(foreign, ""), StoreError::Unavailable(_)),
            "later, it is a mixed-up one"
        );
    }

    #[test]
    fn a_command_that_the_user_may_not_run_is_listed() {
        for refusal in [
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "ERR The user executing the script can't run this command or subcommand \
             script: 5f, on @user_script:9.",
            "ERR ACL failure in script: User app has no permissions to run the 'hset' command \
             script: 5f, on @user_script:9.",
            "ERR Error running script (call to f_5f): @user_script:9: @user_script: 9: \
             The user executing the script can't run this command or subcommand",
        ] {
            let error = store_error(server(refusal), "").to_string();
            assert!(error.contains("the user needs the commands EVALSHA, "), "{error}");
        }
    }

    #[test]
    fn a_message_says_where_what_and_what_to_do() {
        let error = store_error(server("WRONGTYPE Operation against a key"), "localhost:1");
        assert_eq!(
            error.to_string(),
            "the store cannot be used: localhost:1: WRONGTYPE Operation against a key; \
             another program uses the key, choose another prefix"
        );
    }
}
