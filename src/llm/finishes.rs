//! Which of the answers that a call asked for are over.
//!
//! A call may ask for several answers (`n`, `candidateCount`), whose parts come mixed in one
//! stream. Usage that is told while one of them goes on is not the whole. This module knows
//! indices, and neither JSON nor events.

use smallvec::SmallVec;

/// Of more answers, none is followed by itself: only the end of the response ends them all.
const MOST: u64 = 4_096;

/// The answers of one response, by their index.
#[derive(Debug, Default)]
pub(super) struct Finishes {
    /// How many answers there are, as far as that is known; 0 stands for 1.
    asked: u64,
    /// A bit for each answer that is over.
    over: SmallVec<[u64; 1]>,
    /// An index that was told before the end that may belong to it.
    index: Option<u64>,
    /// An end that was told before its index, if it has one.
    has_ended: bool,
}

impl Finishes {
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
        self.over.clear();
        (self.index, self.has_ended) = (None, false);
    }

    /// True if every answer is over.
    pub(super) fn are_all(&self) -> bool {
        let over: u64 = self.over.iter().map(|bits| u64::from(bits.count_ones())).sum();
        // An end without an index is that of the first answer.
        let is_first = self.has_ended && self.over.first().is_none_or(|bits| bits & 1 == 0);
        self.asked <= MOST && over + u64::from(is_first) >= self.asked.max(1)
    }

    fn finish(&mut self, index: u64) {
        let Some(index) = usize::try_from(index).ok().filter(|_| index < MOST) else { return };
        let (place, bit) = (index / 64, index % 64);
        if self.over.len() <= place {
            self.over.resize(place + 1, 0);
        }
        self.over[place] |= 1 << bit;
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
        for index in [u64::MAX, MOST, 0, 1, 70] {
            finishes.index(index);
            finishes.end();
            assert!(!finishes.are_all(), "{index}");
        }
        assert!(finishes.over.len() <= 2, "memory");
    }

    #[test]
    fn many_answers_end_each_by_itself() {
        let mut finishes = Finishes::default();
        finishes.expect(MOST);
        for index in (0..MOST).rev() {
            assert!(!finishes.are_all(), "{index}");
            finishes.index(index);
            finishes.end();
        }
        assert!(finishes.are_all());
        finishes.expect(MOST + 1);
        assert!(!finishes.are_all(), "too many to know");
    }
}
