//! What every [`Journal`] backend has to do about what it forgets. Run it with [`forget_conformance!`].
//!
//! [`forget_conformance!`]: crate::forget_conformance

use super::Subject;
use super::journal::{
    LASTS, NOW, advance, change, enter, failed, find, holder, key, key_on, lapsed, lease, network,
    new, new_on, other_network, settled, signed, try_lease,
};
use crate::history::Span;
use crate::journal::{
    Advance, Delivery, Entered, Event, Forgotten, Horizon, Journal, JournalError, Lease, Looked,
    NewEntry,
};
use crate::network::BlockId;
use crate::time::UnixTime;
use crate::{Amount, PaymentKey};

/// Runs the suite of what the journal forgets against the backend that the argument makes.
#[macro_export]
macro_rules! forget_conformance {
    ($make:expr) => {
        $crate::conformance_tests!(
            forget,
            $make,
            [
                what_is_past_goes_with_all_that_belongs_to_it,
                what_lives_stays,
                what_changed_since_it_was_looked_at_stays,
                what_a_hook_was_not_sent_stays,
                numbers_and_nonces_never_go_back,
                it_is_looked_at_in_pages_of_one_network,
                only_the_holder_of_the_lease_forgets,
                a_forgotten_payment_is_entered_anew,
            ]
        );
    };
}

type On<J> = Subject<J>;

/// After all that happens here, unless it is told otherwise.
const LATE: UnixTime = UnixTime(5_000);

fn past(before: UnixTime) -> Horizon {
    Horizon { before, losses_before: before, hooks: Vec::new() }
}

/// Enters a payment, has it signed, and settled in a block that is buried; its success is told.
async fn settle(journal: &impl Journal, lease: &Lease, entry: NewEntry, nonce: u64) {
    let key = entry.key.clone();
    enter(journal, entry).await;
    let step = |event, deliver| Advance { key: key.clone(), event, deliver, at: NOW };
    let close = Event::ClosedIn(settled(), BlockId { number: nonce, hash: "0xblock".into() });
    let road = vec![
        step(Event::Signed(signed(nonce)), false),
        step(close, true),
        step(Event::Buried, false),
    ];
    journal.advance(lease, road).await.expect("legal steps");
}

async fn look(journal: &impl Journal, horizon: &Horizon) -> Vec<PaymentKey> {
    let looked = journal.forgettable(&network(), 0, 100, horizon).await.expect("it answers");
    assert!(looked.is_end, "there are no more");
    looked.past
}

async fn forget(
    journal: &impl Journal,
    lease: &Lease,
    names: &[&str],
    horizon: &Horizon,
) -> Result<u64, JournalError> {
    journal.forget(lease, names.iter().map(|name| key(name)).collect(), horizon).await
}

/// The entry, its records and what was signed for it; sums stay.
pub async fn what_is_past_goes_with_all_that_belongs_to_it<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    assert_eq!(journal.forgotten(&network()).await, Ok(Forgotten::default()));
    assert_eq!(journal.forgotten_records().await, Ok(0));
    settle(journal, &lease, new("one"), 5).await;
    enter(journal, new("failed")).await;
    advance(journal, &lease, "failed", Event::Signed(signed(6))).await;
    advance(journal, &lease, "failed", Event::Closed(failed(Some("0x6")))).await;
    let end = journal.history_end().await.expect("it answers");
    settle(journal, &lease, NewEntry { entered_at: LATE, ..new("young") }, 7).await;
    let kept = journal.history(end, 100).await.expect("it answers");
    let horizon = past(LATE);
    assert_eq!(look(journal, &horizon).await, [key("one"), key("failed")]);
    let named = ["one", "failed", "young", "nobody"];
    assert_eq!(forget(journal, &lease, &named, &horizon).await, Ok(2));
    assert_eq!(forget(journal, &lease, &named, &horizon).await, Ok(0), "forgotten twice");
    for name in ["one", "failed"] {
        assert_eq!(journal.find(&key(name)).await, Ok(None), "{name}");
        let span = Span { after: 0, upto: u64::MAX, limit: 100 };
        assert_eq!(journal.history_of_payment(&key(name), span).await, Ok(Vec::new()));
    }
    find(journal, "young").await;
    assert_eq!(journal.history(0, 100).await, Ok(kept), "of the one that stays, all");
    let books = journal.books(&network(), 0, 100).await.expect("it answers");
    assert_eq!(books.len(), 1);
    assert_eq!(books[0].signed.len(), 1);
    let known = Forgotten {
        entries: 2,
        entry: books[0].seq - 1,
        fees: Amount::from(21_003),
        nonces: [("0xSigner".to_owned(), 6)].into(),
    };
    assert_eq!(journal.forgotten(&network()).await, Ok(known));
    assert_eq!(journal.forgotten_records().await, Ok(end));
    assert_eq!(journal.forgotten(&other_network()).await, Ok(Forgotten::default()));
}

