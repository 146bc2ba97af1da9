//! Errands as the journal keeps them: what is sent without being a payment.
//!
//! Like a settlement plan the bytes are handled sealed outside this crate; the first byte says which
//! form follows, and no form is one of a plan's. Forms that were ever written stay readable.

use alloy::eips::eip7702::{Authorization, SignedAuthorization};
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolValue as _;
use pay402_core::Amount;
use pay402_core::error::Unavailable;
use pay402_core::network::{ChainStatus, SecretBytes, SentAs};

use super::EvmNetwork;
use super::status::{Mined, mined, proven_by};
use crate::signature::SignatureBytes;

/// Forms of the encoding, beside those of a plan.
mod form {
    /// Code for an account, and an operation of it.
    pub(super) const ACCOUNT: u8 = 64;
    /// Gas for a payer.
    pub(super) const ADVANCE: u8 = 65;
    /// A payer's own transaction.
    pub(super) const APPROVAL: u8 = 66;
    /// A nonce of ours that nothing else is to use.
    pub(super) const CANCELLATION: u8 = 67;
}

/// An authorization of code (EIP-7702): chain, code, nonce, parity, `r`, `s`.
pub(super) type EncodedAdoption = (U256, Address, u64, bool, U256, U256);
type EncodedAccount = (Address, Address, Vec<EncodedAdoption>, Bytes, u64);

/// One errand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ErrandPlan {
    /// Code for an account, and an operation of it.
    Account(AccountErrand),
    /// Gas for a payer's approval.
    Advance(Advance),
    /// A payer's approval of Permit2.
    Approval(Approval),
    /// A nonce of ours that nothing else is to use.
    Cancellation(Cancellation),
}

/// A transaction that does nothing but consume a nonce of one of our signers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Cancellation {
    pub(crate) signer: Address,
    pub(crate) nonce: u64,
}

/// Gas for a payer's approval.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Advance {
    pub(crate) payer: Address,
    pub(crate) wei: U256,
    /// The first second in which it is not begun any more.
    pub(crate) expires: u64,
}

/// A payer's approval of Permit2, signed by the payer. `Debug` hides its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Approval {
    pub(crate) payer: Address,
    pub(crate) nonce: u64,
    pub(crate) hash: B256,
    pub(crate) raw: SignatureBytes,
    /// The first second in which it is of no use any more.
    pub(crate) expires: u64,
}

type EncodedAdvance = (Address, U256, u64);
type EncodedApproval = (Address, u64, B256, Bytes, u64);
type EncodedCancellation = (Address, u64);

impl Cancellation {
    pub(crate) fn encode(&self) -> SecretBytes {
        let fields: EncodedCancellation = (self.signer, self.nonce);
        SecretBytes::new([vec![form::CANCELLATION], fields.abi_encode_params()].concat())
    }

    /// Where it stands. It is over only when the nonce is consumed: by it, or by another transaction, and
    /// then it is void.
    pub(super) async fn status(
        &self,
        network: &EvmNetwork,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        Ok(match mined(network, sent, network.settings.least()).await? {
            Mined::Deep(receipt) => proven_by(&receipt, None, Amount::new(receipt.fee())),
            Mined::Shallow { transaction } => ChainStatus::Shallow { transaction },
            Mined::Reorganized => ChainStatus::Open { expired: false, displaced: false },
            Mined::No { displaced, .. } => ChainStatus::Open { expired: false, displaced },
        })
    }
}

impl Advance {
    pub(crate) fn encode(&self) -> SecretBytes {
        let fields: EncodedAdvance = (self.payer, self.wei, self.expires);
        SecretBytes::new([vec![form::ADVANCE], fields.abi_encode_params()].concat())
    }
}

impl Approval {
    pub(crate) fn encode(&self) -> SecretBytes {
        let raw = Bytes::copy_from_slice(self.raw.expose());
        let fields: EncodedApproval = (self.payer, self.nonce, self.hash, raw, self.expires);
        SecretBytes::new([vec![form::APPROVAL], fields.abi_encode_params()].concat())
    }
}

/// Code for an account, and an operation of it. Holds nothing that could be spent: whoever has it can
/// have it sent, for what its root signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AccountErrand {
    pub(crate) account: Address,
    /// The code that the account is to run.
    pub(crate) delegate: Address,
    /// Missing where the account runs it already.
    pub(crate) authorization: Option<SignedAuthorization>,
    /// Empty where it is to adopt the code and no more.
    pub(crate) call: Bytes,
    /// The first second in which it is not begun any more.
    pub(crate) expires: u64,
}

