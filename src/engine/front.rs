//! The front of what waits for a quota, and who is hinted that it may pass.

use smallvec::SmallVec;

use super::{
    Micros, Rule, Wake, Wakes,
    exact::sum,
    heads::{Head, Outlook, Place},
    quota_state::{Ask, QuotaState},
    states::BatchStates,
};

/// One that comes to be the first, and fits earlier than its session knows by more than this, is
/// hinted.
const EARLIER: Micros = 10_000;

/// Hints the sessions of heads that fit now and did not before; of all heads if the batch has
/// `stirred` the bucket: changed when they may pass. Hints those as well that hold up a demand of
/// the batch and were not heard of for a while: they are passed over if they do not come.
pub(super) fn wake(
    states: &mut BatchStates<'_, '_>,
    bucket: usize,
    stirred: bool,
    wakes: &mut Wakes,
) {
    let (session, now, wall) = (states.session(), states.state(bucket).now(), states.wall());
    let holds_up = states.holds_up(bucket);
    states.find_places(bucket);
    for (rule_index, rule) in states.rules(bucket).iter().enumerate() {
        let outlooks = outlooks(states, bucket, rule_index);
        let (quota, heads) = states.state_mut(bucket).quota_and_heads(rule_index);
        let is_called =
            |head: &Head| (stirred || holds_up && head.is_unheard(now)) && !head.is_late(now);
        let on_quota = heads.iter_mut().filter(|head| head.quota == rule.id);
        for (head, outlook) in on_quota.zip(outlooks) {
            let before = std::mem::replace(&mut head.outlook, outlook);
            let ask = Ask::alone(rule, head.cost, head.headroom);
            head.is_behind &= quota.fits(rule, ask, now);
            let is_news = match outlook {
                _ if is_called(head) => true,
                Outlook::Fits => before != outlook,
                Outlook::First => before != outlook && fits_earlier(head, quota, rule, now, wall),
                Outlook::Behind => false,
            };
            if is_news && head.session != session && head.expect(now) {
                let wake = Wake { session: head.session, bucket: bucket as u16 };
                if !wakes.contains(&wake) {
                    wakes.push(wake);
                }
            }
        }
    }
}

/// Whether the first of what waits fits earlier than its session knows: how many would go before it
/// was estimated.
fn fits_earlier(head: &Head, quota: &QuotaState, rule: &Rule, now: Micros, wall: Micros) -> bool {
    if head.due <= now + EARLIER {
        return false;
    }
    let ask = Ask::alone(rule, head.cost, head.headroom);
    let wait = quota.shortage(rule, ask, now, wall).wait;
    wait.is_some_and(|wait| head.due > sum(now, wait).max(head.held_until) + EARLIER)
}

/// What each head of a quota can expect. Those fit that do so together, from the front.
fn outlooks(
    states: &BatchStates<'_, '_>,
    bucket: usize,
    rule_index: usize,
) -> SmallVec<[Outlook; 4]> {
    let (state, (quota, rule)) = (states.state(bucket), states.quota(bucket, rule_index));
    let (now, horizon) = (state.now(), quota.horizon());
    // Of the classes that leave at least this to others, one does not fit: nor does what is
    // behind it.
    let mut blocked = u64::MAX;
    let counts = |head: &&Head| !head.is_late(now) && head.holds(horizon, now);
    let on_quota = || state.heads().iter().filter(|head| head.quota == rule.id);
    let first = on_quota().find(counts).map(|head| head.flow);
    let go_by_arrival = on_quota()
        .filter(counts)
        .all(|head| Some(head.flow) == first && head.place == head.arrival);
    let outlook = |head: &Head| {
        if !counts(&head) || head.headroom >= blocked {
            return Outlook::Behind;
        }
        let alone = Ask::alone(rule, head.cost, head.headroom);
        let fits_alone = quota.fits(rule, alone, now);
        let place = Place { tag: states.start_of_head(head), ..head.place() };
        let most = if fits_alone { quota.most_ahead(rule, head.cost, alone.capacity) } else { 0 };
        let others = state
            .heads()
            .before(&place, rule.id, horizon, now, most, &|head| states.start_of_head(head));
        let ask = Ask { ahead: others.amount, before: others.demands, ..alone };
        if fits_alone && quota.fits(rule, ask, now) && state.paused_for(others.demands) == 0 {
            return Outlook::Fits;
        }
        if go_by_arrival {
            blocked = head.headroom;
        }
        if others.demands == 0 { Outlook::First } else { Outlook::Behind }
    };
    on_quota().map(outlook).collect()
}