/// Each for one reason of its own, and whoever names it.
pub async fn what_lives_stays<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    let horizon = Horizon { losses_before: NOW, ..past(UnixTime(2_000)) };
    let names =
        ["due", "signed", "sent", "watched", "owed", "waited", "usable", "young", "moved", "dear"];
    for (name, nonce) in names.into_iter().zip(1..) {
        let entry = match name {
            "usable" => NewEntry { expires: UnixTime(2_001), ..new(name) },
            "young" => NewEntry { entered_at: UnixTime(2_000), ..new(name) },
            _ => new(name),
        };
        let close = Event::ClosedIn(settled(), BlockId { number: nonce, hash: "0xblock".into() });
        match name {
            "usable" | "young" => settle(journal, &lease, entry, nonce).await,
            "moved" => {
                settle(journal, &lease, entry, nonce).await;
                let at = UnixTime(2_000);
                for (from, to) in
                    [(Delivery::Delivered, Delivery::Owed), (Delivery::Owed, Delivery::Delivered)]
                {
                    let moved = journal.hand_over(None, &key(name), from, to, at).await;
                    assert_eq!(moved, Ok(true));
                }
            }
            _ => enter(journal, entry).await,
        }
        match name {
            "signed" => _ = advance(journal, &lease, name, Event::Signed(signed(nonce))).await,
            "sent" => {
                advance(journal, &lease, name, Event::Signed(signed(nonce))).await;
                advance(journal, &lease, name, Event::Sent).await;
            }
            "watched" => {
                let told = Advance { deliver: true, ..change(name, close) };
                journal.advance(&lease, vec![told]).await.expect("a legal step");
            }
            "owed" | "waited" => {
                advance(journal, &lease, name, Event::Closed(settled())).await;
                if name == "owed" {
                    let (from, to) = (Delivery::Waiting, Delivery::Owed);
                    let owed = journal.hand_over(None, &key(name), from, to, NOW).await;
                    assert_eq!(owed, Ok(true));
                }
            }
            "dear" => _ = advance(journal, &lease, name, Event::Closed(failed(None))).await,
            _ => {}
        }
    }
    assert_eq!(look(journal, &horizon).await, []);
    assert_eq!(forget(journal, &lease, &names, &horizon).await, Ok(0));
    let later = past(LATE);
    let mut gone = look(journal, &later).await;
    gone.sort();
    assert_eq!(gone, [key("dear"), key("moved"), key("usable"), key("young")], "in time");
}

/// It is looked at again in the very transaction.
pub async fn what_changed_since_it_was_looked_at_stays<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    settle(journal, &lease, new("one"), 5).await;
    let horizon = past(LATE);
    assert_eq!(look(journal, &horizon).await, [key("one")]);
    let (from, to) = (Delivery::Delivered, Delivery::Owed);
    assert_eq!(journal.hand_over(None, &key("one"), from, to, NOW).await, Ok(true));
    assert_eq!(forget(journal, &lease, &["one"], &horizon).await, Ok(0));
    assert_eq!(find(journal, "one").await.delivery, Delivery::Owed);
}

/// The slowest of those that are named; others, and those that have not begun, hold nothing up.
pub async fn what_a_hook_was_not_sent_stays<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    settle(journal, &lease, new("one"), 5).await;
    let end = journal.history_end().await.expect("it answers");
    let named = |hooks: &[&str]| {
        let hooks = hooks.iter().map(|hook| (*hook).to_owned()).collect();
        Horizon { hooks, ..past(LATE) }
    };
    for (hook, at) in [("behind", end - 1), ("there", end), ("elsewhere", 0)] {
        assert_eq!(journal.move_hook(&lease, hook, None, at).await, Ok(true));
    }
    let waiting = named(&["there", "behind"]);
    assert_eq!(look(journal, &waiting).await, []);
    assert_eq!(forget(journal, &lease, &["one"], &waiting).await, Ok(0));
    for hooks in [&["there"][..], &["there", "new"], &["new"], &[]] {
        assert_eq!(look(journal, &named(hooks)).await, [key("one")], "{hooks:?}");
    }
    assert_eq!(forget(journal, &lease, &["one"], &named(&["there", "new"])).await, Ok(1));
}

