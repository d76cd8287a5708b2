//! The bytes of a state: all of it comes back, and no bytes lead to a panic. The world of the tests
//! sends every state there and back, so what follows is about hostile bytes, sizes and errors.

use proptest::prelude::*;

use super::{
    super::codec::{HEADER, seal},
    *,
};

pub(super) fn assert_round_trip(state: &BucketState) {
    let bytes = state.to_bytes();
    let again = BucketState::from_bytes(&bytes);
    assert_eq!(again.as_ref(), Ok(state), "{} bytes", bytes.len());
}

/// Sets of rules with ids in common, as processes that disagree have them.
fn rule_sets() -> Vec<Vec<Rule>> {
    let calendar = |id, boundaries: &[Micros]| {
        let window = Window::Calendar { boundaries: boundaries.into() };
        Rule { id, limit: 40, held: false, window }
    };
    vec![
        vec![sliding(1, 100, MINUTE, 60), token_bucket(2, 1_000, MINUTE, 500), concurrency(3, 4)],
        vec![
            token_bucket(2, 300, MINUTE, 900),
            held(sliding(4, 50, SECOND, 7)),
            fixed(5, 70, HOUR, 9),
        ],
        vec![
            held(token_bucket(6, 90, 7 * SECOND, 1)),
            concurrency(3, 2),
            sliding(1, 10, MINUTE, 60),
        ],
        vec![
            calendar(7, &[0, START, START + HOUR, START + DAY, u64::MAX >> 11]),
            concurrency(3, 9),
        ],
        // As large as numbers get.
        vec![
            Rule { limit: MAX_AMOUNT, ..sliding(8, 0, DAY, 3) },
            Rule { limit: MAX_AMOUNT, ..token_bucket(9, 7_000_000, MINUTE, 7_000_000) },
            fixed(10, MAX_AMOUNT, DAY, 0),
        ],
    ]
}

/// Random batches of some sessions.
struct Driver {
    random: fastrand::Rng,
    sets: Vec<Vec<Rule>>,
    wall: Micros,
    seq: u64,
}

