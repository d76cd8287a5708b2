//! A reserve, measured against what goes before it: whether it fits, and if not, why.

use smallvec::SmallVec;

use super::{
    Micros, Mode, Refused, RefusedBy, Reserve, Violation,
    ahead::Ahead,
    exact::sum,
    flows::FLOW_MEMORY,
    heads::{Before, Head, LATE, Outlook},
    order::{Ages, Turn},
    own_heads::OwnHeads,
    quota_state::Ask,
    states::{At, BatchStates},
};

pub(super) struct Candidate<'r> {
    reserve: &'r Reserve,
    turn: Turn,
    asks: SmallVec<[Measured; 4]>,
    /// For how long a pause of each of its buckets holds it back.
    paused: SmallVec<[Micros; 2]>,
}

/// What it asks of one quota.
#[derive(Clone, Copy, Debug)]
struct Measured {
    at: At,
    ask: Ask,
    /// The heads of other sessions among what goes before it.
    others: Before,
    fits: bool,
}

/// A quota that holds it back, or where it keeps its place.
#[derive(Clone, Copy, Debug)]
struct Held {
    at: At,
    /// For how long others hold it back.
    by_others: Micros,
    fits: bool,
}

impl<'r> Candidate<'r> {
    pub(super) fn measure(
        reserve: &'r Reserve,
        turn: Turn,
        states: &BatchStates<'_, '_>,
        ahead: &Ahead,
    ) -> Self {
        let measured = |at: At| {
            let (ask, others) = ahead.ask(states, reserve, turn, at);
            let (quota, rule) = states.quota(at.bucket, at.rule);
            Measured { at, ask, others, fits: quota.fits(rule, ask, states.state(at.bucket).now()) }
        };
        let asks: SmallVec<[Measured; 4]> =
            states.quotas(&reserve.on, &reserve.costs).map(measured).collect();
        let paused_for = |(of, &bucket): (usize, &u16)| {
            let needed = asks.iter().filter(|ask| ask.at.of == of && ask.at.cost > 0);
            let before = needed.map(|ask| ask.ask.before).max().unwrap_or(0);
            states.state(bucket.into()).paused_for(before)
        };
        let paused = reserve.on.iter().enumerate().map(paused_for).collect();
        Self { reserve, turn, asks, paused }
    }

    pub(super) fn fits(&self) -> bool {
        self.asks.iter().all(|ask| ask.fits) && self.paused.iter().all(|wait| *wait == 0)
    }

    /// Refuses it. If it waits it lines up: it goes ahead of what comes later, and is a head.
    pub(super) fn refuse(
        self,
        states: &mut BatchStates<'_, '_>,
        lines: (&mut Ahead, &mut OwnHeads, &mut Ages),
    ) -> Refused {
        let mut refused = self.pauses(states);
        refused.extend(self.quotas(states));
        // The first of its buckets, which go from narrow to wide, in which it waits for calls in
        // flight. It stands in no line of a wider one meanwhile: what it cannot use yet is others'.
        let unknown = refused.iter().filter(|(_, violation)| violation.wait.is_none());
        let stuck = unknown.filter_map(|(at, _)| Some((*at)?.of)).min().unwrap_or(usize::MAX);
        // A place that it has there it keeps: streams on this quota and that one would starve it.
        let is_beyond = |(at, violation): &(Option<At>, Violation)| match (at, violation.by) {
            (Some(at), _) => at.of > stuck && !self.has_place(states, *at),
            (None, RefusedBy::Pause(of)) => of > stuck && !self.has_place_in(states, of),
            (None, RefusedBy::Rule(_)) => false,
        };
        let beyond: SmallVec<[bool; 4]> = refused.iter().map(is_beyond).collect();
        let wait_of = |(index, (_, violation)): (usize, &(Option<At>, Violation))| {
            if beyond[index] { 0 } else { violation.wait.unwrap_or(0) }
        };
        let waits: SmallVec<[Micros; 4]> = refused.iter().enumerate().map(wait_of).collect();
        // For how long the others hold it back.
        let held_for = |index: usize| {
            let others = waits.iter().enumerate().filter(|(other, _)| *other != index);
            others.map(|(_, wait)| *wait).max().unwrap_or(0)
        };
        // The last of several.
        let holding = (0..waits.len()).filter(|index| !beyond[*index]);
        let longest = holding.max_by_key(|index| waits[*index]);
        let mut held = SmallVec::<[Held; 4]>::new();
        for (index, (at, violation)) in refused.iter_mut().enumerate() {
            if beyond[index] {
                violation.holds = false;
                continue;
            }
            let Some(at) = at else { continue };
            let horizon = states.quota(at.bucket, at.rule).0.horizon();
            violation.holds = longest == Some(index) || held_for(index) <= horizon;
            if violation.holds {
                let (by_others, fits) = (held_for(index), !violation.holds_back());
                held.push(Held { at: *at, by_others, fits });
            }
        }
        let violations: SmallVec<[Violation; 2]> =
            refused.into_iter().map(|(_, violation)| violation).collect();
        let is_behind = self.is_behind(states);
        let has_others = self.asks.iter().any(|ask| ask.others.heads > 0);
        if is_behind && has_others && self.reserve.mode != Mode::Dry {
            let on = self.reserve.on.iter().map(|&bucket| usize::from(bucket));
            on.for_each(|bucket| states.hold_up(bucket));
        }
        let tag = self.turn.tag.unwrap_or_else(|| states.start_of(self.reserve));
        let part = states.step_of(self.reserve);
        let goes_away = violations.iter().any(|violation| {
            violation.asked.is_some() || violation.at_best > self.reserve.patience
        });
        if self.reserve.mode == Mode::Wait && !goes_away {
            let known = violations.iter().all(|violation| violation.wait.is_some());
            let due_in = known.then(|| waits.iter().copied().max().unwrap_or(0));
            self.line_up((&held, stuck), due_in, is_behind, states, lines);
        }
        Refused { violations, tag, part }
    }

