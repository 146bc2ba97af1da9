//! Errands as the journal keeps them: what is sent without being a payment.
//!
//! Like a settlement plan the bytes are handled sealed outside this crate; the first byte says which
//! form follows, and no form is one of a plan's. Forms that were ever written stay readable.

use alloy::eips::eip7702::{Authorization, SignedAuthorization};
use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolValue as _;
use pay402_core::network::SecretBytes;

/// Forms of the encoding, beside those of a plan.
mod form {
    /// Code for an account, and an operation of it.
    pub(super) const ACCOUNT: u8 = 64;
}

type EncodedAuthorization = (U256, Address, u64, bool, U256, U256);
type EncodedAccount = (Address, Address, Vec<EncodedAuthorization>, Bytes, u64);

/// One errand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ErrandPlan {
    /// Code for an account, and an operation of it.
    Account(AccountErrand),
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
        let authorization = self.authorization.iter().map(|signed| {
            let Authorization { chain_id, address, nonce } = *signed.inner();
            (chain_id, address, nonce, signed.y_parity() == 1, signed.r(), signed.s())
        });
        let fields: EncodedAccount =
            (self.account, self.delegate, authorization.collect(), self.call.clone(), self.expires);
        SecretBytes::new([vec![form::ACCOUNT], fields.abi_encode_params()].concat())
    }

    fn of((account, delegate, authorization, call, expires): EncodedAccount) -> Option<Self> {
        let mut authorizations = authorization.into_iter().map(|signed| {
            let (chain_id, address, nonce, odd, r, s) = signed;
            let inner = Authorization { chain_id, address, nonce };
            SignedAuthorization::new_unchecked(inner, u8::from(odd), r, s)
        });
        let authorization = authorizations.next();
        let is_one = authorizations.next().is_none();
        is_one.then_some(Self { account, delegate, authorization, call, expires })
    }
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
    }
}
