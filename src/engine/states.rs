//! The buckets of a batch: their states, brought to the present, and the rules that these obey.

use smallvec::SmallVec;

use super::{
    Batch, BucketState, Micros, On, Op, Reserve, Rule, Seen,
    exact::sum,
    heads::{Head, UNHINTED},
    quota_state::{Ask, QuotaState},
};

pub(super) struct BatchStates<'a, 'b> {
    states: &'a mut [&'b mut BucketState],
    batch: &'a Batch<'a>,
    wall: Micros,
    /// How the batch found each bucket, and what it says of it.
    notes: SmallVec<[BucketNote; 1]>,
    /// Settles were made since the last refold.
    edited: bool,
}

/// How a batch found a bucket, and what it says of it.
#[derive(Clone, Copy, Debug)]
struct BucketNote {
    /// See [`Seen::was`].
    was: Micros,
    /// It says what waits there.
    waits: bool,
    /// The shortest of the session's calls that end.
    shortest_call: Micros,
    /// Heads there hold up a demand of the batch that would fit without them.
    holds_up: bool,
}

/// One quota of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) bucket: usize,
    /// The bucket's index among those of the operation.
    pub(super) of: usize,
    pub(super) rule: usize,
    /// Its index among all of the operation.
    pub(super) index: usize,
    pub(super) cost: u64,
}

