//! Payments, claims and reservations to store.

use std::time::Duration;

use pay402_core::asset::AssetId;
use pay402_core::grants::Claim;
use pay402_core::journal::{Advance, Event, Holder, NewEntry, Outcome, SignedAs};
use pay402_core::network::{Part, SentAs};
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
