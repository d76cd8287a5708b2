//! What providers said, as operations of the engine: which quota is meant, and how long it is held
//! back at most.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{settle::Settling, target::BucketTarget};
use crate::{
    engine::{MAX_AMOUNT, Micros, Op},
    feedback::{Feedback, Left, Named, Wait},
    limits::BucketSpec,
    observe::Event,
    quota::{Meter, micros},
};

/// Windows that differ by less than this factor are the same: providers' numbers are rounded.
const ABOUT: u32 = 2;

/// A call whose response may say something, or has.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    target: Arc<BucketTarget>,
    /// The index of the bucket that stands for the provider's account.
    account: usize,
    /// When the call was granted, by that bucket's time.
    at: Micros,
    /// What has come back since then is left besides what is said to be left.
    left_at: Micros,
}

impl Origin {
    pub(super) fn new(target: Arc<BucketTarget>, account: usize, at: Micros) -> Self {
        Self { target, account, at, left_at: at }
    }

    /// The call was refused: what its response says is left was counted just now.
    #[must_use]
    pub(crate) fn of_refusal(self) -> Self {
        Self { left_at: MAX_AMOUNT, ..self }
    }

    /// Holds the fleet to what was said. It is applied, or enqueued, when this returns.
    pub(crate) fn feedback(&self, feedback: &Feedback) -> Settling {
        let (left, wait) = (self.left(feedback), self.wait(feedback));
        wait.or(left).unwrap_or_else(Settling::done)
    }

    /// Holds the fleet to what was said to be left.
    pub(crate) fn left(&self, feedback: &Feedback) -> Option<Settling> {
        let (bucket, spec) = self.account()?;
        let caps = feedback.left.iter().filter_map(|left| self.cap(&spec, left));
        caps.fold(None, |_, cap| Some(self.target.tell(bucket, cap)))
    }

    /// Holds the fleet to how long to wait. A refusal that no wait helps must not make other calls
    /// wait.
    pub(crate) fn wait(&self, feedback: &Feedback) -> Option<Settling> {
        let wait = feedback.wait.as_ref().filter(|_| !feedback.is_permanent())?;
        let (bucket, spec) = self.account()?;
        Some(self.target.tell(bucket, self.refusal(&spec, wait)?))
    }

    /// The account's bucket, with its declaration as of now.
    fn account(&self) -> Option<(u64, Arc<BucketSpec>)> {
        let bucket = self.target.set.handles().nth(self.account)?.id();
        let spec = self.target.set.only(bucket)?.specs().next()?.clone();
        Some((bucket, spec))
    }

    fn cap(&self, spec: &BucketSpec, left: &Left) -> Option<Op> {
        let meter = meant(&spec.meters, &left.of)?;
        if left.amount >= meter.rule.capacity(0) {
            return None;
        }
        let longest = self.longest();
        let lasts = left.reset.or(meter.window).unwrap_or(longest).min(longest);
        if let Some(reset) = left.reset.filter(|reset| left.amount == 0 && *reset > longest) {
            self.tell(spec, Some(meter), reset, lasts);
        }
        let cap = Op::Cap {
            bucket: 0,
            quota: meter.rule.id,
            left: left.amount,
            at: self.left_at,
            lasts: micros(lasts),
        };
        (!lasts.is_zero()).then_some(cap)
    }

    fn refusal(&self, spec: &BucketSpec, wait: &Wait) -> Option<Op> {
        let meter = wait.of.as_ref().and_then(|of| meant(&spec.meters, of));
        let lasts = wait.time.min(self.longest());
        if !wait.time.is_zero() {
            self.tell(spec, meter, wait.time, lasts);
        }
        (!lasts.is_zero()).then(|| Op::Refused {
            bucket: 0,
            quota: meter.map(|meter| meter.rule.id),
            at: self.at,
            asked: micros(wait.time),
            lasts: micros(lasts).max(1),
            longest: micros(self.longest()),
        })
    }

    fn longest(&self) -> Duration {
        self.target.session.context().options().longest_pause
    }

    fn tell(&self, spec: &BucketSpec, meter: Option<&Meter>, asked: Duration, applied: Duration) {
        let (bucket, quota) = (spec.name(), meter.map(|meter| &*meter.label));
        self.target.session.context().tell(|| Event::Paused { bucket, quota, asked, applied });
    }
}

/// The quota that is meant; nothing if that is not certain.
fn meant<'m>(meters: &'m [Meter], named: &Named) -> Option<&'m Meter> {
    let of_metric: SmallVec<[_; 4]> =
        meters.iter().filter(|meter| meter.counts_only(&named.metric)).collect();
    let with_limit: SmallVec<[_; 4]> =
        of_metric.iter().copied().filter(|meter| named.limit == Some(meter.rule.limit)).collect();
    match with_limit.len() {
        0 => with_window(&of_metric, named.window),
        1 => Some(with_limit[0]),
        _ => with_window(&with_limit, named.window),
    }
}

fn with_window<'m>(meters: &[&'m Meter], window: Option<Duration>) -> Option<&'m Meter> {
    let is_meant = |meter: &&&Meter| match (window, meter.window) {
        (Some(said), Some(own)) => {
            said < own.saturating_mul(ABOUT) && own < said.saturating_mul(ABOUT)
        }
        (window, _) => window.is_none(),
    };
    let mut meant = meters.iter().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(meter), None) => Some(meter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quota;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_quota_is_known_by_its_limit_or_its_window_and_never_guessed() {
        let quotas = [
            Quota::per_minute("requests", 500),
            Quota::per_day("requests", 10_000),
            Quota::per_minute("tokens", 30_000),
            Quota::per_minute("both", 7).weight("tokens", 1.0),
            Quota::per_minute("twice", 8),
            Quota::per_day("twice", 8),
        ];
        let meters: Vec<_> = quotas.iter().map(|quota| quota.compile().unwrap()).collect();
        let known = |named: Named| {
            let label = meant(&meters, &named).map(|meter| meter.label.to_string());
            label.unwrap_or_default()
        };
        let requests = || Named::metric("requests");
        assert_eq!(known(requests().limit(10_000)), "requests per day");
        assert_eq!(known(requests().limit(500).window(24 * 60 * MINUTE)), "requests per minute");
        assert_eq!(known(requests().limit(499).window(MINUTE + MINUTE / 2)), "requests per minute");
        assert_eq!(known(requests().window(60 * MINUTE)), "", "no such window");
        assert_eq!(known(requests()), "", "either");
        assert_eq!(known(requests().limit(499)), "", "either");
        assert_eq!(known(Named::metric("tokens").limit(1)), "tokens per minute", "the only one");
        assert_eq!(
            known(Named::metric("tokens").limit(1).window(60 * MINUTE)),
            "",
            "of another window"
        );
        assert_eq!(known(Named::metric("both")), "", "it counts something else too");
        assert_eq!(known(Named::metric("twice").limit(8)), "");
        assert_eq!(known(Named::metric("twice").limit(8).window(MINUTE)), "twice per minute");
        assert_eq!(known(Named::metric("words")), "");
    }
}
