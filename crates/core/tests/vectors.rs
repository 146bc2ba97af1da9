//! Every message of every capture: decode with our types, encode again, compare as JSON.
#![allow(clippy::unwrap_used)] // tests

use std::collections::BTreeMap;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use pay402_core::facilitator::Verdict;
use pay402_core::payment::PaymentRequired;
use pay402_core::transport::http::{
    Asking, read_outcome, read_payment, read_payment_required, write_outcome, write_payment,
};
use pay402_core::wire::Endpoint;
use pay402_core::{Amount, NetworkId, Payment, Refusal, Requirements, WireVersion, wire};
use serde_json::Value;

fn captures() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut captures: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
        })
        .filter(|(name, _): &(String, Value)| name.starts_with('v'))
        .collect();
    captures.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(captures.len(), 20, "a capture is missing");
    captures
}

fn exchanges<'a>(capture: &'a Value, between: &str) -> impl Iterator<Item = &'a Value> {
    capture[between].as_array().into_iter().flatten()
}

fn headers(message: &Value) -> HeaderMap {
    let pairs = message["headers"].as_array().unwrap();
    pairs
        .iter()
        .map(|pair| {
            let name = HeaderName::try_from(pair[0].as_str().unwrap()).unwrap();
            (name, HeaderValue::try_from(pair[1].as_str().unwrap()).unwrap())
        })
        .collect()
}

fn decoded<'a>(message: &'a Value, name: &str) -> Option<&'a Value> {
    let decoded = message["decodedHeaders"].as_object()?;
    decoded.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn body(message: &Value) -> &[u8] {
    message["rawBody"].as_str().unwrap_or("").as_bytes()
}

/// The first offer of a capture.
fn terms(capture: &Value) -> Requirements {
    let mut answers = exchanges(capture, "clientToServer").map(|exchange| &exchange["response"]);
    let asking = answers.find(|answer| answer["line"].as_str().unwrap().contains(" 402 ")).unwrap();
    read_payment_required(&headers(asking), body(asking)).unwrap().accepts.remove(0)
}

#[test]
fn every_402_survives_the_round_trip() {
    let mut seen = BTreeMap::<_, u32>::new();
    for (name, capture) in captures() {
        for exchange in exchanges(&capture, "clientToServer") {
            let response = &exchange["response"];
            if !response["line"].as_str().unwrap().contains(" 402 ") {
                continue;
            }
            let required = read_payment_required(&headers(response), body(response)).unwrap();
            let original = decoded(response, "PAYMENT-REQUIRED").unwrap_or(&response["body"]);
            assert_eq!(&wire::encode_payment_required(&required), original, "{name}");
            *seen.entry(required.version.number()).or_default() += 1;

            // What we would send: the v2 header reads back as itself.
            let asking = Asking::new(&required);
            let again = read_payment_required(asking.headers(), asking.body().as_bytes()).unwrap();
            let v2 = PaymentRequired { version: WireVersion::V2, ..required };
            assert_eq!(again.accepts, v2.accepts, "{name}");
            assert_eq!(again.resource, v2.resource, "{name}");
        }
    }
    assert!(seen[&1] >= 4 && seen[&2] >= 15, "{seen:?}");
}

#[test]
fn every_payment_survives_the_round_trip() {
    let mut seen = BTreeMap::<_, u32>::new();
    for (name, capture) in captures() {
        for exchange in exchanges(&capture, "clientToServer") {
            let request = &exchange["request"];
            let Some(presented) = read_payment(&headers(request)).unwrap() else { continue };
            let original = decoded(request, "PAYMENT-SIGNATURE")
                .or_else(|| decoded(request, "X-PAYMENT"))
                .unwrap();
            assert_eq!(&wire::encode_presented(&presented), original, "{name}");
            let mut written = HeaderMap::new();
            write_payment(&mut written, &presented).unwrap();
            assert!(written.values().all(HeaderValue::is_sensitive), "{name}");
            assert_eq!(read_payment(&written).unwrap(), Some(presented.clone()), "{name}");
            let shown = format!("{presented:?}");
            assert!(!shown.contains("signature") && !shown.contains("nonce"), "{shown}");
            *seen.entry(presented.version.number()).or_default() += 1;
        }
    }
    assert!(seen[&1] >= 4 && seen[&2] >= 15, "{seen:?}");
}

