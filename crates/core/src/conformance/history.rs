//! What every [`Journal`] backend has to do about its [`history`](crate::history). Run it with
//! [`history_conformance!`].
//!
//! [`history_conformance!`]: crate::history_conformance

use super::Subject;
use super::journal::{advance, change, enter, failed, key, lease, network, new, settled, signed};
use crate::Amount;
use crate::history::{Change, Record, Sent, Span};
use crate::journal::{Advance, Delivery, Event, Journal, JournalError, NewEntry, SignedAs};
use crate::time::UnixTime;

/// Runs the suite of the journal's history against the backend that the argument makes.
#[macro_export]
macro_rules! history_conformance {
    ($make:expr) => {
        $crate::conformance_tests!(
            history,
            $make,
            [
                every_change_leaves_one_record,
                what_is_refused_leaves_no_record,
                a_take_over_is_recorded,
                a_caller_finds_its_own,
                pages_join_without_a_gap,
                readers_skip_nothing_while_many_write,
                a_hook_is_moved_by_who_holds_the_lease,
            ]
        );
    };
}

type On<J> = Subject<J>;

async fn all(journal: &impl Journal) -> Vec<Record> {
    journal.history(0, usize::MAX).await.expect("the store answers")
}

fn sent(signed: &SignedAs) -> Sent {
    let sent = &signed.sent;
    Sent { transaction: sent.transaction.clone(), signer: sent.signer.clone(), nonce: sent.nonce }
}

/// In order, with its time, its hash and who may be told from then on.
pub async fn every_change_leaves_one_record<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    assert_eq!(all(journal).await, []);
    assert_eq!(journal.history_end().await, Ok(0));
    let lease = lease(journal).await;
    let entry = NewEntry { entered_by: Some("shop".into()), entered_at: UnixTime(7), ..new("one") };
    enter(journal, entry).await;
    let mut dearer = signed(5);
    dearer.sent.transaction = "0xdearer".into();
    let road = [
        Event::Signed(signed(5)),
        Event::Sent,
        Event::Replaced(dearer.clone()),
        Event::Sent,
        Event::Closed(settled()),
    ];
    for (number, event) in (10..).zip(road) {
        let at = UnixTime(number);
        let change = Advance { at, deliver: true, ..change("one", event) };
        journal.advance(&lease, vec![change]).await.expect("a legal step");
    }
    enter(journal, new("two")).await;
    let (one, two) = (key("one"), key("two"));
    let handed =
        journal.hand_over(None, &two, Delivery::Waiting, Delivery::Owed, UnixTime(20)).await;
    assert_eq!(handed, Ok(true));
    advance(journal, &lease, "two", Event::Closed(failed(None))).await;

    let records = all(journal).await;
    let told: Vec<_> = records
        .iter()
        .map(|record| (record.key.clone(), record.at.0, record.change.clone(), record.delivery))
        .collect();
    let waiting = Delivery::Waiting;
    let settled =
        Change::Settled { transaction: "0xhash5".into(), block: 77, fee: Amount::from(21_000) };
    let failed = Change::Failed {
        reason: "insufficient_funds".into(),
        transaction: None,
        fee: Amount::from(3),
    };
    let first = Change::Sent { transaction: "0xhash5".into() };
    let second = Change::Sent { transaction: "0xdearer".into() };
    let expected = [
        (one.clone(), 7, Change::Entered, waiting),
        (one.clone(), 10, Change::Signed(sent(&signed(5))), waiting),
        (one.clone(), 11, first, waiting),
        (one.clone(), 12, Change::Replaced(sent(&dearer)), waiting),
        (one.clone(), 13, second, waiting),
        (one.clone(), 14, settled, Delivery::Delivered),
        (two.clone(), 1_000, Change::Entered, waiting),
        (two.clone(), 20, Change::HandedOver, Delivery::Owed),
        (two.clone(), 1_000, failed, Delivery::Owed),
    ];
    assert_eq!(told, expected);
    assert!(records.windows(2).all(|pair| pair[0].seq < pair[1].seq), "numbers rise");
    let first = &records[0];
    assert_eq!((first.network.clone(), &*first.payer), (network(), "0xPayer"));
    assert_eq!((first.amount, first.entered_by.as_deref()), (Amount::from(10_000), Some("shop")));
    assert!(records[..6].iter().all(|record| record.entered_by == first.entered_by));
    let end = journal.history_end().await;
    assert_eq!(end, Ok(records.last().expect("some").seq));
    let span = Span { after: 0, upto: u64::MAX, limit: 100 };
    let of_one = journal.history_of_payment(&one, span).await.expect("the store answers");
    assert_eq!(of_one, records[..6]);
    let nobody = journal.history_of_payment(&key("nobody"), span).await;
    assert_eq!(nobody, Ok(Vec::new()));
}

