//! Reads from a request what it may use at most. This module knows demands, and neither limiter nor
//! layer.

use std::{error::Error, fmt, ops::Deref};

use crate::{box_error::BoxError, demand::Demand};

/// Reads from a request the most that it may use.
///
/// A closure `Fn(&mut Request) -> Result<Demand, ExtractError>` is an extractor. Give it to
/// [`ThrottleLayer::from_fn`](crate::ThrottleLayer::from_fn), which says at the closure what is
/// wrong with it, and where `Ok(..)` and `?` need no annotation.
///
/// ```
/// use tower_throttle::{Demand, ExtractError, Extractor, usage};
///
/// /// Reads the size of an upload.
/// struct Uploads;
///
/// impl Extractor<http::Request<String>> for Uploads {
///     fn extract(&self, request: &mut http::Request<String>) -> Result<Demand, ExtractError> {
///         let tenant = request.headers().get("x-tenant").ok_or("no tenant is named")?;
///         let bucket = format!("tenant {}", tenant.to_str()?);
///         Ok(Demand::new(bucket, usage! { bytes: request.body().len() as u64 }))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not read demands from `{Request}`",
    note = "those of `llm` and `routes` read a `reqwest::Request` with feature `reqwest`",
    note = "a closure has the form `|request: &mut Request| Ok(Demand::new(..))`",
    note = "`ThrottleLayer::from_fn` says what is wrong with a closure"
)]
pub trait Extractor<Request> {
    /// Returns the demand of `request`, which it may change: to ask for the usage of a stream, say.
    ///
    /// # Errors
    /// If the demand cannot be told. The request then fails with the error inside, and nothing is
    /// reserved.
    fn extract(&self, request: &mut Request) -> Result<Demand, ExtractError>;
}

#[diagnostic::do_not_recommend]
impl<F, Request> Extractor<Request> for F
where
    F: Fn(&mut Request) -> Result<Demand, ExtractError>,
{
    fn extract(&self, request: &mut Request) -> Result<Demand, ExtractError> {
        self(request)
    }
}

/// Why an [`Extractor`] cannot tell the demand of a request: any error, or a text.
///
/// `?` and `.into()` make one of every error, of `&str` and of `String`. It stands for a
/// [`BoxError`] in the signatures of closures: the lifetime that `dyn Error` hides there would keep
/// a service from being spawned ("implementation of `From` is not general enough").
///
/// It is not an [`Error`] itself, or `?` could not convert every error into it.
/// [`into_inner`](Self::into_inner) returns the error inside.
///
/// ```
/// use tower_throttle::{BoxError, Demand, ExtractError, usage};
///
/// fn demand(words: &mut String) -> Result<Demand, ExtractError> {
///     let words: u64 = words.trim().parse()?;
///     match words {
///         0 => Err("no words are asked for".into()),
///         _ => Ok(Demand::new("words", usage! { words: words })),
///     }
/// }
///
/// let error = demand(&mut "0".into()).unwrap_err();
/// assert_eq!(error.to_string(), "no words are asked for");
/// let error: BoxError = demand(&mut "ten".into()).unwrap_err().into_inner();
/// assert!(error.is::<std::num::ParseIntError>());
/// ```
pub struct ExtractError(BoxError);

impl ExtractError {
    /// Wraps an error or a text.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }

    /// Returns the error inside, for functions whose error is a [`BoxError`]:
    /// `.map_err(ExtractError::into_inner)?`.
    pub fn into_inner(self) -> BoxError {
        self.0
    }
}

impl<E: Into<BoxError>> From<E> for ExtractError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// `is`, `downcast_ref` and `source` are those of the error inside.
impl Deref for ExtractError {
    type Target = dyn Error + Send + Sync + 'static;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}

impl fmt::Debug for ExtractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ExtractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
