//! What every [`Journal`] backend has to do about its [`books`](crate::books). Run it with
//! [`books_conformance!`].
//!
//! [`books_conformance!`]: crate::books_conformance

use super::Subject;
use super::journal::{
    LASTS, NOW, advance, change, enter, failed, holder, key, key_on, lease, network, new, new_on,
    other_network, settled, signed,
};
use crate::Amount;
use crate::books::Booked;
use crate::history::Sent;
use crate::journal::{Advance, Event, Journal, NewEntry, Outcome, SignedAs};
use crate::network::BlockId;
use crate::time::UnixTime;

/// Runs the suite of the journal's books against the backend that the argument makes.
#[macro_export]
macro_rules! books_conformance {
    ($make:expr) => {
        $crate::conformance_tests!(
            books,
            $make,
            [
                an_entry_is_booked_as_it_ended,
                all_that_was_signed_is_in_the_books,
                books_are_read_in_pages_of_one_network,
            ]
        );
    };
}

type On<J> = Subject<J>;

async fn all(journal: &impl Journal) -> Vec<Booked> {
    journal.books(&network(), 0, usize::MAX).await.expect("the store answers")
}

async fn one(journal: &impl Journal, name: &str) -> Booked {
    let found = all(journal).await.into_iter().find(|booked| booked.key == key(name));
    found.expect("it was entered")
}

fn sent(signed: &SignedAs) -> Sent {
    let sent = &signed.sent;
    Sent { transaction: sent.transaction.clone(), signer: sent.signer.clone(), nonce: sent.nonce }
}

/// With every figure as it was written, whether the block that closed it is watched or buried.
pub async fn an_entry_is_booked_as_it_ended<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    assert_eq!(all(journal).await, []);
    let lease = lease(journal).await;
    let block = || BlockId { number: 7, hash: "0xa".into() };
    let dear = |outcome: Outcome| match outcome {
        Outcome::Settled { transaction, block, .. } => {
            Outcome::Settled { transaction, block, fee: Amount::MAX }
        }
        other => other,
    };
    for (name, outcome) in
        [("settled", dear(settled())), ("failed", failed(None)), ("costly", failed(Some("0x5")))]
    {
        let entered = NewEntry { amount: Amount::MAX, entered_at: UnixTime(3), ..new(name) };
        enter(journal, entered.clone()).await;
        let open = one(journal, name).await;
        assert_eq!((&open.outcome, &open.signed), (&None, &Vec::new()));
        let identity = (open.key, open.fingerprint, open.payer, open.amount, open.entered_at);
        let NewEntry { key, fingerprint, payer, amount, entered_at, .. } = entered;
        assert_eq!(identity, (key, fingerprint, payer, amount, entered_at));
        advance(journal, &lease, name, Event::Signed(signed(5))).await;
        assert_eq!(one(journal, name).await.outcome, None);
        advance(journal, &lease, name, Event::ClosedIn(outcome.clone(), block())).await;
        let closed = one(journal, name).await;
        assert_eq!((&closed.outcome, &closed.watched), (&Some(outcome.clone()), &Some(block())));
        advance(journal, &lease, name, Event::Reopened).await;
        let open = one(journal, name).await;
        assert_eq!((&open.outcome, &open.watched), (&None, &None));
        advance(journal, &lease, name, Event::ClosedIn(outcome.clone(), block())).await;
        advance(journal, &lease, name, Event::Buried).await;
        let buried = one(journal, name).await;
        assert_eq!((&buried.outcome, &buried.watched), (&Some(outcome), &None));
    }
    enter(journal, new("lost")).await;
    let close = Event::ClosedIn(settled(), block());
    let told = Advance { deliver: true, ..change("lost", close) };
    journal.advance(&lease, vec![told]).await.expect("a legal step");
    advance(journal, &lease, "lost", Event::ClosedIn(failed(None), block())).await;
    let lost = one(journal, "lost").await.outcome;
    assert!(matches!(lost, Some(Outcome::Reverted { .. })), "{lost:?}");
}

/// What was replaced, displaced or left out too, after the entry is final and wiped.
pub async fn all_that_was_signed_is_in_the_books<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    for name in ["one", "two"] {
        enter(journal, new(name)).await;
    }
    let mut dearer = signed(5);
    dearer.sent.transaction = "0xdearer".into();
    let anew = signed(u64::MAX - 1);
    // Two share the first transaction.
    let both =
        vec![change("one", Event::Signed(signed(5))), change("two", Event::Signed(signed(5)))];
    journal.advance(&lease, both).await.expect("a legal step");
    advance(journal, &lease, "one", Event::Replaced(dearer.clone())).await;
    advance(journal, &lease, "one", Event::Signed(anew.clone())).await;
    let expected = [sent(&signed(5)), sent(&dearer), sent(&anew)];
    assert_eq!(one(journal, "one").await.signed, expected);
    advance(journal, &lease, "one", Event::Closed(settled())).await;
    assert_eq!(one(journal, "one").await.signed, expected);
    assert_eq!(one(journal, "two").await.signed, [sent(&signed(5))]);
}

/// Pages join without a gap, and another network's entries between them are in none.
pub async fn books_are_read_in_pages_of_one_network<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let here = lease(journal).await;
    let there = journal.lease(&other_network(), &holder("here"), NOW, LASTS).await;
    let there = there.expect("the store answers").granted().expect("nobody else holds it");
    for number in 0..7 {
        let name = &number.to_string();
        enter(journal, new(name)).await;
        advance(journal, &here, name, Event::Signed(signed(number))).await;
        enter(journal, new_on(other_network(), name)).await;
        let event = Event::Signed(signed(100 + number));
        let elsewhere = Advance { key: key_on(&other_network(), name), ..change(name, event) };
        journal.advance(&there, vec![elsewhere]).await.expect("a legal step");
    }
    let whole = all(journal).await;
    let keys: Vec<_> = whole.iter().map(|booked| booked.key.clone()).collect();
    assert_eq!(keys, (0..7).map(|number| key(&number.to_string())).collect::<Vec<_>>());
    assert!(whole.iter().all(|booked| booked.signed.len() == 1), "{whole:?}");
    let mut pages = Vec::new();
    loop {
        let after = pages.last().map_or(0, |booked: &Booked| booked.seq);
        let page = journal.books(&network(), after, 3).await.expect("the store answers");
        assert!(page.len() <= 3, "a page of {}", page.len());
        if page.is_empty() {
            break;
        }
        pages.extend(page);
    }
    assert_eq!(pages, whole);
}