/// All or none, and a hand-over that compared in vain.
pub async fn what_is_refused_leaves_no_record<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    enter(journal, new("one")).await;
    enter(journal, new("two")).await;
    let before = all(journal).await;
    journal.enter(new("one")).await.expect("it is known");
    let half = vec![change("one", Event::Signed(signed(1))), change("two", Event::Sent)];
    assert!(journal.advance(&lease, half).await.is_err());
    let old = crate::journal::Lease { token: lease.token + 1, ..lease };
    let late = vec![change("one", Event::Signed(signed(1)))];
    assert!(journal.advance(&old, late).await.is_err());
    let one = key("one");
    let handed =
        journal.hand_over(None, &one, Delivery::Owed, Delivery::Delivered, UnixTime(1)).await;
    assert_eq!(handed, Ok(false));
    assert_eq!(all(journal).await, before);
}

/// Whoever waited is owed from then on.
pub async fn a_take_over_is_recorded<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    enter(journal, new("one")).await;
    lease(journal).await;
    let records = all(journal).await;
    let told: Vec<_> = records.iter().map(|record| (&record.change, record.delivery)).collect();
    let expected = [(&Change::Entered, Delivery::Waiting), (&Change::HandedOver, Delivery::Owed)];
    assert_eq!(told, expected);
    lease(journal).await;
    assert_eq!(all(journal).await.len(), 2, "it was no take-over");
}

/// And nobody else's, between the bounds.
pub async fn a_caller_finds_its_own<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    for number in 0..9 {
        let entered_by = ["shop", "Shop"].get(number % 3).map(|name| (*name).to_owned());
        enter(journal, NewEntry { entered_by, ..new(&number.to_string()) }).await;
    }
    let all = all(journal).await;
    let of = |entered_by: &'static str, span| async move {
        let records = journal.history_of_caller(entered_by, span).await.expect("the store answers");
        records.into_iter().map(|record| record.key).collect::<Vec<_>>()
    };
    let span = Span { after: 0, upto: u64::MAX, limit: 100 };
    assert_eq!(of("shop", span).await, [key("0"), key("3"), key("6")]);
    assert_eq!(of("Shop", span).await, [key("1"), key("4"), key("7")]);
    assert_eq!(of("", span).await, [], "those of nobody are nobody's");
    let within = Span { after: all[0].seq, upto: all[5].seq, limit: 100 };
    assert_eq!(of("shop", within).await, [key("3")]);
    assert_eq!(of("shop", Span { limit: 2, ..span }).await, [key("0"), key("3")]);
}

/// Whoever goes on after the last number has all of them once.
pub async fn pages_join_without_a_gap<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    for number in 0..25 {
        enter(journal, new(&number.to_string())).await;
    }
    let whole = all(journal).await;
    assert_eq!(whole.len(), 25);
    let mut joined: Vec<Record> = Vec::new();
    loop {
        let after = joined.last().map_or(0, |record| record.seq);
        let page = journal.history(after, 7).await.expect("the store answers");
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        joined.extend(page);
    }
    assert_eq!(joined, whole);
}

