//! A payment read against our own terms and our own asset table: every check that needs no chain.
//!
//! Shared by the resource server and the facilitator, for every scheme and transfer method.

use alloy::primitives::{Address, B256, U256};
use pay402_core::asset::AssetId;
use pay402_core::error::Malformed;
use pay402_core::time::UnixTime;
use pay402_core::{
    Amount, Digest, NetworkId, Payment, PaymentKey, Presented, Refusal, Refused, Requirements,
    Scheme,
};
use serde_json::Value;

use crate::address::{checksummed, parse_address, parse_payee};
use crate::assets::{Asset, AssetTable, TransferMethod};
use crate::exact::{Eip3009Payload, Erc7710Payload};
use crate::mandate::{Delegation, Mandate};
use crate::network::Brought;
use crate::permit2::Permit2Payload;
use crate::signature::{Deployment, Judgement, SignatureBytes};
use crate::sponsor::{self, SignedApproval, SignedTokenPermit};
use crate::typed_data::{Authorization, PermitTransfer, signing_hash};

/// Shortest time that must remain before an authorization expires, in seconds. Networks with slow
/// blocks need more.
pub const SETTLEMENT_MARGIN_S_MIN: u64 = 6;

/// Longest time that an authorization may still be valid for, in seconds: a day, and ten minutes
/// for clocks that differ. While an authorization is valid nobody can say that it will not be used,
/// so one without an end could stay open for ever. Payers sign for the `maxTimeoutSeconds` that
/// they are asked for, minutes as a rule.
pub const AUTHORIZATION_LIFETIME_S_MAX: u64 = 24 * 60 * 60 + 10 * 60;

