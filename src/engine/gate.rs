//! A pause of a bucket or of a quota, and what follows it.
//!
//! A pause of the user's ends and is gone. One that a provider's refusal caused ends half open: one
//! demand goes first, as a probe. When that was answered well, or was not refused within a second,
//! the waiters follow, spread over a second.

use super::{
    MAX_AMOUNT, Micros,
    codec::{coded, coded_enum},
    exact::sum,
    heads::LATE,
};

/// A probe that is not answered within this counts as answered well.
const PROBE: Micros = 1_000_000;

/// What is behind the demand that should probe looks again after this long: that may be late.
const PROBE_LATE: Micros = LATE + 50_000;

/// The waiters follow a probe over this long.
const SPREAD: Micros = 1_000_000;

/// Of what was missed meanwhile, at most this much is caught up with, or one step: sessions come in
/// turns, yet nothing follows in one burst.
const CATCH_UP: Micros = 20_000;

/// Whether demands pass, and in what measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gate {
    /// Nothing passes before.
    until: Micros,
    /// A provider asked for a wait until `asked_until`, and for as long as this lasts demands are
    /// refused instead of waiting for it.
    surfaced_until: Micros,
    asked_until: Micros,
    /// How long the last pause was that a refusal caused and no probe has ended; 0 if none.
    length: Micros,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Opens fully.
    #[default]
    Plain,
    /// Lets one demand pass; it did at `probe`, if that is not 0.
    HalfOpen { probe: Micros },
    /// Lets one demand pass every `step`, the next at `next`.
    Spreading { until: Micros, next: Micros, step: Micros },
}

/// A provider's refusal of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProviderRefusal {
    /// When the call was granted.
    pub(crate) at: Micros,
    /// The wait that was asked for.
    pub(crate) asked: Micros,
    /// For how long the pause lasts, and the longest that doubling leads to.
    pub(crate) lasts: Micros,
    pub(crate) longest: Micros,
}

impl Gate {
    /// From the numbers by which Redis has it.
    #[cfg(feature = "redis")]
    pub(crate) fn stored(numbers: [u64; 9]) -> Self {
        let [until, surfaced_until, asked_until, length, phase, probe, spread, next, step] =
            numbers;
        let phase = match phase {
            0 => Phase::Plain,
            1 => Phase::HalfOpen { probe },
            _ => Phase::Spreading { until: spread, next, step },
        };
        Self { until, surfaced_until, asked_until, length, phase }
    }

    /// Whether this holds nothing back and remembers nothing.
    pub(crate) fn is_gone(&self) -> bool {
        *self == Self::default()
    }

    /// Pauses for the user.
    pub(crate) fn pause(&mut self, until: Micros) {
        self.until = self.until.max(until);
    }

    /// Pauses for a provider. A call that was granted after an earlier pause ended shows that it
    /// was too short.
    pub(crate) fn refuse(&mut self, refusal: ProviderRefusal, now: Micros) {
        let ProviderRefusal { at, asked, lasts, longest } = refusal;
        let lasts = lasts.min(MAX_AMOUNT);
        let is_further = self.length > 0 && at >= self.until;
        let lasts =
            if is_further { lasts.max(sum(self.length, self.length).min(longest)) } else { lasts };
        self.length = if is_further { lasts } else { self.length.max(lasts) };
        self.until = self.until.max(sum(now, lasts));
        self.phase = Phase::HalfOpen { probe: 0 };
        if self.surfaced_until <= now {
            (self.surfaced_until, self.asked_until) = (0, 0);
        }
        if asked > lasts {
            self.surfaced_until = self.surfaced_until.max(sum(now, lasts));
            self.asked_until = self.asked_until.max(sum(now, asked));
        }
    }

