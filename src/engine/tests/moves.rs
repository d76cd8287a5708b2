//! Random histories of one quota, for the tests against a log.

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Clone, Debug)]
pub(super) enum Move {
    Pass(Micros),
    /// Parts of the capacity, in 100.
    Reserve(u64),
    /// Which of the open reservations, and parts of the capacity.
    Settle(usize, u64),
    Adjust(usize, u64),
}

/// A life in which time passes by up to `longest`, mostly by little.
pub(super) fn moves(longest: Micros) -> impl Strategy<Value = Vec<Move>> {
    let which = any::<usize>();
    let actual = prop_oneof![4 => 0..=100u64, 1 => 100..=300u64];
    let step = prop_oneof![
        6 => 0..=longest / 50,
        2 => 0..=longest / 5,
        1 => 0..=longest,
    ];
    let one = prop_oneof![
        3 => step.prop_map(Move::Pass),
        4 => (0..=100u64).prop_map(Move::Reserve),
        2 => (which, actual.clone()).prop_map(|(which, parts)| Move::Settle(which, parts)),
        1 => (which, actual).prop_map(|(which, parts)| Move::Adjust(which, parts)),
    ];
    proptest::collection::vec(one, 1..120)
}

/// A reservation that is not settled, with its number in the log.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) grant: Grant,
    pub(super) number: usize,
}

/// Takes the chosen one of `open`, if there is any.
pub(super) fn choose<T>(open: &mut Vec<T>, which: usize) -> Option<T> {
    match open.len() {
        0 => None,
        len => Some(open.swap_remove(which % len)),
    }
}

/// Few cases of long histories, since bugs need many steps. `PROPTEST_CASES` asks for more.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases, ..default },
    }
}
