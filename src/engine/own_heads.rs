//! The heads of the session that are to be, where its batch says what waits.

use smallvec::SmallVec;

use super::{
    Line, Rule,
    ahead::Ahead,
    heads::{Head, Outlook},
    order::Ages,
    states::BatchStates,
};

/// A head counts for the order of flows with this many of a session's groups on a quota at most.
const MAX_LINES: usize = 4;

/// Heads with their states.
#[derive(Debug, Default)]
pub(super) struct OwnHeads(Vec<(usize, Head)>);

impl OwnHeads {
    /// Adds a head of the session, or a waiter behind one. Where some of a group fit, since other
    /// quotas hold them back, the first one that does not is a head as well: it is to hear when it
    /// does.
    pub(super) fn add(&mut self, bucket: usize, head: Head) {
        let are_alike = |other: &Head| {
            other.quota == head.quota
                && (other.outlook == Outlook::Fits) == (head.outlook == Outlook::Fits)
        };
        let mut groups = 0;
        for (_, other) in self.0.iter_mut().filter(|(of, other)| *of == bucket && are_alike(other))
        {
            if other.is_of_group_of(&head) {
                return other.extend(&head);
            }
            groups += 1;
        }
        if groups < MAX_LINES {
            self.0.push((bucket, head));
        }
    }

    /// Adds waiters that are not in the batch.
    pub(super) fn add_lines(
        &mut self,
        states: &BatchStates<'_, '_>,
        (ahead, ages): (&mut Ahead, &Ages),
        bucket: usize,
        lines: &[Line],
    ) {
        for line in lines {
            let index = usize::from(line.rule);
            let Some(rule) = states.rules(bucket).get(index) else { continue };
            let head = head_of(states, ages, bucket, line, rule);
            let state = states.state(bucket);
            if head.holds(state.quotas()[index].horizon(), state.now()) {
                ahead.extend((bucket, index), line.headroom, line.sum, line.count);
            }
            self.add(bucket, head);
        }
    }

    /// The heads in a bucket.
    pub(super) fn of(&self, bucket: usize) -> SmallVec<[Head; 2]> {
        self.0.iter().filter(|(of, _)| *of == bucket).map(|(_, head)| *head).collect()
    }
}

fn head_of(
    states: &BatchStates<'_, '_>,
    ages: &Ages,
    bucket: usize,
    line: &Line,
    rule: &Rule,
) -> Head {
    let (state, session) = (states.state(bucket), states.session());
    let now = state.now();
    let mut head = Head::of_line(session, rule.id, line, now);
    if let Some(known) = state.heads().find(session, rule.id, line.waiter) {
        (head.arrival, head.held_until) = (known.arrival, known.held_until);
        (head.tag, head.outlook) = (known.tag, known.outlook);
        // One that its session does not send though it fits holds back others only for a while.
        head.due = if known.due == 0 && known.outlook == Outlook::Fits { now } else { known.due };
    }
    head.heard = states.heard(bucket);
    // It is not sent though it may fit: others of its session go before it.
    head.is_behind = states.fits_alone(bucket, line.rule.into(), line.cost, line.headroom);
    let age = ages.behind_older(line.age, now.saturating_sub(head.arrival));
    head.arrival = now.saturating_sub(age);
    head.last = head.last.max(head.arrival);
    head
}
