//! The least that any server must do to verify a payment of an account without code: read the JSON,
//! hash the authorization (EIP-712), recover its signer with libsecp256k1. Asks no chain.

use std::net::SocketAddr;
use std::sync::Arc;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol_types::{Eip712Domain, SolStruct as _, eip712_domain};
use axum::routing::post;
use axum::{Json, Router};
use pay402::stack::CHAIN_ID;
use pay402_devchain::genesis::{USDC_ADDRESS, USDC_NAME, USDC_VERSION};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, Secp256k1, VerifyOnly};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Result;

/// Makes this program the server.
pub(crate) const ARGUMENT: &str = "--limit-server";
/// The recovery id in the 65th byte.
const PARITY_OFFSET: u8 = 27;

alloy::sol! {
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    payment_payload: PaymentPayload,
}

#[derive(Deserialize)]
struct PaymentPayload {
    payload: Payload,
}

#[derive(Deserialize)]
struct Payload {
    signature: String,
    authorization: Authorization,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    from: Address,
    to: Address,
    value: String,
    valid_after: String,
    valid_before: String,
    nonce: B256,
}

struct Limit {
    domain: B256,
    curve: Secp256k1<VerifyOnly>,
}

/// Serves on `address` until the process is ended.
pub(crate) async fn serve(address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let domain: Eip712Domain = eip712_domain! {
        name: USDC_NAME,
        version: USDC_VERSION,
        chain_id: CHAIN_ID,
        verifying_contract: USDC_ADDRESS,
    };
    let limit =
        Arc::new(Limit { domain: domain.separator(), curve: Secp256k1::verification_only() });
    let verify = async move |Json(body): Json<Body>| {
        let authorization = &body.payment_payload.payload.authorization;
        let payer = limit.recover(&body.payment_payload.payload);
        let is_valid = payer == Some(authorization.from);
        Json::<Value>(json!({"isValid": is_valid, "payer": authorization.from}))
    };
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, Router::new().route("/verify", post(verify))).await?;
    Ok(())
}

impl Limit {
    fn recover(&self, payload: &Payload) -> Option<Address> {
        let Authorization { from, to, value, valid_after, valid_before, nonce } =
            &payload.authorization;
        let authorization = TransferWithAuthorization {
            from: *from,
            to: *to,
            value: U256::from_str_radix(value, 10).ok()?,
            validAfter: U256::from_str_radix(valid_after, 10).ok()?,
            validBefore: U256::from_str_radix(valid_before, 10).ok()?,
            nonce: *nonce,
        };
        let mut message = [0_u8; 66];
        message[..2].copy_from_slice(&[0x19, 0x01]);
        message[2..34].copy_from_slice(self.domain.as_slice());
        message[34..].copy_from_slice(authorization.eip712_hash_struct().as_slice());
        let digest = keccak256(message);
        let bytes = alloy::hex::decode(&payload.signature).ok()?;
        let (signature, parity) = bytes.split_at_checked(64)?;
        let parity = parity.first()?.checked_sub(PARITY_OFFSET)?;
        let id = RecoveryId::try_from(i32::from(parity)).ok()?;
        let signature = RecoverableSignature::from_compact(signature, id).ok()?;
        let key = self.curve.recover_ecdsa(Message::from_digest(digest.0), &signature).ok()?;
        let hash = keccak256(&key.serialize_uncompressed()[1..]);
        Some(Address::from_slice(&hash[12..]))
    }
}