impl Driver {
    fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), sets: rule_sets(), wall: START, seq: 0 }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.usize(..of.len())]
    }

    fn amount(&mut self) -> u64 {
        let small = self.random.u64(0..60);
        self.pick(&[0, 1, small, small, small, 1_000, MAX_AMOUNT])
    }

    fn time(&mut self) -> Micros {
        let some = self.random.u64(0..3 * MINUTE);
        self.pick(&[0, MS, SECOND, some, some, DAY, MAX_AMOUNT])
    }

    fn at(&mut self) -> Micros {
        let before = self.wall.saturating_sub(self.random.u64(0..MINUTE));
        self.pick(&[self.wall, before, before, 0, MAX_AMOUNT])
    }

    fn costs(&mut self, len: usize) -> Costs {
        (0..len).map(|_| self.amount()).collect()
    }

    fn flow(&mut self) -> Flow {
        Flow { id: self.pick(&[0, 0, 1, 2]), weight: self.pick(&[1, 3]) }
    }

    fn op(&mut self, rules: &[Rule]) -> Op {
        let (on, len): (On, _) = ([0].as_slice().into(), rules.len());
        match self.random.u8(0..12) {
            0..4 => Op::Reserve(Reserve {
                on,
                costs: self.costs(len),
                headroom: self.pick(&[0, 0, 1_000, HEADROOM_PARTS]),
                mode: self.pick(&[Mode::Wait, Mode::Wait, Mode::Try, Mode::Dry, Mode::Charge]),
                waiter: self.random.u64(0..9),
                age: self.time(),
                patience: self.time(),
                flow: self.flow(),
            }),
            4..6 => Op::Settle(Settle {
                on,
                at: [self.at()].as_slice().into(),
                reserved: self.costs(len),
                actual: self.costs(len),
                close: self.random.bool(),
                claim: self.pick(&[None, None, Some(77)]),
            }),
            6 => Op::Detach { on, claim: 77, reserved: self.costs(len), lease: self.time() },
            7 => {
                let line = Line {
                    rule: self.random.u16(0..4),
                    headroom: 0,
                    flow: self.flow(),
                    space: self.pick(&[World::id(0), 5]),
                    waiter: self.random.u64(0..9),
                    age: self.time(),
                    cost: self.amount(),
                    part: self.pick(&[0.0, 0.1]),
                    count: self.amount(),
                    sum: self.amount(),
                    last: self.time(),
                };
                Op::Waiting { bucket: 0, lines: [line].into() }
            }
            8 => Op::Pause { bucket: 0, lasts: self.time() },
            9 => Op::Refused {
                bucket: 0,
                quota: self.pick(&[None, Some(1), Some(2), Some(5)]),
                at: self.at(),
                asked: self.time(),
                lasts: self.time(),
                longest: self.time(),
            },
            10 => Op::Cap {
                bucket: 0,
                quota: self.random.u64(1..8),
                left: self.amount(),
                at: self.at(),
                lasts: self.time(),
            },
            _ if self.random.bool() => Op::Status { bucket: 0 },
            _ => Op::Answered { bucket: 0, at: self.at() },
        }
    }

    /// Applies some batches.
    fn drive(&mut self, state: &mut BucketState, batches: usize) {
        for _ in 0..batches {
            let set = self.random.usize(..self.sets.len());
            let rules = self.sets[set].clone();
            let step = self.time();
            self.wall = match self.random.u8(0..20) {
                0 => self.wall.saturating_sub(step).max(1),
                // No clock shows the last day that numbers can say.
                1..6 => self.wall.saturating_add(step).min(MAX_AMOUNT / 4 * 3),
                _ => self.wall + self.random.u64(0..SECOND),
            };
            let ops: Vec<_> = (0..self.random.usize(0..5)).map(|_| self.op(&rules)).collect();
            self.seq += self.random.u64(0..2);
            let batch = Batch {
                session: self.pick(&[1, 2, 3]),
                seq: self.pick(&[0, self.seq]),
                lease: self.pick(&[SECOND, 10 * SECOND, DAY, MAX_AMOUNT]),
                unhinted: self.pick(&[false, true]),
                buckets: &[Bucket::new(World::key(0).into(), rules.as_slice().into())],
                ops: &ops,
            };
            let _ = apply(&mut [&mut *state], &batch, self.wall);
            let _ = (state.is_over(self.wall), state.lasts());
        }
    }
}

/// The bytes of a state that has seen much.
fn some_bytes(seed: u64) -> Vec<u8> {
    let mut state = BucketState::unused();
    let mut driver = Driver::new(seed);
    let batches = driver.random.usize(1..40);
    driver.drive(&mut state, batches);
    state.to_bytes()
}

/// Damages bytes as a program would that means harm: the checksum is right.
fn tamper(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..4) {
        let index = random.usize(HEADER.min(bytes.len() - 1)..bytes.len());
        match random.u8(0..6) {
            0 => bytes[index] = random.u8(..),
            1 => bytes[index] ^= 1 << random.u8(0..8),
            2 => bytes.truncate(index.max(HEADER)),
            3 => bytes.insert(index, random.u8(..)),
            4 => drop(bytes.remove(index.max(HEADER).min(bytes.len() - 1))),
            // Another number in place of one that is there.
            _ => {
                let end =
                    (index..bytes.len()).find(|&at| bytes[at] < 0x80).unwrap_or(bytes.len() - 1);
                let mut number =
                    [0, 1, random.u64(..) >> random.u32(0..64), MAX_AMOUNT][random.usize(0..4)];
                let mut new = Vec::new();
                while number >= 0x80 {
                    new.push(number as u8 | 0x80);
                    number >>= 7;
                }
                new.push(number as u8);
                bytes.splice(index..=end, new);
            }
        }
        if bytes.len() <= HEADER {
            bytes.resize(HEADER + 1, 0);
        }
    }
    seal(bytes);
}

