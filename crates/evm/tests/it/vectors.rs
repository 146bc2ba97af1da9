//! Captures of the official SDKs: every digest, separator and signer recomputed, every payload read
//! and written back, and what they settled settled again on the embedded chain, by the same call.

use alloy::consensus::transaction::SignerRecoverable as _;
use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::{Decodable2718 as _, Encodable2718 as _};
use alloy::primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use alloy::sol_types::{SolCall as _, SolValue as _};
use pay402_core::network::{ChainStatus, Network as _};
use pay402_core::{Amount, NetworkId, Payment, Refusal, Scheme, wire};
use pay402_devchain::genesis::{DEV_ACCOUNTS, USDC_ADDRESS, WALLET_1271};
use pay402_devchain::zoo;
use pay402_evm::contracts::Erc20;
use pay402_evm::exact::{Eip3009Payload, Permit2Payload};
use pay402_evm::signature::{Judgement, SignatureBytes};
use pay402_evm::typed_data::{Authorization, PERMIT2, PermitTransfer, TokenPermit, token_domain};
use pay402_evm::{Asset, AssetTable, Peg, Settings};
use serde_json::Value;

use crate::accounts::abi;
use crate::support::{CHAIN_ID, House, network_id, usdc};

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

// === Permit2 ===

/// Every capture with a permit for Permit2.
fn permits() -> Vec<(String, Value)> {
    let is_permit = |(_, capture): &(String, Value)| {
        capture["eip712"][0]["typedData"]["primaryType"] == "PermitWitnessTransferFrom"
    };
    let found: Vec<_> = captures().into_iter().filter(is_permit).collect();
    assert_eq!(found.len(), 6, "exact, without allowance, two sponsorings, upto twice");
    found
}

#[test]
fn every_captured_permit_is_ours() {
    for (file, capture) in permits() {
        for vector in capture["eip712"].as_array().unwrap() {
            let message = &vector["typedData"]["message"];
            let witness = &message["witness"];
            let signer: Address = text(vector, "recoveredByEcdsa").parse().unwrap();
            let number = |value: &Value, key: &str| text(value, key).parse::<U256>().unwrap();
            let permit = PermitTransfer {
                from: signer,
                token: text(&message["permitted"], "token").parse().unwrap(),
                permitted: number(&message["permitted"], "amount"),
                nonce: number(message, "nonce"),
                deadline: number(message, "deadline"),
                to: text(witness, "to").parse().unwrap(),
                valid_after: number(witness, "validAfter"),
                facilitator: witness["facilitator"].as_str().map(|text| text.parse().unwrap()),
            };
            let spender: Address = text(message, "spender").parse().unwrap();
            assert_eq!(permit.spender(), spender, "{file}");
            let expected = |key: &str| text(vector, key).parse::<B256>().unwrap();
            assert_eq!(permit.struct_hash(), expected("structHash"), "{file}");
            let digest = permit.digest(CHAIN_ID);
            assert_eq!(digest, expected("digest"), "{file}");
            let separator = expected("domainSeparator");
            let hash = permit.struct_hash();
            let parts = [&[0x19, 1][..], separator.as_slice(), hash.as_slice()];
            assert_eq!(digest, keccak256(parts.concat()), "{file}: another domain");
            let signature = SignatureBytes::parse(text(vector, "signature")).unwrap();
            let judged = signature.judge(&digest, &signer);
            assert!(matches!(judged, Judgement::Payer(_)), "{file}: {judged:?}");
        }
    }
}

/// Every object with a permit for Permit2, however deep.
fn permit_payloads<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            if map.get("permit2Authorization").is_some_and(Value::is_object) {
                found.push(value);
            }
            map.values().for_each(|value| permit_payloads(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| permit_payloads(value, found)),
        _ => {}
    }
}

