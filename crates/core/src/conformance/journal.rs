//! What every [`Journal`] backend has to do. Run it with [`journal_conformance!`].
//!
//! [`journal_conformance!`]: crate::journal_conformance

use std::time::Duration;

use super::Subject;
use crate::journal::{
    Advance, Backlog, Delivery, Entered, Entry, Event, Holder, Journal, JournalError, Lease,
    Leased, NewEntry, Outcome, SignedAs, Stage,
};
use crate::network::{Part, SentAs};
use crate::time::UnixTime;
use crate::{Amount, Digest, NetworkId, PaymentKey};

/// Runs the suite of the journal port against the backend that the argument makes.
#[macro_export]
macro_rules! journal_conformance {
    ($make:expr) => {
        $crate::conformance_tests!(
            journal,
            $make,
            [
                a_payment_is_entered_once,
                one_of_200_entries_is_new,
                an_entry_reads_back_as_written,
                an_entry_takes_the_whole_road,
                an_illegal_step_changes_nothing,
                changes_apply_all_or_none,
                changes_apply_in_order,
                a_displaced_transaction_is_signed_anew,
                a_replacement_keeps_what_it_replaces,
                a_pack_is_recorded_with_its_parts,
                a_final_entry_is_wiped_and_stays,
                a_lease_excludes_others_until_it_expires,
                a_released_lease_is_free,
                a_holder_may_have_no_address,
                one_of_100_takes_the_lease,
                an_old_token_changes_nothing,
                a_lease_covers_its_network_only,
                a_take_over_owes_what_was_waited_for,
                closing_delivers_to_who_waits,
                a_hand_over_compares_first,
                a_late_leader_hands_nothing_over,
                one_of_100_hand_overs_wins,
                an_advance_undoes_no_hand_over,
                the_next_nonce_follows_the_highest_recorded,
                unfinished_entries_come_oldest_first,
                the_newest_entries_come_first,
                failures_that_cost_a_fee_are_counted,
                a_backlog_is_counted,
            ]
        );
    };
}

type On<J> = Subject<J>;

pub(super) const NOW: UnixTime = UnixTime(1_000);
/// How long leases last here, unless they are to run out.
pub(super) const LASTS: Duration = Duration::from_secs(30);

pub(super) fn network() -> NetworkId {
    NetworkId::eip155(84_532)
}

pub(super) fn other_network() -> NetworkId {
    NetworkId::eip155(8_453)
}

pub(super) fn key_on(network: &NetworkId, name: &str) -> PaymentKey {
    PaymentKey::new(network, "0xasset", "0xpayer", name)
}

pub(super) fn key(name: &str) -> PaymentKey {
    key_on(&network(), name)
}

pub(super) fn new_on(network: NetworkId, name: &str) -> NewEntry {
    NewEntry {
        key: key_on(&network, name),
        fingerprint: Digest::of(&[name.as_bytes()]),
        network,
        payer: "0xPayer".into(),
        amount: Amount::from(10_000),
        expires: UnixTime(1_300),
        caller: None,
        entered_by: None,
        plan: vec![7; 40],
        entered_at: NOW,
    }
}

pub(super) fn new(name: &str) -> NewEntry {
    new_on(network(), name)
}

fn signed_by(signer: &str, nonce: u64) -> SignedAs {
    let transaction = format!("0xhash{nonce}");
    let (replaced, part) = (Vec::new(), Part::WHOLE);
    let sent = SentAs { signer: signer.into(), nonce, transaction, replaced, part };
    SignedAs { sent, raw: vec![2, 0, 255, 1], spent: Amount::ZERO }
}

pub(super) fn signed(nonce: u64) -> SignedAs {
    signed_by("0xSigner", nonce)
}

pub(super) fn settled() -> Outcome {
    Outcome::Settled { transaction: "0xhash5".into(), block: 77, fee: Amount::from(21_000) }
}

pub(super) fn failed(transaction: Option<&str>) -> Outcome {
    Outcome::Failed {
        reason: "insufficient_funds".into(),
        message: "the payer has less than 10000".into(),
        transaction: transaction.map(str::to_owned),
        fee: Amount::from(3),
    }
}

pub(super) fn change(name: &str, event: Event) -> Advance {
    Advance { key: key(name), event, deliver: false, at: NOW }
}

pub(super) async fn enter(journal: &impl Journal, entry: NewEntry) {
    let entered = journal.enter(entry).await.expect("the store answers");
    assert_eq!(entered, Entered::New);
}

pub(super) async fn find(journal: &impl Journal, name: &str) -> Entry {
    journal.find(&key(name)).await.expect("the store answers").expect("it was entered")
}

pub(super) fn holder(name: &str) -> Holder {
    Holder { name: name.into(), url: Some(format!("http://{name}")) }
}