proptest! {
    #![proptest_config(super::moves::cases(if cfg!(debug_assertions) { 400 } else { 20_000 }))]

    #[test]
    fn all_of_a_state_comes_back(seed: u64) {
        let mut state = BucketState::unused();
        let mut driver = Driver::new(seed);
        for _ in 0..10 {
            driver.drive(&mut state, 4);
            assert_round_trip(&state);
        }
    }

    #[test]
    fn random_bytes_are_no_state(bytes: Vec<u8>) {
        prop_assert!(BucketState::from_bytes(&bytes).is_err());
    }

    #[test]
    fn random_bytes_behind_a_good_header_do_not_panic(payload: Vec<u8>, seed: u64) {
        let mut bytes = BucketState::unused().to_bytes();
        bytes.truncate(HEADER);
        bytes.extend(payload);
        seal(&mut bytes);
        if let Ok(mut state) = BucketState::from_bytes(&bytes) {
            Driver::new(seed).drive(&mut state, 10);
        }
    }

    #[test]
    fn an_accident_is_noticed(seed: u64, at: prop::sample::Index, bit in 0..8u32) {
        let mut bytes = some_bytes(seed);
        let index = at.index(bytes.len());
        bytes[index] ^= 1 << bit;
        prop_assert!(BucketState::from_bytes(&bytes).is_err());
        bytes.truncate(index);
        prop_assert!(BucketState::from_bytes(&bytes).is_err());
    }

    #[test]
    fn whatever_is_accepted_can_be_used(seed: u64) {
        let bytes = some_bytes(seed);
        let mut random = fastrand::Rng::with_seed(!seed);
        for _ in 0..20 {
            let mut bytes = bytes.clone();
            tamper(&mut bytes, &mut random);
            let Ok(mut state) = BucketState::from_bytes(&bytes) else { continue };
            assert_round_trip(&state);
            Driver::new(random.u64(..)).drive(&mut state, 20);
            // A quota may be there twice, and its second time in the index: so not all of it comes
            // back.
            prop_assert!(BucketState::from_bytes(&state.to_bytes()).is_ok());
        }
    }
}

#[test]
fn what_is_foreign_new_or_cut_off_says_so() {
    let bytes = some_bytes(1);
    assert_eq!(BucketState::from_bytes(b"{}"), Err(DecodeError::Foreign));
    assert_eq!(BucketState::from_bytes(b""), Err(DecodeError::Foreign));
    assert_eq!(BucketState::from_bytes(b"TTB"), Err(DecodeError::Damaged));
    assert_eq!(BucketState::from_bytes(&bytes[..bytes.len() - 1]), Err(DecodeError::Damaged));
    let longer = [&*bytes, &[0]].concat();
    assert_eq!(BucketState::from_bytes(&longer), Err(DecodeError::Damaged));
    let mut later = bytes;
    later[3] = 6;
    assert_eq!(BucketState::from_bytes(&later), Err(DecodeError::Version(6)));
}

/// Without heads, states of two versions could be the same bytes.
#[test]
fn another_version_is_no_accident() {
    let mut world = World::new([sliding(1, 100, MINUTE, 60)]);
    world.take(&[1]);
    let bytes = world.states[0].to_bytes();
    for version in 0..=u8::MAX {
        let mut changed = bytes.clone();
        changed[3] = version;
        assert_eq!(BucketState::from_bytes(&changed).is_ok(), version == bytes[3], "{version}");
    }
}

