//! The token bucket: what it gives back, and exact settling.

use proptest::prelude::*;

use super::{
    moves::{Move, Open, cases, choose, moves},
    oracle::{Drain, Log},
    *,
};

#[test]
fn a_reservation_as_old_as_the_span_is_still_refunded() {
    let (window, span) = (MINUTE, 10 * MINUTE);
    for slots in [1, 7, 96] {
        let shape = TokenBucket::new(1, window, 100, 400, span, slots);
        let rule = Rule { id: 1, limit: 1, held: false, window: Window::TokenBucket(shape) };
        for phase in [0, 1, shape.slot / 2, shape.slot - 1] {
            let mut world = World::new([rule.clone()]);
            world.wall = START / shape.slot * shape.slot + phase;
            let grant = world.take(&[100]);
            world.pass(span);
            world.settle(&grant, &[0]);
            assert_eq!(world.available(0), 100, "{slots} slots, phase {phase}");
        }
    }
}

#[test]
fn a_window_that_is_no_multiple_of_the_tick_drains_no_faster() {
    let shape = TokenBucket::new(1_000, 1_999, 10, 10, 8_000, 8);
    assert_eq!(shape.units, 2);
}

#[test]
fn a_debt_that_drained_unseen_takes_nothing_from_later_refunds() {
    let mut world = World::new([token_bucket(1, 100, MINUTE, 100)]);
    let grant = world.take(&[100]);
    world.settle(&grant, &[500]);
    world.pass(10 * MINUTE);
    let grant = world.take(&[100]);
    world.settle(&grant, &[0]);
    assert_eq!(world.available(0), 100);
}

const LIMIT: u64 = 100;

struct Life {
    world: World,
    shape: TokenBucket,
    log: Log,
    open: Vec<Open>,
    /// Every settle found its reservation in the ring.
    exact: bool,
}

impl Life {
    fn new(shape: TokenBucket, phase: Micros) -> Self {
        let rule = Rule { id: 1, limit: LIMIT, held: false, window: Window::TokenBucket(shape) };
        let mut world = World::new([rule]);
        world.pass(phase);
        Self { world, shape, log: Log::default(), open: Vec::new(), exact: true }
    }

    /// What a log says that reserved the actual amounts from the start.
    fn truth(&self) -> u64 {
        let most = (self.shape.burst + self.shape.max_debt) * self.shape.units;
        self.log.replay(Drain { rate: LIMIT, units: self.shape.units, most }, self.world.wall)
    }

    fn amend(&mut self, open: &Open, amount: u64) {
        // By the time that the state was brought to: a refund that comes by itself is as of then.
        let age = self.world.seen(0).now / self.shape.slot - open.grant.at[0] / self.shape.slot;
        let refund = amount < open.grant.costs[0];
        match age < self.shape.slots {
            true => self.log.amend(open.number, amount),
            // No refund, as documented: what was reserved stays the truth.
            false if refund => self.exact = false,
            false => {
                self.exact = false;
                self.log.amend(open.number, amount);
            }
        }
    }

    fn apply(&mut self, step: &Move) -> Result<(), TestCaseError> {
        let scale = |parts: u64| parts * self.shape.burst / 100;
        match *step {
            Move::Pass(time) => self.world.pass(time),
            Move::Reserve(parts) => {
                let cost = scale(parts);
                let (truth, capacity) = (self.truth(), self.shape.burst * self.shape.units);
                let (asked, slack) = (cost * self.shape.units, LIMIT * self.shape.slot);
                match self.world.reserve(&[cost]) {
                    Ok(grant) => {
                        prop_assert!(truth + asked <= capacity, "{truth} + {asked} granted");
                        self.open.push(Open { number: self.log.charge(grant.at[0], cost), grant });
                    }
                    Err(_) => prop_assert!(
                        !self.exact || truth + slack + asked > capacity,
                        "{truth} + {asked} refused"
                    ),
                }
            }
            Move::Settle(which, parts) => {
                let actual = scale(parts);
                if let Some(open) = choose(&mut self.open, which) {
                    self.world.settle(&open.grant, &[actual]);
                    self.amend(&open, actual);
                }
            }
            Move::Adjust(which, parts) => {
                let estimate = scale(parts);
                if let Some(mut open) = choose(&mut self.open, which) {
                    self.world.one(SESSION, adjust(&open.grant, &[estimate]));
                    self.amend(&open, estimate);
                    open.grant.costs[0] = estimate;
                    self.open.push(open);
                }
            }
        }
        let (used, truth) = (self.world.level(0).charged, self.truth());
        prop_assert!(used >= truth, "{used} used, {truth} in truth");
        prop_assert!(
            !self.exact || used <= truth + LIMIT * self.shape.slot,
            "{used} used, {truth} in truth"
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn a_settle_is_as_good_as_having_known_it_from_the_start(
        slots in prop_oneof![Just(1u64), 2..8u64, Just(96)],
        burst in prop_oneof![Just(LIMIT), 1..300u64],
        debt in 0..4u64,
        phase in 0..MINUTE,
        moves in moves(2 * MINUTE),
    ) {
        let shape = TokenBucket::new(1, MINUTE, burst, debt * burst, 2 * MINUTE, slots);
        let mut life = Life::new(shape, phase);
        for step in &moves {
            life.apply(step)?;
        }
    }
}
