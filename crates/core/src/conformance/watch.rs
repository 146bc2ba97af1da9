//! What every [`Journal`] backend has to do about what is watched. Run it with [`watch_conformance!`].
//!
//! [`watch_conformance!`]: crate::watch_conformance

use super::Subject;
use super::journal::{
    LASTS, NOW, advance, change, enter, failed, find, holder, key, key_on, lapsed, lease, network,
    new, new_on, other_network, settled, signed, try_lease,
};
use crate::Amount;
use crate::journal::{
    Advance, Cost, Delivery, Event, Journal, JournalError, LOSS_AGE_S_MAX, Loss, NewEntry, Outcome,
    Stage, Watch,
};
use crate::network::BlockId;
use crate::time::UnixTime;

/// Runs the suite of what the journal watches against the backend that the argument makes.
#[macro_export]
macro_rules! watch_conformance {
    ($make:expr) => {
        $crate::conformance_tests!(
            watch,
            $make,
            [
                a_watched_entry_keeps_what_it_needs_to_go_on,
                a_lost_settlement_is_told_from_a_failed_one,
                what_is_buried_is_wiped_and_stays,
                watched_blocks_are_found_by_network_and_hash,
                only_the_holder_of_the_lease_buries,
                only_a_settled_entry_is_delivered,
                what_failures_cost_is_told,
                what_is_opened_again_has_cost_nothing_yet,
                what_callers_cost_is_told,
                what_may_be_undone_is_told_by_itself,
            ]
        );
    };
}

type On<J> = Subject<J>;

fn block(number: u64, hash: &str) -> BlockId {
    BlockId { number, hash: hash.into() }
}

/// Plan and signed bytes stay, whatever was replaced, and lead on when the block is undone.
pub async fn a_watched_entry_keeps_what_it_needs_to_go_on<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    for outcome in [settled(), failed(Some("0xhash5"))] {
        let name = &format!("{outcome:?}");
        enter(journal, new(name)).await;
        advance(journal, &lease, name, Event::Signed(signed(5))).await;
        let mut dearer = signed(5);
        dearer.sent.transaction = "0xhash5/1".into();
        let open = advance(journal, &lease, name, Event::Replaced(dearer.clone())).await;
        let Stage::Signed(recorded) = open.stage else { panic!("{open:?}") };
        let top = block(u64::MAX, "0xblock");
        let closed = Event::ClosedIn(outcome.clone(), top.clone());
        let closed = advance(journal, &lease, name, closed).await;
        assert_eq!(closed.new.plan, new(name).plan);
        let watch = Watch { block: top, signed: Some(recorded.clone()) };
        assert_eq!(closed.watch, Some(watch.clone()));
        assert_eq!(find(journal, name).await, closed, "returned and stored differ");
        assert!(journal.unfinished(&network(), 10).await.expect("it answers").is_empty());
        let moved = Event::ClosedIn(settled(), block(3, "0xother"));
        let moved = advance(journal, &lease, name, moved).await;
        assert_eq!(moved.watch, Some(Watch { block: block(3, "0xother"), ..watch }));
        assert_eq!(find(journal, name).await, moved, "returned and stored differ");
        let again = advance(journal, &lease, name, Event::Reopened).await;
        assert_eq!((&again.stage, &again.watch), (&Stage::Signed(recorded), &None));
        assert_eq!(again.new.plan, new(name).plan);
        assert_eq!(find(journal, name).await, again, "returned and stored differ");
        let unfinished = journal.unfinished(&network(), 10).await.expect("it answers");
        assert_eq!(unfinished, [again]);
        advance(journal, &lease, name, Event::Closed(settled())).await;
    }
    enter(journal, new("unsigned")).await;
    let closed = Event::ClosedIn(settled(), block(1, "0xblock"));
    let closed = advance(journal, &lease, "unsigned", closed).await;
    assert_eq!(closed.watch, Some(Watch { block: block(1, "0xblock"), signed: None }));
    assert_eq!(find(journal, "unsigned").await, closed, "returned and stored differ");
    let open = advance(journal, &lease, "unsigned", Event::Reopened).await;
    assert_eq!(open.stage, Stage::Due);
}

