//! A plain log: every grant with what it reserved and what it turned out to use, replayed from the
//! start whenever something is asked. It shares no code with the engine, and no thought about
//! slots, rings or folds.

use super::Micros;

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Micros,
    amount: u64,
}

/// What is known of one quota: reserved until settled, the actual amount afterwards, all at the
/// time of the grant.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    entries: Vec<Entry>,
}

/// How a bucket drains: `rate` units a microsecond, never above `most`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub(super) rate: u64,
    pub(super) units: u64,
    pub(super) most: u64,
}

impl Log {
    /// Notes a charge; answers its number.
    pub(super) fn charge(&mut self, at: Micros, amount: u64) -> usize {
        self.entries.push(Entry { at, amount });
        self.entries.len() - 1
    }

    /// Notes what a charge turned out to be.
    pub(super) fn amend(&mut self, number: usize, amount: u64) {
        self.entries[number].amount = amount;
    }

    /// What is charged from `from` on, to the end of the log.
    pub(super) fn since(&self, from: Micros) -> u64 {
        self.entries.iter().filter(|entry| entry.at >= from).map(|entry| entry.amount).sum()
    }

    /// Units in use at `now` of a bucket in which every grant had reserved exactly its amount.
    pub(super) fn replay(&self, drain: Drain, now: Micros) -> u64 {
        let mut used = 0u128;
        let mut at = 0;
        for entry in self.entries.iter().take_while(|entry| entry.at <= now) {
            used = used.saturating_sub(u128::from(drain.rate) * u128::from(entry.at - at));
            used += u128::from(entry.amount) * u128::from(drain.units);
            used = used.min(u128::from(drain.most));
            at = entry.at;
        }
        used.saturating_sub(u128::from(drain.rate) * u128::from(now - at)) as u64
    }
}

mod tests {
    use super::*;

    #[test]
    fn the_log_itself() {
        let mut log = Log::default();
        let first = log.charge(10, 5);
        log.charge(20, 7);
        assert_eq!((log.since(10), log.since(11)), (12, 7));

        let drain = Drain { rate: 2, units: 10, most: 100 };
        assert_eq!(log.replay(drain, 20), 100);
        assert_eq!(log.replay(drain, 30), 80);
        log.amend(first, 0);
        assert_eq!(log.replay(drain, 20), 70);
    }
}
