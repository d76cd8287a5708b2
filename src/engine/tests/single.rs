//! One operation on one bucket is the same as a batch of it. Where a refund to a bucket that drains does not wait for time to
//! pass, it may come closer to the truth: the tests against a plain log hold for it too.

use proptest::prelude::*;

use super::{
    moves::{Move, cases, choose, moves},
    *,
};

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let all = vec![
        sliding(1, 100, MINUTE, 10),
        fixed(2, 100, 47 * SECOND, 0),
        concurrency(3, 200),
        held(sliding(4, 100, MINUTE, 10)),
        held(fixed(5, 100, 47 * SECOND, 0)),
    ];
    prop::sample::subsequence(all, 1..=4)
}

/// Both worlds do the same and answer the same.
struct Twins {
    worlds: [World; 2],
    open: Vec<Grant>,
}

impl Twins {
    fn new(rules: &[Rule]) -> Self {
        let single = World::new(rules).singly(true);
        Self { worlds: [World { singly: false, ..single.clone() }, single], open: Vec::new() }
    }

    fn amounts(&self, amount: u64) -> Vec<u64> {
        vec![amount; self.worlds[0].rules[0].len()]
    }

    fn settle(&mut self, grant: &Grant, actual: &[u64], close: bool) {
        for world in &mut self.worlds {
            world.one(LANE, if close { settle(grant, actual) } else { adjust(grant, actual) });
        }
    }

    fn apply(&mut self, step: &Move) -> Result<(), TestCaseError> {
        match *step {
            Move::Pass(time) => self.worlds.iter_mut().for_each(|world| world.pass(time)),
            Move::Reserve(cost) => {
                let costs = self.amounts(cost);
                let [batched, single] = self.worlds.each_mut().map(|world| world.reserve(&costs));
                prop_assert_eq!(
                    single.as_ref().map(|grant| grant.at),
                    batched.as_ref().map(|grant| grant.at)
                );
                self.open.extend(batched);
            }
            Move::Settle(which, actual) => {
                if let Some(grant) = choose(&mut self.open, which) {
                    let actual = self.amounts(actual);
                    self.settle(&grant, &actual, true);
                }
            }
            Move::Adjust(which, estimate) => {
                if let Some(mut grant) = choose(&mut self.open, which) {
                    let estimate = self.amounts(estimate);
                    self.settle(&grant, &estimate, false);
                    grant.costs = estimate.into();
                    self.open.push(grant);
                }
            }
        }
        for index in 0..self.worlds[0].rules[0].len() {
            let [batched, single] = self.worlds.each_ref().map(|world| world.level(index));
            prop_assert_eq!(batched, single);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn one_operation_is_the_same_as_a_batch_of_it(rules in rules(), moves in moves(2 * MINUTE)) {
        let mut twins = Twins::new(&rules);
        for step in &moves {
            twins.apply(step)?;
        }
    }
}

/// Other limiters may have used the bucket, and be gone.
#[test]
fn lanes_whose_refunds_came_by_themselves_are_forgotten() {
    let mut world = World::new([sliding(1, 1_000_000, MINUTE, 10)]).singly(true);
    for lane in 1..=200 {
        world.pass(MINUTE);
        let grant = world.reserve_by(lane, &[10]).unwrap();
        world.settle(&grant, &[5]);
    }
    let remembered = LANE_MEMORY / MINUTE + 1;
    assert!(
        world.states[0].lanes.len() as u64 <= remembered,
        "{} lanes",
        world.states[0].lanes.len()
    );
}