/// A reader that follows along sees every record that is committed, in the order of each payment.
pub async fn readers_skip_nothing_while_many_write<J: Journal + 'static>(on: On<J>) {
    const PAYMENTS: u64 = 80;
    let lease = lease(&*on.store).await;
    let begin = journal_end(&*on.store).await;
    let lease = &lease;
    let seen = on
        .at_once(PAYMENTS + 1, |journal, number| {
            let lease = lease.clone();
            async move {
                if number == PAYMENTS {
                    return follow(&*journal, begin, 4 * usize::try_from(PAYMENTS).expect("few"))
                        .await;
                }
                let name = number.to_string();
                enter(&*journal, new(&name)).await;
                advance(&*journal, &lease, &name, Event::Signed(signed(number))).await;
                let owed = (Delivery::Waiting, Delivery::Owed);
                let handed =
                    journal.hand_over(None, &key(&name), owed.0, owed.1, UnixTime(1)).await;
                assert_eq!(handed, Ok(true));
                advance(&*journal, &lease, &name, Event::Closed(settled())).await;
                Vec::new()
            }
        })
        .await
        .pop()
        .expect("the reader came last");
    assert_eq!(seen, all(&*on.store).await, "what was followed is what there is");
    for number in 0..PAYMENTS {
        let name = number.to_string();
        let of: Vec<_> = seen
            .iter()
            .filter(|record| record.key == key(&name))
            .map(|record| record.change.name())
            .collect();
        assert_eq!(of, ["entered", "signed", "handed_over", "settled"], "of payment {name}");
    }
}

/// From where it is, by the holder of the lease, and set back by anybody.
pub async fn a_hook_is_moved_by_who_holds_the_lease<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    let at = |name| async move { journal.hook(name, &network()).await };
    let moves = |from, to| {
        let lease = &lease;
        async move { journal.move_hook(lease, "shop", from, to).await }
    };
    assert_eq!(at("shop").await, Ok(None));
    assert_eq!(moves(Some(1), 2).await, Ok(false), "it is not there yet");
    assert_eq!(moves(None, 10).await, Ok(true));
    assert_eq!(moves(None, 11).await, Ok(false), "it is there already");
    assert_eq!(moves(Some(9), 12).await, Ok(false), "it is elsewhere");
    assert_eq!(moves(Some(10), 12).await, Ok(true));
    assert_eq!((at("shop").await, at("other").await), (Ok(Some(12)), Ok(None)));
    let old = crate::journal::Lease { token: lease.token + 1, ..lease.clone() };
    for from in [Some(12), None] {
        let late = journal.move_hook(&old, "shop", from, 20).await;
        assert_eq!(late, Err(JournalError::LeaseLost(network())));
    }
    assert_eq!(journal.replay_hook("shop", 5).await, Ok(1));
    assert_eq!(moves(Some(12), 13).await, Ok(false), "it was set back");
    assert_eq!(journal.replay_hook("shop", 7).await, Ok(0), "that is no way forward");
    assert_eq!(journal.replay_hook("nobody", 0).await, Ok(0));
    assert_eq!(at("shop").await, Ok(Some(5)));
}

async fn journal_end(journal: &impl Journal) -> u64 {
    journal.history_end().await.expect("the store answers")
}

/// Reads on and on until it has seen `count` records; in vain for so long means that one was skipped.
async fn follow(journal: &impl Journal, begin: u64, count: usize) -> Vec<Record> {
    const READS_MAX: usize = 200_000;
    let mut seen: Vec<Record> = Vec::new();
    for _ in 0..READS_MAX {
        let after = seen.last().map_or(begin, |record| record.seq);
        seen.extend(journal.history(after, 16).await.expect("the store answers"));
        if seen.len() >= count {
            return seen;
        }
    }
    panic!("{} of {count} records were seen; the others were skipped", seen.len());
}