impl AccountErrand {
    pub(crate) fn encode(&self) -> SecretBytes {
        let authorization = self.authorization.iter().map(encode_adoption);
        let fields: EncodedAccount =
            (self.account, self.delegate, authorization.collect(), self.call.clone(), self.expires);
        SecretBytes::new([vec![form::ACCOUNT], fields.abi_encode_params()].concat())
    }

    fn of((account, delegate, authorization, call, expires): EncodedAccount) -> Option<Self> {
        let mut authorizations = authorization.into_iter().map(decode_adoption);
        let authorization = authorizations.next();
        let is_one = authorizations.next().is_none();
        is_one.then_some(Self { account, delegate, authorization, call, expires })
    }
}

pub(super) fn encode_adoption(signed: &SignedAuthorization) -> EncodedAdoption {
    let Authorization { chain_id, address, nonce } = *signed.inner();
    (chain_id, address, nonce, signed.y_parity() == 1, signed.r(), signed.s())
}

pub(super) fn decode_adoption(fields: EncodedAdoption) -> SignedAuthorization {
    let (chain_id, address, nonce, odd, r, s) = fields;
    let inner = Authorization { chain_id, address, nonce };
    SignedAuthorization::new_unchecked(inner, u8::from(odd), r, s)
}

impl ErrandPlan {
    /// Reads what was encoded; `None` for anything else.
    pub(crate) fn decode(bytes: &SecretBytes) -> Option<Self> {
        let (form, fields) = bytes.expose().split_first()?;
        match *form {
            form::ACCOUNT => {
                let fields = EncodedAccount::abi_decode_params_validate(fields).ok()?;
                AccountErrand::of(fields).map(Self::Account)
            }
            form::ADVANCE => {
                let (payer, wei, expires) =
                    EncodedAdvance::abi_decode_params_validate(fields).ok()?;
                Some(Self::Advance(Advance { payer, wei, expires }))
            }
            form::APPROVAL => {
                let (payer, nonce, hash, raw, expires) =
                    EncodedApproval::abi_decode_params_validate(fields).ok()?;
                let raw = SignatureBytes::new(raw.to_vec());
                Some(Self::Approval(Approval { payer, nonce, hash, raw, expires }))
            }
            form::CANCELLATION => {
                let (signer, nonce) =
                    EncodedCancellation::abi_decode_params_validate(fields).ok()?;
                Some(Self::Cancellation(Cancellation { signer, nonce }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::plan::Plan;

    fn account() -> AccountErrand {
        let inner = Authorization {
            chain_id: U256::from(84_532),
            address: Address::repeat_byte(1),
            nonce: 7,
        };
        AccountErrand {
            account: Address::repeat_byte(2),
            delegate: Address::repeat_byte(1),
            authorization: Some(SignedAuthorization::new_unchecked(
                inner,
                1,
                U256::from(3),
                U256::from(4),
            )),
            call: vec![5; 70].into(),
            expires: 6,
        }
    }

    #[test]
    fn errands_are_read_back() {
        let operation = AccountErrand { authorization: None, ..account() };
        let adoption = AccountErrand { call: Bytes::new(), ..account() };
        for errand in [account(), operation, adoption] {
            let bytes = errand.encode();
            assert_eq!(ErrandPlan::decode(&bytes), Some(ErrandPlan::Account(errand)));
            assert_eq!(Plan::decode(&bytes), None, "an errand is no payment");
            for cut in [0, 1, 100] {
                let cut = SecretBytes::new(bytes.expose()[..cut].to_vec());
                assert_eq!(ErrandPlan::decode(&cut), None);
            }
        }
        let payer = Address::repeat_byte(2);
        let advance = Advance { payer, wei: U256::from(7), expires: 6 };
        let decoded = ErrandPlan::decode(&advance.encode());
        assert_eq!(decoded, Some(ErrandPlan::Advance(advance)));
        let cancellation = Cancellation { signer: payer, nonce: 9 };
        assert_eq!(Plan::decode(&cancellation.encode()), None, "a cancellation is no payment");
        let decoded = ErrandPlan::decode(&cancellation.encode());
        assert_eq!(decoded, Some(ErrandPlan::Cancellation(cancellation)));
        let raw = SignatureBytes::new(vec![0xab; 150]);
        let hash = B256::repeat_byte(3);
        let approval = Approval { payer, nonce: 4, hash, raw, expires: 6 };
        assert!(!format!("{approval:?}").contains("abab"), "the transaction is printed");
        let decoded = ErrandPlan::decode(&approval.encode());
        assert_eq!(decoded, Some(ErrandPlan::Approval(approval)));
    }
}
