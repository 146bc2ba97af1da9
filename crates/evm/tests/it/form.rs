//! Malformed payloads and terms: each is refused with the name of the field.

use pay402_core::network::Network as _;
use pay402_core::scheme::ServerScheme as _;
use pay402_core::{Presented, Refusal, Requirements, Scheme};
use pay402_evm::{AssetTable, ExactServer};
use serde_json::{Map, Value, json};

use crate::support::{House, PAY_TO, pair, payment, presented, terms};

const TOP: &str = "115792089237316195423570985008687907853269984665640564039457584007913129639936";

/// Changes one field of a good payload; `Null` removes it.
fn changed(path: &str, value: &Value) -> Map<String, Value> {
    let mut payload = payment().presented().payload.clone();
    let (map, key) = match path.strip_prefix("authorization.") {
        Some(key) => (payload["authorization"].as_object_mut().unwrap(), key),
        None => (&mut payload, path),
    };
    match value {
        Value::Null => drop(map.remove(key)),
        value => drop(map.insert(key.to_owned(), value.clone())),
    }
    payload
}

fn problem(presented: &Presented) -> (String, String) {
    let error = ExactServer::new(AssetTable::defaults()).form(presented).unwrap_err();
    (error.field, error.problem)
}

#[test]
fn a_malformed_payload_is_refused_by_field() {
    let numbers = ["", "-1", "+1", "01", "0x10", "1e3", "1.0", " 1", "1_0", "1,0", "٣", TOP];
    let wrong_checksum = PAY_TO.replace("CdDd", "cdDd");
    let addresses = [
        "",
        "0x",
        &PAY_TO[2..],
        &PAY_TO[..41],
        &format!("{PAY_TO}0"),
        &PAY_TO.replace("0x", "0X"),
        &PAY_TO.replace('3', "g"),
        &wrong_checksum,
    ];
    let nonces = ["", "0x", "0x01", &format!("0x{}", "0".repeat(63)), &"0".repeat(64)];
    let signatures = ["", "0x", "0x0", "zz", "0xzz", &format!("0x{}", "00".repeat(4097))];
    let mut cases: Vec<(&str, Value)> = Vec::new();
    for field in ["value", "validAfter", "validBefore"] {
        cases.extend(numbers.iter().map(|bad| (field, json!(bad))));
        cases.push((field, json!(1000)));
    }
    for field in ["from", "to"] {
        cases.extend(addresses.iter().map(|bad| (field, json!(bad))));
        cases.push((field, json!({})));
    }
    cases.extend(nonces.iter().map(|bad| ("nonce", json!(bad))));
    for field in ["from", "to", "value", "validAfter", "validBefore", "nonce"] {
        cases.push((field, Value::Null));
    }
    let mut count = 0;
    let mut expect = |path: &str, value: &Value| {
        let payload = changed(path, value);
        let (field, problem) = problem(&presented(&terms(10_000), payload));
        assert_eq!(field, format!("payload.{path}"), "{value}: {problem}");
        let quoted = value.as_str().is_some_and(|bad| bad.len() > 3 && problem.contains(bad));
        assert!(!quoted, "the value is repeated: {problem}");
        count += 1;
    };
    for (field, value) in &cases {
        expect(&format!("authorization.{field}"), value);
    }
    for bad in signatures {
        expect("signature", &json!(bad));
    }
    expect("signature", &json!(7));
    expect("signature", &Value::Null);
    expect("authorization", &json!("no object"));
    expect("authorization", &Value::Null);
    assert!(count >= 60, "{count} cases");
}

#[test]
fn malformed_terms_are_refused_by_field() {
    let server = ExactServer::new(AssetTable::defaults());
    let good = terms(10_000);
    server.terms_form(&good).unwrap();
    let field = |terms: &Requirements| server.terms_form(terms).unwrap_err().field;
    assert_eq!(field(&Requirements { asset: "USDC".into(), ..good.clone() }), "asset");
    assert_eq!(field(&Requirements { pay_to: "0x12".into(), ..good.clone() }), "payTo");
    let zero = format!("0x{:040}", 0);
    assert_eq!(field(&Requirements { pay_to: zero, ..good.clone() }), "payTo");
    let mixed = good.pay_to.replace("CdDd", "cdDd");
    assert_eq!(field(&Requirements { pay_to: mixed, ..good.clone() }), "payTo");

    // The client's claim of what it accepted is looked at too.
    let mut claim = presented(&good, payment().presented().payload.clone());
    claim.accepted = Some(Requirements { asset: "0xnone".into(), ..good.clone() });
    assert_eq!(problem(&claim).0, "accepted.asset");

    // Other schemes are not ours to read.
    let mut other = presented(&good, Map::new());
    other.scheme = Scheme::new("auth-capture");
    server.form(&other).unwrap();
}

#[tokio::test]
async fn the_facilitator_reads_as_strictly_as_the_server() {
    let house = House::new();
    let good = payment();
    house.network.form(good.presented()).unwrap();
    house.network.terms_form(good.terms()).unwrap();
    let bad = changed("authorization.value", &json!("0x10"));
    let malformed = house.network.form(&presented(good.terms(), bad.clone())).unwrap_err();
    assert_eq!(malformed.field, "payload.authorization.value");
    // Past the edge the same payload is refused, not believed.
    let refused = house.refuses(&pair(good.terms(), bad), Refusal::InvalidPayload).await;
    assert!(refused.message.contains("authorization.value"), "{refused}");
}
