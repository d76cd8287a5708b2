//! What [`Limits`] take besides quotas.

pub(crate) mod declaration;
mod table;

use self::declaration::Resolver;
pub use self::declaration::{Class, Undeclared};
pub(crate) use self::{
    declaration::{Limits, LimitsError},
    table::{BucketSpec, Resolved, Standing, Table, Unresolved},
};
