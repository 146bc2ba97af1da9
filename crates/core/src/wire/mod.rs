//! The JSON of both protocol versions, to and from the one shape of [`crate::payment`].
//!
//! Decoding is strict and bounded: [`json::parse`] refuses duplicate keys and deep nesting, every
//! field is checked by name, and what is unknown is kept. Together with [`crate::transport`] this
//! is the only place that branches on a version.

pub mod account;
pub mod json;
pub mod stored;
pub mod v1;
pub mod v2;

use serde_json::{Map, Value};

use crate::error::Malformed;
use crate::facilitator::{Kind, Settled, Settlement, Supported, Verdict};
use crate::payment::{PaymentRequired, Presented, Requirements};
use crate::refusal::Reason;
use crate::resource::ResourceInfo;
use crate::{Amount, NetworkId, Payment, Refusal, Refused, Scheme, WireVersion};
use json::Fields;

/// Largest JSON message that is decoded, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Most entries of `accepts` that are read.
pub const ACCEPTS_MAX: usize = 64;

impl WireVersion {
    /// The version that everything is offered in; the others are offered beside it.
    pub const CURRENT: Self = Self::V2;
    /// Every version, the current one first.
    pub const ALL: [Self; 2] = [Self::V2, Self::V1];

    /// The number in `x402Version`.
    pub const fn number(self) -> u64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// Whether this version has words for `scheme`.
    pub fn has_scheme(self, scheme: &Scheme) -> bool {
        match self {
            Self::V1 => *scheme == Scheme::EXACT,
            Self::V2 => true,
        }
    }

    /// How this version writes a network.
    pub fn network_name(self, network: &NetworkId) -> String {
        match self {
            Self::V1 => network.v1_name().unwrap_or(network.as_str()).to_owned(),
            Self::V2 => network.as_str().to_owned(),
        }
    }

    fn read(fields: &mut Fields) -> Result<Self, Malformed> {
        match fields.u64("x402Version")? {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            _ => Err(Malformed::new(fields.path("x402Version"), "must be 1 or 2")),
        }
    }

    fn read_network(self, fields: &mut Fields) -> Result<NetworkId, Malformed> {
        let text = fields.text("network")?;
        let (network, form) = match self {
            Self::V1 => (
                NetworkId::parse_any(&text).ok(),
                "must be a network name such as base-sepolia, or a CAIP-2 id",
            ),
            Self::V2 => (NetworkId::parse(&text).ok(), "must be a CAIP-2 id such as eip155:8453"),
        };
        network.ok_or_else(|| Malformed::new(fields.path("network"), form))
    }
}

/// Decodes a `PaymentRequired` of either version.
///
/// # Errors
/// The field that is wrong. Entries of `accepts` that cannot be read are left out, so that an
/// offer for a network of the future does not hide one that can be paid.
pub fn decode_payment_required(bytes: &[u8]) -> Result<PaymentRequired, Malformed> {
    let mut fields = Fields::root(json::parse(bytes)?, "")?;
    match WireVersion::read(&mut fields)? {
        WireVersion::V1 => v1::read_payment_required(fields),
        WireVersion::V2 => v2::read_payment_required(fields),
    }
}

/// Encodes a `PaymentRequired` in the version it carries.
pub fn encode_payment_required(required: &PaymentRequired) -> Value {
    match required.version {
        WireVersion::V1 => v1::write_payment_required(required),
        WireVersion::V2 => v2::write_payment_required(required),
    }
}

/// Decodes a `PaymentPayload` of either version.
///
/// # Errors
/// The field that is wrong.
pub fn decode_presented(bytes: &[u8]) -> Result<Presented, Malformed> {
    read_presented(Fields::root(json::parse(bytes)?, "")?)
}

fn read_presented(mut fields: Fields) -> Result<Presented, Malformed> {
    match WireVersion::read(&mut fields)? {
        WireVersion::V1 => v1::read_presented(fields),
        WireVersion::V2 => v2::read_presented(fields),
    }
}

