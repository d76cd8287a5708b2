//! A batch: all or nothing on its quotas, exactly once, and what goes before what within it.

use proptest::prelude::*;
use smallvec::SmallVec;

use super::{moves::cases, *};

/// Two buckets with a quota of each kind.
fn two_buckets() -> World {
    let child = vec![token_bucket(1, 100, MINUTE, 50), concurrency(2, 5), fixed(3, 300, HOUR, 7)];
    let parent = vec![sliding(4, 150, MINUTE, 12), held(sliding(5, 120, MINUTE, 60))];
    World::with_buckets(vec![child, parent])
}

/// The states but for the last answer, which names the refusal.
fn without_answers(world: &World) -> Vec<BucketState> {
    let mut states = world.states.clone();
    for state in &mut states {
        let records: Vec<_> = state.records().map(|record| (record.id, record.last().0)).collect();
        for (session, seq) in records {
            state.answered(session, seq, SmallVec::new(), Verdicts::new());
        }
    }
    states
}

#[derive(Clone, Debug)]
enum Act {
    Pass(Micros),
    Reserve(u64, [u64; 5]),
    Settle(usize, [u64; 5]),
    Adjust(usize, [u64; 5]),
    Detach(usize),
    Stale(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let costs = || {
        (0..60u64, 0..2u64, 0..60u64, 0..60u64, 0..60u64)
            .prop_map(|(a, b, c, d, e)| [a, b, c, d, e])
    };
    let one = prop_oneof![
        3 => prop_oneof![0..SECOND, 0..20 * SECOND, 0..2 * MINUTE].prop_map(Act::Pass),
        4 => (1..4u64, costs()).prop_map(|(session, costs)| Act::Reserve(session, costs)),
        2 => (any::<usize>(), costs()).prop_map(|(which, actual)| Act::Settle(which, actual)),
        1 => (any::<usize>(), costs()).prop_map(|(which, actual)| Act::Adjust(which, actual)),
        1 => any::<usize>().prop_map(Act::Detach),
        2 => any::<usize>().prop_map(Act::Stale),
    ];
    proptest::collection::vec(one, 1..60)
}

/// A world, what is open in it, and every batch that was sent.
struct Life {
    world: World,
    open: Vec<(Grant, Option<u64>)>,
    sent: Vec<(u64, u64, Vec<Op>, Answer)>,
    claims: u64,
}

impl Life {
    fn send(&mut self, session: u64, op: Op) -> Verdict {
        let seq = self.world.seqs.entry(session).or_default();
        *seq += 1;
        let seq = *seq;
        let answer = self.world.send_as(session, seq, std::slice::from_ref(&op));
        self.sent.push((session, seq, vec![op], answer.clone()));
        match answer.outcome {
            Outcome::Applied { mut verdicts, .. } => verdicts.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Granted if every quota has room for it. Refused, a reserve changes no more than a batch
    /// without operations.
    fn reserve(&mut self, session: u64, costs: [u64; 5]) -> Result<(), TestCaseError> {
        let mut untouched = self.world.clone();
        untouched.beat(session);
        let fits = (0..5)
            .all(|index| untouched.left(index) >= (costs[index] * untouched.units(index)) as i64);
        let demand = self.world.demand(&costs);
        let on = demand.on.clone();
        match self.send(session, Op::Reserve(demand)) {
            Verdict::Granted { probe } => {
                prop_assert!(fits, "a quota has no room for {costs:?}");
                let at = self.world.states.iter().map(|state| state.now()).collect();
                let costs = costs.as_slice().into();
                self.open.push((Grant { session, on, at, costs, probe }, None));
            }
            _ => {
                prop_assert!(!fits, "every quota has room for {costs:?}");
                // That it was refused is counted, and nothing else.
                untouched.states.iter_mut().for_each(BucketState::count_refusal);
                prop_assert_eq!(without_answers(&self.world), without_answers(&untouched));
            }
        }
        Ok(())
    }

    fn settle(&mut self, which: usize, actual: [u64; 5], close: bool) {
        if let Some((mut grant, claim)) = super::moves::choose(&mut self.open, which) {
            self.send(
                grant.session,
                Op::Settle(Settle { close, claim, ..amendment(&grant, &actual) }),
            );
            if !close {
                grant.costs = actual.as_slice().into();
                self.open.push((grant, claim));
            }
        }
    }

    fn apply(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Pass(time) => self.world.pass(time),
            Act::Reserve(session, costs) => self.reserve(session, costs)?,
            Act::Settle(which, actual) => self.settle(which, actual, true),
            Act::Adjust(which, actual) => self.settle(which, actual, false),
            Act::Detach(which) => {
                if let Some((grant, None)) = super::moves::choose(&mut self.open, which) {
                    self.claims += 1;
                    let claim = 1_000 + self.claims;
                    self.send(grant.session, detach(&grant, claim, MINUTE));
                    self.open.push((grant, Some(claim)));
                }
            }
            Act::Stale(which) => {
                if !self.sent.is_empty() {
                    self.again(which % self.sent.len())?;
                }
            }
        }
        Ok(())
    }

    /// Sent again, the last batch of a session is answered as before, an older one not at all, and
    /// nothing changes.
    fn again(&mut self, index: usize) -> Result<(), TestCaseError> {
        let (session, seq, ops, first) = self.sent[index].clone();
        let before = self.world.states.clone();
        let second = self.world.send_as(session, seq, &ops);
        prop_assert_eq!(&self.world.states, &before);
        if seq < self.world.seqs[&session] {
            prop_assert_eq!(second.outcome, Outcome::Stale);
            return Ok(());
        }
        let said = |answer: Answer| match answer.outcome {
            Outcome::Applied { buckets, verdicts } => (buckets, verdicts),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(said(second), said(first));
        Ok(())
    }

    /// What the sessions have in flight is what the quotas have.
    fn in_flight_adds_up(&self) -> Result<(), TestCaseError> {
        for state in &self.world.states {
            for quota in state.quotas() {
                let shares = state.records().flat_map(|record| record.shares());
                let sum: u64 =
                    shares.filter(|share| share.quota == quota.id).map(|share| share.amount).sum();
                prop_assert_eq!(quota.in_flight, sum);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn all_or_nothing_and_exactly_once(acts in acts()) {
        let mut life = Life { world: two_buckets(), open: Vec::new(), sent: Vec::new(), claims: 0 };
        for act in &acts {
            // Records of batches end with the session's memory; so does this.
            if life.world.wall - START > SESSION_MEMORY / 2 {
                break;
            }
            life.apply(act)?;
            life.in_flight_adds_up()?;
            for session in life.world.seqs.keys().copied().collect::<Vec<_>>() {
                let last = life.sent.iter().rposition(|sent| sent.0 == session).unwrap();
                life.again(last)?;
            }
        }
        life.world.pass(HOUR);
        life.world.beat(99);
        let quotas = life.world.states.iter().flat_map(|state| state.quotas());
        prop_assert_eq!(quotas.map(|quota| quota.in_flight).sum::<u64>(), 0);
    }
}

#[test]
fn a_refused_waiter_stands_before_those_after_it_and_a_try_does_not() {
    let ask =
        |cost: u64, headroom, mode| Op::Reserve(Reserve { headroom, mode, ..demand(&[cost, 1]) });
    let mut world = World::new([sliding(1, 100, MINUTE, 60), sliding(2, 100, MINUTE, 60)]);
    world.take(&[50, 0]);
    let granted = |world: &mut World, ops: &[Op]| -> Vec<bool> {
        let sent = world.clone().send(SESSION, ops);
        sent.verdicts.iter().map(|verdict| !is_refused(verdict)).collect()
    };
    let (small, large) = (ask(10, 0, Mode::Try), 60);
    for (mode, passes) in [(Mode::Wait, false), (Mode::Try, true), (Mode::Dry, true)] {
        assert_eq!(granted(&mut world, &[ask(large, 0, mode), small.clone()]), [false, passes]);
        // A class that may use more is not behind one that may use less.
        assert_eq!(granted(&mut world, &[ask(large, 1_000, mode), small.clone()]), [false, true]);
        // A demand that needs nothing of what the head lacks passes it.
        assert_eq!(
            granted(&mut world, &[ask(large, 0, mode), ask(0, 0, Mode::Try)]),
            [false, true]
        );
    }
}

#[test]
fn a_waiter_for_another_quota_lends_its_class_to_no_other() {
    let ask =
        |costs: [u64; 2], headroom, mode| Op::Reserve(Reserve { headroom, mode, ..demand(&costs) });
    let mut world = World::new([sliding(1, 100, MINUTE, 60), sliding(2, 100, MINUTE, 60)]);
    world.take(&[85, 95]);
    let batch = ask([10, 0], 1_000, Mode::Wait);
    // It waits for the second quota alone, and may use all of the first.
    let other = ask([0, 10], 0, Mode::Wait);
    let last = ask([12, 0], 0, Mode::Try);
    for ops in [vec![batch.clone(), last.clone()], vec![batch, other, last]] {
        let Sent { verdicts, .. } = world.clone().send(SESSION, &ops);
        assert!(is_refused(&verdicts[0]));
        assert!(
            verdicts.last().is_some_and(is_granted),
            "only what is left to it stands before it: {ops:?}"
        );
    }
}

#[test]
fn a_dry_reserve_charges_nothing() {
    let mut world = two_buckets();
    let reserve = Op::Reserve(world.demand(&[50, 0, 0, 0, 0]));
    let dry = |world: &World, costs: &[u64]| {
        Op::Reserve(Reserve { mode: Mode::Dry, ..world.demand(costs) })
    };
    let whole = dry(&world, &[50, 1, 1, 1, 1]);
    let verdicts = world.send(SESSION, &[whole.clone(), whole, reserve]).verdicts;
    assert_eq!(
        verdicts.to_vec(),
        [Verdict::Fits, Verdict::Fits, Verdict::Granted { probe: false }]
    );
    let refusal = world.one(SESSION, dry(&world, &[1, 0, 0, 0, 0]));
    assert_eq!(
        violations(&refusal).iter().map(|reason| reason.by).collect::<Vec<_>>(),
        [RefusedBy::Rule(0)]
    );
}

#[test]
fn a_charge_takes_what_does_not_fit_and_what_is_paused() {
    let mut world = two_buckets();
    let charge = |world: &World| {
        Op::Reserve(Reserve { mode: Mode::Charge, ..world.demand(&[50, 1, 4, 9, 9]) })
    };
    let charges = [charge(&world), charge(&world), charge(&world)];
    let granted = Verdict::Granted { probe: false };
    assert_eq!(world.send(SESSION, &charges).verdicts.to_vec(), vec![granted.clone(); 3]);
    world.one(SESSION, Op::Pause { bucket: 0, lasts: MINUTE });
    assert_eq!(world.one(SESSION, charge(&world)), granted);
    let status = world.one(SESSION, Op::Status { bucket: 0 });
    let Verdict::Status(level) = status else { panic!("{status:?}") };
    let taken: Vec<_> = level.quotas.iter().map(|quota| (quota.charged, quota.in_flight)).collect();
    let Window::TokenBucket(bucket) = &world.rules[0][0].window else { panic!("a token bucket") };
    assert_eq!(taken, [(200 * bucket.units, 200), (0, 4), (16, 16)]);
    // It is settled as any other, and what was a debt is one no more.
    let Verdict::Refused(_) = world.one(SESSION, Op::Reserve(world.demand(&[0, 1, 0, 0, 0])))
    else {
        panic!("it is paused")
    };
}

#[test]
fn a_pause_refuses_everything_and_only_grows() {
    let mut world = two_buckets();
    world.one(SESSION, Op::Pause { bucket: 0, lasts: MINUTE });
    world.one(SESSION, Op::Pause { bucket: 0, lasts: SECOND });
    let refusal = world.refused(&[0; 5]);
    assert_eq!((refusal[0].by, refusal[0].wait), (RefusedBy::Pause(0), Some(MINUTE)));
    assert!(world.seen(0).expires >= START + MINUTE);
    world.pass(MINUTE - 1);
    world.refused(&[0; 5]);
    world.pass(1);
    world.take(&[0; 5]);

    world.one(SESSION, Op::Pause { bucket: 0, lasts: HOUR });
    world.one(SESSION, Op::Pause { bucket: 0, lasts: 0 });
    world.take(&[0; 5]);
}

#[test]
fn a_demand_for_nothing_of_a_quota_is_held_up_by_no_headroom_but_by_a_debt() {
    let ask = |costs: [u64; 2], headroom| Op::Reserve(Reserve { headroom, ..demand(&costs) });
    let tokens =
        [sliding(1, 100, MINUTE, 60), token_bucket(1, 100, MINUTE, 100), fixed(1, 100, MINUTE, 0)];
    for rule in tokens {
        let mut world = World::new([rule, concurrency(2, 5)]);
        let grant = world.take(&[95, 1]);
        assert!(is_refused(&world.one(SESSION, ask([1, 1], 1_000))));
        assert!(is_granted(&world.one(SESSION, ask([0, 1], 1_000))));

        world.settle(&grant, &[103, 1]);
        let refusal = world.one(SESSION, ask([0, 1], 1_000));
        let reason = violations(&refusal)[0];
        assert_eq!((reason.by, reason.available), (RefusedBy::Rule(0), -3), "a debt is waited out");
        world.pass(reason.wait.unwrap() - 1);
        assert!(is_refused(&world.one(SESSION, ask([0, 1], 1_000))));
        world.pass(1);
        assert!(is_granted(&world.one(SESSION, ask([0, 1], 1_000))));
    }
}

#[test]
fn headroom_is_out_of_reach() {
    let ask = |headroom| Op::Reserve(Reserve { headroom, ..demand(&[1]) });
    for rule in
        [sliding(1, 100, MINUTE, 60), token_bucket(1, 100, MINUTE, 100), concurrency(1, 100)]
    {
        let mut world = World::new([rule]);
        let batch = |world: &mut World, headroom| {
            (0..).take_while(|_| is_granted(&world.one(SESSION, ask(headroom)))).count()
        };
        assert_eq!(batch(&mut world, 1_000), 90);
        assert_eq!(batch(&mut world, 0), 10);
    }
}

#[test]
fn a_claim_has_an_id_of_its_own() {
    let mut world = World::new([concurrency(1, 10), sliding(2, 10, MINUTE, 60)]);
    let grant = world.take(&[1, 4]);
    assert_eq!(world.one(SESSION, detach(&grant, SESSION, MINUTE)), Verdict::NoClaim);
    // It is still the session's own.
    world.settle(&grant, &[0, 1]);
    assert_eq!((world.level(0).in_flight, world.level(1).charged), (0, 1));
    let other = world.take(&[1, 1]);
    assert_eq!(world.one(SESSION, detach(&other, 77, MINUTE)), Verdict::Done);
}

#[test]
fn the_id_of_a_session_is_no_claim_s() {
    let mut world = World::with_buckets(vec![vec![concurrency(1, 10)], vec![concurrency(2, 10)]]);
    world.send_on(2, &[1], &[]);
    let grant = world.take(&[1, 1]);
    assert_eq!(world.one(SESSION, detach(&grant, 2, MINUTE)), Verdict::NoClaim, "known in one");
    assert_eq!((world.level(0).in_flight, world.level(1).in_flight), (1, 1));
    assert!(world.states[0].record(2).is_none(), "nothing was done in the other");
    world.settle(&grant, &[0, 0]);
    assert_eq!((world.level(0).in_flight, world.level(1).in_flight), (0, 0));
}

/// Whatever it asks, in whichever of its buckets the claim is.
#[test]
fn a_session_that_has_the_id_of_a_claim_is_to_take_another() {
    for rules in [vec![vec![concurrency(1, 10)]], vec![vec![], vec![concurrency(1, 10)]]] {
        let mut world = World::with_buckets(rules);
        let grant = world.take(&[1]);
        assert_eq!(world.one(SESSION, detach(&grant, 7, MINUTE)), Verdict::Done);
        let own = Settle { claim: Some(7), ..amendment(&grant, &[0]) };
        for op in [Op::Reserve(world.demand(&[1])), Op::Settle(own.clone()), settle(&grant, &[0])] {
            let before = world.states.clone();
            assert_eq!(
                world.send_as(7, 1, std::slice::from_ref(&op)).outcome,
                Outcome::Stale,
                "{op:?}"
            );
            assert_eq!(
                world.send_as(7, 0, std::slice::from_ref(&op)).outcome,
                Outcome::Stale,
                "{op:?}"
            );
            assert_eq!(world.states, before, "{op:?}");
        }
        // The claim stands until it is settled; then the id is free.
        assert_eq!(world.one(2, Op::Settle(own)), Verdict::Done);
        assert!(world.reserve_by(7, &[1]).is_ok());
    }
}

#[test]
fn a_demand_that_cannot_be_granted_in_time_is_ahead_of_nothing() {
    for rule in [sliding(1, 100, MINUTE, 60), token_bucket(1, 100, MINUTE, 100)] {
        let mut world = World::new([rule]);
        let spend = |world: &mut World| {
            let grant = world.take(&[60]);
            world.settle(&grant, &[60]);
        };
        spend(&mut world);
        let asks = |patience| {
            let waits = Reserve { mode: Mode::Wait, patience, ..demand(&[90]) };
            [Op::Reserve(waits), reserve(&[30])]
        };
        let wait = violations(&world.send(SESSION, &asks(MAX_AMOUNT)).verdicts[0])[0].at_best;
        for (patience, passes) in [(wait, false), (wait - 1, true), (0, true)] {
            let verdicts = world.send(SESSION, &asks(patience)).verdicts;
            let expected = (true, passes);
            assert_eq!((is_refused(&verdicts[0]), is_granted(&verdicts[1])), expected);
            world.pass(HOUR);
            spend(&mut world);
        }
    }
}
