//! What a payer agreed to, in the forms that are settled here, and what they have in common.
//!
//! **Invariant:** a mandate names payer, payee and the most that may move; who carries it out can
//! change none of them.

use alloy::primitives::{Address, B256, U256};
use pay402_core::{NetworkId, PaymentKey};

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
    /// The hash of its context: what it is known by. The chain need not refuse it twice.
    pub(crate) context: B256,
    /// When we stop, in seconds since the Unix epoch: the delegation itself may have no end.
    pub(crate) until: U256,
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

    /// Whether a block of this time comes too early for it.
    pub(crate) fn begins_after(&self, time: u64) -> bool {
        match self {
            // Tokens want `now > validAfter`.
            Self::Authorization(authorization) => U256::from(time) <= authorization.valid_after,
            Self::Permit(permit) => U256::from(time) < permit.valid_after,
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

    /// What it is told apart by from other mandates with the same key.
    pub(crate) fn struct_hash(&self) -> B256 {
        match self {
            Self::Authorization(authorization) => authorization.struct_hash(),
            Self::Permit(permit) => permit.struct_hash(),
            Self::Delegation(delegation) => delegation.context,
        }
    }

    /// What the chain would refuse twice. A nonce of Permit2 is the payer's for every token; a
    /// delegation has none that we can read, and is known by manager and context.
    pub(crate) fn key(&self, network: &NetworkId, token: &Address) -> PaymentKey {
        let payer = canonical(&self.payer());
        let (contract, nonce) = match self {
            Self::Authorization(authorization) => {
                (canonical(token), authorization.nonce.to_string())
            }
            Self::Permit(permit) => {
                (canonical(&crate::typed_data::PERMIT2), B256::from(permit.nonce).to_string())
            }
            Self::Delegation(delegation) => {
                (canonical(&delegation.manager), delegation.context.to_string())
            }
        };
        PaymentKey::new(network, &contract, &payer, &nonce)
    }
}
