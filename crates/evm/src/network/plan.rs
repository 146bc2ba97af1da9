//! A settlement plan: everything that is needed to settle one payment, as the journal keeps it.
//!
//! It is a bearer capability (it holds the signature) and is handled sealed outside this crate.
//! The first byte is the version of the encoding.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::{SolCall as _, SolValue as _};
use pay402_core::network::SecretBytes;

use crate::contracts::Eip3009;
use crate::signature::SignatureBytes;
use crate::typed_data::Authorization;

/// The version that is written.
const VERSION: u8 = 1;

type Encoded = (Address, Address, Address, U256, U256, U256, alloy::primitives::B256, Bytes, bool);

/// What the payer's account is, which decides how its signature is presented to the token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Account {
    /// It has no code: ECDSA, by the `v, r, s` overload that every EIP-3009 token has.
    Plain,
    /// It has code, EIP-7702 delegations included: the account decides, by the `bytes` overload.
    Contract,
}

/// One payment to settle. `Debug` hides the signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    pub(crate) token: Address,
    pub(crate) authorization: Authorization,
    pub(crate) signature: SignatureBytes,
    /// What the account was when the payment was verified.
    pub(crate) account: Account,
}

impl Plan {
    pub(crate) fn encode(&self) -> SecretBytes {
        let Authorization { from, to, value, valid_after, valid_before, nonce } =
            self.authorization;
        let signature = Bytes::copy_from_slice(self.signature.expose());
        let contract = self.account == Account::Contract;
        let fields: Encoded =
            (self.token, from, to, value, valid_after, valid_before, nonce, signature, contract);
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&fields.abi_encode_params());
        SecretBytes::new(bytes)
    }

    /// Reads what [`Plan::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &SecretBytes) -> Option<Self> {
        let (version, fields) = bytes.expose().split_first()?;
        if *version != VERSION {
            return None;
        }
        let (token, from, to, value, valid_after, valid_before, nonce, signature, contract) =
            Encoded::abi_decode_params_validate(fields).ok()?;
        Some(Self {
            token,
            authorization: Authorization { from, to, value, valid_after, valid_before, nonce },
            signature: SignatureBytes::new(signature.to_vec()),
            account: if contract { Account::Contract } else { Account::Plain },
        })
    }

    /// What the token is called with. A signature that is not ECDSA goes by the `bytes` overload
    /// even for a plain account: the token refuses it, and that is on chain then.
    pub(crate) fn calldata(&self, account: Account) -> Vec<u8> {
        let Authorization { from, to, value, valid_after, valid_before, nonce } =
            self.authorization;
        match (account, self.signature.ecdsa()) {
            (Account::Plain, Some(ecdsa)) => {
                let call = Eip3009::transferWithAuthorization_0Call {
                    from,
                    to,
                    value,
                    validAfter: valid_after,
                    validBefore: valid_before,
                    nonce,
                    v: ecdsa.v(),
                    r: ecdsa.r(),
                    s: ecdsa.s(),
                };
                call.abi_encode()
            }
            (Account::Plain, None) | (Account::Contract, _) => {
                let call = Eip3009::transferWithAuthorization_1Call {
                    from,
                    to,
                    value,
                    validAfter: valid_after,
                    validBefore: valid_before,
                    nonce,
                    signature: Bytes::copy_from_slice(self.signature.expose()),
                };
                call.abi_encode()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    fn plan() -> Plan {
        Plan {
            token: Address::repeat_byte(1),
            authorization: Authorization {
                from: Address::repeat_byte(2),
                to: Address::repeat_byte(3),
                value: U256::from(1000),
                valid_after: U256::ZERO,
                valid_before: U256::MAX,
                nonce: B256::repeat_byte(4),
            },
            signature: SignatureBytes::new(vec![7; 64]),
            account: Account::Contract,
        }
    }

    #[test]
    fn plans_are_read_back() {
        for account in [Account::Plain, Account::Contract] {
            let plan = Plan { account, ..plan() };
            assert_eq!(Plan::decode(&plan.encode()), Some(plan));
        }
        for bad in [vec![], vec![VERSION], vec![VERSION + 1, 0], vec![0; 400]] {
            assert_eq!(Plan::decode(&SecretBytes::new(bad)), None);
        }
        let mut later = plan().encode().expose().to_vec();
        later[0] += 1;
        assert_eq!(Plan::decode(&SecretBytes::new(later)), None);
        assert!(!format!("{:?}", plan()).contains("07070707"), "the signature is printed");
    }

    #[test]
    fn the_account_decides_the_overload() {
        let plan = plan();
        let plain = plan.calldata(Account::Plain);
        assert_eq!(plain[..4], [0xe3, 0xee, 0x16, 0x0e]);
        let contract = plan.calldata(Account::Contract);
        assert_eq!(contract[..4], [0xcf, 0x09, 0x29, 0x95]);
        let odd = Plan { signature: SignatureBytes::new(vec![7; 66]), ..plan };
        assert_eq!(odd.calldata(Account::Plain), odd.calldata(Account::Contract));
    }
}
