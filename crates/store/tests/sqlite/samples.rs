//! Payments, claims and reservations to store.

use std::time::Duration;

use pay402_core::asset::AssetId;
use pay402_core::grants::Claim;
use pay402_core::journal::{
    Advance, Entered, Entry, Event, Holder, Journal, Lease, NewEntry, Outcome, SignedAs, Stage,
};
use pay402_core::network::{BlockId, Part, SentAs};
use pay402_core::spend::{Intent, Limits, Plan, Quote, Reservation};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, NetworkId, PaymentKey, Requirements, Scheme};

pub(crate) const PAYER: &str = "0xpayer";
/// How long leases last here.
pub(crate) const LASTS: Duration = Duration::from_secs(30);

pub(crate) fn network() -> NetworkId {
    NetworkId::eip155(84_532)
}

pub(crate) fn asset() -> AssetId {
    AssetId::new(network(), "0xtoken")
}

pub(crate) fn holder(name: &str) -> Holder {
    Holder { name: name.into(), url: None }
}

pub(crate) fn key(name: &str) -> PaymentKey {
    PaymentKey::new(&network(), "0xtoken", PAYER, name)
}

pub(crate) fn entry(name: &str) -> NewEntry {
    NewEntry {
        key: key(name),
        fingerprint: Digest::of(&[name.as_bytes()]),
        network: network(),
        payer: PAYER.into(),
        amount: Amount::from(10_000),
        expires: UnixTime(1_300),
        caller: None,
        entered_by: None,
        plan: vec![7; 40],
        entered_at: UnixTime(1_000),
    }
}

pub(crate) fn signed(nonce: u64, raw: Vec<u8>) -> SignedAs {
    let sent = SentAs {
        signer: "0xsigner".into(),
        nonce,
        transaction: format!("0xhash{nonce}"),
        replaced: Vec::new(),
        part: Part::WHOLE,
    };
    SignedAs { sent, raw, spent: Amount::ZERO }
}

pub(crate) fn settled() -> Outcome {
    Outcome::Settled { transaction: "0xhash".into(), block: 7, fee: Amount::from(21_000) }
}

pub(crate) fn change(name: &str, event: Event) -> Advance {
    Advance { key: key(name), event, deliver: false, at: UnixTime(1_000) }
}

pub(crate) fn claim(name: &str) -> Claim {
    Claim {
        key: key(name),
        request: Digest::of(&[b"GET /weather"]),
        proof: None,
        claimed_at: UnixTime(1_000),
        forget_at: UnixTime(2_000),
    }
}

pub(crate) fn plan(name: &str) -> Plan {
    let nonce = Digest::of(&[b"nonce", name.as_bytes()]).0;
    Plan { nonce, valid_after: UnixTime(940), valid_before: UnixTime(1_300) }
}

pub(crate) fn reservation(name: &str, amount: u64) -> Reservation {
    let amount = Amount::from(amount);
    let offer = Requirements {
        scheme: Scheme::EXACT,
        network: network(),
        amount,
        asset: "0xToken".into(),
        pay_to: "0xPayee".into(),
        max_timeout_seconds: 300,
        extra: serde_json::Map::new(),
        other: serde_json::Map::new(),
    };
    Reservation {
        intent: Intent {
            id: Digest::of(&[b"intent", name.as_bytes()]),
            origin: "https://api.example.com".into(),
            resource: "https://api.example.com/weather".into(),
        },
        payer: PAYER.into(),
        quote: Quote {
            offer,
            scheme: Scheme::EXACT,
            asset: asset(),
            symbol: "USDC".into(),
            decimals: 6,
            amount,
            pay_to: "0xpayee".into(),
            is_dollar: true,
        },
        plan: plan(name),
        reserved_at: UnixTime(1_000),
    }
}

pub(crate) fn limit(total: u64) -> Limits {
    Limits { total: Some(Amount::from(total)) }
}

/// Has an entry in every state that a journal could hold before it watched any, each with its name.
pub(crate) async fn in_every_state(journal: &impl Journal, lease: &Lease) -> [&'static str; 8] {
    let names = ["due", "signed", "replaced", "sent", "settled", "failed", "packed", "with it"];
    for name in names {
        assert_eq!(journal.enter(entry(name)).await, Ok(Entered::New));
    }
    for (name, nonce) in [("signed", 1), ("replaced", 2), ("sent", 3), ("settled", 4)] {
        let sign = change(name, Event::Signed(signed(nonce, vec![1])));
        journal.advance(lease, vec![sign]).await.unwrap();
    }
    // They share a transaction, whose bytes are with one of them.
    for (name, index, raw) in [("packed", 0, vec![5]), ("with it", 1, Vec::new())] {
        let mut signed = SignedAs { spent: Amount::from(9), ..signed(5, raw) };
        signed.sent.part = Part { index, of: 2 };
        journal.advance(lease, vec![change(name, Event::Signed(signed))]).await.unwrap();
    }
    let mut dearer = signed(2, vec![2]);
    dearer.sent.transaction = "0xdearer".into();
    let failed = Outcome::Failed {
        reason: "reverted".into(),
        message: "why".into(),
        transaction: Some("0xfailed".into()),
        fee: Amount::from(3),
    };
    let rest = vec![
        change("replaced", Event::Replaced(dearer)),
        change("sent", Event::Sent),
        change("settled", Event::Closed(settled())),
        change("failed", Event::Closed(failed)),
    ];
    journal.advance(lease, rest).await.unwrap();
    names
}

/// Holds a journal of an earlier format, with an entry in every state, against what it was: each reads as
/// before, final ones stay, and the others are watched once a block closes them.
pub(crate) async fn goes_on_as_before(journal: &impl Journal, lease: &Lease, before: Vec<Entry>) {
    for was in before {
        let key = was.new.key.clone();
        assert_eq!(journal.find(&key).await.unwrap().unwrap(), was, "{key}");
        let block = BlockId { number: 9, hash: "0xblock".into() };
        let close =
            |event| Advance { key: key.clone(), event, deliver: false, at: UnixTime(1_000) };
        let closed = Event::ClosedIn(settled(), block.clone());
        let closed = journal.advance(lease, vec![close(closed)]).await;
        if matches!(was.stage, Stage::Final(_)) {
            assert!(closed.is_err(), "{key} moved");
            continue;
        }
        let watch = closed.unwrap()[0].watch.clone().unwrap();
        let signed = match was.stage.clone() {
            Stage::Signed(signed) | Stage::Sent(signed) => Some(signed),
            Stage::Due | Stage::Final(_) => None,
        };
        assert_eq!((watch.block, &watch.signed), (block, &signed), "{key}");
        let open = journal.advance(lease, vec![close(Event::Reopened)]).await.unwrap();
        assert_eq!(open[0].new, was.new, "{key}");
    }
}
