//! The EIP-712 messages of EIP-3009, Permit2 and EIP-2612: what exactly a payer signs.
//!
//! **Invariant:** domains come from our own asset table or from the canonical contracts; a payment
//! never brings its own.

use std::sync::LazyLock;

use alloy::primitives::{Address, B256, U256, address, keccak256};
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

        struct Permit {
            address owner;
            address spender;
            uint256 value;
            uint256 nonce;
            uint256 deadline;
        }
    }

    // The witness types differ, and with them the type of the whole message.
    pub(super) mod exact {
        #![allow(missing_docs)] // the macro's output carries no docs
        alloy::sol! {
            struct TokenPermissions {
                address token;
                uint256 amount;
            }

            struct Witness {
                address to;
                uint256 validAfter;
            }

            struct PermitWitnessTransferFrom {
                TokenPermissions permitted;
                address spender;
                uint256 nonce;
                uint256 deadline;
                Witness witness;
            }
        }
    }

    pub(super) mod upto {
        #![allow(missing_docs)] // the macro's output carries no docs
        alloy::sol! {
            struct TokenPermissions {
                address token;
                uint256 amount;
            }

            struct Witness {
                address to;
                address facilitator;
                uint256 validAfter;
            }

            struct PermitWitnessTransferFrom {
                TokenPermissions permitted;
                address spender;
                uint256 nonce;
                uint256 deadline;
                Witness witness;
            }
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
        // As the derived one, which hashes the type's text anew each time.
        let words = [
            *AUTHORIZATION_TYPE,
            self.from.into_word(),
            self.to.into_word(),
            self.value.into(),
            self.valid_after.into(),
            self.valid_before.into(),
            self.nonce,
        ];
        keccak256(words.map(|word| word.0).as_flattened())
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

/// The hash of the text of an authorization's type (EIP-712).
static AUTHORIZATION_TYPE: LazyLock<B256> =
    LazyLock::new(|| keccak256(signed::TransferWithAuthorization::eip712_root_type().as_bytes()));

/// What has to be signed for a message with this hash, in the domain with this separator (EIP-712).
pub(crate) fn signing_hash(separator: B256, message: B256) -> B256 {
    let mut bytes = [0; 66];
    bytes[..2].copy_from_slice(&[0x19, 0x01]);
    bytes[2..34].copy_from_slice(separator.as_slice());
    bytes[34..].copy_from_slice(message.as_slice());
    keccak256(bytes)
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

/// Where Permit2 is on every network.
pub const PERMIT2: Address = address!("0x000000000022D473030F116dDEE9F6B43aC78BA3");
/// The spender of `exact` permits: it pays the whole permitted amount to the witness's payee.
pub const EXACT_PROXY: Address = address!("0x402085c248EeA27D92E8b30b2C58ed07f9E20001");
/// The spender of `upto` permits: it pays up to the permitted amount, for the witness's facilitator.
pub const UPTO_PROXY: Address = address!("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");

/// A Permit2 transfer with witness, as both proxies take it. Without a signature it is worth
/// nothing, so it may be printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PermitTransfer {
    /// Who pays.
    pub from: Address,
    /// The token.
    pub token: Address,
    /// The most that may move, in atomic units; for `exact`, what moves.
    pub permitted: U256,
    /// Makes it unique for its payer, for every token.
    pub nonce: U256,
    /// Valid up to and including this, in seconds since the Unix epoch.
    pub deadline: U256,
    /// Who is paid.
    pub to: Address,
    /// Valid from this on, in seconds since the Unix epoch.
    pub valid_after: U256,
    /// Who alone may settle; set for `upto`, absent for `exact`, which anybody may settle.
    pub facilitator: Option<Address>,
}

impl PermitTransfer {
    /// The proxy that has to be named as spender.
    pub const fn spender(&self) -> Address {
        match self.facilitator {
            None => EXACT_PROXY,
            Some(_) => UPTO_PROXY,
        }
    }

    /// What has to be signed on the chain with `chain_id`.
    pub fn digest(&self, chain_id: u64) -> B256 {
        let domain = eip712_domain! {
            name: "Permit2",
            chain_id: chain_id,
            verifying_contract: PERMIT2,
        };
        match self.facilitator {
            None => self.exact().eip712_signing_hash(&domain),
            Some(facilitator) => self.upto(facilitator).eip712_signing_hash(&domain),
        }
    }

    /// The hash of the message alone, without the domain.
    pub fn struct_hash(&self) -> B256 {
        match self.facilitator {
            None => self.exact().eip712_hash_struct(),
            Some(facilitator) => self.upto(facilitator).eip712_hash_struct(),
        }
    }

    const fn exact(&self) -> signed::exact::PermitWitnessTransferFrom {
        signed::exact::PermitWitnessTransferFrom {
            permitted: signed::exact::TokenPermissions {
                token: self.token,
                amount: self.permitted,
            },
            spender: EXACT_PROXY,
            nonce: self.nonce,
            deadline: self.deadline,
            witness: signed::exact::Witness { to: self.to, validAfter: self.valid_after },
        }
    }

    const fn upto(&self, facilitator: Address) -> signed::upto::PermitWitnessTransferFrom {
        signed::upto::PermitWitnessTransferFrom {
            permitted: signed::upto::TokenPermissions { token: self.token, amount: self.permitted },
            spender: UPTO_PROXY,
            nonce: self.nonce,
            deadline: self.deadline,
            witness: signed::upto::Witness {
                to: self.to,
                facilitator,
                validAfter: self.valid_after,
            },
        }
    }
}

/// An EIP-2612 permit that lets Permit2 move `value` of the owner's tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TokenPermit {
    /// Whose tokens.
    pub owner: Address,
    /// How much Permit2 may move, in atomic units.
    pub value: U256,
    /// The owner's next permit nonce at the token.
    pub nonce: U256,
    /// Valid up to and including this, in seconds since the Unix epoch.
    pub deadline: U256,
}

impl TokenPermit {
    /// What has to be signed, for the token with this domain.
    pub fn digest(&self, domain: &Eip712Domain) -> B256 {
        let Self { owner, value, nonce, deadline } = *self;
        signed::Permit { owner, spender: PERMIT2, value, nonce, deadline }
            .eip712_signing_hash(domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hashed_by_hand_is_what_the_library_hashes() {
        let authorization = Authorization {
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(2),
            value: U256::from(3),
            valid_after: U256::from(4),
            valid_before: U256::MAX,
            nonce: B256::repeat_byte(6),
        };
        let message = authorization.struct_hash();
        assert_eq!(message, authorization.message().eip712_hash_struct());
        let domain = eip712_domain! {
            name: "USDC",
            version: "2",
            chain_id: 84532,
            verifying_contract: Address::repeat_byte(7),
        };
        assert_eq!(signing_hash(domain.separator(), message), authorization.digest(&domain));
    }
}