/// Whether this is a payment that this crate reads.
fn is_ours(scheme: &Scheme, network: &NetworkId) -> bool {
    (*scheme == Scheme::EXACT || *scheme == Scheme::UPTO) && network.evm_chain_id().is_some()
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
    let payload = &presented.payload;
    let scheme = &presented.scheme;
    let accepted = presented.accepted.as_ref().and_then(TransferMethod::of);
    match accepted.unwrap_or(TransferMethod::Eip3009) {
        TransferMethod::Permit2 => Permit2Payload::parse(payload, scheme).map(drop),
        TransferMethod::Erc7710 => Erc7710Payload::parse(payload).map(drop),
        TransferMethod::Eip3009 => Eip3009Payload::parse(payload).map(drop),
    }
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
    pub(crate) mandate: Mandate,
    /// The signature proper, or a delegation's context.
    pub(crate) signature: SignatureBytes,
    /// How the payer's account comes to be, when the signature says so.
    pub(crate) deployment: Option<Deployment>,
    /// The permit that lets Permit2 move the token, when the payer sent one along.
    pub(crate) token_permit: Option<SignedTokenPermit>,
    /// The approval of Permit2 that the payer signed as a transaction, where it is looked for.
    pub(crate) approval: Option<SignedApproval>,
    /// What the payer's account is to adopt first, where it is looked for.
    pub(crate) adoption: Option<Brought>,
    /// What is to move, in atomic units; zero for a metered payment that is to cost nothing.
    pub(crate) charge: U256,
    pub(crate) token: Address,
    /// The hash of what was agreed to, without the domain; a delegation's context.
    message: B256,
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
        if terms.scheme != Scheme::EXACT && terms.scheme != Scheme::UPTO {
            return Err(Refusal::UnsupportedScheme.into());
        }
        let chain_id = terms.network.evm_chain_id().ok_or(Refusal::InvalidNetwork)?;
        let Terms { asset, pay_to, method } = read_terms(terms, assets)?;
        let token = asset.token();
        let asked = Asked { pay_to, amount: terms.amount.to_u256(), token };
        let payload = &payment.presented().payload;
        let form = |error: Malformed| Refused::new(Refusal::InvalidPayload, error.to_string());
        let (mandate, signature, hashes) = match method {
            TransferMethod::Eip3009 => {
                let Eip3009Payload { authorization, signature } =
                    Eip3009Payload::parse(payload).map_err(form)?;
                asked.check_authorization(&authorization)?;
                let message = authorization.struct_hash();
                let digest = signing_hash(asset.separator(), message);
                (Mandate::Authorization(authorization), signature, Hashes { message, digest })
            }
            TransferMethod::Permit2 => {
                let payload = Permit2Payload::parse(payload, &terms.scheme).map_err(form)?;
                asked.check_permit(&payload)?;
                let digest = payload.permit.digest(chain_id);
                let message = payload.permit.struct_hash();
                (Mandate::Permit(payload.permit), payload.signature, Hashes { message, digest })
            }
            TransferMethod::Erc7710 => {
                let payload = Erc7710Payload::parse(payload).map_err(form)?;
                let delegation = Delegation::new(
                    (payload.manager, payload.delegator),
                    (pay_to, asked.amount),
                    payload.context.expose(),
                    U256::MAX,
                );
                let context = delegation.context;
                let hashes = Hashes { message: context, digest: context };
                (Mandate::Delegation(delegation), payload.context, hashes)
            }
        };
        let token_permit = match mandate {
            Mandate::Permit(permit) => sponsor::token_permit(payment.presented(), &permit)?,
            Mandate::Authorization(_) | Mandate::Delegation(_) => None,
        };
        Ok(Self::put_together(payment, mandate, signature, token_permit, token, hashes))
    }

    fn put_together(
        payment: &Payment,
        mandate: Mandate,
        presented: SignatureBytes,
        token_permit: Option<SignedTokenPermit>,
        token: Address,
        Hashes { message, digest }: Hashes,
    ) -> Self {
        // A context is its manager's, whatever it ends with: unwrapped, one could be presented twice.
        let wrapped = match mandate {
            Mandate::Delegation(_) => None,
            Mandate::Authorization(_) | Mandate::Permit(_) => presented.unwrap_deployment(),
        };
        let (mut deployment, signature) = match wrapped {
            Some((deployment, signature)) => (Some(deployment), signature),
            None => (None, presented),
        };
        let judgement = match mandate {
            Mandate::Delegation(_) => Judgement::Undecided,
            _ => signature.judge(&digest, &mandate.payer()),
        };
        if matches!(judgement, Judgement::Payer(_)) {
            // The payer's own key signed: nothing has to be deployed for it.
            deployment = None;
        }
        let key = mandate.key(&payment.terms().network, &token);
        let charge = payment.charge().to_u256();
        Self {
            mandate,
            signature,
            deployment,
            token_permit,
            approval: None,
            adoption: None,
            charge,
            token,
            message,
            digest,
            judgement,
            key,
        }
    }

    /// Refuses what no account may sign with: a signature of the payer's that somebody re-encoded.
    pub(crate) fn refuse_malleated(&self) -> Result<(), Refused> {
        if self.judgement == Judgement::Malleated {
            let message = "the signature has a high s; present it with the low one (EIP-2)";
            return Err(Refused::new(self.bad_signature(), message).by(self.payer()));
        }
        Ok(())
    }

    /// The refusal of a signature that is not the payer's.
    pub(crate) const fn bad_signature(&self) -> Refusal {
        match self.mandate {
            Mandate::Authorization(_) => Refusal::InvalidSignature,
            Mandate::Permit(_) => Refusal::PermitInvalidSignature,
            Mandate::Delegation(_) => Refusal::DelegationSimulationFailed,
        }
    }

    /// Checks that `now` lies strictly within the authorization's times, with `margin_s` seconds
    /// left for settling and at most [`AUTHORIZATION_LIFETIME_S_MAX`]. As strict at both ends as
    /// the chain is.
    pub(crate) fn check_times(&self, now: UnixTime, margin_s: u64) -> Result<(), Refused> {
        let (early, late) = match self.mandate {
            Mandate::Authorization(_) => (Refusal::ValidAfter, Refusal::ValidBefore),
            Mandate::Permit(_) => (Refusal::PermitNotYetValid, Refusal::PermitExpired),
            Mandate::Delegation(delegation) if delegation.agent.is_some() => {
                (Refusal::ValidAfter, Refusal::ValidBefore)
            }
            // What other delegations say of times is between the payer and the manager.
            Mandate::Delegation(_) => return Ok(()),
        };
        let with_margin = U256::from(now.plus_s(margin_s).0);
        if self.mandate.begins_after(now.0) {
            return Err(Refused::from(early).by(self.payer()));
        }
        if with_margin >= self.mandate.ends() {
            return Err(Refused::from(late).by(self.payer()));
        }
        if self.mandate.ends() > U256::from(now.plus_s(AUTHORIZATION_LIFETIME_S_MAX).0) {
            let message = format!(
                "it is valid for more than {AUTHORIZATION_LIFETIME_S_MAX} s; sign an authorization \
                 that ends maxTimeoutSeconds from now"
            );
            return Err(Refused::new(late, message).by(self.payer()));
        }
        if self.token_permit.as_ref().is_some_and(|signed| with_margin > signed.permit.deadline) {
            return Err(Refused::from(Refusal::TokenPermitExpired).by(self.payer()));
        }
        Ok(())
    }

    /// Whether less than the ceiling may be charged: then the transaction's sender is fixed.
    pub(crate) const fn is_metered(&self) -> bool {
        matches!(self.mandate, Mandate::Permit(PermitTransfer { facilitator: Some(_), .. }))
    }

    /// Who pays, as spelled on the wire.
    pub(crate) fn payer(&self) -> String {
        checksummed(&self.mandate.payer())
    }

    /// Everything that identifies this very payment. The signature's bytes are no part of it: the
    /// same authorization can be signed in more than one encoding. Nor is the charge: it is said only
    /// when the payment is settled, and the journal keeps it beside the fingerprint.
    pub(crate) fn fingerprint(&self, terms: &Requirements) -> Digest {
        let Self { message, digest, token, .. } = *self;
        let (key, payee) = (&self.key, self.mandate.payee());
        let identity = Identity { scheme: &terms.scheme, key, message, digest, token, payee };
        identity.fingerprint(terms.max_timeout_seconds)
    }
}

