//! The figures, as a monitor reads them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use pay402_core::{NetworkId, Requirements, Scheme};
use pay402_facilitator::api::{Access, Api, KeyHash, router};
use pay402_facilitator::{Options, RpcCounts, RpcOutcome};

use crate::api::{ask, body, open, post, read, request};
use crate::bed::{Bed, options, stage, until};
use crate::chain::{network, payment_on, terms};
use crate::faults::flaky;

/// Samples by their name with labels, and everything the format demands of them.
pub(crate) async fn scrape(api: &Router) -> HashMap<String, f64> {
    let answer = read(api, "/metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.content_type, "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(answer.body).unwrap();
    let mut samples = HashMap::new();
    let mut described = HashSet::new();
    let mut kind = ("", "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(!help.is_empty() && described.insert(name), "{line}");
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            kind = of.split_once(' ').unwrap();
            assert!(described.contains(kind.0), "{line}");
            assert!(kind.0.starts_with("x402_"), "{line}");
            assert_eq!(kind.1 == "counter", kind.0.ends_with("_total"), "{line}");
            assert_eq!(kind.1 == "histogram", kind.0.ends_with("_duration_seconds"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffixes: &[&str] =
                if kind.1 == "histogram" { &["_sum", "_count", "_bucket"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{}{suffix}", kind.0)), "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line}");
        }
    }
    samples
}

fn on(rest: &str) -> String {
    format!("{{network=\"{}\"{rest}}}", network())
}

#[tokio::test]
async fn what_happened_is_counted() {
    let bed = Bed::with_signers(&["0xsigner", "0xspare"]);
    let counts = Arc::new(RpcCounts::new(&network(), "0"));
    let api = Api::counting(Access::Open, Vec::new(), vec![Arc::clone(&counts)]);
    api.open(bed.start().await);
    let api = api.router();
    for (nonce, reverts) in [("1", false), ("2", true), ("3", false)] {
        bed.chain.state().reverts_next = reverts;
        let body = body(nonce).to_string();
        assert_eq!(post(&api, "/verify", body.clone()).await.status, StatusCode::OK);
        assert_eq!(post(&api, "/settle", body).await.status, StatusCode::OK);
    }
    // A repeat, a forgery at both endpoints, an unpaired payment, and what is no payment at all.
    post(&api, "/settle", body("1").to_string()).await;
    let mut forged = body("4");
    forged["paymentPayload"]["payload"]["signature"] = "bad".into();
    let mut unpaired = body("5");
    unpaired["paymentPayload"]["accepted"]["amount"] = "1".into();
    for path in ["/verify", "/settle"] {
        post(&api, path, forged.to_string()).await;
        post(&api, path, unpaired.to_string()).await;
        post(&api, path, "{").await;
    }
    counts.add("eth_call", RpcOutcome::Failed);
    let samples = scrape(&api).await;
    let exact = |outcome: &str, reason: &str| {
        on(&format!(",scheme=\"exact\",outcome=\"{outcome}\",reason=\"{reason}\""))
    };
    let closed =
        |outcome: &str, reason: &str| on(&format!(",outcome=\"{outcome}\",reason=\"{reason}\""));
    let one_network = on("");
    for (series, expected) in [
        (format!("x402_verifications_total{}", exact("valid", "")), 3.0),
        (
            format!(
                "x402_verifications_total{}",
                exact("invalid", "invalid_exact_evm_payload_signature")
            ),
            1.0,
        ),
        (
            format!("x402_verifications_total{}", exact("invalid", "invalid_payment_requirements")),
            1.0,
        ),
        (format!("x402_settlements_total{}", exact("settled", "")), 2.0),
        (format!("x402_settlements_total{}", exact("refused", "invalid_transaction_state")), 1.0),
        (format!("x402_settlements_total{}", exact("refused", "duplicate_settlement")), 1.0),
        (
            format!("x402_settlements_total{}", exact("refused", "invalid_payment_requirements")),
            1.0,
        ),
        (format!("x402_settlements_total{}", exact("pending", "")), 0.0),
        (format!("x402_entries_closed_total{}", closed("settled", "")), 2.0),
        (
            format!("x402_entries_closed_total{}", closed("failed", "invalid_transaction_state")),
            1.0,
        ),
        (format!("x402_settlement_duration_seconds_count{one_network}"), 2.0),
        (format!("x402_verification_duration_seconds_count{one_network}"), 4.0),
        (format!("x402_entry_duration_seconds_count{one_network}"), 3.0),
        (format!("x402_journal_up{one_network}"), 1.0),
        (format!("x402_settling{one_network}"), 1.0),
        (format!("x402_oldest_unfinished_age_seconds{one_network}"), 0.0),
        // Three fees of 21,000 wei.
        (format!("x402_gas_spent_gwei_total{one_network}"), 0.0),
        ("x402_requests_turned_away_total{reason=\"malformed\"}".into(), 2.0),
        (
            format!(
                "x402_rpc_calls_total{}",
                on(",node=\"0\",method=\"eth_call\",outcome=\"error\"")
            ),
            1.0,
        ),
    ] {
        assert_eq!(samples.get(&series), Some(&expected), "{series}\n{samples:#?}");
    }
}

#[tokio::test]
async fn what_is_unfinished_shows_by_stage_age_and_lane() {
    let bed = Bed::with_signers(&["0xsigner", "0xspare"]);
    let (journal, faults) = flaky(&bed);
    let settle_wait_max = Duration::from_millis(30);
    let engine = bed.start_on(journal, Options { settle_wait_max, ..options() }).await;
    let api = open(&engine);
    bed.chain.state().automine = false;
    for nonce in ["1", "2", "3"] {
        post(&api, "/settle", body(nonce).to_string()).await;
        until("sent", || async { stage(&engine, nonce).await == "sent" }).await;
    }
    bed.chain.state().out_of_gas = vec!["0xspare".into()];
    use pay402_core::time::Clock as _;
    bed.clock.set(bed.clock.now().plus_s(7));
    let samples = scrape(&api).await;
    assert_eq!(samples[&format!("x402_entries{}", on(",stage=\"sent\""))], 3.0);
    assert_eq!(samples[&format!("x402_entries{}", on(",stage=\"due\""))], 0.0);
    assert_eq!(samples[&format!("x402_oldest_unfinished_age_seconds{}", on(""))], 7.0);
    let lane = |metric: &str, signer: &str| {
        samples[&format!("x402_lane_{metric}{}", on(&format!(",signer=\"{signer}\"")))]
    };
    assert_eq!(lane("in_flight", "0xsigner") + lane("in_flight", "0xspare"), 3.0);
    assert_eq!(lane("in_flight", "0xsigner"), 2.0);
    assert_eq!(lane("rejections_total", "0xspare"), 0.0);
    // A journal that is away leaves its figures out, and says so.
    faults.down.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let samples = scrape(&api).await;
    assert_eq!(samples[&format!("x402_journal_up{}", on(""))], 0.0);
    assert!(!samples.contains_key(&format!("x402_entries{}", on(",stage=\"sent\""))));
    assert!(!samples.contains_key(&format!("x402_oldest_unfinished_age_seconds{}", on(""))));
    // Refused sendings are counted for good, and in a row until one is taken.
    let rejections = format!("x402_lane_rejections_total{}", on(",signer=\"0xspare\""));
    faults.down.store(false, Ordering::SeqCst);
    let refused = || async { scrape(&api).await[&rejections] > 0.0 };
    until("refused", refused).await;
}

#[tokio::test]
async fn nobody_makes_labels_and_nobody_is_in_them() {
    let bed = Bed::new();
    let (journal, _faults) = flaky(&bed);
    let engine = bed.start_on(journal, options()).await;
    let api = open(&engine);
    let pay = async |terms: Requirements, nonce: &str| {
        for path in ["/verify", "/settle"] {
            post(&api, path, request(&payment_on(terms.clone(), nonce)).to_string()).await;
        }
    };
    let scheme = |name: String| Requirements { scheme: Scheme::new(&name), ..terms() };
    let elsewhere = |id| Requirements { network: NetworkId::eip155(id), ..terms() };
    pay(terms(), "1").await;
    pay(scheme("scheme-0".into()), "2").await;
    pay(elsewhere(1), "3").await;
    let before: HashSet<_> = scrape(&api).await.into_keys().collect();
    for number in 1..40 {
        pay(scheme(format!("scheme-{number}")), "4").await;
        pay(elsewhere(1_000 + number), "5").await;
    }
    let samples = scrape(&api).await;
    let after: HashSet<_> = samples.keys().cloned().collect();
    assert_eq!(before, after);
    let other = on(",scheme=\"other\",outcome=\"refused\",reason=\"unsupported_scheme\"");
    assert_eq!(samples[&format!("x402_settlements_total{other}")], 40.0);
    // The flaky journal also counts what a payer sends by itself.
    for who in ["0xpayer", "0xpayee", "0xasset", "scheme-"] {
        assert!(after.iter().all(|series| !series.contains(who)), "{who} is in a label");
    }
}

#[tokio::test]
async fn figures_are_for_this_machine_or_a_key() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let get = |name: &'static str, value: &str| {
        Request::get("/metrics").header(name, value).body(Body::empty()).unwrap()
    };
    let here = open(&engine);
    for (name, value, status) in [
        ("host", "127.0.0.1:4020", StatusCode::OK),
        ("host", "page.example", StatusCode::FORBIDDEN),
        ("origin", "https://page.example", StatusCode::FORBIDDEN),
        ("x-forwarded-for", "192.0.2.1", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(ask(&here, get(name, value)).await.status, status, "{name}: {value}");
    }
    let keyed = router(engine.clone(), Access::Keys(vec![KeyHash::of("key")]));
    for (name, value, status) in [
        ("authorization", "Bearer key", StatusCode::OK),
        ("authorization", "Bearer other", StatusCode::UNAUTHORIZED),
        ("host", "127.0.0.1:4020", StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(ask(&keyed, get(name, value)).await.status, status, "{name}: {value}");
    }
}