#[test]
fn every_captured_permit_payload_is_read_and_written_back() {
    let mut checked = 0;
    for (file, capture) in permits() {
        let mut found = Vec::new();
        permit_payloads(&capture, &mut found);
        for payload in found {
            let metered = payload["permit2Authorization"]["witness"].get("facilitator").is_some();
            let scheme = if metered { Scheme::UPTO } else { Scheme::EXACT };
            let read = Permit2Payload::parse(payload.as_object().unwrap(), &scheme);
            let read = read.unwrap_or_else(|error| panic!("{file}: {error}"));
            let lower = |value: &Value| value.to_string().to_lowercase();
            assert_eq!(lower(&Value::Object(read.to_json())), lower(payload), "{file}");
            checked += 1;
        }
    }
    assert!(checked >= 11, "only {checked} payloads were found");
}

/// What the captured client added to an extension's `info`.
fn info(capture: &Value, extension: &str) -> Value {
    let request = request(capture, "/verify");
    request.presented.extensions[extension]["info"].clone()
}

#[test]
fn the_captured_token_permit_is_ours() {
    let (_, capture) =
        permits().into_iter().find(|(file, _)| file.contains("eip2612-sponsored")).unwrap();
    let info = info(&capture, "eip2612GasSponsoring");
    let number = |key: &str| text(&info, key).parse::<U256>().unwrap();
    let owner: Address = text(&info, "from").parse().unwrap();
    assert_eq!(text(&info, "spender").parse::<Address>().unwrap(), PERMIT2);
    assert_eq!(text(&info, "asset").parse::<Address>().unwrap(), USDC_ADDRESS);
    let permit = TokenPermit {
        owner,
        value: number("amount"),
        nonce: number("nonce"),
        deadline: number("deadline"),
    };
    let digest = permit.digest(&token_domain(&usdc().info, CHAIN_ID, USDC_ADDRESS));
    let signature = SignatureBytes::parse(text(&info, "signature")).unwrap();
    let judged = signature.judge(&digest, &owner);
    assert!(matches!(judged, Judgement::Payer(_)), "{judged:?}");
}

#[test]
fn the_captured_approval_is_the_payers_own_and_of_permit2_alone() {
    let (_, capture) =
        permits().into_iter().find(|(file, _)| file.contains("approval-sponsored")).unwrap();
    let info = info(&capture, "erc20ApprovalGasSponsoring");
    let raw: Bytes = text(&info, "signedTransaction").parse().unwrap();
    let transaction = TxEnvelope::decode_2718_exact(&raw).unwrap();
    let address = |key: &str| text(&info, key).parse::<Address>().unwrap();
    assert_eq!(transaction.recover_signer().unwrap(), address("from"));
    assert_eq!(transaction.kind(), TxKind::Call(address("asset")));
    assert_eq!((transaction.chain_id(), transaction.value()), (Some(CHAIN_ID), U256::ZERO));
    let call = Erc20::approveCall::abi_decode(transaction.input()).unwrap();
    assert_eq!((call.spender, call.value), (PERMIT2, U256::MAX));
    assert_eq!(address("spender"), PERMIT2);
    assert_eq!(text(&info, "amount"), U256::MAX.to_string());
    assert_eq!(transaction.encoded_2718(), raw, "written back");
}

// === Wallets ===

/// Factory, its call data, and the signature proper of a wrapped signature (ERC-6492).
fn unwrap(signature: &[u8]) -> (Address, Bytes, Bytes) {
    let (fields, magic) = signature.split_at(signature.len() - 32);
    assert!(magic.chunks(2).all(|pair| pair == [0x64, 0x92]), "no wrapper");
    <(Address, Bytes, Bytes)>::abi_decode_params(fields).unwrap()
}

fn capture(name: &str) -> Value {
    let found = captures().into_iter().find(|(file, _)| file == &format!("{name}.json"));
    found.unwrap_or_else(|| panic!("no capture {name}")).1
}

