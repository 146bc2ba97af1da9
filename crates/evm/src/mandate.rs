//! What a payer agreed to, in the forms that are settled here, and what they have in common.
//!
//! **Invariant:** a mandate names payer, payee and the most that may move; who carries it out can
//! change none of them.

use alloy::primitives::{Address, B256, U256, keccak256};
use pay402_core::{NetworkId, PaymentKey};

use crate::account::PaymentContext;
use crate::address::canonical;
use crate::typed_data::{Authorization, PermitTransfer};

/// A delegation that was redeemed or may be (ERC-7710). Its context is kept apart: it is what can
/// be spent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Delegation {
    /// The contract that carries it out.
    pub(crate) manager: Address,
    /// Who pays.
    pub(crate) delegator: Address,
    /// Who is paid.
    pub(crate) to: Address,
    /// How much, in atomic units.
    pub(crate) value: U256,
    /// The hash of its context, less the signature where we know which part that is: what it is told
    /// apart by. The chain need not refuse it twice.
    pub(crate) context: B256,
    /// What the context says, where the payer's own account carries it out and the context has the
    /// form of `AgentAccount`'s. Such an account takes it once, and tells whether it did.
    pub(crate) agent: Option<PaymentContext>,
    /// The first time, in seconds since the Unix epoch, at which it is over: by its own deadline, or
    /// when we stop, since others may have no end.
    pub(crate) until: U256,
}

impl Delegation {
    /// The delegation that `context` stands for. `until` counts where the context names no deadline.
    pub(crate) fn new(
        (manager, delegator): (Address, Address),
        (to, value): (Address, U256),
        context: &[u8],
        until: U256,
    ) -> Self {
        let agent = PaymentContext::decode(context).filter(|_| manager == delegator);
        let (named, until) = match &agent {
            Some(agent) => (PaymentContext::named(context), U256::from(agent.deadline + 1)),
            None => (context, until),
        };
        Self { manager, delegator, to, value, context: keccak256(named), agent, until }
    }
}

/// What a payer agreed to. Without its signature it is worth nothing, so it may be printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mandate {
    /// By EIP-3009.
    Authorization(Authorization),
    /// By Permit2, for `exact` or for `upto`.
    Permit(PermitTransfer),
    /// By ERC-7710.
    Delegation(Delegation),
}

impl Mandate {
    /// Who pays.
    pub(crate) const fn payer(&self) -> Address {
        match self {
            Self::Authorization(authorization) => authorization.from,
            Self::Permit(permit) => permit.from,
            Self::Delegation(delegation) => delegation.delegator,
        }
    }

    /// Who is paid.
    pub(crate) const fn payee(&self) -> Address {
        match self {
            Self::Authorization(authorization) => authorization.to,
            Self::Permit(permit) => permit.to,
            Self::Delegation(delegation) => delegation.to,
        }
    }

    /// The most that may move, in atomic units.
    pub(crate) const fn ceiling(&self) -> U256 {
        match self {
            Self::Authorization(authorization) => authorization.value,
            Self::Permit(permit) => permit.permitted,
            Self::Delegation(delegation) => delegation.value,
        }
    }

    /// Whether it is a delegation that we cannot read: only its manager can.
    pub(crate) const fn is_foreign(&self) -> bool {
        matches!(self, Self::Delegation(Delegation { agent: None, .. }))
    }

    /// Whether a block of this time comes too early for it.
    pub(crate) fn begins_after(&self, time: u64) -> bool {
        match self {
            // Tokens want `now > validAfter`.
            Self::Authorization(authorization) => U256::from(time) <= authorization.valid_after,
            Self::Permit(permit) => U256::from(time) < permit.valid_after,
            Self::Delegation(Delegation { agent: Some(agent), .. }) => time < agent.valid_after,
            Self::Delegation(_) => false,
        }
    }