    /// The pauses that refuse it.
    fn pauses(&self, states: &BatchStates<'_, '_>) -> SmallVec<[(Option<At>, Violation); 2]> {
        let paused = self.paused.iter().enumerate().filter(|(_, wait)| **wait > 0);
        let violation = |(of, &wait): (usize, &Micros)| {
            let needed = self.asks.iter().filter(|ask| ask.at.of == of && ask.at.cost > 0);
            let others = needed.map(|ask| ask.others).max_by_key(|others| others.demands);
            let others = others.unwrap_or_default();
            Violation {
                by: RefusedBy::Pause(of),
                available: 0,
                wait: Some(wait),
                alone: Some(wait),
                at_best: wait,
                asked: states.state(self.reserve.on[of].into()).asked(),
                holds: true,
                rank: others.heads,
                before: others.demands,
            }
        };
        paused.map(|paused| (None, violation(paused))).collect()
    }

    /// The quotas that refuse it, and those where it keeps its place.
    fn quotas(
        &self,
        states: &BatchStates<'_, '_>,
    ) -> impl Iterator<Item = (Option<At>, Violation)> {
        let refusing = self.asks.iter().filter(|ask| self.is_refused_by(ask, states));
        refusing.map(|&Measured { at, ask, others, fits, .. }| {
            let (quota, rule) = states.quota(at.bucket, at.rule);
            let now = states.state(at.bucket).now();
            let shortage = quota.shortage(rule, ask, now, states.wall());
            let wait = if fits { Some(0) } else { shortage.wait };
            let violation = Violation {
                by: RefusedBy::Rule(at.index),
                available: shortage.available,
                wait,
                alone: if fits || others.demands == 0 {
                    wait
                } else {
                    quota.shortage(rule, ask.without(others), now, states.wall()).wait
                },
                at_best: if fits { 0 } else { shortage.at_best },
                asked: quota.asked(at.cost, now),
                holds: true,
                rank: others.heads,
                before: others.demands,
            };
            (Some(at), violation)
        })
    }

    /// Whether a quota refuses it, or refused it before: there a waiter keeps its place though it
    /// would fit now. Otherwise streams on this quota alone and on that alone would starve what
    /// needs both.
    fn is_refused_by(&self, ask: &Measured, states: &BatchStates<'_, '_>) -> bool {
        let Measured { at, fits, .. } = *ask;
        !fits || self.paused[at.of] == 0 && at.cost > 0 && self.head(states, at).is_some()
    }

