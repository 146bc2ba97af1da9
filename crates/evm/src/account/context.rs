//! What a permission context says of its payment: how a payment of an adopted account is told apart
//! from others. It is written by [`SessionPayment::context`](super::SessionPayment::context).

use alloy::primitives::{Address, U256};

use super::CONTEXT_BYTES;

/// Of a context, what is signed: all but the signature.
const NAMED_BYTES: usize = CONTEXT_BYTES - 65;

/// What a permission context says of its payment. The account takes a nonce once per key and epoch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PaymentContext {
    /// Who signed: a session key, or the account's own.
    pub key: Address,
    /// The account's epoch that it is good in.
    pub epoch: u64,
    /// Its number.
    pub nonce: U256,
    /// The first second in which it is good.
    pub valid_after: u64,
    /// The last one.
    pub deadline: u64,
}

impl PaymentContext {
    /// Reads a permission context; `None` for one of another length, which the account refuses.
    pub fn decode(context: &[u8]) -> Option<Self> {
        if context.len() != CONTEXT_BYTES {
            return None;
        }
        let (key, rest) = context.split_at(20);
        let (epoch, rest) = rest.split_at(8);
        let (nonce, rest) = rest.split_at(32);
        let (valid_after, rest) = rest.split_at(6);
        let seconds = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        Some(Self {
            key: Address::from_slice(key),
            epoch: seconds(epoch),
            nonce: U256::from_be_slice(nonce),
            valid_after: seconds(valid_after),
            deadline: seconds(&rest[..6]),
        })
    }

    /// What remains of a context when its payment is signed once more: all but the signature.
    pub(crate) fn named(context: &[u8]) -> &[u8] {
        context.get(..NAMED_BYTES).unwrap_or(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_field_by_field() {
        let context = [
            &[0x11; 20][..],
            &7_u64.to_be_bytes(),
            &U256::from(9).to_be_bytes::<32>(),
            &[0, 0, 0, 0, 1, 2],
            &[1, 0, 0, 0, 0, 3],
            &[0xff; 65],
        ]
        .concat();
        let read = PaymentContext::decode(&context).unwrap();
        let expected = PaymentContext {
            key: Address::repeat_byte(0x11),
            epoch: 7,
            nonce: U256::from(9),
            valid_after: 0x102,
            deadline: 0x0100_0000_0003,
        };
        assert_eq!(read, expected);
        assert_eq!(PaymentContext::named(&context), &context[..72]);
        for cut in [0, 72, 136] {
            assert_eq!(PaymentContext::decode(&context[..cut]), None);
        }
        assert_eq!(PaymentContext::decode(&[context, vec![0]].concat()), None);
    }
}
