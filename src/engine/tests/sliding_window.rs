//! The sliding window against a log of the same grants.

use proptest::prelude::*;

use super::{
    moves::{Move, Open, cases, choose, moves},
    oracle::Log,
    *,
};

const LIMIT: u64 = 100;

struct Life {
    world: World,
    log: Log,
    open: Vec<Open>,
    window: Micros,
    slot: Micros,
}

impl Life {
    fn new(window: Micros, slots: u64, phase: Micros) -> Self {
        let slot = window.div_ceil(slots);
        let mut world = World::new([sliding(1, LIMIT, window, slots)]);
        world.pass(phase);
        Self { world, log: Log::default(), open: Vec::new(), window: slot * slots, slot }
    }

    fn reserve(&mut self, cost: u64) -> Result<(), TestCaseError> {
        let now = self.world.wall;
        let charged = self.log.since(now - self.window);
        let at_most = self.log.since(now - self.window - self.slot);
        match self.world.reserve(&[cost]) {
            Ok(grant) => {
                prop_assert!(charged + cost <= LIMIT, "{charged} + {cost} in one window");
                self.open.push(Open { number: self.log.charge(now, cost), grant });
            }
            Err(_) => prop_assert!(at_most + cost > LIMIT, "{at_most} + {cost} refused"),
        }
        Ok(())
    }

    fn apply(&mut self, step: &Move) -> Result<(), TestCaseError> {
        match *step {
            Move::Pass(time) => self.world.pass(time),
            Move::Reserve(cost) => self.reserve(cost)?,
            Move::Settle(which, actual) => {
                if let Some(open) = choose(&mut self.open, which) {
                    self.world.settle(&open.grant, &[actual]);
                    self.log.amend(open.number, actual);
                }
            }
            Move::Adjust(which, estimate) => {
                if let Some(mut open) = choose(&mut self.open, which) {
                    self.world.one(SESSION, adjust(&open.grant, &[estimate]));
                    self.log.amend(open.number, estimate);
                    open.grant.costs[0] = estimate;
                    self.open.push(open);
                }
            }
        }
        let now = self.world.wall;
        let charged = self.world.level(0).charged;
        prop_assert!(charged >= self.log.since(now - self.window));
        prop_assert!(charged <= self.log.since(now - self.window - self.slot));
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn no_window_holds_more_than_its_limit_and_nothing_is_wasted(
        slots in 1..20u64,
        phase in 0..MINUTE,
        moves in moves(3 * MINUTE),
    ) {
        let mut life = Life::new(MINUTE, slots, phase);
        for step in &moves {
            life.apply(step)?;
        }
    }
}

#[test]
fn scenario_12_a_window_at_any_phase() {
    for phase in [0, 1, 499_999, SECOND - 1] {
        let mut world = World::new([sliding(1, 100, MINUTE, 60)]);
        world.wall = START / SECOND * SECOND + phase;
        world.take(&[100]);
        let wait = world.refused(&[1])[0].wait.unwrap();
        assert_eq!(wait, 61 * SECOND - phase);
        world.pass(wait - 1);
        world.refused(&[1]);
        world.pass(1);
        world.take(&[100]);
    }
}

#[test]
fn scenario_13_a_refund_counts_at_once_and_a_debit_is_a_debt() {
    let mut world = World::new([sliding(1, 100, MINUTE, 60)]);
    let grant = world.take(&[90]);
    world.pass(10 * SECOND);
    world.settle(&grant, &[30]);
    assert_eq!(world.available(0), 70);

    let grant = world.take(&[70]);
    world.settle(&grant, &[120]);
    assert_eq!(world.available(0), -50);
    world.refused(&[0]);
    world.pass(51 * SECOND);
    assert_eq!(world.available(0), -20);
    world.refused(&[0]);
    world.pass(10 * SECOND);
    world.take(&[100]);
}

#[test]
fn a_settle_after_the_slot_has_left_changes_nothing() {
    for actual in [0, 50, 500] {
        let mut world = World::new([sliding(1, 100, MINUTE, 60)]);
        let grant = world.take(&[100]);
        world.pass(61 * SECOND);
        world.take(&[60]);
        world.settle(&grant, &[actual]);
        assert_eq!(world.available(0), 40);
    }
}