/// What tells a payment from every other one, beside the longest time that its terms leave.
pub(crate) struct Identity<'a> {
    pub(crate) scheme: &'a Scheme,
    pub(crate) key: &'a PaymentKey,
    pub(crate) message: B256,
    pub(crate) digest: B256,
    pub(crate) token: Address,
    pub(crate) payee: Address,
}

impl Identity<'_> {
    pub(crate) fn fingerprint(&self, max_timeout_seconds: u64) -> Digest {
        Digest::of(&[
            self.scheme.as_str().as_bytes(),
            self.key.as_str().as_bytes(),
            self.message.as_slice(),
            self.digest.as_slice(),
            self.token.as_slice(),
            self.payee.as_slice(),
            &max_timeout_seconds.to_be_bytes(),
        ])
    }
}

/// What is hashed of a mandate, and what its signature is over.
struct Hashes {
    message: B256,
    digest: B256,
}

/// What our terms ask a mandate to say.
struct Asked {
    pay_to: Address,
    amount: U256,
    token: Address,
}

impl Asked {
    fn check_authorization(&self, authorization: &Authorization) -> Result<(), Refused> {
        let by = |refusal| Err(by_payer(refusal, authorization.from));
        if authorization.to != self.pay_to {
            return by(Refusal::RecipientMismatch);
        }
        if authorization.value != self.amount {
            return by(Refusal::ValueMismatch);
        }
        Ok(())
    }

    fn check_permit(&self, payload: &Permit2Payload) -> Result<(), Refused> {
        let PermitTransfer { from, to, permitted, token, .. } = payload.permit;
        let by = |refusal| Err(by_payer(refusal, from));
        if payload.spender != payload.permit.spender() {
            return by(Refusal::PermitSpenderMismatch);
        }
        if to != self.pay_to {
            return by(Refusal::PermitRecipientMismatch);
        }
        if permitted != self.amount {
            return by(Refusal::PermitAmountMismatch);
        }
        if token != self.token {
            return by(Refusal::PermitTokenMismatch);
        }
        Ok(())
    }
}

fn by_payer(refusal: Refusal, payer: Address) -> Refused {
    Refused::from(refusal).by(checksummed(&payer))
}

/// Terms as they were read.
struct Terms<'a> {
    asset: &'a Asset,
    pay_to: Address,
    method: TransferMethod,
}

/// Checks terms against our own table: asset, transfer method, EIP-712 domain, payee, amount.
fn read_terms<'a>(terms: &Requirements, assets: &'a AssetTable) -> Result<Terms<'a>, Refused> {
    let bad = |field: &str, problem: String| {
        Refused::new(Refusal::InvalidPaymentRequirements, format!("{field} {problem}"))
    };
    parse_address(&terms.asset).map_err(|error| bad("asset", error.to_string()))?;
    let pay_to = parse_payee(&terms.pay_to).map_err(|error| bad("payTo", error.to_string()))?;
    if terms.amount == Amount::ZERO {
        return Err(bad("amount", "must not be zero".into()));
    }
    let id = AssetId::new(terms.network.clone(), &terms.asset);
    let asset = assets.find(&id).ok_or(Refusal::AssetNotAllowed)?;
    let method = TransferMethod::of(terms).ok_or_else(|| {
        let message = "the asset transfer method must be eip3009, permit2 or erc7710";
        Refused::new(Refusal::UnsupportedScheme, message)
    })?;
    if method == TransferMethod::Eip3009 {
        check_domain(terms, asset)?;
    }
    Ok(Terms { asset, pay_to, method })
}

fn check_domain(terms: &Requirements, asset: &Asset) -> Result<(), Refused> {
    if asset.method != TransferMethod::Eip3009 {
        return Err(Refusal::Eip3009NotSupported.into());
    }
    match domain_of(terms) {
        (None, _) | (_, None) => Err(Refusal::MissingEip712Domain.into()),
        (Some(name), Some(version))
            if name != asset.info.domain_name || version != asset.info.domain_version =>
        {
            Err(Refusal::Eip712DomainMismatch.into())
        }
        _ => Ok(()),
    }
}

/// The EIP-712 name and version that requirements claim.
pub(crate) fn domain_of(terms: &Requirements) -> (Option<&str>, Option<&str>) {
    (terms.extra_str("name"), terms.extra_str("version"))
}

impl TransferMethod {
    /// The method that requirements ask for: EIP-3009 unless `extra` names another. `upto` knows
    /// only Permit2. `None` for a method unknown here.
    pub(crate) fn of(terms: &Requirements) -> Option<Self> {
        let named = match terms.extra.get("assetTransferMethod") {
            None | Some(Value::Null) => None,
            Some(method) => Some(Self::from_name(method.as_str()?)?),
        };
        match (terms.scheme == Scheme::UPTO, named) {
            (true, None | Some(Self::Permit2)) => Some(Self::Permit2),
            (true, Some(_)) => None,
            (false, named) => Some(named.unwrap_or(Self::Eip3009)),
        }
    }
}
