//! Start-time fair queuing between the flows of a bucket.
//!
//! Every flow has a start tag, that of its next demand: the flow with the smallest one is next. A
//! grant moves the flow on by the part of the limit that it takes, divided by the flow's weight.
//! The bucket's virtual time is the largest tag that was served; a flow that was idle starts there,
//! so it has no credit. Only a flow that has heads in a bucket of the batch is known to wait.
//!
//! Tags are doubles, alike in Rust and Lua: both add and divide them in the same order.

use super::{
    Micros,
    codec::{Coded, DecodeError, Decoder, Encoder, coded, ensure},
    exact::sum,
};

/// A flow that was served is remembered for this long, if it does not wait meanwhile.
pub(crate) const FLOW_MEMORY: Micros = 60_000_000;

/// The flows of one bucket that wait or were served of late.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Flows {
    virtual_time: f64,
    tags: Vec<Tag>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Tag {
    flow: u64,
    start: f64,
    /// When it was last moved, or began to wait.
    touched: Micros,
    /// It waits until then, as far as is known: its waiters may be heads of other buckets only.
    waits_until: Micros,
}

impl Flows {
    fn find(&self, flow: u64) -> Result<usize, usize> {
        self.tags.binary_search_by_key(&flow, |tag| tag.flow)
    }

    /// The start tag of a flow, which `waits` or not.
    pub(crate) fn start(&self, flow: u64, waits: impl FnOnce() -> bool) -> f64 {
        let virtual_time = self.virtual_time;
        match self.find(flow).map(|index| self.tags[index].start) {
            Ok(start) if start >= virtual_time || waits() => start,
            _ => virtual_time,
        }
    }

    /// A flow that starts at `start` begins to wait, or goes on waiting, until then at least.
    /// Returns whether it was not known.
    pub(crate) fn wait(&mut self, flow: u64, start: f64, until: Micros, now: Micros) -> bool {
        let known = self.find(flow).map_or(0, |index| self.tags[index].waits_until);
        self.set(Tag { flow, start, touched: now, waits_until: known.max(until) })
    }

    /// A demand is granted of a flow that starts at `start`, and takes this part of the limit by
    /// its weight. Returns whether the flow was not known.
    ///
    /// The flow may wait elsewhere, where it stands by its own tag.
    pub(crate) fn serve(&mut self, flow: u64, start: f64, part: f64, now: Micros) -> bool {
        self.virtual_time = self.virtual_time.max(start);
        let waits_on = self.find(flow).map(|index| self.tags[index]).ok();
        let (own, waits_until) = waits_on
            .filter(|tag| tag.waits_until > now)
            .map_or((start, 0), |tag| (tag.start, tag.waits_until));
        self.set(Tag { flow, start: own + part, touched: now, waits_until })
    }

    fn set(&mut self, tag: Tag) -> bool {
        match self.find(tag.flow) {
            Ok(index) => {
                self.tags[index] = tag;
                false
            }
            Err(index) => {
                self.tags.insert(index, tag);
                true
            }
        }
    }

    /// Forgets a flow that does not wait, if it was not served for long. Otherwise returns when to
    /// look again.
    pub(crate) fn forget(&mut self, flow: u64, waits: bool, now: Micros) -> Option<Micros> {
        let index = self.find(flow).ok()?;
        let Tag { touched, waits_until, .. } = self.tags[index];
        let until = if waits { now } else { touched.max(waits_until.min(now)) };
        let end = sum(until, FLOW_MEMORY);
        if end > now {
            return Some(end);
        }
        self.tags.remove(index);
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }
}

impl Coded for Flows {
    fn write(&self, out: &mut Encoder) {
        let Self { virtual_time, tags } = self;
        virtual_time.write(out);
        out.list(tags);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (virtual_time, tags): (_, Vec<Tag>) = (Coded::read(from)?, from.list()?);
        ensure(tags.is_sorted_by(|one, other| one.flow < other.flow))?;
        Ok(Self { virtual_time, tags })
    }
}

coded!(Tag { flow, start, touched, waits_until });
