//! Takes the place of a transaction that is not mined: by the same call at higher fees while somebody can still
//! be paid by it, and by a cancellation once nobody can.
//!
//! **Invariants:** what takes a place has the same signer and nonce, and is journalled before it is sent. A
//! transaction is cancelled only when the chain shows of every payment in it that it can make none any more,
//! and only whole: shares of what a cancellation costs are those of the transaction. Bytes that somebody else
//! signed are never replaced.
//!
//! The time that is left decides how soon fees are looked at again. A payment that ends in half a minute has
//! several looks, and one that ends tomorrow cannot use up its offers today.

use std::time::Duration;

use pay402_core::Amount;
use pay402_core::amount::U256;
use pay402_core::journal::{Entry, Event, REPLACEMENTS_MAX, SignedAs, Stage};
use pay402_core::network::{Bid, Network, SecretBytes, SentAs, SignedTransaction};
use pay402_core::time::UnixTime;
use tokio::time::Instant;

use crate::failpoint::Failpoint;
use crate::options::Options;
use crate::scribe::Unwritten;
use crate::seal::Content;
use crate::trace;
use crate::worker::{Crew, Flight, Member};

/// How many of the transactions that one may be replaced by are kept for cancellations.
const CANCELLATIONS_MAX: usize = 4;
/// Most offers that may take the place of the first.
const OFFERS_MAX: usize = REPLACEMENTS_MAX - CANCELLATIONS_MAX;
/// Fees are looked at again after this part of the time that is left, at the latest.
const PART: u32 = 4;
/// However little time is left, they are not looked at more often.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// What is left when the last stretch begins: two blocks of the slowest networks.
const LAST_STRETCH: Duration = Duration::from_secs(24);

/// How long until the fees of a transaction are looked at again, with so much time `left` for its payments and so
/// many offers that may still be made: `usual`, or a quarter of the time left if that is sooner; and each offer
/// waits for twice as large a part of it as the one before, so that they last.
fn pause(usual: Duration, left: Duration, offers_left: usize) -> Duration {
    let halvings = u32::try_from(offers_left).unwrap_or(u32::MAX);
    let soonest = 1_u32.checked_shl(halvings).map_or(Duration::ZERO, |parts| left / parts);
    usual.min((left / PART).max(PAUSE_MIN)).max(soonest)
}

/// When the place of a transaction is to be taken.
pub(crate) struct Pace {
    usual: Duration,
    at: Instant,
    has_lapsed: bool,
}

impl Pace {
    /// That of a transaction that was sent just now.
    pub(crate) fn begin(crew: &Crew, flight: &Flight) -> Self {
        let usual = crew.desk.options.replace_first;
        let mut pace = Self { usual, at: Instant::now(), has_lapsed: false };
        pace.wait(crew, flight);
        pace
    }

    fn wait(&mut self, crew: &Crew, flight: &Flight) {
        let pause = match time_left(crew, flight) {
            Some(left) => pause(self.usual, left, offers_left(flight)),
            None => self.usual,
        };
        self.at = Instant::now() + pause;
    }

    /// Whether it is time, after a look that showed whether all of it has lapsed. What has just lapsed is
    /// cancelled at once.
    pub(crate) fn is_due(&mut self, has_lapsed: bool, options: &Options) -> bool {
        let has_just = has_lapsed && !std::mem::replace(&mut self.has_lapsed, has_lapsed);
        if has_just {
            self.usual = options.replace_first;
        }
        has_just || Instant::now() >= self.at
    }

    /// It was looked at.
    pub(crate) fn next(&mut self, crew: &Crew, flight: &Flight) {
        self.usual = (self.usual * 2).min(crew.desk.options.replace_max);
        self.wait(crew, flight);
    }
}

fn offers_left(flight: &Flight) -> usize {
    OFFERS_MAX.saturating_sub(flight.sent().replaced.len())
}

/// Those that are not past their end by our clock.
fn alive(members: &[Member], now: UnixTime) -> impl Iterator<Item = &Member> {
    members.iter().filter(move |member| now < member.expires)
}

/// The time until the first of the payments ends; `None` when all have.
fn time_left(crew: &Crew, flight: &Flight) -> Option<Duration> {
    let now = crew.desk.clock.now();
    let first = alive(&flight.members, now).map(|member| member.expires.0).min()?;
    Some(Duration::from_secs(first.saturating_sub(now.0)))
}

