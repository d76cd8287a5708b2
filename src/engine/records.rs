//! What a bucket knows of sessions and claims, by their ids.
//!
//! Its invariant: the index of due times has each record, under the time that the record remembers,
//! which is no later than it is due.

use smallvec::SmallVec;

use super::{
    Micros,
    codec::{Coded, DecodeError, Decoder, Encoder, ensure},
    due::{Due, Owner},
    session_record::{SessionRecord, Share},
};

/// The records of a bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Records(
    #[allow(clippy::vec_box, reason = "records are moved when others come and go, and are large")]
    Vec<Box<SessionRecord>>,
);

impl Records {
    #[inline]
    fn find(&self, id: u64) -> Result<usize, usize> {
        match &*self.0 {
            [only] if only.id == id => Ok(0),
            records => records.binary_search_by_key(&id, |record| record.id),
        }
    }

    #[inline]
    pub(super) fn get(&self, id: u64) -> Option<&SessionRecord> {
        self.find(id).ok().map(|index| &*self.0[index])
    }

    /// The record of this id, which is made if there is none.
    #[inline]
    pub(super) fn enter(&mut self, id: u64, now: Micros, due: &mut Due) -> &mut SessionRecord {
        let index = self.find(id).unwrap_or_else(|index| self.make(id, index, now, due));
        &mut self.0[index]
    }

    #[cold]
    fn make(&mut self, id: u64, index: usize, now: Micros, due: &mut Due) -> usize {
        if self.0.is_empty() {
            // Most buckets see one session only.
            self.0.reserve_exact(1);
        }
        let record = SessionRecord::new(id, now);
        due.insert(record.indexed_at, Owner::Session(id));
        self.0.insert(index, Box::new(record));
        index
    }

    /// Says whether a session has heads in the bucket.
    pub(super) fn set_waits(&mut self, id: u64, waits: bool) {
        if let Ok(index) = self.find(id) {
            self.0[index].set_waits(waits);
        }
    }

    /// Gives a session or a claim time until its lease and its record end. Returns whether it is
    /// known.
    #[inline]
    pub(super) fn extend(
        &mut self,
        id: u64,
        (lease_until, forget_at): (Micros, Micros),
        now: Micros,
        due: &mut Due,
    ) -> bool {
        let Ok(index) = self.find(id) else { return false };
        let record = &mut self.0[index];
        record.extend(lease_until, forget_at);
        if record.due() < record.indexed_at || record.indexed_at <= now {
            index_anew(record, due);
        }
        true
    }

    /// Looks at a record whose entry in the index was due, and is taken out. Returns what it had in
    /// flight if its lease has ended.
    pub(super) fn look_at(
        &mut self,
        id: u64,
        now: Micros,
        due: &mut Due,
    ) -> Option<SmallVec<[Share; 4]>> {
        let index = self.find(id).ok()?;
        let record = &mut self.0[index];
        let ended = (record.lease_until() <= now).then(|| record.abandon(now));
        record.indexed_at = record.due();
        if record.indexed_at > now {
            due.insert(record.indexed_at, Owner::Session(id));
        } else {
            self.0.remove(index);
        }
        ended
    }

    /// Forgets a record. Returns what it had in flight.
    pub(super) fn remove(&mut self, id: u64, now: Micros, due: &mut Due) -> SmallVec<[Share; 4]> {
        let Ok(index) = self.find(id) else { return SmallVec::new() };
        let mut record = self.0.remove(index);
        due.remove(record.indexed_at, Owner::Session(id));
        record.abandon(now)
    }

    /// When the last lease ends of those that matter; 0 if none does.
    pub(super) fn last_lease(&self) -> Micros {
        let active = self.0.iter().filter(|record| record.is_active());
        active.map(|record| record.lease_until()).max().unwrap_or(0)
    }

    /// Where the index has each record.
    pub(super) fn indexed(&self) -> impl Iterator<Item = (Micros, Owner)> {
        self.0.iter().map(|record| (record.indexed_at, Owner::Session(record.id)))
    }
}

#[cold]
fn index_anew(record: &mut SessionRecord, due: &mut Due) {
    let (id, before) = (record.id, record.indexed_at);
    record.indexed_at = record.due();
    due.remove(before, Owner::Session(id));
    due.insert(record.indexed_at, Owner::Session(id));
}

impl Coded for Records {
    fn write(&self, out: &mut Encoder) {
        out.list(&self.0);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let records: Vec<Box<SessionRecord>> = from.list()?;
        ensure(records.is_sorted_by(|one, other| one.id < other.id))?;
        Ok(Self(records))
    }
}

#[cfg(any(test, feature = "redis"))]
impl Records {
    #[cfg(feature = "redis")]
    pub(super) fn of(records: Vec<SessionRecord>) -> Self {
        Self(records.into_iter().map(Box::new).collect())
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &SessionRecord> {
        self.0.iter().map(|record| &**record)
    }
}