/// Encodes a `PaymentPayload` in the version it carries.
pub fn encode_presented(presented: &Presented) -> Value {
    match presented.version {
        WireVersion::V1 => v1::write_presented(presented),
        WireVersion::V2 => v2::write_presented(presented),
    }
}

/// A decoded body of `POST /verify` or `/settle`.
#[derive(Clone, Debug)]
pub struct FacilitatorRequest {
    /// The version of the request, and so of the reply.
    pub version: WireVersion,
    /// What the client presented.
    pub presented: Presented,
    /// The server's own terms. To settle, their amount is the charge: see
    /// [`Payment::pair_to_settle`].
    pub terms: Requirements,
}

/// Decodes the body of `POST /verify` or `/settle` (spec v2 §7).
///
/// # Errors
/// The field that is wrong.
pub fn decode_facilitator_request(bytes: &[u8]) -> Result<FacilitatorRequest, Malformed> {
    let mut fields = Fields::root(json::parse(bytes)?, "")?;
    let presented = fields.object("paymentPayload")?;
    let mut terms = fields.object("paymentRequirements")?;
    // Early clients of the API leave the outer version out; the payload's then counts.
    let version = match fields.has("x402Version") {
        true => Some(WireVersion::read(&mut fields)?),
        false => None,
    };
    let presented = read_presented(presented)?;
    let version = version.unwrap_or(presented.version);
    if version != presented.version {
        return Err(Malformed::new(
            "x402Version",
            "must be the version of paymentPayload.x402Version",
        ));
    }
    let terms = read_requirements(version, &mut terms)?;
    Ok(FacilitatorRequest { version, presented, terms })
}

/// What a facilitator is asked to do with a payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// `POST /verify`: the requirements say the ceiling.
    Verify,
    /// `POST /settle`: the requirements say the charge.
    Settle,
}

/// Encodes a body for an endpoint of a facilitator.
pub fn encode_facilitator_request(payment: &Payment, endpoint: Endpoint) -> Value {
    let version = payment.presented().version;
    let amount = match endpoint {
        Endpoint::Verify => payment.terms().amount,
        Endpoint::Settle => payment.charge(),
    };
    let requirements = Requirements { amount, ..payment.terms().clone() };
    let mut body = Map::new();
    body.insert("x402Version".into(), version.number().into());
    body.insert("paymentPayload".into(), encode_presented(payment.presented()));
    body.insert("paymentRequirements".into(), write_requirements(version, &requirements));
    Value::Object(body)
}

/// `terms` as a facilitator of `version` expects them: version 1 says the resource in them.
pub fn terms_about(
    version: WireVersion,
    terms: Requirements,
    resource: &ResourceInfo,
) -> Requirements {
    match version {
        WireVersion::V1 => v1::about(terms, resource),
        WireVersion::V2 => terms,
    }
}

/// Encodes one entry of `accepts` as `version` writes it.
pub fn write_requirements(version: WireVersion, requirements: &Requirements) -> Value {
    match version {
        WireVersion::V1 => v1::write_requirements(requirements),
        WireVersion::V2 => v2::write_requirements(requirements),
    }
}

fn read_requirements(version: WireVersion, fields: &mut Fields) -> Result<Requirements, Malformed> {
    let amount = match version {
        WireVersion::V1 => "maxAmountRequired",
        WireVersion::V2 => "amount",
    };
    let requirements = Requirements {
        scheme: Scheme::new(&fields.text("scheme")?),
        network: version.read_network(fields)?,
        amount: fields.amount(amount)?,
        asset: fields.text("asset")?,
        pay_to: fields.text("payTo")?,
        max_timeout_seconds: fields.u64("maxTimeoutSeconds")?,
        extra: fields.map_or_null("extra")?,
        other: fields.rest(),
    };
    Ok(requirements)
}

fn requirements_map(
    version: WireVersion,
    amount_key: &str,
    requirements: &Requirements,
) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("scheme".into(), requirements.scheme.as_str().into());
    map.insert("network".into(), version.network_name(&requirements.network).into());
    map.insert(amount_key.into(), requirements.amount.to_string().into());
    map.insert("asset".into(), requirements.asset.clone().into());
    map.insert("payTo".into(), requirements.pay_to.clone().into());
    map.insert("maxTimeoutSeconds".into(), requirements.max_timeout_seconds.into());
    map
}

