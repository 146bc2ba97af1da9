//! The extensions by which a facilitator pays for what a payment needs first: the allowance of Permit2,
//! or the account's code.
//!
//! `eip2612GasSponsoring`: the payer signs an EIP-2612 permit for exactly the payment's amount, and
//! the proxy takes it along (spec `extensions/eip2612_gas_sponsoring`).
//!
//! `erc20ApprovalGasSponsoring`: for tokens without EIP-2612 the payer signs a whole transaction that
//! approves, and the facilitator broadcasts it and, where the payer lacks the gas, sends that first
//! (spec `extensions/erc20_gas_sponsoring`).
//!
//! `accountAdoption`, ours: a payment by ERC-7710 brings along what lets the facilitator have the
//! payer's account adopt its code in the payment's own transaction.

use alloy::consensus::{Signed, Transaction as _, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Decodable2718 as _;
use alloy::eips::eip7702::SignedAuthorization;
use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::sol_types::SolCall as _;
use pay402_core::error::Malformed;
use pay402_core::{Presented, Refusal, Refused};
use serde_json::{Map, Value, json};

use crate::contracts::Erc20;
use crate::fields::{Fields, texts};
use crate::signature::{Ecdsa, SignatureBytes};
use crate::typed_data::{PERMIT2, PermitTransfer, TokenPermit};

/// The extension's name on the wire.
pub(crate) const EIP2612_GAS_SPONSORING: &str = "eip2612GasSponsoring";
/// The name of the other extension on the wire.
pub(crate) const ERC20_APPROVAL_GAS_SPONSORING: &str = "erc20ApprovalGasSponsoring";
/// The name of the extension by which a payment brings its account's adoption along: ours.
pub(crate) const ACCOUNT_ADOPTION: &str = "accountAdoption";
/// The version of the extensions' form.
const VERSION: &str = "1";
/// Longest signed approval that is read, in bytes; one has about 180.
const APPROVAL_BYTES_MAX: usize = 1024;
/// Length of the call data of `approve`.
const APPROVE_BYTES: usize = 68;

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
    from: Address,
    asset: Address,
    spender: Address,
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
    asset: Address,
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

/// An approval of Permit2 that the payer signed as a whole transaction. `Debug` hides its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SignedApproval {
    pub(crate) raw: SignatureBytes,
    pub(crate) hash: B256,
    pub(crate) nonce: u64,
    pub(crate) gas_limit: u64,
    /// Highest fee per gas, in wei.
    pub(crate) max_fee: u128,
    /// What of it goes to the block's maker at most, in wei.
    pub(crate) tip: u128,
    /// What it lets Permit2 move.
    pub(crate) amount: U256,
    pub(crate) chain_id: Option<u64>,
    pub(crate) wei: U256,
    pub(crate) is_plain: bool,
}

/// The approval that a payment by `permit` brings along; `None` when it brings none.
///
/// # Errors
/// The refusal of an approval that is not for this payment, in the order of the protocol.
pub(crate) fn approval(
    presented: &Presented,
    permit: &PermitTransfer,
) -> Result<Option<SignedApproval>, Refused> {
    let Some(info) = info(presented, ERC20_APPROVAL_GAS_SPONSORING) else { return Ok(None) };
    // What the server advertises has no transaction; a client that adds none asks for nothing.
    if !info.contains_key("signedTransaction") {
        return Ok(None);
    }
    let payer = permit.from.to_checksum(None);
    let refuse = |refusal: Refusal| Refused::from(refusal).by(payer.clone());
    let read = ApprovalInfo::parse(info).map_err(|error| {
        Refused::new(Refusal::ApprovalForm, error.to_string()).by(payer.clone())
    })?;
    if read.from != permit.from {
        return Err(refuse(Refusal::ApprovalFromMismatch));
    }
    if read.asset != permit.token {
        return Err(refuse(Refusal::ApprovalAssetMismatch));
    }
    if read.spender != PERMIT2 {
        return Err(refuse(Refusal::ApprovalSpenderMismatch));
    }
    let mut rest = read.raw.expose();
    let signed = match TxEnvelope::decode_2718(&mut rest) {
        Ok(TxEnvelope::Eip1559(signed)) if rest.is_empty() => signed,
        _ => return Err(refuse(Refusal::ApprovalUnreadable)),
    };
    read_approval(&signed, permit, read.raw).map(Some).map_err(refuse)
}

fn read_approval(
    signed: &Signed<TxEip1559>,
    permit: &PermitTransfer,
    raw: SignatureBytes,
) -> Result<SignedApproval, Refusal> {
    let transaction = signed.tx();
    if transaction.to.to() != Some(&permit.token) {
        return Err(Refusal::ApprovalWrongTarget);
    }
    if !transaction.input.starts_with(&Erc20::approveCall::SELECTOR) {
        return Err(Refusal::ApprovalWrongSelector);
    }
    let approve = Erc20::approveCall::abi_decode_validate(&transaction.input)
        .ok()
        .filter(|_| transaction.input.len() == APPROVE_BYTES)
        .ok_or(Refusal::ApprovalInvalidCalldata)?;
    if approve.spender != PERMIT2 {
        return Err(Refusal::ApprovalWrongSpender);
    }
    // Chains take the low s only (EIP-2).
    let signer = signed.recover_signer().ok().filter(|_| Ecdsa::from(*signed.signature()).is_low());
    let signer = signer.ok_or(Refusal::ApprovalInvalidSignature)?;
    if signer != permit.from {
        return Err(Refusal::ApprovalSignerMismatch);
    }
    Ok(SignedApproval {
        raw,
        hash: *signed.hash(),
        nonce: transaction.nonce,
        gas_limit: transaction.gas_limit,
        max_fee: transaction.max_fee_per_gas,
        tip: transaction.max_priority_fee_per_gas,
        amount: approve.value,
        chain_id: transaction.chain_id(),
        wei: transaction.value,
        is_plain: transaction.access_list.is_empty(),
    })
}

