//! When a bucket has to look at a record of its own again: an index, so that what ends is found
//! without a look at all that does not.

use super::Micros;

/// So many records are looked at in one batch at most.
const AT_ONCE: usize = 16;

/// What the record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// A flow that was served.
    Flow(u64),
    /// A quota that the rules in use do not have.
    Quota(u64),
    /// A session or a claim.
    Session(u64),
}

/// Every record is here once, at a time no later than it is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due(Vec<(Micros, Owner)>);

impl Due {
    /// Nothing is due before this.
    #[inline]
    pub(crate) fn first(&self) -> Option<Micros> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(crate) fn insert(&mut self, at: Micros, owner: Owner) {
        let index = self.0.partition_point(|entry| *entry < (at, owner));
        if self.0.is_empty() {
            // Most buckets see one session only.
            self.0.reserve_exact(1);
        }
        self.0.insert(index, (at, owner));
    }

    pub(crate) fn remove(&mut self, at: Micros, owner: Owner) {
        if let Ok(index) = self.0.binary_search(&(at, owner)) {
            self.0.remove(index);
        }
    }

    /// Takes out some of what is due.
    pub(crate) fn take(&mut self, now: Micros) -> Vec<Owner> {
        let count = self.0.iter().take(AT_ONCE).take_while(|(at, _)| *at <= now).count();
        self.0.drain(..count).map(|(_, owner)| owner).collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// An index of these times.
    pub(crate) fn of(mut times: Vec<(Micros, Owner)>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The flows: only of them the time is known here alone.
    pub(crate) fn flows(&self) -> Vec<(Micros, u64)> {
        let flow_of = |&(at, owner): &(Micros, Owner)| match owner {
            Owner::Flow(flow) => Some((at, flow)),
            Owner::Quota(_) | Owner::Session(_) => None,
        };
        self.0.iter().filter_map(flow_of).collect()
    }
}