pub(super) async fn ask(
    journal: &impl Journal,
    name: &str,
    now: UnixTime,
    lasts: Duration,
) -> Leased {
    journal.lease(&network(), &holder(name), now, lasts).await.expect("the store answers")
}

pub(super) async fn try_lease(journal: &impl Journal, name: &str) -> Option<Lease> {
    ask(journal, name, NOW, LASTS).await.granted()
}

pub(super) async fn lease(journal: &impl Journal) -> Lease {
    try_lease(journal, "here").await.expect("nobody else holds it")
}

/// The lease of somebody who lets it run out at once.
pub(super) async fn lapsed(journal: &impl Journal, name: &str) -> Lease {
    ask(journal, name, NOW, Duration::ZERO).await.granted().expect("nobody else holds it")
}

pub(super) async fn advance(
    journal: &impl Journal,
    lease: &Lease,
    name: &str,
    event: Event,
) -> Entry {
    let changes = vec![change(name, event)];
    let mut entries = journal.advance(lease, changes).await.expect("a legal step");
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

/// One entry per payment; the second one meets the first one's content.
pub async fn a_payment_is_entered_once<J: Journal + 'static>(on: On<J>) {
    let first = new("one");
    assert_eq!(on.store.find(&first.key).await, Ok(None));
    enter(&*on.store, first.clone()).await;
    let second = NewEntry {
        fingerprint: Digest::of(&[b"other"]),
        payer: "0xSomebodyElse".into(),
        amount: Amount::from(1),
        plan: vec![9],
        ..first.clone()
    };
    let met = Entry { new: first, stage: Stage::Due, delivery: Delivery::Waiting, watch: None };
    assert_eq!(on.store.enter(second).await, Ok(Entered::Known(Box::new(met.clone()))));
    assert_eq!(find(&*on.store, "one").await, met);
}

/// Insert-if-absent is atomic.
pub async fn one_of_200_entries_is_new<J: Journal + 'static>(on: On<J>) {
    let answers = on
        .at_once(200, |journal, number| async move {
            let entry = NewEntry { amount: Amount::from(number), ..new("one") };
            (number, journal.enter(entry).await.expect("the store answers"))
        })
        .await;
    let winners: Vec<u64> = answers
        .iter()
        .filter_map(|(number, entered)| (*entered == Entered::New).then_some(*number))
        .collect();
    assert_eq!(winners.len(), 1, "one payment was entered {} times", winners.len());
    for (_, entered) in answers {
        if let Entered::Known(entry) = entered {
            assert_eq!(entry.new.amount, Amount::from(winners[0]), "met somebody else's entry");
        }
    }
}

/// Nothing is rounded, clamped, trimmed or re-encoded.
pub async fn an_entry_reads_back_as_written<J: Journal + 'static>(on: On<J>) {
    let extreme = NewEntry {
        amount: Amount::MAX,
        expires: UnixTime(u64::MAX),
        entered_at: UnixTime(0),
        caller: Some(Digest([0; 32])),
        payer: "0xÄ 'quoted' \u{1f980}\n".into(),
        plan: (0..=255).cycle().take(100_000).collect(),
        ..new("it's \"odd\"")
    };
    enter(&*on.store, extreme.clone()).await;
    let zero = NewEntry { amount: Amount::ZERO, plan: Vec::new(), ..new("zero") };
    enter(&*on.store, zero.clone()).await;
    for written in [extreme, zero] {
        let read = on.store.find(&written.key).await.expect("the store answers");
        assert_eq!(read.map(|entry| entry.new), Some(written));
    }
    let lease = lease(&*on.store).await;
    enter(&*on.store, new("one")).await;
    let top = SignedAs { raw: vec![0; 70_000], ..signed(u64::MAX - 1) };
    let entry = advance(&*on.store, &lease, "one", Event::Signed(top.clone())).await;
    assert_eq!(entry.stage, Stage::Signed(top));
    let outcome =
        Outcome::Settled { transaction: String::new(), block: u64::MAX, fee: Amount::MAX };
    advance(&*on.store, &lease, "one", Event::Closed(outcome.clone())).await;
    assert_eq!(find(&*on.store, "one").await.stage, Stage::Final(outcome));
}