impl<'a, 'b> BatchStates<'a, 'b> {
    /// Brings the states to the present.
    #[inline]
    pub(super) fn advance(
        states: &'a mut [&'b mut BucketState],
        batch: &'a Batch<'a>,
        wall: Micros,
    ) -> Self {
        let mut notes: SmallVec<[BucketNote; 1]> = SmallVec::new();
        for (state, bucket) in states.iter_mut().zip(batch.buckets) {
            let was = if batch.seq > 0 { state.named_at(batch.session) } else { state.now() };
            let shortest_call = Micros::MAX;
            notes.push(BucketNote { was, waits: false, shortest_call, holds_up: false });
            state.advance(&bucket.rules, wall);
        }
        for op in batch.ops {
            if let Op::Waiting { bucket, .. } = op {
                notes[usize::from(*bucket)].waits = true;
            }
        }
        Self { states, batch, wall, notes, edited: false }
    }

    pub(super) fn session(&self) -> u64 {
        self.batch.session
    }

    pub(super) fn wall(&self) -> Micros {
        self.wall
    }

    #[inline]
    pub(super) fn state(&self, bucket: usize) -> &BucketState {
        self.states[bucket]
    }

    #[inline]
    pub(super) fn state_mut(&mut self, bucket: usize) -> &mut BucketState {
        self.states[bucket]
    }

    /// A state in which a settle is made.
    #[inline]
    pub(super) fn edit(&mut self, bucket: usize) -> &mut BucketState {
        self.edited = true;
        self.states[bucket]
    }

    /// Makes the edits of the settles so far count.
    #[inline]
    pub(super) fn refold(&mut self) {
        if std::mem::take(&mut self.edited) {
            self.states.iter_mut().for_each(|state| state.refold());
        }
    }

    pub(super) fn id(&self, bucket: usize) -> u64 {
        self.batch.buckets[bucket].key.id()
    }

    /// The bucket of this id, if the batch names it.
    pub(super) fn of_id(&self, id: u64) -> Option<usize> {
        self.batch.buckets.iter().position(|bucket| bucket.key.id() == id)
    }

    #[inline]
    pub(super) fn rules(&self, bucket: usize) -> &'a [Rule] {
        &self.batch.buckets[bucket].rules
    }

    pub(super) fn is_told(&self, bucket: usize) -> bool {
        self.notes[bucket].waits
    }

    /// A demand would fit if no heads in this bucket went before it.
    pub(super) fn hold_up(&mut self, bucket: usize) {
        self.notes[bucket].holds_up = true;
    }

    pub(super) fn holds_up(&self, bucket: usize) -> bool {
        self.notes[bucket].holds_up
    }

    /// When the session is heard of with this batch, as its heads in a bucket know; 0 if it cannot
    /// die by itself. One that no hints reach counts as heard of until it looks by itself.
    pub(super) fn heard(&self, bucket: usize) -> Micros {
        let now = self.state(bucket).now();
        match self.batch {
            Batch { seq: 0, .. } => 0,
            Batch { unhinted: true, .. } => sum(now, UNHINTED),
            _ => now,
        }
    }

    /// A call of the session ends that was granted at `at`.
    #[inline]
    pub(super) fn call_ends(&mut self, bucket: usize, at: Micros) {
        let length = self.states[bucket].now().saturating_sub(at);
        let shortest = &mut self.notes[bucket].shortest_call;
        *shortest = length.min(*shortest);
    }

    /// The length of the shortest of the session's calls that have ended in this batch; the longest
    /// time if none has.
    pub(super) fn shortest_call(&self, bucket: usize) -> Micros {
        self.notes[bucket].shortest_call
    }

    /// The bucket in which a reserve's flow takes turns.
    pub(super) fn space_of(&self, reserve: &Reserve) -> usize {
        reserve.on.last().map_or(0, |&bucket| usize::from(bucket))
    }

    /// Where the flow of a reserve starts.
    pub(super) fn start_of(&self, reserve: &Reserve) -> f64 {
        self.start_in(self.space_of(reserve), reserve.flow.id)
    }

    /// Where a flow starts that takes turns in a bucket. It waits if it has a head in any bucket of
    /// the batch: it may wait in those that the batch does not name, where its tag is not asked
    /// for.
    pub(super) fn start_in(&self, space: usize, flow: u64) -> f64 {
        let id = self.id(space);
        let waits_in = |state: &&mut BucketState| state.heads().waits(flow, id, state.now());
        let waits = || self.states.iter().any(waits_in);
        self.state(space).flows().map_or(0.0, |flows| flows.start(flow, waits))
    }

    /// Where a flow starts that takes turns in a bucket, and waits.
    pub(super) fn start_waiting(&self, space: usize, flow: u64) -> f64 {
        self.state(space).flows().map_or(0.0, |flows| flows.start(flow, || true))
    }

    /// Where a head starts, as far as this batch tells.
    pub(super) fn start_of_head(&self, head: &Head) -> f64 {
        let start = self.of_id(head.space).map(|space| self.start_waiting(space, head.flow));
        head.tag.min(start.unwrap_or(head.tag))
    }

    /// Finds the places of the heads in a bucket.
    pub(super) fn find_places(&mut self, bucket: usize) {
        let mut heads = std::mem::take(self.state_mut(bucket).heads_mut());
        let start_of = |head: &Head| Some(self.start_waiting(self.of_id(head.space)?, head.flow));
        heads.find_places(self.id(bucket), self.state(bucket).now(), start_of);
        *self.state_mut(bucket).heads_mut() = heads;
    }

    /// A demand of a flow waits that takes turns in a bucket, whichever bucket refused it. `until`
    /// is when it looks again at the latest.
    pub(super) fn wait_in_flow(&mut self, space: usize, flow: u64, until: Micros) {
        let start = self.start_in(space, flow);
        self.state_mut(space).wait_in_flow(flow, start, until);
    }

    /// How far a grant of a reserve moves its flow on.
    pub(super) fn step_of(&self, reserve: &Reserve) -> f64 {
        reserve.step(self.rules(self.space_of(reserve)))
    }

    /// Each bucket of an operation with its part of these amounts.
    #[inline]
    pub(super) fn parts<'c>(
        &self,
        on: &'c On,
        amounts: &'c [u64],
    ) -> impl Iterator<Item = (usize, &'c [u64])> + use<'a, 'c> {
        let (buckets, mut rest) = (self.batch.buckets, amounts);
        on.iter().map(move |&bucket| {
            let bucket = usize::from(bucket);
            let part;
            (part, rest) = rest.split_at(buckets[bucket].rules.len().min(rest.len()));
            (bucket, part)
        })
    }

    /// Every quota of an operation on these buckets.
    pub(super) fn quotas<'c>(
        &self,
        on: &'c On,
        costs: &'c [u64],
    ) -> impl Iterator<Item = At> + use<'a, 'c> {
        let quotas = self.parts(on, costs).enumerate().flat_map(|(of, (bucket, costs))| {
            costs.iter().enumerate().map(move |(rule, &cost)| (bucket, of, rule, cost))
        });
        let at = |(index, (bucket, of, rule, cost))| At { bucket, of, rule, index, cost };
        quotas.enumerate().map(at)
    }

    /// A quota of a bucket with its rule.
    #[inline]
    pub(super) fn quota(&self, bucket: usize, rule: usize) -> (&QuotaState, &'a Rule) {
        (&self.state(bucket).quotas()[rule], &self.rules(bucket)[rule])
    }

    /// A bucket's quota of this id.
    pub(super) fn quota_of(
        &mut self,
        bucket: usize,
        id: u64,
    ) -> Option<(&'a Rule, &mut QuotaState)> {
        let rules = self.rules(bucket);
        let index = rules.iter().position(|rule| rule.id == id)?;
        Some((&rules[index], self.states[bucket].quota(index)?))
    }

    /// Whether a demand fits on a quota if nothing goes before it.
    #[inline]
    pub(super) fn fits_alone(&self, bucket: usize, rule: usize, cost: u64, headroom: u64) -> bool {
        let (quota, rule) = self.quota(bucket, rule);
        quota.fits(rule, Ask::alone(rule, cost, headroom), self.state(bucket).now())
    }

    /// Gives the session time until its next batch. Returns how a bucket was found and left.
    #[inline]
    pub(super) fn end(&mut self, bucket: usize) -> Seen {
        let Batch { session, seq, lease, .. } = *self.batch;
        let (rules, was) = (self.rules(bucket), self.notes[bucket].was);
        self.states[bucket].end(session, lease, seq > 0, rules, self.wall);
        self.states[bucket].seen(was)
    }
}