/// What was told, undone and cannot be had again reads back as that.
pub async fn a_lost_settlement_is_told_from_a_failed_one<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    for (name, deliver) in [("told", true), ("untold", false)] {
        enter(journal, new(name)).await;
        let close = Event::ClosedIn(settled(), block(1, "0xa"));
        let close = Advance { deliver, ..change(name, close) };
        journal.advance(&lease, vec![close]).await.expect("a legal step");
        advance(journal, &lease, name, Event::Reopened).await;
        let failed = Event::ClosedIn(failed(None), block(2, "0xb"));
        let over = advance(journal, &lease, name, failed).await;
        assert_eq!(find(journal, name).await, over, "returned and stored differ");
        let is_lost = matches!(over.stage, Stage::Final(Outcome::Reverted { .. }));
        assert_eq!(is_lost, deliver, "{over:?}");
        // It may come back as long as it is watched.
        advance(journal, &lease, name, Event::Reopened).await;
        let back = Event::ClosedIn(settled(), block(3, "0xc"));
        let back = advance(journal, &lease, name, back).await;
        assert_eq!(back.stage, Stage::Final(settled()));
        assert_eq!(find(journal, name).await, back, "returned and stored differ");
    }
}

/// By its event, or many at once: up to a block and no further, so many and no more.
pub async fn what_is_buried_is_wiped_and_stays<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    // 9 and 10 would change places if numbers were compared as text.
    for (name, number) in [("a", 9), ("b", 9), ("c", 10), ("d", 11)] {
        enter(journal, new(name)).await;
        advance(journal, &lease, name, Event::Signed(signed(number))).await;
        let close = Event::ClosedIn(settled(), block(number, "0xblock"));
        advance(journal, &lease, name, close).await;
    }
    assert_eq!(journal.bury(&lease, 8, 10).await, Ok(0));
    assert_eq!(journal.bury(&lease, 10, 2).await, Ok(2));
    assert_eq!(journal.bury(&lease, 10, 2).await, Ok(1));
    assert_eq!(journal.bury(&lease, 10, 2).await, Ok(0));
    let by_event = advance(journal, &lease, "d", Event::Buried).await;
    for name in ["a", "b", "c", "d"] {
        let buried = find(journal, name).await;
        let mut expected = by_event.clone();
        expected.new = NewEntry { plan: Vec::new(), ..new(name) };
        assert_eq!(buried, expected, "{name}");
        for event in [Event::Reopened, Event::Buried, Event::ClosedIn(settled(), block(1, "0xa"))] {
            let moved = journal.advance(&lease, vec![change(name, event)]).await;
            assert!(matches!(moved, Err(JournalError::Illegal(_))), "a buried entry moved");
        }
    }
}

/// Each block once, in order; two with one number are two.
pub async fn watched_blocks_are_found_by_network_and_hash<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let here = lease(journal).await;
    let there = journal.lease(&other_network(), &holder("here"), NOW, LASTS).await;
    let there = there.expect("the store answers").granted().expect("nobody else holds it");
    for (name, number, hash) in
        [("a", 10, "0xa"), ("b", 9, "0xb"), ("c", 10, "0xa"), ("d", 10, "0xd")]
    {
        enter(journal, new(name)).await;
        advance(journal, &here, name, Event::ClosedIn(settled(), block(number, hash))).await;
    }
    enter(journal, new_on(other_network(), "a")).await;
    let close = Event::ClosedIn(settled(), block(10, "0xa"));
    let close = Advance { key: key_on(&other_network(), "a"), ..change("a", close) };
    journal.advance(&there, vec![close]).await.expect("a legal step");
    let blocks = journal.watched_blocks(&network()).await;
    assert_eq!(blocks, Ok(vec![block(9, "0xb"), block(10, "0xa"), block(10, "0xd")]));
    let found = journal.watched_in(&network(), &block(10, "0xa")).await.expect("it answers");
    let names: Vec<_> = found.iter().map(|entry| entry.new.key.clone()).collect();
    assert_eq!(names, [key("a"), key("c")]);
    assert_eq!(found[0], find(journal, "a").await);
    advance(journal, &here, "a", Event::Reopened).await;
    let found = journal.watched_in(&network(), &block(10, "0xa")).await.expect("it answers");
    assert_eq!(found.len(), 1, "what is open again is not watched");
    assert_eq!(journal.bury(&here, 10, 10).await, Ok(3));
    assert_eq!(journal.watched_blocks(&network()).await, Ok(Vec::new()));
    let others = journal.watched_blocks(&other_network()).await;
    assert_eq!(others, Ok(vec![block(10, "0xa")]), "another network's were buried");
}