/// Due → Signed → Sent → Final; what is signed stays recorded.
pub async fn an_entry_takes_the_whole_road<J: Journal + 'static>(on: On<J>) {
    enter(&*on.store, new("one")).await;
    let lease = lease(&*on.store).await;
    let road = [
        (Event::Signed(signed(5)), Stage::Signed(signed(5))),
        (Event::Sent, Stage::Sent(signed(5))),
        (Event::Sent, Stage::Sent(signed(5))),
        (Event::Closed(settled()), Stage::Final(settled())),
    ];
    for (event, stage) in road {
        let returned = advance(&*on.store, &lease, "one", event).await;
        assert_eq!(returned.stage, stage);
        assert_eq!(find(&*on.store, "one").await, returned, "returned and stored differ");
    }
    enter(&*on.store, new("two")).await;
    let closed = advance(&*on.store, &lease, "two", Event::Closed(failed(None))).await;
    assert_eq!(closed.stage, Stage::Final(failed(None)), "it needs no signature to fail");
    enter(&*on.store, new("three")).await;
    advance(&*on.store, &lease, "three", Event::Signed(signed(6))).await;
    let outcome = failed(Some("0xhash6"));
    advance(&*on.store, &lease, "three", Event::Closed(outcome.clone())).await;
    assert_eq!(find(&*on.store, "three").await.stage, Stage::Final(outcome));
}

/// Payments of one transaction are recorded together, its bytes with one of them; one whose transfer it
/// did not make is signed anew by itself, and what its share of it cost is kept.
pub async fn a_pack_is_recorded_with_its_parts<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    let member = |index: u32| {
        let (whole, part) = (signed(5), Part { index, of: 3 });
        let raw = if index == 0 { whole.raw } else { Vec::new() };
        SignedAs { sent: SentAs { part, ..whole.sent }, raw, ..whole }
    };
    for name in ["0", "1", "2"] {
        enter(&*on.store, new(name)).await;
    }
    let changes = (0..3).map(|index| change(&index.to_string(), Event::Signed(member(index))));
    let entries = on.store.advance(&lease, changes.collect()).await.expect("legal");
    for (index, entry) in (0..3).zip(entries) {
        assert_eq!(entry.stage, Stage::Signed(member(index)));
        assert_eq!(find(&*on.store, &index.to_string()).await, entry);
        let sent = advance(&*on.store, &lease, &index.to_string(), Event::Sent).await;
        assert_eq!(sent.stage, Stage::Sent(member(index)));
    }
    let mut offer = member(1);
    offer.sent.transaction = "0xhash5/2".into();
    advance(&*on.store, &lease, "1", Event::Replaced(offer.clone())).await;
    offer.sent.replaced.push("0xhash5".into());
    assert_eq!(find(&*on.store, "1").await.stage, Stage::Signed(offer));
    let alone = SignedAs { spent: Amount::MAX, ..signed(6) };
    advance(&*on.store, &lease, "2", Event::Signed(alone.clone())).await;
    assert_eq!(find(&*on.store, "2").await.stage, Stage::Signed(alone));
    for name in ["0", "1", "2"] {
        advance(&*on.store, &lease, name, Event::Closed(settled())).await;
        assert_eq!(find(&*on.store, name).await.stage, Stage::Final(settled()));
    }
}

/// Only [`crate::journal::step`] moves an entry.
pub async fn an_illegal_step_changes_nothing<J: Journal + 'static>(on: On<J>) {
    enter(&*on.store, new("one")).await;
    let lease = lease(&*on.store).await;
    let before = find(&*on.store, "one").await;
    let sent = on.store.advance(&lease, vec![change("one", Event::Sent)]).await;
    assert!(matches!(sent, Err(JournalError::Illegal(_))), "sent without being signed: {sent:?}");
    assert_eq!(find(&*on.store, "one").await, before);
}

/// A batch is one transaction.
pub async fn changes_apply_all_or_none<J: Journal + 'static>(on: On<J>) {
    enter(&*on.store, new("one")).await;
    enter(&*on.store, new("two")).await;
    let lease = lease(&*on.store).await;
    let first = change("one", Event::Signed(signed(1)));
    let illegal = vec![first.clone(), change("two", Event::Sent)];
    let refused = on.store.advance(&lease, illegal).await;
    assert!(matches!(refused, Err(JournalError::Illegal(_))), "{refused:?}");
    let unknown = vec![first, change("nobody", Event::Sent)];
    let refused = on.store.advance(&lease, unknown).await;
    assert_eq!(refused, Err(JournalError::NoEntry(key("nobody"))));
    assert_eq!(find(&*on.store, "one").await.stage, Stage::Due, "half a batch was applied");
    let nonce = on.store.next_nonce(&network(), "0xSigner").await;
    assert_eq!(nonce, Ok(None), "a nonce of a refused batch was recorded");
}

/// Changes see the ones before them; the answer is in their order.
pub async fn changes_apply_in_order<J: Journal + 'static>(on: On<J>) {
    enter(&*on.store, new("one")).await;
    enter(&*on.store, new("two")).await;
    let lease = lease(&*on.store).await;
    let changes = vec![
        change("two", Event::Signed(signed(2))),
        change("one", Event::Signed(signed(1))),
        change("two", Event::Sent),
    ];
    let entries = on.store.advance(&lease, changes).await.expect("legal steps");
    let keys: Vec<PaymentKey> = entries.iter().map(|entry| entry.new.key.clone()).collect();
    assert_eq!(keys, [key("two"), key("one"), key("two")]);
    assert_eq!(find(&*on.store, "one").await.stage, Stage::Signed(signed(1)));
    assert_eq!(find(&*on.store, "two").await.stage, Stage::Sent(signed(2)));
    assert_eq!(on.store.advance(&lease, Vec::new()).await, Ok(Vec::new()));
}

