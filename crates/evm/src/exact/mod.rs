//! Scheme `exact` with EIP-3009: a fixed amount, transferred as signed (spec
//! `schemes/exact/scheme_exact_evm.md`).
//!
//! Here: the payload's form and the checks that need no chain, shared by all three roles. What each
//! role does with them is in [`client`], [`server`] and [`facilitator`].

pub mod client;
pub mod facilitator;
pub mod server;

use alloy::primitives::{Address, B256, U256};
use pay402_core::asset::AssetId;
use pay402_core::error::Malformed;
use pay402_core::time::UnixTime;
use pay402_core::{
    Amount, Digest, NetworkId, Payment, PaymentKey, Presented, Refusal, Refused, Requirements,
    Scheme,
};
use serde_json::{Map, Value};

use crate::address::{canonical, parse_address, parse_payee};
use crate::assets::{Asset, AssetTable, TransferMethod};
use crate::signature::{Judgement, SignatureBytes};
use crate::typed_data::{Authorization, token_domain};

/// Shortest time that must remain before an authorization expires, in seconds. Networks with slow
/// blocks need more.
pub const SETTLEMENT_MARGIN_S_MIN: u64 = 6;

/// Longest time that an authorization may still be valid for, in seconds: a day, and ten minutes
/// for clocks that differ. While an authorization is valid nobody can say that it will not be used,
/// so one without an end could stay open for ever. Payers sign for the `maxTimeoutSeconds` that
/// they are asked for, minutes as a rule.
pub const AUTHORIZATION_LIFETIME_S_MAX: u64 = 24 * 60 * 60 + 10 * 60;

/// The `assetTransferMethod` of EIP-3009; what it is when it is absent.
const EIP3009: &str = "eip3009";

/// The scheme's part of a payment: `{signature, authorization}`. `Debug` hides the signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExactPayload {
    /// What was signed.
    pub authorization: Authorization,
    /// The signature as presented.
    pub signature: SignatureBytes,
}

impl ExactPayload {
    /// Reads `payload` strictly: decimal strings without any ornament, 32-byte nonce, addresses
    /// whose checksum holds.
    ///
    /// # Errors
    /// The field that is wrong, relative to the payment message.
    pub fn parse(payload: &Map<String, Value>) -> Result<Self, Malformed> {
        let field = |key: &str| format!("payload.{key}");
        let signature = text(payload, "signature", &field("signature"))?;
        let signature = SignatureBytes::parse(signature)
            .map_err(|error| Malformed::new(field("signature"), error.to_string()))?;
        let object = payload.get("authorization").ok_or_else(|| {
            Malformed::new(field("authorization"), "is missing; EIP-3009 payments need it")
        })?;
        let object = object
            .as_object()
            .ok_or_else(|| Malformed::new(field("authorization"), "must be an object"))?;
        Ok(Self { authorization: parse_authorization(object)?, signature })
    }

    /// Writes the payload as it goes on the wire.
    pub fn to_json(&self) -> Map<String, Value> {
        let Authorization { from, to, value, valid_after, valid_before, nonce } =
            self.authorization;
        let authorization = [
            ("from", from.to_checksum(None)),
            ("to", to.to_checksum(None)),
            ("value", value.to_string()),
            ("validAfter", valid_after.to_string()),
            ("validBefore", valid_before.to_string()),
            ("nonce", nonce.to_string()),
        ];
        let authorization: Map<String, Value> =
            authorization.into_iter().map(|(key, text)| (key.to_owned(), text.into())).collect();
        let signature = alloy::hex::encode_prefixed(self.signature.expose());
        Map::from_iter([
            ("signature".to_owned(), signature.into()),
            ("authorization".to_owned(), authorization.into()),
        ])
    }
}

fn parse_authorization(object: &Map<String, Value>) -> Result<Authorization, Malformed> {
    let path = |key: &str| format!("payload.authorization.{key}");
    let address = |key: &str| {
        parse_address(text(object, key, &path(key))?)
            .map_err(|error| Malformed::new(path(key), error.to_string()))
    };
    let number = |key: &str| {
        Amount::parse(text(object, key, &path(key))?)
            .map(Amount::to_u256)
            .map_err(|error| Malformed::new(path(key), error.to_string()))
    };
    let nonce = text(object, "nonce", &path("nonce"))?;
    let nonce = parse_nonce(nonce).ok_or_else(|| {
        Malformed::new(path("nonce"), "must be 0x and 64 hexadecimal digits (32 bytes)")
    })?;
    Ok(Authorization {
        from: address("from")?,
        to: address("to")?,
        value: number("value")?,
        valid_after: number("validAfter")?,
        valid_before: number("validBefore")?,
        nonce,
    })
}

