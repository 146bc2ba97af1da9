//! The extensions by which a facilitator pays for the allowance that Permit2 needs.
//!
//! `eip2612GasSponsoring`: the payer signs an EIP-2612 permit for exactly the payment's amount, and
//! the proxy takes it along (spec `extensions/eip2612_gas_sponsoring`).

use alloy::primitives::U256;
use pay402_core::error::Malformed;
use pay402_core::{Presented, Refusal, Refused};
use serde_json::{Map, Value, json};

use crate::fields::{Fields, texts};
use crate::signature::{Ecdsa, SignatureBytes};
use crate::typed_data::{PERMIT2, PermitTransfer, TokenPermit};

/// The extension's name on the wire.
pub(crate) const EIP2612_GAS_SPONSORING: &str = "eip2612GasSponsoring";
/// The version of the extension's form.
const VERSION: &str = "1";

/// An EIP-2612 permit with its signature. `Debug` hides the signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SignedTokenPermit {
    pub(crate) permit: TokenPermit,
    pub(crate) signature: Ecdsa,
}

/// The token permit that a payment by `permit` brings along; `None` when it brings none.
///
/// # Errors
/// The refusal of a permit that is not for this payment.
pub(crate) fn token_permit(
    presented: &Presented,
    permit: &PermitTransfer,
) -> Result<Option<SignedTokenPermit>, Refused> {
    let Some(info) = info(presented, EIP2612_GAS_SPONSORING) else { return Ok(None) };
    // What the server advertises has no signature; a client that adds none asks for nothing.
    if !info.contains_key("signature") {
        return Ok(None);
    }
    let payer = permit.from.to_checksum(None);
    let refuse = |refusal: Refusal| Err(Refused::from(refusal).by(payer.clone()));
    let read = TokenPermitInfo::parse(info).map_err(|error| {
        Refused::new(Refusal::TokenPermitForm, error.to_string()).by(payer.clone())
    })?;
    if read.from != permit.from {
        return refuse(Refusal::TokenPermitFromMismatch);
    }
    if read.asset != permit.token {
        return refuse(Refusal::TokenPermitAssetMismatch);
    }
    if read.spender != PERMIT2 {
        return refuse(Refusal::TokenPermitSpenderMismatch);
    }
    // The proxy wants it, and nobody should approve more.
    if read.amount != permit.permitted {
        return refuse(Refusal::TokenPermitAmountMismatch);
    }
    let Some(signature) = read.signature.ecdsa().filter(Ecdsa::is_low) else {
        let message = "the permit's signature must be 65 bytes: r, s (low), v";
        return Err(Refused::new(Refusal::TokenPermitForm, message).by(payer));
    };
    let permit = TokenPermit {
        owner: read.from,
        value: read.amount,
        nonce: read.nonce,
        deadline: read.deadline,
    };
    Ok(Some(SignedTokenPermit { permit, signature }))
}

struct TokenPermitInfo {
    from: alloy::primitives::Address,
    asset: alloy::primitives::Address,
    spender: alloy::primitives::Address,
    amount: U256,
    nonce: U256,
    deadline: U256,
    signature: SignatureBytes,
}

impl TokenPermitInfo {
    fn parse(info: &Map<String, Value>) -> Result<Self, Malformed> {
        let fields = Fields::new(info, format!("extensions.{EIP2612_GAS_SPONSORING}.info"));
        Ok(Self {
            from: fields.address("from")?,
            asset: fields.address("asset")?,
            spender: fields.address("spender")?,
            amount: fields.number("amount")?,
            nonce: fields.number("nonce")?,
            deadline: fields.number("deadline")?,
            signature: fields.signature("signature")?,
        })
    }
}

/// What a payer adds to the extension's `info`.
pub(crate) fn token_permit_info(
    permit: &TokenPermit,
    asset: alloy::primitives::Address,
    signature: Ecdsa,
) -> Map<String, Value> {
    texts([
        ("from", permit.owner.to_checksum(None)),
        ("asset", asset.to_checksum(None)),
        ("spender", PERMIT2.to_checksum(None)),
        ("amount", permit.value.to_string()),
        ("nonce", permit.nonce.to_string()),
        ("deadline", permit.deadline.to_string()),
        ("signature", signature.to_bytes().to_hex()),
        ("version", VERSION.to_owned()),
    ])
}

/// What a resource server advertises in its 402.
pub(crate) fn token_permit_offer() -> Value {
    let text = |pattern: &str, what: &str| json!({ "type": "string", "pattern": pattern, "description": what });
    let (address, number) = ("^0x[a-fA-F0-9]{40}$", "^[0-9]+$");
    json!({
        "info": {
            "description": "The facilitator submits an EIP-2612 permit for Permit2 and pays its gas.",
            "version": VERSION,
        },
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "from": text(address, "The payer."),
                "asset": text(address, "The token."),
                "spender": text(address, "Permit2."),
                "amount": text(number, "The amount that Permit2 may move: that of the payment."),
                "nonce": text(number, "The payer's next permit nonce at the token."),
                "deadline": text(number, "The last second at which the permit is valid."),
                "signature": text("^0x[a-fA-F0-9]+$", "65 bytes: r, s, v."),
                "version": text("^[0-9]+(\\.[0-9]+)*$", "The version of this form."),
            },
            "required": [
                "from", "asset", "spender", "amount", "nonce", "deadline", "signature", "version"
            ],
        },
    })
}

fn info<'a>(presented: &'a Presented, extension: &str) -> Option<&'a Map<String, Value>> {
    presented.extensions.get(extension)?.get("info")?.as_object()
}
