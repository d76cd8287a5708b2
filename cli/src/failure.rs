//! Why a command ends without success, and the exit codes that scripts can rely on.

use std::{fmt, io, process::ExitCode};

use tower_throttle::{LimitsError, store::StoreError};

/// Told at the end of `--help`, and in `docs/operations.md`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  another error, such as a terminal that is none
  2  the command line makes no sense
  3  the limits file cannot be read, or makes no sense
  4  the server cannot be reached, or does not answer
  5  the server refuses: credentials, permissions, or it is none
  6  there is no such bucket, or the limits have none for the name
  7  not confirmed, so nothing was done
  8  the address cannot be listened on, such as a port in use";

/// Why a command ends.
#[derive(Debug)]
pub(crate) enum Failure {
    Other(String),
    Usage(String),
    Limits(String),
    Unavailable(String),
    Refused(String),
    Unknown(String),
    Unconfirmed,
    Address(String),
}

impl Failure {
    pub(crate) fn other(error: impl fmt::Display) -> Self {
        Self::Other(error.to_string())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::Limits(_) => 3,
            Self::Unavailable(_) => 4,
            Self::Refused(_) => 5,
            Self::Unknown(_) => 6,
            Self::Unconfirmed => 7,
            Self::Address(_) => 8,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(what)
            | Self::Limits(what)
            | Self::Other(what)
            | Self::Usage(what)
            | Self::Unavailable(what)
            | Self::Refused(what)
            | Self::Unknown(what) => f.write_str(what),
            Self::Unconfirmed => f.write_str("not confirmed: nothing was done"),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<LimitsError> for Failure {
    fn from(error: LimitsError) -> Self {
        Self::Limits(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::other(error)
    }
}