/// A late holder wipes nothing.
pub async fn only_the_holder_of_the_lease_buries<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let first = lapsed(journal, "here").await;
    enter(journal, new("one")).await;
    advance(journal, &first, "one", Event::ClosedIn(settled(), block(1, "0xa"))).await;
    assert!(try_lease(journal, "there").await.is_some());
    assert_eq!(journal.bury(&first, 9, 9).await, Err(JournalError::LeaseLost(network())));
    assert!(find(journal, "one").await.watch.is_some(), "a late holder buried it");
}

/// What was opened again since it was read is told to nobody.
pub async fn only_a_settled_entry_is_delivered<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    let one = key("one");
    let deliver = |from| journal.hand_over(None, &one, from, Delivery::Delivered, NOW);
    enter(journal, new("one")).await;
    assert_eq!(deliver(Delivery::Waiting).await, Ok(false), "it is not closed");
    advance(journal, &lease, "one", Event::ClosedIn(settled(), block(1, "0xa"))).await;
    advance(journal, &lease, "one", Event::Reopened).await;
    assert_eq!(deliver(Delivery::Waiting).await, Ok(false), "it is open again");
    advance(journal, &lease, "one", Event::ClosedIn(failed(None), block(2, "0xb"))).await;
    assert_eq!(deliver(Delivery::Waiting).await, Ok(false), "it failed");
    advance(journal, &lease, "one", Event::ClosedIn(settled(), block(3, "0xc"))).await;
    assert_eq!(deliver(Delivery::Waiting).await, Ok(true));
}

/// What failed at a price, here, not before: each of them with its fee, and when it failed.
pub async fn what_failures_cost_is_told<J: Journal + 'static>(on: On<J>) {
    let lease = lease(&*on.store).await;
    let told = |since| {
        let journal = on.store.clone();
        async move {
            let losses = journal.losses(&network(), UnixTime(since)).await;
            let mut losses = losses.expect("the store answers");
            losses.sort_by_key(|loss| loss.at);
            losses
        }
    };
    let late = 1_000 + LOSS_AGE_S_MAX;
    for (name, entered_by, at) in
        [("a", None, 1_000), ("b", Some("shop"), 2_000), ("c", None, late)]
    {
        enter(&*on.store, NewEntry { entered_by: entered_by.map(str::to_owned), ..new(name) })
            .await;
        assert!(told(0).await.iter().all(|loss| loss.at < UnixTime(at)), "it is not over");
        let event = Event::Closed(failed(Some("0xhash5")));
        let change = Advance { at: UnixTime(at), ..change(name, event) };
        on.store.advance(&lease, vec![change]).await.expect("a legal step");
    }
    let loss = |name: &str, entered_by: Option<&str>, at| Loss {
        key: key(name),
        payer: "0xPayer".into(),
        entered_by: entered_by.map(str::to_owned),
        at: UnixTime(at),
        fee: Amount::from(3),
    };
    let all = [loss("a", None, 1_000), loss("b", Some("shop"), 2_000), loss("c", None, late)];
    assert_eq!(told(0).await, all);
    assert_eq!(told(1_000).await, all);
    assert_eq!(told(1_001).await, all[1..]);
    assert_eq!(told(late).await, all[2..]);
    assert_eq!(told(late + 1).await, []);
    // Neither what was settled, nor what failed for nothing, nor what failed elsewhere.
    for name in ["settled", "free"] {
        enter(&*on.store, new(name)).await;
    }
    advance(&*on.store, &lease, "settled", Event::Closed(settled())).await;
    advance(&*on.store, &lease, "free", Event::Closed(at_no_price())).await;
    assert_eq!(told(0).await.len(), all.len());
    assert_eq!(on.store.losses(&other_network(), UnixTime(0)).await, Ok(Vec::new()));
}