fn read_accepts(version: WireVersion, fields: &mut Fields) -> Result<Vec<Requirements>, Malformed> {
    let entries = fields.array("accepts")?;
    if entries.len() > ACCEPTS_MAX {
        let problem = format!("has more than {ACCEPTS_MAX} entries");
        return Err(Malformed::new(fields.path("accepts"), problem));
    }
    let mut accepts = Vec::with_capacity(entries.len());
    let mut first_error = None;
    for (index, entry) in entries.into_iter().enumerate() {
        let path = fields.path(&format!("accepts[{index}]"));
        match Fields::root(entry, &path).and_then(|mut f| read_requirements(version, &mut f)) {
            Ok(requirements) => accepts.push(requirements),
            Err(error) => _ = first_error.get_or_insert(error),
        }
    }
    match first_error {
        Some(error) if accepts.is_empty() => Err(error),
        _ => Ok(accepts),
    }
}

/// Encodes the reply to `/verify`.
pub fn encode_verdict(verdict: &Verdict) -> Value {
    let mut map = Map::new();
    match verdict {
        Verdict::Valid { payer } => {
            map.insert("isValid".into(), true.into());
            map.insert("payer".into(), payer.clone().into());
        }
        Verdict::Invalid(refused) => {
            map.insert("isValid".into(), false.into());
            map.insert("invalidReason".into(), refused.reason.code().into());
            map.insert("invalidMessage".into(), refused.message.clone().into());
            if let Some(payer) = &refused.payer {
                map.insert("payer".into(), payer.clone().into());
            }
        }
    }
    Value::Object(map)
}

/// Decodes the reply to `/verify`.
///
/// # Errors
/// The field that is wrong. Only the boolean `true` is valid.
pub fn decode_verdict(bytes: &[u8]) -> Result<Verdict, Malformed> {
    let mut fields = Fields::root(json::parse(bytes)?, "")?;
    let payer = fields.text_or_null("payer")?;
    if fields.bool("isValid")? {
        return Ok(Verdict::Valid { payer: payer.unwrap_or_default() });
    }
    let code = fields.text_or_null("invalidReason")?;
    let message = fields.text_or_null("invalidMessage")?;
    Ok(Verdict::Invalid(read_refused(code, message, payer, None)))
}

/// Encodes the outcome of a settlement as `version` writes it (spec v2 §5.3, `SettleResponse`).
///
/// A refusal or a pending outcome is `success: false`; whether the money may have moved stands in
/// `errorReason` and `transaction`.
pub fn encode_settled(version: WireVersion, network: &NetworkId, settled: &Settled) -> Value {
    let mut map = Map::new();
    let name = version.network_name(network);
    let mut failure = |reason: &str, message: &str, transaction: &str, payer: Option<&str>| {
        map.insert("success".into(), false.into());
        map.insert("errorReason".into(), reason.into());
        map.insert("errorMessage".into(), message.into());
        map.insert("transaction".into(), transaction.into());
        map.insert("network".into(), name.clone().into());
        if let Some(payer) = payer {
            map.insert("payer".into(), payer.into());
        }
    };
    match settled {
        Settled::Done(settlement) => {
            map.insert("success".into(), true.into());
            map.insert("transaction".into(), settlement.transaction.clone().into());
            map.insert("network".into(), name.into());
            if let Some(payer) = &settlement.payer {
                map.insert("payer".into(), payer.clone().into());
            }
            if let Some(charged) = settlement.charged {
                map.insert("amount".into(), charged.to_string().into());
            }
        }
        Settled::Refused(refused) => failure(
            refused.reason.code(),
            &refused.message,
            refused.transaction.as_deref().unwrap_or(""),
            refused.payer.as_deref(),
        ),
        Settled::Pending { transaction } => failure(
            Refusal::SettlementPending.code(),
            Refusal::SettlementPending.describe(),
            transaction.as_deref().unwrap_or(""),
            None,
        ),
    }
    Value::Object(map)
}

