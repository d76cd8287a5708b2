//! What goes before a demand on a quota: heads of other sessions, and waiters of its own session
//! that are before it in the batch.

use super::{
    Micros, Mode, Reserve, Window,
    exact::sum,
    heads::{Before, Head, Place},
    order::Turn,
    quota_state::Ask,
    states::{At, BatchStates},
};

/// Where grants come faster than round trips, strict order over processes would let all of them
/// wait for each other: there a session may grant what arrived this much after another one's head,
/// and more where many wait.
const TOLERANCE: Micros = 20_000;
const TOLERANCE_PER_HEAD: Micros = 2_000;

/// What waiters of the session ask of quotas that refused them. Few at a time.
#[derive(Debug, Default)]
pub(super) struct Ahead(Vec<AheadClass>);

/// Waiters of one class.
#[derive(Clone, Copy, Debug)]
struct AheadClass {
    bucket: usize,
    rule: usize,
    /// What they leave to others: a demand that leaves less is not behind them.
    headroom: u64,
    amount: u64,
    demands: u64,
}

impl Ahead {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waiters that were refused go before what comes later.
    pub(super) fn extend(
        &mut self,
        (bucket, rule): (usize, usize),
        headroom: u64,
        amount: u64,
        demands: u64,
    ) {
        let key = (bucket, rule, headroom);
        match self.0.iter_mut().find(|class| (class.bucket, class.rule, class.headroom) == key) {
            Some(class) => {
                class.amount = sum(class.amount, amount);
                class.demands = sum(class.demands, demands);
            }
            None => self.0.push(AheadClass { bucket, rule, headroom, amount, demands }),
        }
    }

    /// What a reserve asks of a quota, and what of that heads of other sessions ask before it.
    pub(super) fn ask(
        &self,
        states: &BatchStates<'_, '_>,
        reserve: &Reserve,
        turn: Turn,
        at: At,
    ) -> (Ask, Before) {
        let others = others(states, reserve, turn, at);
        let (mut amount, mut demands) = (others.amount, others.demands);
        let of_quota =
            self.0.iter().filter(|class| (class.bucket, class.rule) == (at.bucket, at.rule));
        for class in of_quota.filter(|class| class.headroom <= reserve.headroom) {
            amount = sum(amount, class.amount);
            demands = sum(demands, class.demands);
        }
        let (_, rule) = states.quota(at.bucket, at.rule);
        let capacity = rule.capacity_for(at.cost, reserve.headroom);
        (Ask { cost: at.cost, ahead: amount, before: demands, capacity }, others)
    }
}

/// What heads of other sessions go before a reserve on a quota.
fn others(states: &BatchStates<'_, '_>, reserve: &Reserve, turn: Turn, at: At) -> Before {
    let state = states.state(at.bucket);
    if state.heads().is_empty() {
        return Before::default();
    }
    let (quota, now) = (&state.quotas()[at.rule], state.now());
    let space = states.space_of(reserve);
    let is_head = reserve.mode == Mode::Wait && reserve.waiter > 0;
    let session = if states.is_told(at.bucket) { states.session() } else { 0 };
    // What does not wait passes no head.
    let tolerance = match reserve.mode {
        Mode::Wait => tolerance(states, at, session),
        Mode::Try | Mode::Dry | Mode::Charge => 0,
    };
    let arrival = now.saturating_sub(turn.age);
    let place = Place {
        session,
        tie: if is_head { states.session() } else { u64::MAX },
        headroom: reserve.headroom,
        flow: reserve.flow.id,
        space: states.id(space),
        arrival,
        place: arrival,
        tolerance,
        tag: turn.tag.unwrap_or_else(|| states.start_of(reserve)),
    };
    let start_of = |head: &Head| head.tag.min(states.start_waiting(space, head.flow));
    let (heads, horizon) = (state.heads(), quota.horizon());
    let place = match at.bucket == space {
        true => place,
        false => heads.caught_up(place, states.step_of(reserve), quota.id, horizon, now, &start_of),
    };
    let place = heads.placed(place, quota.id, horizon, now, &start_of);
    heads.before(&place, quota.id, horizon, now, u64::MAX, &start_of)
}

/// By how much a waiter may have come after a head of another session and go before it.
fn tolerance(states: &BatchStates<'_, '_>, at: At, session: u64) -> Micros {
    let (state, (quota, rule)) = (states.state(at.bucket), states.quota(at.bucket, at.rule));
    match &rule.window {
        // To pass on what a call gives back takes about as long as a short one.
        Window::InFlight => match states.shortest_call(at.bucket) {
            length if length < TOLERANCE => TOLERANCE.min(2 * length),
            _ => 0,
        },
        Window::TokenBucket(_) => {
            let mut live = state.heads().live(session, quota.id, state.now());
            let Some(oldest) = live.next() else { return 0 };
            let ask = Ask::alone(rule, oldest.cost, oldest.headroom);
            match quota.shortage(rule, ask, state.now(), states.wall()).wait {
                Some(wait) if wait < TOLERANCE => {
                    TOLERANCE.max(TOLERANCE_PER_HEAD * (1 + live.count() as u64))
                }
                _ => 0,
            }
        }
        _ => 0,
    }
}
