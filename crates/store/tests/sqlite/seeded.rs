//! A journal that was filled for measurements, read as any other.

use std::collections::BTreeSet;
use std::time::Duration;

use pay402_core::PaymentKey;
use pay402_core::history::Span;
use pay402_core::journal::{Advance, Event, Journal, Outcome, Stage};
use pay402_core::network::BlockId;
use pay402_core::time::UnixTime;
use pay402_store::{Seed, SqliteJournal, seed};

use crate::samples::{LASTS, change, entry, holder, key, network, settled, signed};

const SEED: Seed = Seed { entries: 7, payers: 3, over: Duration::from_secs(500) };

/// Two that are over, and one whose block is watched yet.
async fn with_three(path: &std::path::Path) {
    let journal = SqliteJournal::open(path).unwrap();
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    let block = BlockId { number: 9, hash: "0xblock".into() };
    let watched = Event::ClosedIn(settled(), block);
    for (name, nonce, close) in [
        ("one", 4, Event::Closed(settled())),
        ("two", 5, Event::Closed(settled())),
        ("watched", 6, watched),
    ] {
        journal.enter(entry(name)).await.unwrap();
        let close = Advance { deliver: true, ..change(name, close) };
        let sign = change(name, Event::Signed(signed(nonce, vec![1])));
        journal.advance(&lease, vec![sign, close]).await.unwrap();
    }
}

#[tokio::test]
async fn copies_of_what_is_over_are_entries_like_the_originals() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    with_three(&path).await;
    // Both that are over, as often.
    assert_eq!(seed(&path, SEED).unwrap(), 8);
    let journal = SqliteJournal::open(&path).unwrap();
    let books = journal.books(&network(), 0, 100).await.unwrap();
    assert_eq!(books.len(), 3 + 8);
    let copies = &books[3..];
    let keys: BTreeSet<_> = books.iter().map(|it| it.key.clone()).collect();
    assert_eq!(keys.len(), books.len());
    let payers: BTreeSet<_> = copies.iter().map(|it| &it.payer).collect();
    assert_eq!(payers.len(), 3);
    let nonces: Vec<u64> = books.iter().map(|it| it.signed[0].nonce).collect();
    assert!(nonces.is_sorted_by(|a, b| a < b), "{nonces:?}");
    assert_eq!(
        journal.next_nonce(&network(), "0xsigner").await,
        Ok(nonces.last().map(|it| it + 1))
    );
    let times: Vec<u64> = copies.iter().map(|it| it.entered_at.0).collect();
    assert_eq!((times[0], times.is_sorted()), (500, true), "{times:?}");
    let original = journal.find(&key("one")).await.unwrap().unwrap();
    let of = async |key: PaymentKey| {
        let told = journal.history_of_payment(&key, Span { after: 0, upto: 1_000, limit: 9 }).await;
        told.unwrap().into_iter().map(|it| format!("{:?}", it.delivery)).collect::<Vec<_>>()
    };
    let history = of(key("one")).await;
    for copy in copies {
        let found = journal.find(&copy.key).await.unwrap().unwrap();
        assert!(copy.key.as_str().contains(&format!("/{}/", copy.payer)), "{}", copy.key);
        assert!(matches!(&found.stage, Stage::Final(Outcome::Settled { .. })));
        assert_eq!((found.delivery, found.watch), (original.delivery, None));
        assert_eq!(of(copy.key.clone()).await, history);
    }
    assert!(journal.unfinished(&network(), 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_comes_from_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let problem = seed(&path, SEED).unwrap_err().problem;
    assert!(problem.contains("nothing in it is settled"), "{problem}");
}
