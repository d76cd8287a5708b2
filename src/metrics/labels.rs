//! Labels of metrics, of which there are never more than so many and none is long: a program has no
//! say in which names its callers think of, and every label is a time series for ever.

use std::{collections::HashSet, fmt, sync::Arc};

use ::metrics::SharedString;

use crate::sync::{RwLock, read, write};

/// The label of all that got none of its own.
pub(super) const OTHER: &str = "other";
/// So many quotas, classes and metrics of usage get a label of their own.
const MAX_NAMES: usize = 100;
/// A longer name gets no label: it may be whatever a caller's caller wrote.
const MAX_BYTES: usize = 200;

/// The labels that were given so far.
#[derive(Debug)]
pub(super) struct Labels {
    buckets: Names,
    quotas: Names,
    classes: Names,
    metrics: Names,
}

impl Labels {
    pub(super) fn new(max_buckets: usize) -> Self {
        Self {
            buckets: Names::new(max_buckets),
            quotas: Names::new(MAX_NAMES),
            classes: Names::new(MAX_NAMES),
            metrics: Names::new(MAX_NAMES),
        }
    }

    /// The label of a bucket. A name that need not be one (`exists`) never gets a label.
    pub(super) fn bucket(&self, name: &str, exists: bool) -> SharedString {
        self.buckets.label(name, exists)
    }

    pub(super) fn class(&self, name: &str, exists: bool) -> SharedString {
        self.classes.label(name, exists)
    }

    pub(super) fn quota(&self, name: &str) -> SharedString {
        self.quotas.label(name, true)
    }

    pub(super) fn metric(&self, name: &str) -> SharedString {
        self.metrics.label(name, true)
    }
}

/// Names of one kind. One that has a label keeps it.
struct Names {
    most: usize,
    known: RwLock<HashSet<Arc<str>>>,
}

impl Names {
    fn new(most: usize) -> Self {
        Self { most, known: RwLock::default() }
    }

    fn label(&self, name: &str, may_be_new: bool) -> SharedString {
        if name.len() > MAX_BYTES {
            return SharedString::const_str(OTHER);
        }
        let known = read(&self.known);
        if let Some(name) = known.get(name) {
            return name.clone().into();
        }
        let is_full = known.len() >= self.most;
        drop(known);
        if is_full || !may_be_new || name == OTHER {
            return SharedString::const_str(OTHER);
        }
        let mut known = write(&self.known);
        // Others may have come in between, this name among them.
        if known.len() >= self.most && !known.contains(name) {
            return SharedString::const_str(OTHER);
        }
        let name: Arc<str> = name.into();
        known.insert(name.clone());
        name.into()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = read(&self.known).len();
        write!(f, "{known} of {}", self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_label_and_later_ones_share_one() {
        let names = Names::new(2);
        let labels = ["a", "b", "c", "a", "c", "b"].map(|name| names.label(name, true));
        assert_eq!(labels.each_ref().map(AsRef::as_ref), ["a", "b", OTHER, "a", OTHER, "b"]);
    }

    #[test]
    fn a_name_that_is_very_long_gets_no_label_and_takes_no_place() {
        let names = Names::new(1);
        assert_eq!(names.label(&"x".repeat(201), true).as_ref(), OTHER);
        assert_eq!(names.label(&"x".repeat(200), true).as_ref(), "x".repeat(200));
    }

    #[test]
    fn what_need_not_exist_takes_no_place() {
        let names = Names::new(1);
        assert_eq!(names.label("typo", false).as_ref(), OTHER);
        assert_eq!(names.label("a", true).as_ref(), "a");
        assert_eq!(names.label("a", false).as_ref(), "a");
    }
}