/// Most that a transaction with so many shares may cost, in wei, given the plans of its payments and what
/// each has cost already. Each bears the same share, so the one that may cost the least says what all may.
pub(crate) fn cost_max<'a>(
    network: &dyn Network,
    bearing: impl Iterator<Item = (&'a SecretBytes, Amount)>,
    shares: usize,
) -> Option<Amount> {
    let left = |(plan, spent)| Some(network.cost_max(plan)?.saturating_sub(spent));
    let least = bearing.filter_map(left).min()?.to_u256();
    Some(Amount::new(least.saturating_mul(U256::from(shares))))
}

/// Whether a transaction may be cancelled once all that it carries is over: it is ours, a payment has none of
/// its shares elsewhere, and nothing in it is done on the chain at any time.
pub(crate) fn may_be_cancelled(crew: &Crew, flight: &Flight) -> bool {
    let desk = &crew.desk;
    let sent = flight.sent();
    let is_whole = u32::try_from(flight.members.len()).is_ok_and(|count| count == sent.part.of);
    is_whole
        && desk.lane_of(&sent.signer).is_some()
        && flight.members.iter().all(|member| desk.network.lapses(&member.plan))
}

/// The desk has stopped: nothing more is written.
pub(crate) struct Stopped;

/// Which failpoints are passed on the way.
#[derive(Clone, Copy)]
struct Edges {
    before_journal: Failpoint,
    before_send: Failpoint,
    before_sent: Failpoint,
}

const REPLACING: Edges = Edges {
    before_journal: Failpoint::AfterReplaceBeforeJournal,
    before_send: Failpoint::AfterReplaceJournalBeforeSend,
    before_sent: Failpoint::AfterReplaceSendBeforeSent,
};
const REPLACING_PACK: Edges = Edges {
    before_journal: Failpoint::AfterPackReplaceBeforeJournal,
    before_send: Failpoint::AfterPackReplaceJournalBeforeSend,
    before_sent: Failpoint::AfterPackReplaceSendBeforeSent,
};
const CANCELLING: Edges = Edges {
    before_journal: Failpoint::AfterCancelBeforeJournal,
    before_send: Failpoint::AfterCancelJournalBeforeSend,
    before_sent: Failpoint::AfterCancelSendBeforeSent,
};

/// Has the place of the transaction of `flight` taken, if it waits for want of fees or is of no use any more.
/// All that take it have one nonce, so that one of them is mined at most; which, is for the chain to say.
pub(crate) async fn replace(
    crew: &Crew,
    flight: &mut Flight,
    has_lapsed: bool,
) -> Result<(), Stopped> {
    let desk = &crew.desk;
    let (Some(raw), sent) = (&flight.raw, flight.sent()) else { return Ok(()) };
    if desk.lane_of(&sent.signer).is_none() {
        return Ok(());
    }
    let signed = if has_lapsed {
        if sent.replaced.len() >= REPLACEMENTS_MAX {
            return Ok(());
        }
        desk.in_time(desk.network.cancel(sent, raw)).await
    } else {
        let Some(bid) = bid(crew, flight) else { return Ok(()) };
        desk.in_time(desk.network.replacement(sent, raw, bid)).await
    };
    let signed = match signed {
        Ok(Ok(Some(signed))) => signed,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) | Err(error) => {
            tracing::debug!(payment = %flight.name(), %error, "fees unknown");
            return Ok(());
        }
    };
    let edges = match flight.members.len() {
        _ if has_lapsed => CANCELLING,
        1 => REPLACING,
        _ => REPLACING_PACK,
    };
    if record(crew, flight, signed, edges).await? && has_lapsed {
        desk.metrics.cancelled.add(1);
    }
    Ok(())
}

/// What may be offered now; `None` while nothing is.
fn bid(crew: &Crew, flight: &Flight) -> Option<Bid> {
    let now = crew.desk.clock.now();
    let left = time_left(crew, flight);
    // Until the chain says that it is over, it is of no use to have it fail any dearer.
    let is_awaited = left.is_none() && may_be_cancelled(crew, flight);
    if is_awaited || offers_left(flight) == 0 {
        return None;
    }
    let bearing = alive(&flight.members, now).map(|member| (&member.plan, member.spent));
    let cost_max = cost_max(&*crew.desk.network, bearing, flight.members.len());
    Some(Bid { cost_max, is_last: left.is_some_and(|left| left <= LAST_STRETCH) })
}