/// The later transaction is the one that is sent; the earlier one's nonce stays known.
pub async fn a_displaced_transaction_is_signed_anew<J: Journal + 'static>(on: On<J>) {
    enter(&*on.store, new("one")).await;
    let lease = lease(&*on.store).await;
    advance(&*on.store, &lease, "one", Event::Signed(signed(9))).await;
    advance(&*on.store, &lease, "one", Event::Sent).await;
    advance(&*on.store, &lease, "one", Event::Signed(signed(3))).await;
    assert_eq!(find(&*on.store, "one").await.stage, Stage::Signed(signed(3)));
    assert_eq!(on.store.next_nonce(&network(), "0xSigner").await, Ok(Some(10)));
}

/// A replacement is recorded beside what it is to take the place of.
pub async fn a_replacement_keeps_what_it_replaces<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    enter(journal, new("one")).await;
    advance(journal, &lease, "one", Event::Signed(signed(4))).await;
    // A nonce of its own was displaced before: it is none of those that may be mined for this one.
    advance(journal, &lease, "one", Event::Signed(signed(5))).await;
    let dearer = |number: u64| {
        let mut signed = signed(5);
        signed.sent.transaction = format!("0xhash5/{number}");
        signed.raw = vec![3, 0, 255];
        signed
    };
    advance(journal, &lease, "one", Event::Replaced(dearer(1))).await;
    advance(journal, &lease, "one", Event::Sent).await;
    let now = advance(journal, &lease, "one", Event::Replaced(dearer(2))).await;
    let Stage::Signed(recorded) = &now.stage else { panic!("{now:?}") };
    assert_eq!(recorded.sent.transaction, "0xhash5/2");
    assert_eq!(recorded.sent.replaced, ["0xhash5", "0xhash5/1"]);
    assert_eq!(recorded.raw, vec![3, 0, 255]);
    assert_eq!(find(journal, "one").await, now, "read as it was written");
    let unfinished = journal.unfinished(&network(), 10).await.expect("the store answers");
    assert_eq!(unfinished, std::slice::from_ref(&now));
    let next = journal.next_nonce(&network(), "0xSigner").await;
    assert_eq!(next, Ok(Some(6)), "it has no nonce of its own");
}

/// Nothing spendable at rest, and no way back.
pub async fn a_final_entry_is_wiped_and_stays<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    for (name, outcome) in [("settled", settled()), ("failed", failed(Some("0xhash5")))] {
        enter(&*on.store, new(name)).await;
        advance(&*on.store, &lease, name, Event::Signed(signed(5))).await;
        let closed = advance(&*on.store, &lease, name, Event::Closed(outcome.clone())).await;
        assert!(closed.new.plan.is_empty(), "the plan outlived the entry");
        assert_eq!(closed.stage, Stage::Final(outcome));
        for event in [Event::Signed(signed(6)), Event::Sent, Event::Closed(failed(None))] {
            let moved = on.store.advance(&lease, vec![change(name, event)]).await;
            assert!(matches!(moved, Err(JournalError::Illegal(_))), "a final entry moved");
        }
        assert_eq!(find(&*on.store, name).await, closed);
        let entered = on.store.enter(new(name)).await;
        assert_eq!(entered, Ok(Entered::Known(Box::new(closed))), "a final entry was entered anew");
    }
}

/// Renewed by its holder, also late; taken over by others only once it has run out, by the store's
/// own clock where it has one: the askers' may say what they will.
pub async fn a_lease_excludes_others_until_it_expires<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let second = Duration::from_secs(1);
    let first = lease(journal).await;
    assert_eq!(first.network, network());
    assert_eq!(ask(journal, "there", NOW, LASTS).await, Leased::Held(holder("here")));
    let renewed = ask(journal, "here", NOW, second).await.granted();
    assert_eq!(renewed.as_ref(), Some(&first), "renewing changed the token");
    assert_eq!(try_lease(journal, "there").await, None, "it lasts a second yet");
    std::thread::sleep(Duration::from_millis(2_100));
    let later = UnixTime(NOW.0 + 2);
    // Run out, but nobody took it: it still is the holder's.
    let late = ask(journal, "here", later, second).await.granted();
    assert_eq!(late.as_ref(), Some(&first));
    std::thread::sleep(Duration::from_millis(2_100));
    let later = UnixTime(NOW.0 + 4);
    let taken = ask(journal, "there", later, LASTS).await.granted().expect("it has run out");
    assert!(taken.token > first.token, "a take-over has to raise the token");
    assert_eq!(ask(journal, "here", later, LASTS).await, Leased::Held(holder("there")));
    lapsed(journal, "there").await;
    let back = try_lease(journal, "here").await.expect("it has run out");
    assert!(back.token > taken.token, "coming back has to raise the token");
}

