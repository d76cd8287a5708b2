//! The front of what waits for a quota, and who is hinted that it may pass.

use smallvec::SmallVec;

use super::{Wake, Wakes, quota_state::Ask, states::BatchStates};

/// Hints the sessions of heads that fit now and did not before; of all heads if the batch has
/// `stirred` the bucket: changed when they may pass.
pub(super) fn wake(
    states: &mut BatchStates<'_, '_>,
    bucket: usize,
    stirred: bool,
    wakes: &mut Wakes,
) {
    let (session, now) = (states.session(), states.state(bucket).now());
    for (rule_index, rule) in states.rules(bucket).iter().enumerate() {
        let front = front(states, bucket, rule_index);
        let (quota, heads) = states.state_mut(bucket).quota_and_heads(rule_index);
        for (index, head) in heads.iter_mut().enumerate().filter(|(_, head)| head.quota == rule.id)
        {
            let fitted = std::mem::replace(&mut head.fits, front.contains(&index));
            let ask = Ask::alone(rule, head.cost, head.headroom);
            head.is_behind &= quota.fits(rule, ask, now);
            let is_news = head.fits && !fitted || stirred && !head.is_late(now);
            if is_news && head.session != session && head.expect(now) {
                let wake = Wake { session: head.session, bucket: bucket as u16 };
                if !wakes.contains(&wake) {
                    wakes.push(wake);
                }
            }
        }
    }
}

/// The heads of a quota that fit together, from the front, by their indexes.
fn front(states: &BatchStates<'_, '_>, bucket: usize, rule_index: usize) -> SmallVec<[usize; 4]> {
    let (state, (quota, rule)) = (states.state(bucket), states.quota(bucket, rule_index));
    let (now, horizon) = (state.now(), quota.horizon());
    let mut front = SmallVec::new();
    // Of the classes that leave at least this to others, one does not fit: nor does what is
    // behind it.
    let mut blocked = u64::MAX;
    for (index, head) in state.heads().iter().enumerate() {
        let counts = head.quota == rule.id && !head.is_late(now) && head.holds(horizon, now);
        if !counts || head.headroom >= blocked {
            continue;
        }
        let space = states.of_id(head.space);
        let fits = || {
            let alone = Ask::alone(rule, head.cost, head.headroom);
            if !quota.fits(rule, alone, now) {
                return false;
            }
            let start_of = |flow| space.map_or(0.0, |space| states.start_in(space, flow));
            let place = head.place(start_of(head.flow));
            let most = quota.most_ahead(rule, head.cost, alone.capacity);
            let others = state.heads().before(&place, rule.id, horizon, now, most, &start_of);
            let ask = Ask { ahead: others.amount, before: others.demands, ..alone };
            quota.fits(rule, ask, now) && state.paused_for(others.demands) == 0
        };
        if fits() {
            front.push(index);
        } else if space.is_none_or(|space| states.state(space).flows().is_none()) {
            blocked = head.headroom;
        }
    }
    front
}
