//! Calls in flight, holds, leases and claims against a plain list of the calls.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    moves::{cases, choose},
    oracle::Log,
    *,
};

const CALLS: u64 = 10;
const LIMIT: u64 = 100;
const SLOT: Micros = 5 * SECOND;
const CLAIM_LEASE: Micros = 45 * SECOND;

#[derive(Clone, Debug)]
struct Call {
    grant: Grant,
    /// The session, or the claim.
    owner: u64,
    /// Its owner's lease has ended.
    abandoned: bool,
}

impl Call {
    fn is_claimed(&self) -> bool {
        self.owner >= 1_000
    }
}

struct Life {
    world: World,
    calls: Vec<Call>,
    charges: Log,
    leases: BTreeMap<u64, Micros>,
    claims: u64,
}

#[derive(Clone, Debug)]
enum Act {
    Pass(Micros),
    Reserve(u64, u64),
    Settle(usize, u64),
    Adjust(usize, u64),
    Detach(usize),
    /// The claim of another call, after that was settled.
    SettleTwice(usize, u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let which = any::<usize>();
    let one = prop_oneof![
        4 => prop_oneof![0..SECOND, 0..15 * SECOND, 0..2 * MINUTE].prop_map(Act::Pass),
        5 => (1..4u64, 0..50u64).prop_map(|(session, cost)| Act::Reserve(session, cost)),
        3 => (which, 0..80u64).prop_map(|(which, actual)| Act::Settle(which, actual)),
        1 => (which, 0..80u64).prop_map(|(which, actual)| Act::Adjust(which, actual)),
        1 => which.prop_map(Act::Detach),
        1 => (which, 0..80u64).prop_map(|(which, actual)| Act::SettleTwice(which, actual)),
    ];
    proptest::collection::vec(one, 1..80)
}

impl Life {
    fn new() -> Self {
        let rules = [concurrency(1, CALLS), held(sliding(2, LIMIT, MINUTE, MINUTE / SLOT))];
        let world = World::new(rules);
        Self {
            world,
            calls: Vec::new(),
            charges: Log::default(),
            leases: BTreeMap::new(),
            claims: 1_000,
        }
    }

    /// What a batch of `session` does before and after its operations.
    fn batch(&mut self, session: u64) {
        let now = self.world.wall;
        for call in
            self.calls.iter_mut().filter(|call| !call.abandoned && self.leases[&call.owner] <= now)
        {
            call.abandoned = true;
            self.charges.charge(now, call.grant.costs[1]);
        }
        self.leases.insert(session, now + self.world.lease);
    }

    fn in_flight(&self) -> (u64, u64) {
        let running = self.calls.iter().filter(|call| !call.abandoned);
        running.fold((0, 0), |(calls, held), call| (calls + 1, held + call.grant.costs[1]))
    }

    fn reserve(&mut self, session: u64, cost: u64) -> Result<(), TestCaseError> {
        self.batch(session);
        let now = self.world.wall;
        let (running, held) = self.in_flight();
        let at_least = held + cost + self.charges.since(now - MINUTE);
        let at_most = held + cost + self.charges.since(now - MINUTE - SLOT);
        match self.world.reserve_by(session, &[1, cost]) {
            Ok(grant) => {
                prop_assert!(
                    running < CALLS && at_least <= LIMIT,
                    "{running} running, {at_least} charged"
                );
                self.calls.push(Call { grant, owner: session, abandoned: false });
            }
            Err(_) => {
                prop_assert!(running == CALLS || at_most > LIMIT, "{running}, {at_most} refused")
            }
        }
        Ok(())
    }

    fn send_settle(&mut self, call: &Call, actual: u64, close: bool) -> Verdict {
        let claim = call.is_claimed().then_some(call.owner);
        let amendment = amendment(&call.grant, &[1, actual]);
        self.world.one(call.grant.session, Op::Settle(Settle { close, claim, ..amendment }))
    }