struct ApprovalInfo {
    from: Address,
    asset: Address,
    spender: Address,
    raw: SignatureBytes,
}

impl ApprovalInfo {
    fn parse(info: &Map<String, Value>) -> Result<Self, Malformed> {
        let fields = Fields::new(info, format!("extensions.{ERC20_APPROVAL_GAS_SPONSORING}.info"));
        // What is approved is in the transaction; this only has to have the form.
        fields.number("amount")?;
        fields.text("version")?;
        Ok(Self {
            from: fields.address("from")?,
            asset: fields.address("asset")?,
            spender: fields.address("spender")?,
            raw: SignatureBytes::new(
                fields.bytes("signedTransaction", APPROVAL_BYTES_MAX)?.to_vec(),
            ),
        })
    }
}

/// What a payer adds to the extension's `info`: `raw` approves `amount` of `asset`.
pub(crate) fn approval_info(
    from: Address,
    asset: Address,
    amount: U256,
    raw: &[u8],
) -> Map<String, Value> {
    texts([
        ("from", from.to_checksum(None)),
        ("asset", asset.to_checksum(None)),
        ("spender", PERMIT2.to_checksum(None)),
        ("amount", amount.to_string()),
        ("signedTransaction", alloy::hex::encode_prefixed(raw)),
        ("version", VERSION.to_owned()),
    ])
}

/// What a resource server advertises in its 402.
pub(crate) fn approval_offer() -> Value {
    let text = |pattern: &str, what: &str| json!({ "type": "string", "pattern": pattern, "description": what });
    let (address, number) = ("^0x[a-fA-F0-9]{40}$", "^[0-9]+$");
    json!({
        "info": {
            "description": "The facilitator broadcasts a signed approval of Permit2, and sends the \
                            payer the gas that it lacks, once.",
            "version": VERSION,
        },
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "from": text(address, "The payer."),
                "asset": text(address, "The token."),
                "spender": text(address, "Permit2."),
                "amount": text(number, "The amount that is approved: at least the payment's."),
                "signedTransaction": text(
                    "^0x[a-fA-F0-9]+$",
                    "An EIP-1559 transaction that calls approve(Permit2, amount) and nothing else.",
                ),
                "version": text("^[0-9]+(\\.[0-9]+)*$", "The version of this form."),
            },
            "required": ["from", "asset", "spender", "amount", "signedTransaction", "version"],
        },
    })
}

/// What a payer adds to the extension's `info`: see `POST /account` for what both are.
pub(crate) fn adoption_info(
    authorization: &SignedAuthorization,
    call: &Bytes,
) -> Map<String, Value> {
    let mut info = Map::new();
    info.insert("authorization".to_owned(), authorization_json(authorization));
    if !call.is_empty() {
        info.insert("call".to_owned(), json!(call));
    }
    info.insert("version".to_owned(), VERSION.into());
    info
}

/// An authorization as a facilitator reads it: `r` and `s` are words of 32 bytes, never shorter.
pub(crate) fn authorization_json(signed: &SignedAuthorization) -> Value {
    json!({
        "chainId": signed.chain_id,
        "address": signed.address,
        "nonce": U64::from(signed.nonce),
        "yParity": U64::from(signed.y_parity()),
        "r": B256::from(signed.r()),
        "s": B256::from(signed.s()),
    })
}

/// What a resource server advertises in its 402.
pub(crate) fn adoption_offer() -> Value {
    json!({
        "info": {
            "description": "The facilitator has the payer's account adopt its code (EIP-7702) and \
                            register the key that pays, in the payment's own transaction.",
            "version": VERSION,
        },
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "authorization": {
                    "type": "object",
                    "description": "The account's EIP-7702 authorization: chainId, address, nonce, \
                                    yParity, r, s.",
                },
                "call": {
                    "type": "string",
                    "pattern": "^0x[a-fA-F0-9]*$",
                    "description": "Call data of registerSessions with the root's signature.",
                },
                "version": {
                    "type": "string",
                    "pattern": "^[0-9]+(\\.[0-9]+)*$",
                    "description": "The version of this form.",
                },
            },
            "required": ["authorization", "version"],
        },
    })
}

/// What the payer said in an extension's `info`.
pub(crate) fn info<'a>(
    presented: &'a Presented,
    extension: &str,
) -> Option<&'a Map<String, Value>> {
    presented.extensions.get(extension)?.get("info")?.as_object()
}
