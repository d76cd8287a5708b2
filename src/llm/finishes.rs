//! Which of the answers that a call asked for are over.
//!
//! A call may ask for several answers (`n`, `candidateCount`), whose parts come mixed in one
//! stream. Usage that is told while one of them goes on is not the whole. This module knows
//! indices, and neither JSON nor events.

/// The answers of one response, by their index.
#[derive(Debug, Default)]
pub(super) struct Finishes {
    /// How many answers there are, as far as that is known; 0 stands for 1.
    asked: u64,
    /// A bit for each answer that is over. Answers beyond the last bit share it.
    over: u64,
    /// An index that was told before the end that may belong to it.
    index: Option<u64>,
    /// An end that was told before its index, if it has one.
    has_ended: bool,
}

impl Finishes {
    const LAST_BIT: u64 = 63;

    /// Takes note of how many answers were asked for.
    pub(super) fn expect(&mut self, answers: u64) {
        self.asked = self.asked.max(answers);
    }

    /// Takes note of the index of an answer. It belongs to an end just before it or after it.
    pub(super) fn index(&mut self, index: u64) {
        self.expect(index.saturating_add(1));
        if std::mem::take(&mut self.has_ended) {
            self.finish(index);
        } else {
            self.index = Some(index);
        }
    }

    /// Takes note of the end of an answer.
    pub(super) fn end(&mut self) {
        match self.index.take() {
            Some(index) => self.finish(index),
            None => self.has_ended = true,
        }
    }

    /// Takes note that what comes next belongs to another event.
    pub(super) fn end_event(&mut self) {
        self.index = None;
        if std::mem::take(&mut self.has_ended) {
            self.finish(0);
        }
    }

    /// Forgets what is over: another message begins.
    pub(super) fn begin_message(&mut self) {
        (self.over, self.index, self.has_ended) = (0, None, false);
    }

    /// True if every answer is over.
    pub(super) fn are_all(&self) -> bool {
        let over = self.over | u64::from(self.has_ended);
        let asked = self.asked.clamp(1, Self::LAST_BIT + 1);
        u64::from(over.count_ones()) >= asked
    }

    fn finish(&mut self, index: u64) {
        self.over |= 1 << index.min(Self::LAST_BIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_to_be_over() {
        let mut finishes = Finishes::default();
        finishes.expect(2);
        finishes.index(1);
        finishes.end();
        finishes.end_event();
        assert!(!finishes.are_all());
        finishes.index(1);
        finishes.end();
        finishes.end_event();
        assert!(!finishes.are_all(), "the same one again");
        finishes.index(0);
        finishes.end_event();
        assert!(!finishes.are_all(), "an index alone is no end");
        finishes.end();
        finishes.index(0);
        assert!(finishes.are_all(), "an end before its index");
    }

    #[test]
    fn one_answer_is_the_rule() {
        let mut finishes = Finishes::default();
        assert!(!finishes.are_all());
        finishes.end();
        assert!(finishes.are_all(), "without an index");
        finishes.begin_message();
        assert!(!finishes.are_all());
    }

    #[test]
    fn odd_indices_do_no_harm() {
        let mut finishes = Finishes::default();
        finishes.expect(u64::MAX);
        finishes.index(u64::MAX);
        finishes.end();
        assert!(!finishes.are_all());
        (0..64).for_each(|index| {
            finishes.index(index);
            finishes.end();
        });
        assert!(finishes.are_all());
    }
}