#[test]
fn the_captured_wallets_signatures_are_their_owners() {
    // Deployed: the signature's maker is no party, and is the wallet's owner.
    let owner = DEV_ACCOUNTS[1];
    for (name, wrapped) in
        [("v2-exact-eip1271-wallet", false), ("v2-exact-erc6492-undeployed", true)]
    {
        let capture = capture(name);
        let vector = &capture["eip712"][0];
        let signature = SignatureBytes::parse(text(vector, "signature")).unwrap();
        let digest: B256 = text(vector, "digest").parse().unwrap();
        let payer: Address = text(&vector["typedData"]["message"], "from").parse().unwrap();
        assert_eq!(signature.judge(&digest, &payer), Judgement::Undecided, "{name}");
        let inner = match wrapped {
            false => signature.expose().to_vec(),
            true => {
                let (_, calldata, inner) = unwrap(signature.expose());
                // The factory is told the owner first.
                assert_eq!(calldata[4..36], owner.into_word().0, "{name}");
                inner.to_vec()
            }
        };
        let signed = Signature::try_from(&inner[..65]).unwrap();
        assert_eq!(signed.recover_address_from_prehash(&digest).unwrap(), owner, "{name}");
        // Written back as it was.
        let request = request(&capture, "/verify");
        let payload = Eip3009Payload::parse(&request.presented.payload).unwrap();
        assert_eq!(payload.signature.expose(), signature.expose());
        assert_eq!(payload.to_json()["signature"], text(vector, "signature").to_lowercase());
    }
}

// === On the embedded chain ===

/// The request that the captured server sent to its facilitator.
fn request(capture: &Value, path: &str) -> wire::FacilitatorRequest {
    let exchanges = capture["serverToFacilitator"].as_array().unwrap().iter();
    let exchange = exchanges
        .map(|exchange| &exchange["request"])
        .find(|request| text(request, "line").contains(path))
        .unwrap_or_else(|| panic!("no request to {path}"));
    wire::decode_facilitator_request(text(exchange, "rawBody").as_bytes()).unwrap()
}

fn to_settle(capture: &Value) -> Payment {
    let request = request(capture, "/settle");
    Payment::pair_to_settle(request.terms, request.presented).unwrap()
}

/// A chain at the captured time: when the payment had all of its time left.
async fn house_of(capture: &Value, assets: AssetTable, settings: Settings) -> House {
    let house = House::with(assets, settings);
    let message = &capture["eip712"][0]["typedData"]["message"];
    let ends = message["deadline"].as_str().or(message["validBefore"].as_str()).unwrap();
    house.advance_to(ends.parse::<u64>().unwrap() - 290);
    house.network.check().await.unwrap();
    house
}

/// Verifies and settles as captured. Gives the call that did it.
async fn replay(house: &House, capture: &Value) -> (Address, Bytes) {
    let asked = request(capture, "/verify");
    let payment = Payment::pair(asked.terms, asked.presented).unwrap();
    let verified = house.verify(&payment).await.unwrap();
    let payment = to_settle(capture);
    let charged = house.verify(&payment).await.unwrap();
    assert_eq!(charged.key, verified.key);
    assert_eq!(charged.amount, payment.charge());
    let (sent, _) = house.submit(&charged.plan).await;
    let status = house.network.status(&charged.plan, Some(&sent)).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    let [call] = &house.calls_in(house.chain.block_number()).await[..] else { panic!() };
    let Some(TxKind::Call(target)) = call.to else { panic!("a call") };
    (target, call.input.input().unwrap().clone())
}

/// What the captured facilitator called to settle.
fn captured_call(capture: &Value) -> (Address, Bytes) {
    let settled = capture["onchain"].as_array().unwrap().last().unwrap();
    (text(settled, "to").parse().unwrap(), text(settled, "input").parse().unwrap())
}