/// A lease that is released is anybody's at once; one that was taken over is not released by who had
/// it before.
pub async fn a_released_lease_is_free<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let first = lease(journal).await;
    journal.release(&first).await.expect("the store answers");
    let late = ask(journal, "here", NOW, LASTS).await;
    assert_eq!(late, Leased::Held(holder("here")), "a late renewal undid the release");
    let second = try_lease(journal, "there").await.expect("it was released");
    assert!(second.token > first.token);
    journal.release(&first).await.expect("the store answers");
    assert_eq!(ask(journal, "here", NOW, LASTS).await, Leased::Held(holder("there")));
    // Who released it writes until somebody has it, and not after.
    let sign = || vec![change("one", Event::Signed(signed(1)))];
    enter(journal, new("one")).await;
    assert_eq!(journal.advance(&first, sign()).await, Err(JournalError::LeaseLost(network())));
    advance(journal, &second, "one", Event::Signed(signed(1))).await;
    let nobody = Lease { network: other_network(), token: 1 };
    journal.release(&nobody).await.expect("nobody has that lease");
}

/// A holder without an address is known by its name alone.
pub async fn a_holder_may_have_no_address<J: Journal + 'static>(on: On<J>) {
    let hidden = Holder { name: "here".into(), url: None };
    let asked = on.store.lease(&network(), &hidden, NOW, LASTS).await.expect("the store answers");
    let first = asked.granted().expect("nobody else holds it");
    assert_eq!(ask(&*on.store, "there", NOW, LASTS).await, Leased::Held(hidden));
    // The address is that of the last renewal.
    assert_eq!(lease(&*on.store).await, first);
    assert_eq!(ask(&*on.store, "there", NOW, LASTS).await, Leased::Held(holder("here")));
}

/// Of many that see a lease which has run out, one gets it.
pub async fn one_of_100_takes_the_lease<J: Journal + 'static>(on: On<J>) {
    let first = lapsed(&*on.store, "here").await;
    let answers = on
        .at_once(100, |journal, number| async move {
            try_lease(&*journal, &format!("process {number}")).await
        })
        .await;
    let taken: Vec<Lease> = answers.into_iter().flatten().collect();
    assert_eq!(taken.len(), 1, "one lease was given {} times", taken.len());
    assert!(taken[0].token > first.token);
}

/// Who was taken over writes nothing any more; who never held the lease neither.
pub async fn an_old_token_changes_nothing<J: Journal + 'static>(on: On<J>) {
    enter(&*on.store, new("one")).await;
    let made_up = Lease { network: network(), token: 1 };
    let sign = || vec![change("one", Event::Signed(signed(1)))];
    let lost = || Err(JournalError::LeaseLost(network()));
    assert_eq!(on.store.advance(&made_up, sign()).await, lost());
    let old = lapsed(&*on.store, "here").await;
    let taken = try_lease(&*on.store, "there").await.expect("it has run out");
    assert_eq!(on.store.advance(&old, sign()).await, lost());
    assert_eq!(on.store.advance(&old, Vec::new()).await, lost());
    let future = Lease { token: taken.token + 1, ..taken.clone() };
    assert_eq!(on.store.advance(&future, sign()).await, lost());
    assert_eq!(find(&*on.store, "one").await.stage, Stage::Due);
    advance(&*on.store, &taken, "one", Event::Signed(signed(1))).await;
}

/// Networks have a lease each, and a lease moves no entry of another.
pub async fn a_lease_covers_its_network_only<J: Journal + 'static>(on: On<J>) {
    let here = lease(&*on.store).await;
    let there = on.store.lease(&other_network(), &holder("there"), NOW, LASTS).await;
    let there = there.expect("the store answers").granted();
    let there = there.expect("networks do not share a lease");
    enter(&*on.store, new("one")).await;
    let moved = on.store.advance(&there, vec![change("one", Event::Signed(signed(1)))]).await;
    assert_eq!(moved, Err(JournalError::NoEntry(key("one"))), "moved with a foreign lease");
    advance(&*on.store, &here, "one", Event::Signed(signed(1))).await;
}