/// Decodes a `SettleResponse` about a payment of `terms`.
///
/// # Errors
/// The field that is wrong: only the boolean `true` with the right network is a success, and one
/// without a transaction is none, unless nothing was charged or the scheme charges off chain.
pub fn decode_settled(bytes: &[u8], terms: &Requirements) -> Result<Settled, Malformed> {
    let expected = &terms.network;
    let mut fields = Fields::root(json::parse(bytes)?, "")?;
    let payer = fields.text_or_null("payer")?;
    let transaction = fields.text_or_null("transaction")?.filter(|text| !text.is_empty());
    if fields.bool("success")? {
        let network = fields.text("network")?;
        if NetworkId::parse_any(&network).ok().as_ref() != Some(expected) {
            return Err(Malformed::new("network", format!("must be {expected}")));
        }
        let charged = match fields.text_or_null("amount")?.as_deref() {
            None | Some("") => None,
            Some(text) => Some(
                Amount::parse(text).map_err(|error| Malformed::new("amount", error.to_string()))?,
            ),
        };
        let transaction = match transaction {
            Some(transaction) => transaction,
            None if charged == Some(Amount::ZERO) || terms.scheme.charges_off_chain() => {
                String::new()
            }
            None => return Err(Malformed::new("transaction", "must be the hash of a success")),
        };
        return Ok(Settled::Done(Settlement {
            transaction,
            network: expected.clone(),
            payer,
            charged,
        }));
    }
    let code = fields.text_or_null("errorReason")?;
    let message = fields.text_or_null("errorMessage")?;
    let refused = read_refused(code, message, payer, transaction);
    if refused.reason.is(Refusal::SettlementPending) {
        return Ok(Settled::Pending { transaction: refused.transaction });
    }
    Ok(Settled::Refused(refused))
}

fn read_refused(
    code: Option<String>,
    message: Option<String>,
    payer: Option<String>,
    transaction: Option<String>,
) -> Refused {
    let reason = Reason::parse(code.as_deref().unwrap_or("unspecified"));
    let message = message.unwrap_or_else(|| match &reason {
        Reason::Known(refusal) => refusal.describe().to_owned(),
        Reason::Foreign(code) => format!("refused with {code}"),
    });
    Refused { reason, message, payer, transaction }
}

/// Encodes the reply to `GET /supported`.
pub fn encode_supported(supported: &Supported) -> Value {
    let kinds = supported.kinds.iter().map(|kind| {
        let mut map = Map::new();
        map.insert("x402Version".into(), kind.version.number().into());
        map.insert("scheme".into(), kind.scheme.as_str().into());
        map.insert("network".into(), kind.version.network_name(&kind.network).into());
        if !kind.extra.is_empty() {
            map.insert("extra".into(), Value::Object(kind.extra.clone()));
        }
        Value::Object(map)
    });
    let mut map = Map::new();
    map.insert("kinds".into(), kinds.collect());
    map.insert("extensions".into(), supported.extensions.clone().into());
    map.insert("signers".into(), Value::Object(supported.signers.clone()));
    Value::Object(map)
}

/// Decodes the reply to `GET /supported`. Kinds of unknown versions or networks are left out.
///
/// # Errors
/// When it is not such a reply at all.
pub fn decode_supported(bytes: &[u8]) -> Result<Supported, Malformed> {
    let mut fields = Fields::root(json::parse(bytes)?, "")?;
    let read_kind = |value: Value| -> Result<Kind, Malformed> {
        let mut kind = Fields::root(value, "kinds")?;
        let version = WireVersion::read(&mut kind)?;
        let network = version.read_network(&mut kind)?;
        let scheme = Scheme::new(&kind.text("scheme")?);
        Ok(Kind { version, scheme, network, extra: kind.map_or_null("extra")? })
    };
    let kinds = fields.array("kinds")?.into_iter().filter_map(|kind| read_kind(kind).ok());
    let kinds = kinds.collect();
    let extensions = match fields.has("extensions") {
        true => fields.array("extensions")?,
        false => Vec::new(),
    };
    let extensions = extensions.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(Supported { kinds, extensions, signers: fields.map_or_null("signers")? })
}
