//! Captures of the official SDKs: every EIP-3009 digest, separator and signer, recomputed.

use alloy::primitives::{Address, B256, U256};
use pay402_core::NetworkId;
use pay402_evm::exact::Eip3009Payload;
use pay402_evm::signature::{Judgement, SignatureBytes};
use pay402_evm::typed_data::{Authorization, token_domain};
use pay402_evm::{Asset, Peg};
use serde_json::Value;

fn captures() -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/tests/vectors");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let json = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    json.map(|path| {
        let value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        (path.file_name().unwrap().to_string_lossy().into_owned(), value)
    })
    .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is no text"))
}

#[test]
fn every_captured_digest_and_signer_is_ours() {
    let mut checked = 0;
    for (file, capture) in captures() {
        let signed = capture.get("eip712").and_then(Value::as_array).into_iter().flatten();
        for vector in signed {
            let data = &vector["typedData"];
            if data["primaryType"] != "TransferWithAuthorization" {
                continue;
            }
            let (domain, message) = (&data["domain"], &data["message"]);
            let chain_id = domain["chainId"].as_u64().unwrap();
            let asset = Asset::eip3009(
                &NetworkId::eip155(chain_id),
                text(domain, "verifyingContract"),
                "",
                6,
                (text(domain, "name"), text(domain, "version")),
                Peg::Other,
            )
            .unwrap();
            let number = |key: &str| text(message, key).parse::<U256>().unwrap();
            let authorization = Authorization {
                from: text(message, "from").parse().unwrap(),
                to: text(message, "to").parse().unwrap(),
                value: number("value"),
                valid_after: number("validAfter"),
                valid_before: number("validBefore"),
                nonce: text(message, "nonce").parse().unwrap(),
            };
            let domain = token_domain(&asset.info, chain_id, asset.token());
            let expected = |key: &str| text(vector, key).parse::<B256>().unwrap();
            let digest = authorization.digest(&domain);
            assert_eq!(domain.separator(), expected("domainSeparator"), "{file}");
            assert_eq!(authorization.struct_hash(), expected("structHash"), "{file}");
            assert_eq!(digest, expected("digest"), "{file}");

            let signature = SignatureBytes::parse(text(vector, "signature")).unwrap();
            if let Some(signer) = vector["recoveredByEcdsa"].as_str() {
                let signer: Address = signer.parse().unwrap();
                let judged = signature.judge(&digest, &signer);
                assert!(matches!(judged, Judgement::Payer(_)), "{file}: {judged:?}");
            } else {
                assert_eq!(signature.judge(&digest, &authorization.from), Judgement::Undecided);
            }
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} captures have an EIP-3009 signature");
}

/// Every object with a signature and an EIP-3009 authorization, however deep.
fn payloads<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            let is_payload = map.contains_key("signature")
                && map.get("authorization").is_some_and(Value::is_object);
            if is_payload {
                found.push(value);
            }
            map.values().for_each(|value| payloads(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| payloads(value, found)),
        _ => {}
    }
}

#[test]
fn every_captured_payload_is_read_and_written_back() {
    let mut checked = 0;
    for (file, capture) in captures() {
        let mut found = Vec::new();
        payloads(&capture, &mut found);
        for payload in found {
            let Some(map) = payload.as_object() else { continue };
            if payload["authorization"].get("validAfter").is_none() {
                continue;
            }
            let read = Eip3009Payload::parse(map).unwrap_or_else(|error| panic!("{file}: {error}"));
            let lower = |value: &Value| value.to_string().to_lowercase();
            let written = Value::Object(read.to_json());
            assert_eq!(lower(&written["authorization"]), lower(&payload["authorization"]));
            assert_eq!(lower(&written["signature"]), lower(&payload["signature"]), "{file}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "only {checked} payloads were found");
}