/// A failure whose block is undone counts when it is closed again: then once, and also as a reverted one.
pub async fn what_is_opened_again_has_cost_nothing_yet<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    let at = async |name: &str, event, at| {
        let change = Advance { at: UnixTime(at), ..change(name, event) };
        journal.advance(&lease, vec![change]).await.expect("a legal step");
    };
    let told = async || {
        let losses = journal.losses(&network(), UnixTime(0)).await.expect("it answers");
        losses.into_iter().map(|loss| (loss.key, loss.at.0)).collect::<Vec<_>>()
    };
    let failed_in = |number| Event::ClosedIn(failed(Some("0xhash5")), block(number, "0xblock"));
    enter(journal, new("again")).await;
    at("again", Event::Signed(signed(5)), 1_000).await;
    at("again", failed_in(1), 1_001).await;
    assert_eq!(told().await, [(key("again"), 1_001)]);
    at("again", Event::Reopened, 1_002).await;
    assert_eq!(told().await, []);
    at("again", failed_in(2), 1_003).await;
    at("again", failed_in(3), 1_004).await;
    assert_eq!(told().await, [(key("again"), 1_004)]);
    at("again", Event::Reopened, 1_005).await;
    let settled = Event::ClosedIn(settled(), block(4, "0xblock"));
    let deliver = Advance { deliver: true, ..change("again", settled) };
    journal.advance(&lease, vec![deliver]).await.expect("a legal step");
    assert_eq!(told().await, []);
    at("again", Event::Reopened, 1_006).await;
    at("again", failed_in(5), 1_007).await;
    assert!(matches!(find(journal, "again").await.stage, Stage::Final(Outcome::Reverted { .. })));
    assert_eq!(told().await, [(key("again"), 1_007)]);
}

/// What was closed at a price, however it ended: of each caller that is asked about, here, not before.
pub async fn what_callers_cost_is_told<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    let (minute, hour) = (6_000, 60 * 60);
    let closed = [
        ("a", Some("shop"), minute, settled()),
        ("b", Some("shop"), minute + 59, failed(Some("0xhash5"))),
        ("c", Some("shop"), minute + 60, settled()),
        ("d", Some("bar"), minute + 61, settled()),
        ("e", Some("shop"), minute + hour, settled()),
        // Nobody's, or for nothing.
        ("f", None, minute + hour, settled()),
        ("g", Some("shop"), minute + hour, at_no_price()),
    ];
    for (name, entered_by, at, outcome) in closed {
        enter(journal, NewEntry { entered_by: entered_by.map(str::to_owned), ..new(name) }).await;
        let change = Advance { at: UnixTime(at), ..change(name, Event::Closed(outcome)) };
        journal.advance(&lease, vec![change]).await.expect("a legal step");
    }
    enter(journal, NewEntry { entered_by: Some("shop".into()), ..new("open") }).await;
    let cost = |name: &str, at, fee: u64| {
        let (entered_by, fee) = (name.into(), Amount::from(fee));
        Cost { entered_by, key: None, at: UnixTime(at), fee }
    };
    let told = async |callers: &[&str], since| costs(journal, callers, since).await;
    let shop = [
        cost("shop", minute, fee_of(&settled()) + fee_of(&failed(None))),
        cost("shop", minute + 60, fee_of(&settled())),
        cost("shop", minute + hour, fee_of(&settled())),
    ];
    assert_eq!(told(&["shop"], 0).await, shop);
    assert_eq!(told(&["shop", "nobody"], minute + 60).await, shop[1..]);
    assert_eq!(told(&["shop"], minute + hour + 1).await, []);
    // What was closed before does not count, in the same minute either.
    let late = cost("shop", minute, fee_of(&failed(None)));
    assert_eq!(told(&["shop"], minute + 1).await[0], late);
    let bar = cost("bar", minute + 60, fee_of(&settled()));
    assert_eq!(told(&["bar"], 0).await, std::slice::from_ref(&bar));
    assert_eq!(told(&["bar", "shop"], 0).await.len(), 4);
    assert!(told(&["shop", "bar"], 0).await.contains(&bar));
    assert_eq!(told(&[], 0).await, []);
    let elsewhere = journal.costs(&other_network(), &["shop".into()], UnixTime(0)).await;
    assert_eq!(elsewhere, Ok(Vec::new()));
}