/// Those callers waited in a process that is gone. Renewing is no take-over.
pub async fn a_take_over_owes_what_was_waited_for<J: Journal + 'static>(on: On<J>) {
    // Entered by somebody who was gone before anybody ever held the lease.
    enter(&*on.store, new("before")).await;
    let first = lease(&*on.store).await;
    assert_eq!(find(&*on.store, "before").await.delivery, Delivery::Owed);
    for name in ["open", "closed", "told"] {
        enter(&*on.store, new(name)).await;
    }
    enter(&*on.store, new_on(other_network(), "elsewhere")).await;
    advance(&*on.store, &first, "closed", Event::Closed(settled())).await;
    let told = Advance { deliver: true, ..change("told", Event::Closed(settled())) };
    on.store.advance(&first, vec![told]).await.expect("a legal step");
    lapsed(&*on.store, "here").await;
    assert_eq!(find(&*on.store, "open").await.delivery, Delivery::Waiting, "it was no take-over");

    try_lease(&*on.store, "there").await.expect("it has run out");
    assert_eq!(find(&*on.store, "open").await.delivery, Delivery::Owed);
    assert_eq!(find(&*on.store, "closed").await.delivery, Delivery::Owed);
    assert_eq!(find(&*on.store, "told").await.delivery, Delivery::Delivered);
    let elsewhere = on.store.find(&key_on(&other_network(), "elsewhere")).await;
    let elsewhere = elsewhere.expect("the store answers").expect("it was entered");
    assert_eq!(elsewhere.delivery, Delivery::Waiting, "another network was taken over too");
}

/// Delivered in the same transaction as the outcome: when asked for, and when somebody waits.
pub async fn closing_delivers_to_who_waits<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    for name in ["waiting", "owed", "not asked", "not closed"] {
        enter(&*on.store, new(name)).await;
    }
    let owed = on.store.hand_over(None, &key("owed"), Delivery::Waiting, Delivery::Owed, NOW).await;
    assert_eq!(owed, Ok(true));
    let close = |name, deliver| Advance { deliver, ..change(name, Event::Closed(settled())) };
    let signs = Advance { deliver: true, ..change("not closed", Event::Signed(signed(1))) };
    let changes =
        vec![close("waiting", true), close("owed", true), close("not asked", false), signs];
    let entries = on.store.advance(&lease, changes).await.expect("legal steps");
    let expected = [Delivery::Delivered, Delivery::Owed, Delivery::Waiting, Delivery::Waiting];
    for (entry, delivery) in entries.into_iter().zip(expected) {
        assert_eq!(entry.delivery, delivery, "{}", entry.new.key);
        let read = on.store.find(&entry.new.key).await;
        assert_eq!(read, Ok(Some(entry)), "returned and stored differ");
    }
}

/// Compare and set.
pub async fn a_hand_over_compares_first<J: Journal + 'static>(on: On<J>) {
    enter(&*on.store, new("one")).await;
    let one = key("one");
    let hand_over = |from, to| on.store.hand_over(None, &one, from, to, NOW);
    assert_eq!(hand_over(Delivery::Owed, Delivery::Delivered).await, Ok(false));
    assert_eq!(find(&*on.store, "one").await.delivery, Delivery::Waiting);
    assert_eq!(hand_over(Delivery::Waiting, Delivery::Owed).await, Ok(true));
    assert_eq!(hand_over(Delivery::Waiting, Delivery::Owed).await, Ok(false));
    let lease = lease(&*on.store).await;
    advance(&*on.store, &lease, "one", Event::Closed(settled())).await;
    assert_eq!(hand_over(Delivery::Owed, Delivery::Delivered).await, Ok(true));
    assert_eq!(find(&*on.store, "one").await.delivery, Delivery::Delivered);
    let nobody = key("nobody");
    let unknown = on.store.hand_over(None, &nobody, Delivery::Waiting, Delivery::Owed, NOW).await;
    assert_eq!(unknown, Ok(false));
}

/// Who led before may not say any more that nobody waits, nor collect.
pub async fn a_late_leader_hands_nothing_over<J: Journal + 'static>(on: On<J>) {
    let store = &*on.store;
    let late = lapsed(store, "there").await;
    for name in ["one", "two"] {
        enter(store, new(name)).await;
    }
    advance(store, &late, "two", Event::Closed(settled())).await;
    let (one, two) = (key("one"), key("two"));
    let moved = store.hand_over(Some(&late), &one, Delivery::Waiting, Delivery::Owed, NOW).await;
    assert_eq!(moved, Ok(true));
    let moved = store.hand_over(Some(&late), &one, Delivery::Waiting, Delivery::Owed, NOW).await;
    assert_eq!(moved, Ok(false), "it leads, and compares first");
    let next = lease(store).await;
    for (name, from, to) in
        [(&one, Delivery::Owed, Delivery::Waiting), (&two, Delivery::Owed, Delivery::Delivered)]
    {
        let moved = store.hand_over(Some(&late), name, from, to, NOW).await;
        assert_eq!(moved, Err(JournalError::LeaseLost(network())));
    }
    for name in ["one", "two"] {
        assert_eq!(find(store, name).await.delivery, Delivery::Owed);
    }
    let moved = store.hand_over(Some(&next), &one, Delivery::Owed, Delivery::Waiting, NOW).await;
    assert_eq!(moved, Ok(true));
    // Whoever waits may leave, whoever leads.
    let moved = store.hand_over(None, &one, Delivery::Waiting, Delivery::Owed, NOW).await;
    assert_eq!(moved, Ok(true));
}

