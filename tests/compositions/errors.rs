//! A refusal is found however it is wrapped.

use std::{error::Error, fmt, io, sync::Arc};

use tower_throttle::{BoxError, Throttled};

/// An error of a caller's own.
#[derive(Debug)]
struct Wrapped(BoxError);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.as_ref())
    }
}

fn found(error: impl Into<BoxError>) -> bool {
    matches!(Throttled::find(error.into().as_ref()), Some(Throttled::Closed))
}

#[test]
fn in_boxes_and_causes() {
    assert!(found(Throttled::Closed));
    assert!(found(Arc::new(Throttled::Closed)));
    assert!(found(Wrapped(Throttled::Closed.into())));
    assert!(found(Wrapped(Wrapped(Throttled::Closed.into()).into())));
    assert!(found(Wrapped(Arc::new(Throttled::Closed).into())));
}

#[test]
fn in_errors_of_io() {
    assert!(found(io::Error::other(Throttled::Closed)));
    assert!(found(io::Error::other(Wrapped(Throttled::Closed.into()))));
    assert!(found(io::Error::other(io::Error::other(Throttled::Closed))));
    assert!(found(Wrapped(io::Error::other(Throttled::Closed).into())));
}

#[test]
fn and_not_where_it_is_not() {
    assert!(!found("the limiter was closed"));
    assert!(!found(io::Error::from(io::ErrorKind::ConnectionReset)));
    assert!(!found(Wrapped("something else".into())));
    assert!(!found(tower::timeout::error::Elapsed::new()));
}