    /// What it is on a quota, if it is a head there already.
    fn head<'s>(&self, states: &'s BatchStates<'_, '_>, at: At) -> Option<&'s Head> {
        let heads = states.state(at.bucket).heads();
        let quota = states.rules(at.bucket)[at.rule].id;
        let is_waiter = self.reserve.mode == Mode::Wait && self.reserve.waiter > 0;
        heads.find(states.session(), quota, self.reserve.waiter).filter(|_| is_waiter)
    }

    /// Whether it was refused on a quota, and is a head there since. One that was not looked at may
    /// be a head of a bucket that it cannot use: it came to wait behind another one that could.
    fn has_place(&self, states: &BatchStates<'_, '_>, at: At) -> bool {
        self.head(states, at).is_some_and(Head::was_refused)
    }

    /// Whether it has a place in one of its buckets, on a quota that it needs.
    fn has_place_in(&self, states: &BatchStates<'_, '_>, of: usize) -> bool {
        let mut needed = self.asks.iter().filter(|ask| ask.at.of == of && ask.at.cost > 0);
        needed.any(|ask| self.has_place(states, ask.at))
    }

    /// Whether it would fit if nothing went before it.
    fn is_behind(&self, states: &BatchStates<'_, '_>) -> bool {
        let is_paused = |&bucket: &u16| states.state(bucket.into()).paused_for(0) > 0;
        let fits = |ask: &Measured| {
            let At { bucket, rule, cost, .. } = ask.at;
            ask.fits || states.fits_alone(bucket, rule, cost, self.reserve.headroom)
        };
        !self.reserve.on.iter().any(is_paused) && self.asks.iter().all(fits)
    }

    /// It waits on the quotas that refused it, and fits when it is due, if that is known.
    fn line_up(
        &self,
        (held, stuck): (&[Held], usize),
        due_in: Option<Micros>,
        is_behind: bool,
        states: &mut BatchStates<'_, '_>,
        (ahead, own_heads, ages): (&mut Ahead, &mut OwnHeads, &mut Ages),
    ) {
        let (reserve, space) = (self.reserve, states.space_of(self.reserve));
        if self.turn.tag.is_none() {
            ages.note(reserve.age, self.turn.age);
        }
        // What a pause of a bucket holds back is a head on all quotas of the bucket that it needs.
        let is_behind_pause = |ask: &&Measured| {
            let At { of, cost, .. } = ask.at;
            let is_beyond = of > stuck && !self.has_place_in(states, of);
            cost > 0 && self.paused[of] > 0 && ask.fits && !is_beyond
        };
        let behind_pauses = self.asks.iter().filter(is_behind_pause);
        let behind_pauses: SmallVec<[Held; 4]> =
            behind_pauses.map(|ask| Held { at: ask.at, by_others: 0, fits: false }).collect();
        for Held { at, by_others, fits } in held.iter().copied().chain(behind_pauses) {
            let blocks = by_others <= states.quota(at.bucket, at.rule).0.horizon();
            // Those that it overtakes need not wait for it while it waits for others.
            if blocks && !(is_behind && self.turn.overtakes) {
                ahead.extend((at.bucket, at.rule), reserve.headroom, at.cost, 1);
            }
            if !states.is_told(at.bucket) {
                continue;
            }
            let now = states.state(at.bucket).now();
            let arrival = now.saturating_sub(self.turn.age);
            let head = Head {
                session: states.session(),
                quota: states.rules(at.bucket)[at.rule].id,
                headroom: reserve.headroom,
                flow: reserve.flow.id,
                space: states.id(space),
                waiter: reserve.waiter,
                arrival,
                cost: at.cost,
                part: states.step_of(reserve),
                tag: states.state(at.bucket).heads().kept_tag(states.session(), reserve.waiter),
                place: arrival,
                count: 1,
                sum: at.cost,
                last: arrival,
                due: due_in.map_or(0, |wait| sum(now, wait)),
                heard: states.heard(at.bucket),
                held_until: sum(now, by_others),
                is_behind,
                outlook: if fits { Outlook::Fits } else { Outlook::Behind },
            };
            own_heads.add(at.bucket, head);
        }
        // Where it is a head of the bucket itself, that says how long it waits.
        let is_head = held.iter().any(|held| held.at.bucket == space);
        let lasts = if is_head { 0 } else { due_in.map_or(FLOW_MEMORY, |wait| sum(wait, LATE)) };
        let until = sum(states.state(space).now(), lasts);
        states.wait_in_flow(space, reserve.flow.id, until);
    }
}