/// One success to one caller.
pub async fn one_of_100_hand_overs_wins<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    enter(&*on.store, new("one")).await;
    advance(&*on.store, &lease, "one", Event::Closed(settled())).await;
    let answers = on
        .at_once(100, |journal, _| async move {
            let one = key("one");
            let handed =
                journal.hand_over(None, &one, Delivery::Waiting, Delivery::Delivered, NOW).await;
            handed.expect("the store answers")
        })
        .await;
    let told = answers.into_iter().filter(|told| *told).count();
    assert_eq!(told, 1, "{told} callers were told of one success");
}

/// What was handed over stays so, whatever happens to the entry at that moment.
pub async fn an_advance_undoes_no_hand_over<J: Journal + 'static>(on: On<J>) {
    const ENTRIES: u64 = 60;
    let lease = lease(&*on.store).await;
    for number in 0..ENTRIES {
        enter(&*on.store, new(&number.to_string())).await;
    }
    let lease = &lease;
    let told = on
        .at_once(2 * ENTRIES, |journal, number| {
            let (lease, name) = (lease.clone(), (number / 2).to_string());
            async move {
                if number % 2 == 0 {
                    let sign = Event::Signed(signed(number));
                    advance(&*journal, &lease, &name, sign).await;
                    return true;
                }
                let one = key(&name);
                let handed =
                    journal.hand_over(None, &one, Delivery::Waiting, Delivery::Owed, NOW).await;
                handed.expect("the store answers")
            }
        })
        .await;
    assert!(told.into_iter().all(|told| told), "somebody else handed it over");
    for number in 0..ENTRIES {
        let entry = find(&*on.store, &number.to_string()).await;
        assert_eq!(entry.delivery, Delivery::Owed, "entry {number} is waited for again");
    }
}

/// Ever recorded counts: replaced and final ones too. Signers and networks have their own.
pub async fn the_next_nonce_follows_the_highest_recorded<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    let next = |signer| {
        let journal = on.store.clone();
        async move { journal.next_nonce(&network(), signer).await.expect("the store answers") }
    };
    assert_eq!(next("0xSigner").await, None);
    for name in ["one", "two", "three"] {
        enter(&*on.store, new(name)).await;
    }
    // 9 and 10 would change places if numbers were compared as text.
    advance(&*on.store, &lease, "one", Event::Signed(signed(10))).await;
    advance(&*on.store, &lease, "two", Event::Signed(signed(9))).await;
    advance(&*on.store, &lease, "three", Event::Signed(signed_by("0xOther", 0))).await;
    assert_eq!(next("0xSigner").await, Some(11));
    assert_eq!(next("0xOther").await, Some(1));
    advance(&*on.store, &lease, "one", Event::Closed(settled())).await;
    assert_eq!(next("0xSigner").await, Some(11), "a final entry's nonce was forgotten");
    let elsewhere = on.store.next_nonce(&other_network(), "0xSigner").await;
    assert_eq!(elsewhere, Ok(None));
}

/// Oldest first, bounded, without the final ones, one network at a time.
pub async fn unfinished_entries_come_oldest_first<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    for name in ["d", "b", "c", "a", "e"] {
        enter(&*on.store, new(name)).await;
    }
    enter(&*on.store, new_on(other_network(), "elsewhere")).await;
    advance(&*on.store, &lease, "b", Event::Closed(failed(None))).await;
    advance(&*on.store, &lease, "c", Event::Signed(signed(1))).await;
    advance(&*on.store, &lease, "a", Event::Signed(signed(2))).await;
    advance(&*on.store, &lease, "a", Event::Sent).await;
    let names = |limit| {
        let journal = on.store.clone();
        async move {
            let entries = journal.unfinished(&network(), limit).await.expect("the store answers");
            entries.into_iter().map(|entry| entry.new.key).collect::<Vec<_>>()
        }
    };
    assert_eq!(names(10).await, [key("d"), key("c"), key("a"), key("e")]);
    assert_eq!(names(2).await, [key("d"), key("c")]);
    assert_eq!(names(0).await, []);
    let all = on.store.unfinished(&network(), usize::MAX).await.expect("the store answers");
    assert_eq!(all[1].stage, Stage::Signed(signed(1)));
    assert_eq!(all[2].stage, Stage::Sent(signed(2)));
}

