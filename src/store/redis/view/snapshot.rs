//! What a bucket held when it was read. What the numbers mean, it asks the engine.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use smallvec::smallvec;

use super::{
    bucket_view::{BucketDetail, BucketView, QueuedView, SessionView},
    hash::{HashState, Shapes},
    quota_view::QuotaView,
};
use crate::{
    engine::{
        self, Batch, BucketLevel, Costs, Flow, MAX_AMOUNT, Micros, Mode, Op, Outcome, Reserve,
        Rule, Verdict, Window,
    },
    quota::QuotaNote,
    store::{Bucket, BucketKey},
};

/// So many records that are due end in one batch.
const ENDED: usize = 16;

/// What a bucket held when it was read.
pub(super) struct Snapshot {
    pub(super) shapes: Arc<Shapes>,
    pub(super) state: HashState,
}

impl Snapshot {
    pub(super) fn look(&self, key: &Arc<BucketKey>, wall: Micros) -> Option<BucketView> {
        let (rules, _) = self.shapes.rules(wall, &self.state);
        let (level, predicted) = self.ask(key, &rules, wall)?;
        let quotas = rules.iter().zip(&self.shapes.quotas).zip(&level.quotas);
        let quotas = quotas.map(|((rule, shape), level)| QuotaView::new(rule, &shape.note, level));
        let state = &self.state.bucket;
        // The bucket's time may be ahead of the server's.
        let ahead = self.state.now(wall) - wall;
        let time = |time: Micros| UNIX_EPOCH + Duration::from_micros(time.saturating_sub(ahead));
        let some_time = |at: Micros| (at > 0).then(|| time(at));
        Some(BucketView {
            key: key.clone(),
            at: UNIX_EPOCH + Duration::from_micros(wall),
            quotas: quotas.collect(),
            waiting: level.waiting,
            predicted,
            paused_until: some_time(level.paused_until),
            asked_until: some_time(level.asked_until),
            granted: level.granted,
            looks_refused: level.refused,
            since: time(state.born()),
            used: time(state.now()),
        })
    }

    /// Asks the engine how the bucket stands, and when a demand would start.
    fn ask(
        &self,
        key: &Arc<BucketKey>,
        rules: &Arc<[Rule]>,
        wall: Micros,
    ) -> Option<(BucketLevel, Option<Duration>)> {
        let mut state = self.state.bucket.clone();
        let costs: Costs = rules
            .iter()
            .zip(&self.shapes.quotas)
            .map(|(rule, shape)| cost(rule, &shape.note))
            .collect();
        let dry = Op::Reserve(Reserve {
            on: smallvec![0],
            costs,
            headroom: 0,
            mode: Mode::Dry,
            waiter: 0,
            age: 0,
            patience: MAX_AMOUNT,
            flow: Flow::default(),
        });
        let ops = [Op::Status { bucket: 0 }, dry];
        let buckets = [Bucket::new(key.clone(), rules.clone())];
        let batch = Batch::new(0, 0, 0, &buckets, &ops);
        if self.state.is_due(wall) {
            // A batch ends some of what is due.
            let records = state.records().len();
            for _ in 0..=records / ENDED {
                engine::apply(&mut [&mut state], &Batch { ops: &[], ..batch }, wall);
            }
        }
        let (answer, _) = engine::apply(&mut [&mut state], &batch, wall);
        let Outcome::Applied { verdicts, .. } = answer.outcome else { return None };
        let mut verdicts = verdicts.into_iter();
        let Some(Verdict::Status(level)) = verdicts.next() else { return None };
        Some((*level, predicted(verdicts.next()?)))
    }

    pub(super) fn look_closely(&self, key: &Arc<BucketKey>, wall: Micros) -> Option<BucketDetail> {
        let bucket = self.look(key, wall)?;
        let (state, now) = (&self.state.bucket, self.state.now(wall));
        let name = |id: u64| -> Arc<str> {
            let at = state.quotas().iter().position(|quota| quota.id == id);
            let named = at.and_then(|at| bucket.quotas.get(at)).map(|quota| quota.name.clone());
            named.unwrap_or_else(|| "(a quota that is declared no more)".into())
        };
        let queue = state.heads().iter().map(|head| QueuedView {
            session: head.session,
            quota: name(head.quota),
            headroom: head.headroom as f64 / engine::HEADROOM_PARTS as f64,
            share: (head.flow > 0).then_some(head.flow),
            arrived: UNIX_EPOCH + Duration::from_micros(head.arrival.saturating_sub(now - wall)),
            cost: head.cost,
            count: head.count,
            sum: head.sum,
            is_late: head.due > 0 && now > head.due + engine::LATE,
        });
        let sessions = state.records().map(|record| SessionView {
            id: record.id,
            is_detached: record.is_claim(),
            lease: record
                .lease_until()
                .checked_sub(now)
                .filter(|left| *left > 0)
                .map(Duration::from_micros),
            in_flight: record
                .shares()
                .iter()
                .filter(|share| share.amount > 0)
                .map(|share| (name(share.quota), share.amount))
                .collect(),
        });
        Some(BucketDetail { queue: queue.collect(), sessions: sessions.collect(), bucket })
    }
}

/// What a demand costs here that asks for one of everything.
fn cost(rule: &Rule, note: &QuotaNote) -> u64 {
    let parts: u64 = note.weights.iter().fold(0, |sum, (_, parts)| sum.saturating_add(*parts));
    match &rule.window {
        Window::InFlight => 1,
        _ if note.weights.is_empty() => 1,
        _ => parts.div_ceil(1_000_000),
    }
}

/// Time until a demand starts, if that is known.
fn predicted(verdict: Verdict) -> Option<Duration> {
    let Verdict::Refused(refused) = verdict else { return Some(Duration::ZERO) };
    engine::wait_of(&refused.violations).map(Duration::from_micros)
}