/// Has what takes the place journalled. `false` when it was not.
async fn record(
    crew: &Crew,
    flight: &mut Flight,
    signed: SignedTransaction,
    edges: Edges,
) -> Result<bool, Stopped> {
    let desk = &crew.desk;
    let failpoints = &desk.options.failpoints;
    let key = flight.name().clone();
    failpoints.pass(edges.before_journal).await;
    let mut sealed = match desk.sealer.seal(Content::Raw, &key, &signed.raw) {
        Ok(sealed) => sealed,
        Err(error) => {
            tracing::warn!(payment = %key, %error, "not sealed");
            return Ok(false);
        }
    };
    let event = |member: &Member| {
        let (transaction, replaced) = (signed.transaction.clone(), Vec::new());
        let sent = SentAs { transaction, replaced, ..member.sent.clone() };
        // The bytes go with the first.
        let raw = std::mem::take(&mut sealed);
        let signed = SignedAs { sent, raw, spent: member.spent };
        (member.custody.key.clone(), Event::Replaced(signed))
    };
    let changes = flight.members.iter().map(event).collect();
    let written = crew.scribe.write_lots(vec![changes]).await.pop();
    failpoints.pass(edges.before_send).await;
    match written {
        Some(Ok(entries)) => {
            let (old, new) = (flight.sent().transaction.as_str(), &signed.transaction);
            let count = flight.members.len();
            tracing::warn!(payment = %key, count, old, new, "{}", edges.told());
            for (member, entry) in flight.members.iter_mut().zip(entries) {
                if let Entry { stage: Stage::Signed(recorded), .. } = entry {
                    member.sent = recorded.sent;
                    trace::signed(&member.custody.span, &member.sent);
                }
            }
            flight.raw = Some(signed.raw);
            flight.before_sent = Some(edges.before_sent);
            Ok(true)
        }
        Some(Err(Unwritten::Forbidden(problem))) => {
            tracing::error!(payment = %key, problem, "a replacement was not recorded");
            Ok(false)
        }
        Some(Err(Unwritten::Stopped)) | None => Err(Stopped),
    }
}

impl Edges {
    fn told(self) -> &'static str {
        match self.before_journal == CANCELLING.before_journal {
            true => "not mined in time; cancelling it",
            false => "not mined; offering more for it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// When fees are looked at with so much time at first, and whether each look makes an offer.
    fn looks(lasts: Duration, offers: bool) -> Vec<Duration> {
        let (mut at, mut usual, mut made) = (Duration::ZERO, s(10), 0);
        let mut looks = Vec::new();
        while at < lasts {
            at += pause(usual, lasts - at, OFFERS_MAX - made);
            usual = (usual * 2).min(s(60));
            if at < lasts && made < OFFERS_MAX {
                looks.push(at);
                made += usize::from(offers);
            }
        }
        looks
    }

    #[test]
    fn a_time_that_is_long_changes_nothing() {
        assert_eq!(looks(s(600), false)[..5], [s(10), s(30), s(70), s(130), s(190)]);
        assert_eq!(pause(s(10), s(3_600), OFFERS_MAX), s(10));
        assert_eq!(pause(Duration::from_millis(30), s(60), OFFERS_MAX), Duration::from_millis(30));
    }

    #[test]
    fn several_offers_fit_into_half_a_minute() {
        let looks = looks(s(30), true);
        assert!(looks.len() >= 6, "{looks:?}");
        assert_eq!(looks[0], Duration::from_millis(7_500));
        assert!(looks.windows(2).all(|two| two[1] - two[0] >= PAUSE_MIN), "{looks:?}");
        assert!(looks[5] < s(26), "there is no time for the last to be mined: {looks:?}");
    }

    #[test]
    fn offers_last_however_long_the_time_is() {
        for lasts in [60, 300, 3_600, 86_400].map(s) {
            let looks = looks(lasts, true);
            let last = *looks.last().unwrap();
            assert!(last > lasts / 2, "the last offer of {lasts:?} is made after {last:?}");
        }
    }

    #[test]
    fn one_that_has_no_time_left_is_looked_at_as_usual_at_most() {
        assert_eq!(pause(s(10), Duration::ZERO, OFFERS_MAX), PAUSE_MIN);
        assert_eq!(pause(s(10), Duration::ZERO, 0), PAUSE_MIN);
        assert_eq!(pause(s(10), s(40), 0), s(40), "there is none left to make");
        assert_eq!(pause(s(10), s(40), 1), s(20));
        assert_eq!(pause(s(10), Duration::MAX, 64), s(10));
    }
}