fn parse_nonce(text: &str) -> Option<B256> {
    let digits = text.strip_prefix("0x")?;
    let form = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    form.then(|| digits.parse().ok()).flatten()
}

fn text<'a>(map: &'a Map<String, Value>, key: &str, path: &str) -> Result<&'a str, Malformed> {
    match map.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Malformed::new(path, "must be a string")),
        None => Err(Malformed::new(path, "is missing; it must be a string")),
    }
}

/// Whether this is a payment that this module reads: scheme `exact` on an EVM network.
fn is_ours(scheme: &Scheme, network: &NetworkId) -> bool {
    *scheme == Scheme::EXACT && network.evm_chain_id().is_some()
}

/// Checks the form of a payload, for the edges that answer 400. Other schemes' and other network
/// families' payments pass unread: they are refused elsewhere.
///
/// # Errors
/// The field that is wrong, relative to the payment message.
pub fn check_form(presented: &Presented) -> Result<(), Malformed> {
    if !is_ours(&presented.scheme, &presented.network) {
        return Ok(());
    }
    if let Some(accepted) = &presented.accepted {
        check_terms_form(accepted).map_err(|error| error.within("accepted"))?;
    }
    ExactPayload::parse(&presented.payload).map(drop)
}

/// Checks the form of requirements, for the edges that answer 400.
///
/// # Errors
/// The field that is wrong, relative to the requirements.
pub fn check_terms_form(terms: &Requirements) -> Result<(), Malformed> {
    if !is_ours(&terms.scheme, &terms.network) {
        return Ok(());
    }
    parse_address(&terms.asset).map_err(|error| Malformed::new("asset", error.to_string()))?;
    parse_payee(&terms.pay_to).map_err(|error| Malformed::new("payTo", error.to_string()))?;
    Ok(())
}

/// A payment that was read against our own terms and our own asset table.
#[derive(Clone, Debug)]
pub(crate) struct ReadPayment {
    pub(crate) payload: ExactPayload,
    pub(crate) token: Address,
    pub(crate) digest: B256,
    pub(crate) judgement: Judgement,
    pub(crate) key: PaymentKey,
}

impl ReadPayment {
    /// Reads `payment` in the order of the protocol: scheme, network, terms, form, recipient,
    /// value. Times and what only the chain knows are left to the caller.
    ///
    /// # Errors
    /// The refusal to answer with; it names the payer once that is known.
    pub(crate) fn read(payment: &Payment, assets: &AssetTable) -> Result<Self, Refused> {
        let terms = payment.terms();
        if terms.scheme != Scheme::EXACT {
            return Err(Refusal::UnsupportedScheme.into());
        }
        let chain_id = terms.network.evm_chain_id().ok_or(Refusal::InvalidNetwork)?;
        let (asset, pay_to) = read_terms(terms, assets)?;
        let payload = ExactPayload::parse(&payment.presented().payload)
            .map_err(|error| Refused::new(Refusal::InvalidPayload, error.to_string()))?;
        let authorization = &payload.authorization;
        let payer = authorization.from;
        let by_payer = |refusal: Refusal| Refused::from(refusal).by(payer.to_checksum(None));
        if authorization.to != pay_to {
            return Err(by_payer(Refusal::RecipientMismatch));
        }
        if authorization.value != terms.amount.to_u256() {
            return Err(by_payer(Refusal::ValueMismatch));
        }
        let token = asset.token();
        let digest = authorization.digest(&token_domain(&asset.info, chain_id, token));
        let judgement = payload.signature.judge(&digest, &payer);
        let key = payment_key(&terms.network, &token, authorization);
        Ok(Self { token, digest, judgement, key, payload })
    }

    /// Refuses what no account may sign with: a signature of the payer's that somebody re-encoded.
    pub(crate) fn refuse_malleated(&self) -> Result<(), Refused> {
        if self.judgement == Judgement::Malleated {
            let message = "the signature has a high s; present it with the low one (EIP-2)";
            return Err(Refused::new(Refusal::InvalidSignature, message).by(self.payer()));
        }
        Ok(())
    }