/// Neither the end of the history, nor a record's number, nor a nonce.
pub async fn numbers_and_nonces_never_go_back<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    settle(journal, &lease, new("high"), u64::MAX - 2).await;
    settle(journal, &lease, new("low"), 9).await;
    let end = journal.history_end().await.expect("it answers");
    let next = async || journal.next_nonce(&network(), "0xSigner").await;
    assert_eq!(next().await, Ok(Some(u64::MAX - 1)));
    for name in ["high", "low"] {
        assert_eq!(forget(journal, &lease, &[name], &past(LATE)).await, Ok(1));
        assert_eq!(next().await, Ok(Some(u64::MAX - 1)), "after {name}");
        assert_eq!(journal.history_end().await, Ok(end), "after {name}");
    }
    assert_eq!(journal.next_nonce(&network(), "0xOther").await, Ok(None));
    assert_eq!(journal.history(0, 10).await, Ok(Vec::new()));
    enter(journal, new("one")).await;
    let records = journal.history(end, 10).await.expect("it answers");
    assert_eq!(records.len(), 1, "who read to the end is told what comes after it");
    assert!(journal.history_end().await.expect("it answers") > end);
    advance(journal, &lease, "one", Event::Signed(signed(3))).await;
    assert_eq!(next().await, Ok(Some(u64::MAX - 1)));
}

/// One after the other, to the first that is too young.
pub async fn it_is_looked_at_in_pages_of_one_network<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let here = lease(journal).await;
    let there = journal.lease(&other_network(), &holder("here"), NOW, LASTS).await;
    let there = there.expect("it answers").granted().expect("nobody else holds it");
    for number in 0..7 {
        let name = &number.to_string();
        match number {
            3 => enter(journal, new(name)).await,
            _ => settle(journal, &here, new(name), number).await,
        }
        settle(journal, &there, new_on(other_network(), name), number).await;
    }
    settle(journal, &here, NewEntry { entered_at: LATE, ..new("young") }, 8).await;
    settle(journal, &here, new("behind it"), 9).await;
    let horizon = past(LATE);
    let (mut pages, mut after) = (Vec::new(), 0);
    loop {
        let page = journal.forgettable(&network(), after, 3, &horizon).await;
        let Looked { past, at, is_end } = page.expect("it answers");
        assert!(at > after || is_end, "it does not go on");
        after = at;
        pages.push(past);
        if is_end {
            break;
        }
    }
    let keys = |names: &[&str]| names.iter().map(|name| key(name)).collect::<Vec<_>>();
    assert_eq!(
        pages,
        [keys(&["0", "1", "2"]), keys(&["4", "5"]), keys(&["6", "behind it"]), vec![]]
    );
    let others = vec![key_on(&other_network(), "0")];
    assert_eq!(journal.forget(&here, others.clone(), &horizon).await, Ok(0), "another network's");
    assert_eq!(journal.forget(&there, others, &horizon).await, Ok(1));
    let nothing = journal.forgettable(&network(), u64::MAX >> 1, 3, &horizon).await;
    let end = Looked { past: Vec::new(), at: u64::MAX >> 1, is_end: true };
    assert_eq!(nothing, Ok(end));
}

/// A late holder forgets nothing.
pub async fn only_the_holder_of_the_lease_forgets<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let first = lapsed(journal, "here").await;
    settle(journal, &first, new("one"), 5).await;
    assert!(try_lease(journal, "there").await.is_some());
    let late = forget(journal, &first, &["one"], &past(LATE)).await;
    assert_eq!(late, Err(JournalError::LeaseLost(network())));
    find(journal, "one").await;
}

/// Nothing of the old one is met again.
pub async fn a_forgotten_payment_is_entered_anew<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    settle(journal, &lease, new("one"), 5).await;
    let first = journal.books(&network(), 0, 10).await.expect("it answers")[0].seq;
    assert_eq!(forget(journal, &lease, &["one"], &past(LATE)).await, Ok(1));
    assert_eq!(journal.enter(new("one")).await, Ok(Entered::New));
    let again = journal.books(&network(), 0, 10).await.expect("it answers");
    assert_eq!(again.len(), 1);
    assert!(again[0].seq > first && again[0].signed.is_empty(), "{again:?}");
    let span = Span { after: 0, upto: u64::MAX, limit: 100 };
    let told = journal.history_of_payment(&key("one"), span).await.expect("it answers");
    assert_eq!(told.len(), 1, "{told:?}");
}
