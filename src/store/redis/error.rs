//! What an error of the server or of the connection means for a limiter: an outage, or a refusal.

use std::{fmt, io, sync::Arc};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::store::StoreError;

/// Codes that redis-rs has no kind for, of a server that is there but cannot serve now.
const OUTAGES: [&str; 5] = ["BUSY", "UNKILLABLE", "NOREPLICAS", "MISCONF", "MASTERDOWN"];

/// Tells outages from refusals, and what to do about the latter.
pub(super) fn store_error(error: RedisError, server: &str) -> StoreError {
    let outage = is_outage(&error);
    let cause = Box::new(ServerError { advice: advice(&error), server: server.to_owned(), error });
    if outage { StoreError::Unavailable(cause) } else { StoreError::Rejected(cause) }
}

/// A refusal that no error of redis-rs stands for.
pub(super) fn rejected(message: &'static str) -> StoreError {
    StoreError::Rejected(message.into())
}

/// Whether the connection is of no more use after this.
pub(super) fn spoils_connection(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed | ErrorKind::Client => {
            true
        }
        // A demoted master: the address may lead to another one by now.
        _ => matches!(code(error), Some("READONLY" | "MASTERDOWN" | "NOAUTH")),
    }
}

fn is_outage(error: &RedisError) -> bool {
    let by_code =
        matches!(code(error), Some(code) if OUTAGES.contains(&code) || code == "READONLY");
    let full = error.detail().is_some_and(|detail| detail.contains("max number of clients"));
    by_code
        || full
        || match error.kind() {
            // A certificate that is not trusted, a socket that may not be opened.
            ErrorKind::Io => !matches!(
                io_kind(error),
                Some(io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied)
            ),
            ErrorKind::Server(kind) => matches!(
                kind,
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
            ),
            ErrorKind::ClusterConnectionNotFound
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::NoValidReplicasFoundBySentinel => true,
            _ => false,
        }
}

fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    type Shared = Arc<dyn std::error::Error + Send + Sync>;
    let source = std::error::Error::source(error)?.downcast_ref::<Shared>()?;
    Some(source.downcast_ref::<io::Error>()?.kind())
}

/// The code of a server's error. Before Redis 7, one that a command in a script met is wrapped: `ERR Error running
/// script (call to f_..): @user_script:9: -WRONGTYPE Operation ..`.
fn code(error: &RedisError) -> Option<&str> {
    match error.code()? {
        "ERR" => Some(error.detail().and_then(wrapped_code).unwrap_or("ERR")),
        code => Some(code),
    }
}

fn wrapped_code(detail: &str) -> Option<&str> {
    let (_, wrapped) = detail.strip_prefix("Error running script")?.split_once(": -")?;
    wrapped.split_whitespace().next()
}

fn advice(error: &RedisError) -> &'static str {
    match error.kind() {
        ErrorKind::AuthenticationFailed => return "; check user and password of the URL",
        ErrorKind::InvalidClientConfig if error.to_string().contains("TLS") => {
            return "; `rediss://` needs the feature `redis-tls` of tower-throttle";
        }
        ErrorKind::InvalidClientConfig => {
            return "; write redis://[user:password@]host[:port][/database], rediss:// for TLS, or unix:// and a path";
        }
        ErrorKind::Parse => return "; is this the port of a Redis server?",
        _ => {}
    }
    match code(error) {
        Some("WRONGPASS" | "NOAUTH") => "; check user and password of the URL",
        Some("NOPERM") => {
            "; the user needs EVALSHA, EVAL, HMGET, HGET, HGETALL, HSET, HDEL, PEXPIRE, TIME and the keys below the prefix"
        }
        Some("WRONGTYPE") => "; another program uses the key, choose another prefix",
        Some("OOM") => {
            "; give the server more memory, or a maxmemory-policy that evicts other keys"
        }
        Some("CROSSSLOT") => "; buckets that share a demand must be of one partition",
        _ => "",
    }
}

/// An error of the server or of the connection to it.
struct ServerError {
    /// Where it is, if that is known here; never with a password.
    server: String,
    error: RedisError,
    advice: &'static str,
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

/// A server that does not know a command answers with what it was given, which for AUTH is the password.
fn without_arguments(line: &str) -> &str {
    line.split(", with args").next().unwrap_or_default()
}

/// What a program prints whose `main` answers it.
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
            "ERR Error running script (call to f_5f): @user_script:9: -READONLY You can't write against a replica.",
            "MASTERDOWN Link with MASTER is down",
            "BUSY Redis is busy running a script.",
            "NOREPLICAS Not enough good replicas to write.",
            "MISCONF Redis is configured to save RDB snapshots",
            "ERR max number of clients reached",
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
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR Error running script (call to f_5f): @user_script:9: -WRONGTYPE Operation against a key",
            "OOM command not allowed when used memory > 'maxmemory'.",
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
    fn a_message_says_where_what_and_what_to_do() {
        let error = store_error(server("WRONGTYPE Operation against a key"), "localhost:1");
        assert_eq!(
            error.to_string(),
            "the store cannot be used: localhost:1: WRONGTYPE Operation against a key; \
             another program uses the key, choose another prefix"
        );
    }
}