/// Whatever became of them, of every network, bounded.
pub async fn the_newest_entries_come_first<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    for name in ["b", "c", "a"] {
        enter(&*on.store, new(name)).await;
    }
    enter(&*on.store, new_on(other_network(), "elsewhere")).await;
    advance(&*on.store, &lease, "c", Event::Signed(signed(1))).await;
    advance(&*on.store, &lease, "b", Event::Closed(settled())).await;
    let newest = on.store.newest(10).await.expect("the store answers");
    let keys: Vec<_> = newest.iter().map(|entry| entry.new.key.clone()).collect();
    assert_eq!(keys, [key_on(&other_network(), "elsewhere"), key("a"), key("c"), key("b")]);
    assert_eq!(newest[2].stage, Stage::Signed(signed(1)));
    assert_eq!(newest[3].stage, Stage::Final(settled()));
    assert_eq!(on.store.newest(2).await, Ok(newest[..2].to_vec()));
}

/// Failed, at a price, by this payer, here, not before: each of them counts.
pub async fn failures_that_cost_a_fee_are_counted<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    let count = |payer, since| {
        let journal = on.store.clone();
        async move {
            let failures = journal.failures(&network(), payer, UnixTime(since)).await;
            failures.expect("the store answers")
        }
    };
    assert_eq!(count("0xPayer", 0).await, 0);
    for (name, entered_at) in [("early", 900), ("late", 1_000), ("last", 1_001)] {
        enter(&*on.store, NewEntry { entered_at: UnixTime(entered_at), ..new(name) }).await;
        assert_eq!(count("0xPayer", 1_001).await, 0, "an unfinished entry counts");
        advance(&*on.store, &lease, name, Event::Closed(failed(Some("0xhash5")))).await;
    }
    let expected = [(0, 3), (900, 3), (901, 2), (1_000, 2), (1_001, 1), (1_002, 0), (u64::MAX, 0)];
    for (since, failures) in expected {
        assert_eq!(count("0xPayer", since).await, failures, "since {since}");
    }
    // What was settled does not count, nor what failed for nothing, nor another payer's.
    for name in ["settled", "free", "other", "due"] {
        let payer = if name == "other" { "0xOther" } else { "0xPayer" };
        enter(&*on.store, NewEntry { payer: payer.into(), ..new(name) }).await;
    }
    advance(&*on.store, &lease, "settled", Event::Closed(settled())).await;
    let free = Outcome::Failed {
        reason: "insufficient_funds".into(),
        message: String::new(),
        transaction: None,
        fee: Amount::ZERO,
    };
    advance(&*on.store, &lease, "free", Event::Closed(free)).await;
    let dear = Outcome::Failed {
        reason: "invalid_transaction_state".into(),
        message: String::new(),
        transaction: None,
        fee: Amount::MAX,
    };
    advance(&*on.store, &lease, "other", Event::Closed(dear)).await;
    assert_eq!(count("0xPayer", 0).await, 3);
    assert_eq!(count("0xOther", 0).await, 1);
    assert_eq!(count("0xpayer", 0).await, 0, "payers are spelled exactly");
    let elsewhere = on.store.failures(&other_network(), "0xPayer", UnixTime(0)).await;
    assert_eq!(elsewhere, Ok(0));
}

/// The figures are those of the entries.
pub async fn a_backlog_is_counted<J: Journal + 'static>(on: On<J>) {
    assert_eq!(on.store.backlog(&network()).await, Ok(Backlog::default()));
    let lease = lease(&*on.store).await;
    for (name, entered_at) in [("a", 1_003), ("b", 1_002), ("c", 1_001), ("d", 1_004), ("e", 7)] {
        enter(&*on.store, NewEntry { entered_at: UnixTime(entered_at), ..new(name) }).await;
    }
    enter(&*on.store, new_on(other_network(), "elsewhere")).await;
    advance(&*on.store, &lease, "e", Event::Closed(failed(None))).await;
    advance(&*on.store, &lease, "b", Event::Signed(signed_by("0xOther", 1))).await;
    advance(&*on.store, &lease, "c", Event::Signed(signed(1))).await;
    advance(&*on.store, &lease, "c", Event::Sent).await;
    advance(&*on.store, &lease, "d", Event::Signed(signed(2))).await;
    advance(&*on.store, &lease, "d", Event::Sent).await;
    let by_signer = [("0xOther".to_owned(), 1), ("0xSigner".to_owned(), 2)].into();
    let expected = Backlog { due: 1, signed: 1, sent: 2, oldest: Some(UnixTime(1_001)), by_signer };
    assert_eq!(on.store.backlog(&network()).await, Ok(expected.clone()));
    let entries = on.store.unfinished(&network(), 10).await.expect("the store answers");
    assert_eq!(Backlog::of(&entries), expected);
}
