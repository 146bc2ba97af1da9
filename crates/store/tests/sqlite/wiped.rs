//! What was wiped is gone from the disk, not only from the tables.

use std::path::Path;
use std::time::Duration;

use pay402_core::grants::Grants;
use pay402_core::journal::{Event, Journal};
use pay402_core::network::BlockId;
use pay402_core::time::UnixTime;
use pay402_store::{SqliteGrants, SqliteJournal};

use crate::samples::{LASTS, change, claim, entry, holder, key, network, settled, signed};

const PLAN: &[u8] = b"canary of a sealed plan";
const RAW: &[u8] = b"canary of sealed signed bytes";

/// Whether any file beside the store holds these bytes.
fn on_disk(directory: &Path, canary: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|file| {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        bytes.windows(canary.len()).any(|window| window == canary)
    })
}

/// Waits until the store has rested and its log is empty.
async fn until_gone(directory: &Path, canary: &[u8]) {
    for _ in 0..100 {
        if !on_disk(directory, canary) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} is still on the disk", String::from_utf8_lossy(canary));
}

#[tokio::test]
async fn a_final_entry_leaves_nothing_spendable() {
    let directory = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(directory.path().join("journal")).unwrap();
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    // One that fits its row, and one that spills over many pages.
    for (name, copies) in [("small", 1), ("large", 2_000)] {
        let mut new = entry(name);
        new.plan = PLAN.repeat(copies);
        journal.enter(new).await.unwrap();
        let sign = Event::Signed(signed(1, RAW.repeat(copies)));
        journal.advance(&lease, vec![change(name, sign)]).await.unwrap();
        journal.advance(&lease, vec![change(name, Event::Sent)]).await.unwrap();
    }
    assert!(on_disk(directory.path(), PLAN), "the test would prove nothing");
    assert!(on_disk(directory.path(), RAW), "the test would prove nothing");
    let block = BlockId { number: 9, hash: "0xblock".into() };
    let close = change("small", Event::Closed(settled()));
    journal.advance(&lease, vec![close]).await.unwrap();
    let close = change("large", Event::ClosedIn(settled(), block));
    journal.advance(&lease, vec![close]).await.unwrap();
    assert!(on_disk(directory.path(), RAW), "there is nothing to go on with");
    assert_eq!(journal.bury(&lease, 9, 9).await, Ok(1));
    until_gone(directory.path(), PLAN).await;
    until_gone(directory.path(), RAW).await;
    assert!(journal.find(&key("large")).await.unwrap().is_some());
}

#[tokio::test]
async fn released_and_forgotten_responses_leave_nothing() {
    const SEALED: &[u8] = b"canary of a sealed response";
    let directory = tempfile::tempdir().unwrap();
    let grants = SqliteGrants::open(directory.path().join("grants")).unwrap();
    for name in ["released", "forgotten"] {
        grants.claim(claim(name)).await.unwrap();
        grants.settling(&key(name), None, Some(SEALED.repeat(500))).await.unwrap();
    }
    assert!(on_disk(directory.path(), SEALED), "the test would prove nothing");
    grants.release(&key("released")).await.unwrap();
    assert_eq!(grants.prune(UnixTime(2_001)).await, Ok(1));
    until_gone(directory.path(), SEALED).await;
}