    /// Checks that `now` lies strictly within the authorization's times, with `margin_s` seconds
    /// left for settling and at most [`AUTHORIZATION_LIFETIME_S_MAX`]. As strict at both ends as the
    /// tokens are.
    pub(crate) fn check_times(&self, now: UnixTime, margin_s: u64) -> Result<(), Refused> {
        let Authorization { valid_after, valid_before, .. } = self.payload.authorization;
        if U256::from(now.0) <= valid_after {
            return Err(Refused::from(Refusal::ValidAfter).by(self.payer()));
        }
        if U256::from(now.plus_s(margin_s).0) >= valid_before {
            return Err(Refused::from(Refusal::ValidBefore).by(self.payer()));
        }
        if valid_before > U256::from(now.plus_s(AUTHORIZATION_LIFETIME_S_MAX).0) {
            let message = format!(
                "validBefore is more than {AUTHORIZATION_LIFETIME_S_MAX} s ahead; sign an \
                 authorization that ends maxTimeoutSeconds from now"
            );
            return Err(Refused::new(Refusal::ValidBefore, message).by(self.payer()));
        }
        Ok(())
    }

    /// Who pays, as spelled on the wire.
    pub(crate) fn payer(&self) -> String {
        self.payload.authorization.from.to_checksum(None)
    }

    /// Everything that identifies this very payment. The signature's bytes are no part of it: the
    /// same authorization can be signed in more than one encoding.
    pub(crate) fn fingerprint(&self, terms: &Requirements) -> Digest {
        let authorization = &self.payload.authorization;
        Digest::of(&[
            terms.scheme.as_str().as_bytes(),
            self.key.as_str().as_bytes(),
            authorization.struct_hash().as_slice(),
            self.digest.as_slice(),
            &terms.max_timeout_seconds.to_be_bytes(),
        ])
    }
}

/// The key of an authorization: network, token, payer, nonce, all in lower case.
pub fn payment_key(
    network: &NetworkId,
    token: &Address,
    authorization: &Authorization,
) -> PaymentKey {
    let (token, payer) = (canonical(token), canonical(&authorization.from));
    PaymentKey::new(network, &token, &payer, &authorization.nonce.to_string())
}

/// Checks terms against our own table: asset, transfer method, EIP-712 domain, payee, amount.
fn read_terms<'a>(
    terms: &Requirements,
    assets: &'a AssetTable,
) -> Result<(&'a Asset, Address), Refused> {
    let bad = |field: &str, problem: String| {
        Refused::new(Refusal::InvalidPaymentRequirements, format!("{field} {problem}"))
    };
    parse_address(&terms.asset).map_err(|error| bad("asset", error.to_string()))?;
    let pay_to = parse_payee(&terms.pay_to).map_err(|error| bad("payTo", error.to_string()))?;
    if terms.amount.is_zero() {
        return Err(bad("amount", "must not be zero".into()));
    }
    let asset = find_payable(terms, assets).ok_or(Refusal::AssetNotAllowed)?;
    if !is_eip3009(terms) {
        let message = "only the asset transfer method eip3009 is settled here";
        return Err(Refused::new(Refusal::UnsupportedScheme, message));
    }
    match domain_of(terms) {
        (None, _) | (_, None) => Err(Refusal::MissingEip712Domain.into()),
        (Some(name), Some(version))
            if name != asset.info.domain_name || version != asset.info.domain_version =>
        {
            Err(Refusal::Eip712DomainMismatch.into())
        }
        _ => Ok((asset, pay_to)),
    }
}

fn find_payable<'a>(terms: &Requirements, assets: &'a AssetTable) -> Option<&'a Asset> {
    let id = AssetId::new(terms.network.clone(), &terms.asset);
    assets.find(&id).filter(|asset| asset.method == TransferMethod::Eip3009)
}

fn is_eip3009(terms: &Requirements) -> bool {
    match terms.extra.get("assetTransferMethod") {
        None | Some(Value::Null) => true,
        Some(method) => method.as_str() == Some(EIP3009),
    }
}

/// The EIP-712 name and version that requirements claim.
fn domain_of(terms: &Requirements) -> (Option<&str>, Option<&str>) {
    (terms.extra_str("name"), terms.extra_str("version"))
}