#[test]
fn a_few_bytes_do_not_make_a_large_ring() {
    let mut world = World::new([sliding(1, 100, MINUTE, 60)]);
    world.take(&[1]);
    let bytes = world.states[0].to_bytes();
    // The length of the ring, 61, says that it is as long as numbers get.
    let at = bytes.windows(2).position(|pair| pair == [61, 0]).expect("a ring of 61 slots");
    for len in [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff, 0xff, 0xff, 0x7f]] {
        let mut bytes = [&bytes[..at], len, &bytes[at + 1..]].concat();
        seal(&mut bytes);
        assert_eq!(BucketState::from_bytes(&bytes), Err(DecodeError::Damaged));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A state in which a waiter is a head.
fn with_a_head() -> World {
    let mut world = World::new([concurrency(1, 1)]);
    world.take(&[1]);
    world.pass(MS);
    let flow = Flow { id: 5, weight: 1 };
    let reserve = Reserve { mode: Mode::Wait, waiter: 7, flow, ..demand(&[1]) };
    let waiting = Op::Waiting { bucket: 0, lines: Box::default() };
    world.send(2, &[Op::Reserve(reserve), waiting]);
    world
}

/// The format is a promise to files that other versions wrote.
#[test]
fn the_bytes_of_version_5_stay() {
    let mut world = World::new([sliding(1, 100, MINUTE, 60), concurrency(2, 3)]);
    world.take(&[5, 1]);
    let known = "54544205c78a85b7a2d2eef9dadd9203a2d2eef9dadd920300a2defb97dddd92030100000201a2d2eef9\
        dadd9203050001c0843d87cacbcc063d003c05010002a2d2eef9dadd9203010000000001010101a2d2ee\
        f9dadd920300a2d2eef9dadd9203a2defb97dddd92030101a2ffd0fedadd9203a2defb97dddd9203a2ff\
        d0fedadd9203a2d2eef9dadd920300000201050201000000";
    let bytes = hex(&world.states[0].to_bytes());
    assert_eq!(bytes, known, "the format of a version is never changed: make a new one");
    let known = "5454420521907e3fa2d2eef9dadd92038adaeef9dadd9203008ae6fb97dddd92030101000101a2d2eef9\
        dadd9203010000000002010101a2d2eef9dadd920300a2d2eef9dadd9203a2defb97dddd92030101a2ff\
        d0fedadd9203a2defb97dddd9203a2ffd0fedadd9203a2d2eef9dadd920300000101010201018adaeef9\
        dadd9203a2d2eef9dadd9203a2d2eef9dadd92038ae6fb97dddd92030205010000000000000100000000\
        000000000000000000000000f03f008a87d1fedadd92038ae6fb97dddd92038a87d1fedadd92038adaee\
        f9dadd9203010000010201000565078adaeef9dadd92038adaeef9dadd92030101018adaeef9dadd9203\
        008adaeef9dadd92038adaeef9dadd9203000000000000f03fffffffffffffef7f000101000000000000\
        0000010500000000000000008adaeef9dadd92038adaeef9dadd9203018ae8bc96dbdd920305";
    let bytes = hex(&with_a_head().states[0].to_bytes());
    assert_eq!(bytes, known, "nor that of its heads");
}

#[test]
fn three_quotas_take_less_than_3_kb_and_a_session_about_100_bytes() {
    let mut random = fastrand::Rng::with_seed(7);
    for kind in 0..2 {
        let quota = |id| match kind {
            0 => sliding(id, 100_000_000, MINUTE, 60),
            _ => token_bucket(id, 1_000_000, MINUTE, 1_000_000),
        };
        let mut world = World::new([quota(1), quota(2), quota(3)]);
        let mut grants = Vec::new();
        for _ in 0..1_500 {
            world.pass(random.u64(0..400 * MS));
            let costs = [1, random.u64(1..9_000), random.u64(1..9_000)];
            grants.push(world.take(&costs));
            let grant = grants.swap_remove(random.usize(..grants.len()));
            world.settle(&grant, &[1, random.u64(1..2_000), random.u64(1..2_000)]);
        }
        let one = world.states[0].to_bytes().len();
        (2..12).for_each(|session| drop(world.beat(session)));
        let each = (world.states[0].to_bytes().len() - one) / 10;
        println!("{one} bytes, {each} for each session more");
        assert!(one < 3_000 && each < 110, "{one} bytes, {each} for each session more");
    }
}
