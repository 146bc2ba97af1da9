//! The EIP-712 messages of EIP-3009: what exactly a payer signs.
//!
//! **Invariant:** the domain comes from our own asset table; a payment never brings its own.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::{Eip712Domain, SolStruct, eip712_domain};
use pay402_core::asset::AssetInfo;

mod signed {
    #![allow(missing_docs)] // the macro's output carries no docs
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
}

/// An EIP-3009 authorization: leave to transfer `value` from `from` to `to`, once. Without a
/// signature it is worth nothing, so it may be printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Authorization {
    /// Who pays.
    pub from: Address,
    /// Who is paid.
    pub to: Address,
    /// How much, in atomic units.
    pub value: U256,
    /// Valid strictly after this, in seconds since the Unix epoch.
    pub valid_after: U256,
    /// Valid strictly before this, in seconds since the Unix epoch.
    pub valid_before: U256,
    /// Makes it unique for its payer and token.
    pub nonce: B256,
}

impl Authorization {
    /// What has to be signed, for the token with this domain.
    pub fn digest(&self, domain: &Eip712Domain) -> B256 {
        self.message().eip712_signing_hash(domain)
    }

    /// The hash of the message alone, without the domain.
    pub fn struct_hash(&self) -> B256 {
        self.message().eip712_hash_struct()
    }

    const fn message(&self) -> signed::TransferWithAuthorization {
        signed::TransferWithAuthorization {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
        }
    }
}

/// The EIP-712 domain of a token at `token` on the chain with `chain_id`.
pub fn token_domain(asset: &AssetInfo, chain_id: u64, token: Address) -> Eip712Domain {
    eip712_domain! {
        name: asset.domain_name.clone(),
        version: asset.domain_version.clone(),
        chain_id: chain_id,
        verifying_contract: token,
    }
}