#[tokio::test]
async fn captured_permits_settle_by_the_captured_calls() {
    // The Plain token of the approval's capture, where it stood.
    let plain: Address = "0x71604fB6c1dcc6824445082bB0E44da541A8bBf8".parse().unwrap();
    let asset =
        Asset::erc20(&network_id(), &plain.to_checksum(None), "PLAIN", 6, Peg::Other).unwrap();
    let mut settled = 0;
    for (file, capture) in permits() {
        let assets = AssetTable::defaults().with(asset.clone());
        // There at start, or the network does not start.
        let house = House::with(assets, Settings::default());
        house.chain.set_code(plain, zoo::PLAIN_TOKEN.runtime_code.clone());
        let message = &capture["eip712"][0]["typedData"]["message"];
        house.advance_to(text(message, "deadline").parse::<u64>().unwrap() - 290);
        house.network.check().await.unwrap();
        let payer: Address = text(&capture["eip712"][0], "recoveredByEcdsa").parse().unwrap();
        let index = DEV_ACCOUNTS.iter().position(|account| *account == payer).unwrap();
        let token: Address = text(&message["permitted"], "token").parse().unwrap();
        house.tell(plain, &abi::mintCall { to: payer, amount: U256::from(1_000_000) }).await;
        if file.contains("no-allowance") {
            let asked = request(&capture, "/verify");
            let payment = Payment::pair(asked.terms, asked.presented).unwrap();
            let refused = house.refuses(&payment, Refusal::Permit2AllowanceRequired).await;
            assert_eq!(refused.payer, Some(payer.to_checksum(None)));
            continue;
        }
        if !file.contains("eip2612") {
            // As the payer had approved, or as the sponsored approval does.
            let approve = abi::approveCall { spender: PERMIT2, value: U256::MAX };
            house.transact(index, token, &approve).await;
        }
        if file.contains("upto-zero") {
            // Settled for good without a transaction.
            let payment = to_settle(&capture);
            assert_eq!(payment.charge(), Amount::ZERO);
            assert_eq!(house.verify(&payment).await.unwrap().amount, Amount::ZERO);
            assert!(capture["onchain"].as_array().unwrap().is_empty());
            continue;
        }
        assert_eq!(replay(&house, &capture).await, captured_call(&capture), "{file}");
        settled += 1;
    }
    assert_eq!(settled, 4);
}

#[tokio::test]
async fn a_captured_wallet_settles_on_the_embedded_chain() {
    let capture = capture("v2-exact-eip1271-wallet");
    let house = house_of(&capture, AssetTable::defaults(), Settings::default()).await;
    let payer: Address =
        text(&capture["eip712"][0]["typedData"]["message"], "from").parse().unwrap();
    house.refuses(&to_settle(&capture), Refusal::InvalidSignature).await;
    house.chain.set_code(payer, WALLET_1271.runtime_code.clone());
    house.chain.set_storage(payer, U256::ZERO, U256::from_be_slice(DEV_ACCOUNTS[1].as_slice()));
    house.refuses(&to_settle(&capture), Refusal::InsufficientFunds).await;
    house.fund(payer);
    let (target, _) = replay(&house, &capture).await;
    assert_eq!(target, captured_call(&capture).0);
}

#[tokio::test]
async fn a_captured_wallet_that_was_not_deployed_settles_by_the_captured_call_once_it_is() {
    let capture = capture("v2-exact-erc6492-undeployed");
    let signature = SignatureBytes::parse(text(&capture["eip712"][0], "signature")).unwrap();
    let (factory, _, inner) = unwrap(signature.expose());
    let payment = to_settle(&capture);
    let house = house_of(&capture, AssetTable::defaults(), Settings::default()).await;
    house.refuses(&payment, Refusal::FactoryNotAllowed).await;
    let settings = Settings { factories: vec![factory], ..Settings::default() };
    let house = house_of(&capture, AssetTable::defaults(), settings).await;
    let payer: Address =
        text(&capture["eip712"][0]["typedData"]["message"], "from").parse().unwrap();
    house.fund(payer);
    // There is no such factory here, and so no wallet.
    house.refuses(&payment, Refusal::DeploymentFailed).await;
    // A wallet of this kind takes its owner's signature with a type byte behind it.
    assert_eq!((inner.len(), inner[65]), (66, 1));
    house.chain.set_code(payer, zoo::GAS_WALLET.runtime_code.clone());
    assert_eq!(replay(&house, &capture).await, captured_call(&capture));
}