/// What a block closed that may be undone has its key, and counts once: as it was closed last.
pub async fn what_may_be_undone_is_told_by_itself<J: Journal + 'static>(on: On<J>) {
    let journal = &*on.store;
    let lease = lease(journal).await;
    let at = async |name: &str, event, at| {
        let change = Advance { at: UnixTime(at), ..change(name, event) };
        journal.advance(&lease, vec![change]).await.expect("a legal step");
    };
    let told = async || costs(journal, &["shop"], 0).await;
    let cost = |key: Option<&str>, at, outcome: &Outcome| Cost {
        entered_by: "shop".into(),
        key: key.map(self::key),
        at: UnixTime(at),
        fee: Amount::from(fee_of(outcome)),
    };
    let by_shop = |name| NewEntry { entered_by: Some("shop".into()), ..new(name) };
    let closed = |outcome, number| Event::ClosedIn(outcome, block(number, "0xblock"));
    enter(journal, by_shop("again")).await;
    at("again", Event::Signed(signed(5)), 6_000).await;
    at("again", closed(settled(), 1), 6_001).await;
    assert_eq!(told().await, [cost(Some("again"), 6_001, &settled())]);
    at("again", Event::Reopened, 6_002).await;
    assert_eq!(told().await, []);
    at("again", closed(failed(Some("0xhash5")), 2), 6_003).await;
    assert_eq!(told().await, [cost(Some("again"), 6_003, &failed(None))]);
    at("again", closed(at_no_price(), 3), 6_004).await;
    assert_eq!(told().await, [], "in the end it cost nothing");
    at("again", Event::Reopened, 6_005).await;
    at("again", closed(settled(), 4), 6_006).await;
    enter(journal, by_shop("other")).await;
    at("other", closed(failed(None), 9), 6_007).await;
    let both = [cost(Some("again"), 6_006, &settled()), cost(Some("other"), 6_007, &failed(None))];
    assert_eq!(told().await, both);
    journal.bury(&lease, 4, 10).await.expect("the lease is held");
    // What is buried comes with others of its minute.
    let expected = [cost(None, 6_000, &settled()), both[1].clone()];
    assert_eq!(told().await, expected);
}

/// What entries of these callers cost, by caller and time.
async fn costs<J: Journal>(journal: &J, callers: &[&str], since: u64) -> Vec<Cost> {
    let callers: Vec<String> = callers.iter().map(|name| (*name).to_owned()).collect();
    let costs = journal.costs(&network(), &callers, UnixTime(since)).await;
    let mut costs = costs.expect("the store answers");
    costs.sort_by(|a, b| (&b.entered_by, a.at).cmp(&(&a.entered_by, b.at)));
    costs
}

fn fee_of(outcome: &Outcome) -> u64 {
    let (Outcome::Settled { fee, .. }
    | Outcome::Failed { fee, .. }
    | Outcome::Reverted { fee, .. }) = outcome;
    u64::try_from(fee.to_u256()).expect("a small fee")
}

fn at_no_price() -> Outcome {
    let Outcome::Failed { reason, message, .. } = failed(None) else { unreachable!("it failed") };
    Outcome::Failed { reason, message, transaction: None, fee: Amount::ZERO }
}