    fn settle(&mut self, which: usize, actual: u64, twice: bool) -> Result<(), TestCaseError> {
        let Some(call) = choose(&mut self.calls, which) else { return Ok(()) };
        let owner = call.grant.session;
        // The list is of after the sweep that the batch begins with.
        self.calls.push(call);
        self.batch(owner);
        let call = self.calls.pop().unwrap();

        let verdict = self.send_settle(&call, actual, true);
        if call.is_claimed() && call.abandoned {
            prop_assert_eq!(verdict, Verdict::NoClaim);
            return Ok(());
        }
        prop_assert_eq!(verdict, Verdict::Done);
        let paid = if call.abandoned { call.grant.costs[1] } else { 0 };
        self.charges.charge(self.world.wall, actual.saturating_sub(paid));
        if twice && call.is_claimed() {
            prop_assert_eq!(self.send_settle(&call, actual + 7, true), Verdict::NoClaim);
        }
        Ok(())
    }

    fn adjust(&mut self, which: usize, estimate: u64) {
        let Some(call) = choose(&mut self.calls, which) else { return };
        let owner = call.grant.session;
        self.calls.push(call);
        self.batch(owner);
        let mut call = self.calls.pop().unwrap();
        if !call.abandoned {
            self.send_settle(&call, estimate, false);
            call.grant.costs[1] = estimate;
        } else {
            self.world.beat(owner);
        }
        self.calls.push(call);
    }

    fn detach(&mut self, which: usize) {
        let Some(call) = choose(&mut self.calls, which) else { return };
        let owner = call.grant.session;
        self.calls.push(call);
        self.batch(owner);
        let mut call = self.calls.pop().unwrap();
        if call.is_claimed() || call.abandoned {
            self.world.beat(owner);
        } else {
            self.claims += 1;
            call.owner = self.claims;
            self.world.one(owner, detach(&call.grant, call.owner, CLAIM_LEASE));
            self.leases.insert(call.owner, self.world.wall + CLAIM_LEASE);
        }
        self.calls.push(call);
    }

    fn apply(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Pass(time) => self.world.pass(time),
            Act::Reserve(session, cost) => self.reserve(session, cost)?,
            Act::Settle(which, actual) => self.settle(which, actual, false)?,
            Act::SettleTwice(which, actual) => self.settle(which, actual, true)?,
            Act::Adjust(which, estimate) => self.adjust(which, estimate),
            Act::Detach(which) => self.detach(which),
        }
        self.batch(9);
        self.world.beat(9);
        self.agrees()
    }

    fn agrees(&self) -> Result<(), TestCaseError> {
        let now = self.world.wall;
        let [calls, tokens] = [0, 1].map(|index| self.world.level(index));
        prop_assert_eq!((calls.in_flight, tokens.in_flight), self.in_flight());
        prop_assert!(tokens.charged >= self.charges.since(now - MINUTE));
        prop_assert!(tokens.charged <= self.charges.since(now - MINUTE - SLOT));
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn what_is_in_flight_neither_leaks_nor_counts_twice(acts in acts()) {
        let mut life = Life::new();
        for act in &acts {
            life.apply(act)?;
        }
        life.world.pass(MINUTE);
        life.world.beat(9);
        prop_assert_eq!([0, 1].map(|index| life.world.level(index).in_flight), [0, 0]);
    }
}

/// A session takes another name, or its lease has ended, while a call is in flight.
#[test]
fn what_was_granted_under_another_name_and_is_adjusted_ends_with_its_settle() {
    let mut world = World::new([
        held(sliding(1, LIMIT, MINUTE, MINUTE / SLOT)),
        sliding(2, LIMIT, MINUTE, MINUTE / SLOT),
    ]);
    let grant = world.reserve_by(1, &[10, 10]).unwrap();
    world.pass(SECOND);
    world.one(2, adjust(&grant, &[50, 50]));
    let grant = Grant { costs: [50, 50].as_slice().into(), ..grant };
    world.one(2, settle(&grant, &[20, 20]));
    for _ in 0..60 {
        world.pass(5 * SECOND);
        world.beat(2);
    }
    assert_eq!((world.level(0).in_flight, world.level(1).in_flight), (0, 0));
}
