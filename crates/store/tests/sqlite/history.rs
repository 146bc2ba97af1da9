//! The history over an earlier format, and that nobody changes it.

use pay402_core::journal::{Delivery, Event, Journal, Outcome, Stage};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest};
use pay402_store::SqliteJournal;
use rusqlite::Connection;

use crate::samples::{LASTS, change, entry, holder, key, network, settled, signed};
use crate::watched::BACK_TO_6;

const BACK: &str = "DROP TABLE history; DROP TABLE hook; ALTER TABLE entry DROP COLUMN entered_by;
                    ALTER TABLE lease DROP COLUMN url;
                    ALTER TABLE entry DROP COLUMN parts; ALTER TABLE entry DROP COLUMN part;
                    ALTER TABLE entry DROP COLUMN spent; PRAGMA user_version = 2";

#[tokio::test]
async fn entries_of_the_second_format_have_a_history_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    let failed = Outcome::Failed {
        reason: "reverted".into(),
        message: String::new(),
        transaction: None,
        fee: Amount::ZERO,
    };
    for name in ["due", "signed", "sent", "settled", "failed"] {
        let new =
            pay402_core::journal::NewEntry { caller: Some(Digest::of(&[b"shop"])), ..entry(name) };
        journal.enter(new).await.unwrap();
    }
    for (name, nonce) in [("signed", 1), ("sent", 2), ("settled", 3)] {
        let sign = change(name, Event::Signed(signed(nonce, vec![1])));
        journal.advance(&lease, vec![sign]).await.unwrap();
    }
    let rest = vec![
        change("sent", Event::Sent),
        change("settled", Event::Closed(settled())),
        change("failed", Event::Closed(failed)),
    ];
    journal.advance(&lease, rest).await.unwrap();
    drop(journal);
    let file = Connection::open(&path).unwrap();
    file.execute_batch(BACK_TO_6).unwrap();
    file.execute_batch(BACK).unwrap();
    drop(file);

    let journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(journal.history(0, 100).await, Ok(Vec::new()));
    for name in ["due", "signed", "sent"] {
        let close = change(name, Event::Closed(settled()));
        journal.advance(&lease, vec![close]).await.unwrap();
        let entry = journal.find(&key(name)).await.unwrap().unwrap();
        assert_eq!(entry.stage, Stage::Final(settled()), "{name}");
        assert_eq!(entry.new.entered_by, None);
    }
    for name in ["settled", "failed"] {
        let owed = (Delivery::Waiting, Delivery::Owed);
        let handed = journal.hand_over(None, &key(name), owed.0, owed.1, UnixTime(1)).await;
        assert_eq!(handed, Ok(true), "{name}");
    }
    let records = journal.history(0, 100).await.unwrap();
    let told: Vec<_> = records.iter().map(|record| record.change.name()).collect();
    assert_eq!(told, ["settled", "settled", "settled", "handed_over", "handed_over"]);
}

#[tokio::test]
async fn nobody_rewrites_the_history() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    journal.enter(entry("one")).await.unwrap();
    let file = Connection::open(&path).unwrap();
    for sql in ["DELETE FROM history", "UPDATE history SET change = 'settled'"] {
        assert!(file.execute(sql, []).is_err(), "{sql}");
    }
}