    /// The first time, in seconds since the Unix epoch, at which no block can use it any more.
    pub(crate) fn ends(&self) -> U256 {
        match self {
            // Tokens want `now < validBefore`.
            Self::Authorization(authorization) => authorization.valid_before,
            // Permit2 wants `now <= deadline`.
            Self::Permit(permit) => permit.deadline.saturating_add(U256::from(1)),
            Self::Delegation(delegation) => delegation.until,
        }
    }

    /// What the chain would refuse twice. A nonce of Permit2 is the payer's for every token, and one
    /// of `AgentAccount` its key's in one epoch; other delegations have none that we can read, and
    /// are known by manager and context alone.
    pub(crate) fn key(&self, network: &NetworkId, token: &Address) -> PaymentKey {
        // Whoever presents a foreign delegation says whose it is: that does not make it another one.
        let payer = match self {
            Self::Delegation(Delegation { manager, agent: None, .. }) => canonical(manager),
            _ => canonical(&self.payer()),
        };
        let (contract, nonce) = match self {
            Self::Authorization(authorization) => {
                (canonical(token), authorization.nonce.to_string())
            }
            Self::Permit(permit) => {
                (canonical(&crate::typed_data::PERMIT2), B256::from(permit.nonce).to_string())
            }
            Self::Delegation(delegation) => {
                let nonce = match &delegation.agent {
                    Some(PaymentContext { key, epoch, nonce, .. }) => {
                        format!("{}/{epoch}/{}", canonical(key), B256::from(*nonce))
                    }
                    None => delegation.context.to_string(),
                };
                (canonical(&delegation.manager), nonce)
            }
        };
        PaymentKey::new(network, &contract, &payer, &nonce)
    }
}

/// Whether a key is that of a mandate which is over for good at a moment that the payer signed. A foreign
/// delegation ends for us when we stop: whoever presents it again begins anew, and only its key tells.
pub(crate) fn is_over_for_good(key: &PaymentKey) -> bool {
    let mut parts = key.as_str().splitn(4, '/').skip(1);
    let (Some(contract), Some(payer), Some(nonce)) = (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    // An agent account is its own manager too, and its nonces have parts. Errands have a word in this place.
    contract.starts_with("0x") && (contract != payer || nonce.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_by_its_own_terms_is_over_for_good() {
        let (network, token) = (NetworkId::eip155(84_532), Address::repeat_byte(7));
        let (payer, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let (from, to, value) = (payer, other, U256::from(5));
        let (valid_after, ends) = (U256::ZERO, U256::from(9));
        let nonce = B256::repeat_byte(3);
        let authorization =
            Authorization { from, to, value, valid_after, valid_before: ends, nonce };
        let permit = PermitTransfer {
            from,
            token,
            permitted: value,
            nonce: U256::from(4),
            deadline: ends,
            to,
            valid_after,
            facilitator: None,
        };
        let delegation =
            |manager| Delegation::new((manager, payer), (to, value), b"no context of ours", ends);
        let context = PaymentContext {
            key: other,
            epoch: 1,
            nonce: U256::from(6),
            valid_after: 0,
            deadline: 8,
        };
        let agent = Delegation { agent: Some(context), ..delegation(payer) };
        for mandate in [
            Mandate::Authorization(authorization),
            Mandate::Permit(permit),
            Mandate::Delegation(agent),
        ] {
            assert!(is_over_for_good(&mandate.key(&network, &token)), "{mandate:?}");
        }
        for manager in [payer, other] {
            let foreign = Mandate::Delegation(delegation(manager));
            assert!(foreign.is_foreign());
            assert!(!is_over_for_good(&foreign.key(&network, &token)), "{foreign:?}");
        }
        for errand in ["advance", "approve", "adopt", "operate", "cancel"] {
            let key = PaymentKey::new(&network, errand, &canonical(&payer), "1/2");
            assert!(!is_over_for_good(&key), "{key}");
        }
        assert!(!is_over_for_good(&PaymentKey::from_stored("odd")));
    }
}
