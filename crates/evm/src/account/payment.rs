//! A payment of a session key by ERC-7710: what it signs, and the permission context that carries
//! it.

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolStruct as _;
use pay402_core::time::UnixTime;

use super::session::u48;
use super::{AgentAccount, abi};
use crate::signature::{Ecdsa, SignatureBytes};

/// Length of a permission context, in bytes: key 20, epoch 8, nonce 32, validAfter 6, deadline 6,
/// signature 65.
pub const CONTEXT_BYTES: usize = 137;
/// Most seconds between the first and the last moment at which what a session key signed is good.
pub const LIFETIME_S_MAX: u64 = 3600;

/// A payment of a session key. Without a signature it is worth nothing, so it may be printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionPayment {
    /// The address of the session key, or of the root.
    pub key: Address,
    /// The token.
    pub token: Address,
    /// Who is paid.
    pub to: Address,
    /// How much, in atomic units.
    pub value: U256,
    /// Makes it unique for its key and epoch.
    pub nonce: U256,
    /// Valid from this on.
    pub valid_after: UnixTime,
    /// Valid up to and including this.
    pub deadline: UnixTime,
    /// The account's epoch, in which alone it is valid.
    pub epoch: u64,
}

impl SessionPayment {
    /// What has to be signed.
    ///
    /// # Panics
    /// When a time does not have 48 bits.
    pub fn digest(&self, account: &AgentAccount) -> B256 {
        let message = abi::Payment {
            token: self.token,
            to: self.to,
            value: self.value,
            nonce: self.nonce,
            validAfter: u48(self.valid_after),
            deadline: u48(self.deadline),
            epoch: self.epoch,
        };
        message.eip712_signing_hash(&account.domain())
    }

    /// The permission context: whoever has it can have the payment made, and nothing else.
    ///
    /// # Panics
    /// When a time does not have 48 bits.
    pub fn context(&self, signature: &Ecdsa) -> SignatureBytes {
        let context = [
            self.key.as_slice(),
            &self.epoch.to_be_bytes(),
            &self.nonce.to_be_bytes::<32>(),
            &u48(self.valid_after).to_be_bytes::<6>(),
            &u48(self.deadline).to_be_bytes::<6>(),
            signature.to_bytes().expose(),
        ]
        .concat();
        assert_eq!(context.len(), CONTEXT_BYTES, "the contract takes no other length");
        SignatureBytes::new(context)
    }
}