    /// A call was answered well that was granted at `at`. If it was the probe, `waiting` demands
    /// follow. Returns whether it was.
    pub(crate) fn answered(&mut self, at: Micros, waiting: u64, now: Micros) -> bool {
        let is_probe = matches!(self.phase, Phase::HalfOpen { probe: 1.. }) && at >= self.until;
        if is_probe {
            self.spread(waiting, now);
        }
        is_probe
    }

    /// Ends every pause.
    pub(crate) fn resume(&mut self) {
        *self = Self::default();
    }

    /// Lets the waiters follow a probe that was answered well. A later refusal is a first one
    /// again: if all that follows were refused, doubling on would end at the longest pause, however
    /// short the provider's window is.
    fn spread(&mut self, waiting: u64, now: Micros) {
        self.length = 0;
        match SPREAD.checked_div(waiting) {
            Some(step) => {
                self.phase =
                    Phase::Spreading { until: sum(now, SPREAD), next: now, step: step.max(1) };
            }
            None => self.resume(),
        }
    }

    /// Ends what is over, `waiting` demands waiting.
    pub(crate) fn pass(&mut self, waiting: u64, now: Micros) {
        if self.until > now {
            return;
        }
        match self.phase {
            Phase::Plain => self.resume(),
            // It is remembered until a demand probes, or for as long as a refusal would double it.
            Phase::HalfOpen { probe: 0 } if waiting > 0 || self.lasts(now) > 0 => {}
            Phase::HalfOpen { probe: 0 } => self.resume(),
            Phase::HalfOpen { probe } if now < probe + PROBE => {}
            Phase::HalfOpen { .. } => self.spread(waiting, now),
            Phase::Spreading { until, .. } if now >= until => self.resume(),
            Phase::Spreading { .. } => {}
        }
    }

    /// How long a demand has to wait here behind `before` others; 0 if it may pass.
    pub(crate) fn wait(&self, before: u64, now: Micros) -> Micros {
        if self.until > now {
            return self.until - now;
        }
        match self.phase {
            Phase::Plain => 0,
            Phase::HalfOpen { probe: 0 } if before == 0 => 0,
            Phase::HalfOpen { probe: 0 } => PROBE_LATE,
            Phase::HalfOpen { probe } => (probe + PROBE).saturating_sub(now),
            Phase::Spreading { next, step, .. } => {
                sum(next, step.saturating_mul(before)).saturating_sub(now)
            }
        }
    }

    /// A demand passes. Returns whether it is a probe.
    pub(crate) fn grant(&mut self, now: Micros) -> bool {
        match &mut self.phase {
            Phase::HalfOpen { probe } => {
                *probe = now;
                true
            }
            Phase::Spreading { next, step, .. } => {
                *next = sum((*next).max(now.saturating_sub((*step).max(CATCH_UP))), *step);
                false
            }
            Phase::Plain => false,
        }
    }

    /// Until when nothing passes, if that is not over.
    pub(crate) fn paused_until(&self, now: Micros) -> Micros {
        if self.until > now { self.until } else { 0 }
    }

    /// What is left of the wait that was asked for, if demands are not to wait for it.
    pub(crate) fn asked(&self, now: Micros) -> Option<Micros> {
        let refuses = self.surfaced_until > now && self.asked_until > self.until;
        refuses.then(|| self.asked_until.saturating_sub(now))
    }

    /// Time until this means nothing any more, if nothing is asked meanwhile.
    pub(crate) fn lasts(&self, now: Micros) -> Micros {
        let until = match self.phase {
            Phase::Plain => self.until,
            // A refusal of the probe doubles the pause: remembered for as long as it was.
            Phase::HalfOpen { .. } => sum(self.until, sum(self.length, PROBE + SPREAD)),
            Phase::Spreading { until, .. } => self.until.max(until),
        };
        until.saturating_sub(now)
    }
}

coded!(Gate { until, surfaced_until, asked_until, length, phase });

coded_enum!(Phase {
    0 => Plain {},
    1 => HalfOpen { probe: probe },
    2 => Spreading { until: until, next: next, step: step },
});