#[test]
fn every_facilitator_request_survives_the_round_trip() {
    let mut seen = 0;
    for (name, capture) in captures() {
        for exchange in exchanges(&capture, "serverToFacilitator") {
            let request = &exchange["request"];
            if request["body"].is_null() || request["body"]["paymentPayload"]["accepted"].is_null()
            {
                // The servers' own batch messages carry no accepted offer; they are not v2
                // payments and a later scheme reads them.
                if request["body"]["x402Version"] != 1 {
                    continue;
                }
            }
            let read = wire::decode_facilitator_request(body(request)).unwrap();
            assert_eq!(
                wire::write_requirements(read.version, &read.terms),
                request["body"]["paymentRequirements"],
                "{name}"
            );
            assert_eq!(
                wire::encode_presented(&read.presented),
                request["body"]["paymentPayload"],
                "{name}"
            );
            let (pair, endpoint): (fn(_, _) -> _, _) =
                match request["line"].as_str().unwrap().starts_with("POST /settle") {
                    true => (Payment::pair_to_settle, Endpoint::Settle),
                    false => (Payment::pair, Endpoint::Verify),
                };
            if let Ok(payment) = pair(read.terms, read.presented) {
                let encoded = wire::encode_facilitator_request(&payment, endpoint);
                assert_eq!(encoded, request["body"], "{name}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 30, "{seen} requests");
}

/// Spec `scheme_upto.md`: to verify, the amount is the ceiling; to settle, it is the charge.
#[test]
fn a_metered_payment_is_verified_for_its_ceiling_and_settled_for_its_charge() {
    for (wanted, charge) in [("v2-upto", 2_500), ("v2-upto-zero", 0)] {
        let captures = captures();
        let (_, capture) = captures.iter().find(|(name, _)| name == wanted).unwrap();
        let bodies: Vec<_> = exchanges(capture, "serverToFacilitator")
            .map(|exchange| exchange["request"]["rawBody"].as_str().unwrap())
            .collect();
        let [verify, settle] = bodies[..] else { panic!("{wanted}: {} requests", bodies.len()) };

        let read = wire::decode_facilitator_request(verify.as_bytes()).unwrap();
        let payment = Payment::pair(read.terms, read.presented).unwrap();
        assert_eq!(payment.charge(), Amount::from(10_000), "{wanted}");
        let encode =
            |payment: &Payment, to| wire::encode_facilitator_request(payment, to).to_string();
        assert_eq!(encode(&payment, Endpoint::Verify), verify, "{wanted}");
        let payment = payment.charging(charge.into()).unwrap();
        assert_eq!(encode(&payment, Endpoint::Verify), verify, "{wanted}");
        assert_eq!(encode(&payment, Endpoint::Settle), settle, "{wanted}");

        let read = wire::decode_facilitator_request(settle.as_bytes()).unwrap();
        assert!(Payment::pair(read.terms.clone(), read.presented.clone()).is_err(), "{wanted}");
        let read = Payment::pair_to_settle(read.terms, read.presented).unwrap();
        assert_eq!(read.charge(), Amount::from(charge), "{wanted}");
        assert_eq!(read.terms(), payment.terms(), "{wanted}");
        assert_eq!(encode(&read, Endpoint::Settle), settle, "{wanted}");
    }
}

#[test]
fn every_reply_survives_the_round_trip() {
    let network = NetworkId::parse("eip155:84532").unwrap();
    let (mut verdicts, mut outcomes) = (0, 0);
    for (name, capture) in captures() {
        for exchange in exchanges(&capture, "serverToFacilitator") {
            let (line, response) =
                (exchange["request"]["line"].as_str().unwrap(), &exchange["response"]);
            let version = match exchange["request"]["body"]["x402Version"].as_u64() {
                Some(1) => WireVersion::V1,
                _ => WireVersion::V2,
            };
            if line.starts_with("POST /verify") {
                let verdict = wire::decode_verdict(body(response)).unwrap();
                let mut encoded = wire::encode_verdict(&verdict);
                // We always say why in words, and `extra` belongs to a later scheme.
                encoded.as_object_mut().unwrap().remove("invalidMessage");
                let mut original = response["body"].clone();
                original.as_object_mut().unwrap().remove("extra");
                assert_eq!(encoded, original, "{name}");
                verdicts += 1;
            } else if line.starts_with("POST /settle") {
                let settled = wire::decode_settled(body(response), &terms(&capture)).unwrap();
                let mut original = response["body"].clone();
                original.as_object_mut().unwrap().remove("extra");
                assert_eq!(wire::encode_settled(version, &network, &settled), original, "{name}");
                outcomes += 1;
            }
        }
        for exchange in exchanges(&capture, "clientToServer") {
            let response = &exchange["response"];
            let Some(settled) = read_outcome(&headers(response), &terms(&capture)).unwrap() else {
                continue;
            };
            let version = match decoded(response, "X-PAYMENT-RESPONSE") {
                Some(_) => WireVersion::V1,
                None => WireVersion::V2,
            };
            let mut written = HeaderMap::new();
            write_outcome(&mut written, version, &network, &settled);
            assert_eq!(read_outcome(&written, &terms(&capture)).unwrap(), Some(settled), "{name}");
            outcomes += 1;
        }
    }
    assert!(verdicts >= 18 && outcomes >= 30, "{verdicts} verdicts, {outcomes} outcomes");
}

#[test]
fn supported_kinds_survive_the_round_trip() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/supported.json");
    let captures: Value = serde_json::from_slice(&std::fs::read(folder).unwrap()).unwrap();
    let read = |name: &str| {
        let body = &captures[name]["response"]["body"];
        (wire::decode_supported(body.to_string().as_bytes()).unwrap(), body.clone())
    };
    let (typescript, body) = read("ts-2.27");
    assert_eq!(wire::encode_supported(&typescript), body);
    assert_eq!(typescript.kinds.len(), 4);
    // Python lists v1 names of networks that we have no table entry for: they are left out.
    let (python, body) = read("python-2.25");
    let known = python.kinds.len();
    assert!(known >= 20 && known <= body["kinds"].as_array().unwrap().len(), "{known} kinds");
}

#[test]
fn an_offer_is_echoed_with_its_nulls_and_empties() {
    let body = br#"{"x402Version":2,"resource":{"url":"http://a/","description":null,"icon":"x"},
        "accepts":[{"scheme":"exact","network":"eip155:1","amount":"1","asset":"0xa","payTo":"0xb",
        "maxTimeoutSeconds":1,"extra":{},"later":[1]}],"extensions":{},"hint":null}"#;
    let required = wire::decode_payment_required(body).unwrap();
    let original: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(wire::encode_payment_required(&required), original);
}

#[test]
fn strangers_refusals_are_read_as_ours_where_they_mean_the_same() {
    for (code, refusal) in [
        ("invalid_x402_version", Refusal::InvalidVersion),
        ("invalid_exact_evm_signature", Refusal::InvalidSignature),
        ("invalid_exact_evm_insufficient_balance", Refusal::InsufficientFunds),
        ("missing_eip712_domain", Refusal::MissingEip712Domain),
    ] {
        let reply = serde_json::json!({ "isValid": false, "invalidReason": code });
        let verdict = wire::decode_verdict(reply.to_string().as_bytes()).unwrap();
        let Verdict::Invalid(refused) = verdict else { panic!("{code} was read as valid") };
        assert!(refused.reason.is(refusal), "{code}: {refused}");
    }
}
