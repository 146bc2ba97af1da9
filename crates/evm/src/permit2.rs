//! The payload of Permit2, for `exact` and for `upto`: `{signature, permit2Authorization}` (spec
//! `schemes/exact/scheme_exact_evm.md` and `schemes/upto/scheme_upto_evm.md`).

use alloy::primitives::{Address, U256};
use pay402_core::Scheme;
use pay402_core::error::Malformed;
use serde_json::{Map, Value};

use crate::fields::{Fields, texts};
use crate::signature::SignatureBytes;
use crate::typed_data::PermitTransfer;

/// The scheme's part of a payment: `{signature, permit2Authorization}`. `Debug` hides the
/// signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Permit2Payload {
    /// What was signed, but for the spender.
    pub permit: PermitTransfer,
    /// Who may spend it; only the scheme's proxy will do.
    pub spender: Address,
    /// The signature as presented.
    pub signature: SignatureBytes,
}

impl Permit2Payload {
    /// Reads the `payload` of a payment by `scheme` strictly: decimal strings without any ornament,
    /// addresses whose checksum holds. Only `upto` names a facilitator.
    ///
    /// # Errors
    /// The field that is wrong, relative to the payment message.
    pub fn parse(payload: &Map<String, Value>, scheme: &Scheme) -> Result<Self, Malformed> {
        let fields = Fields::new(payload, "payload");
        let signature = fields.signature("signature")?;
        let fields = fields.object("permit2Authorization")?;
        let permitted = fields.object("permitted")?;
        let witness = fields.object("witness")?;
        let facilitator = match *scheme == Scheme::UPTO {
            true => Some(witness.address("facilitator")?),
            false => None,
        };
        let permit = PermitTransfer {
            from: fields.address("from")?,
            token: permitted.address("token")?,
            permitted: permitted.number("amount")?,
            nonce: fields.number("nonce")?,
            deadline: fields.number("deadline")?,
            to: witness.address("to")?,
            valid_after: witness.number("validAfter")?,
            facilitator,
        };
        Ok(Self { permit, spender: fields.address("spender")?, signature })
    }

    /// Writes the payload as it goes on the wire.
    pub fn to_json(&self) -> Map<String, Value> {
        let PermitTransfer {
            from,
            token,
            permitted,
            nonce,
            deadline,
            to,
            valid_after,
            facilitator,
        } = self.permit;
        let permitted =
            texts([("token", token.to_checksum(None)), ("amount", permitted.to_string())]);
        let mut witness = texts([("to", to.to_checksum(None))]);
        if let Some(facilitator) = facilitator {
            witness.insert("facilitator".to_owned(), facilitator.to_checksum(None).into());
        }
        witness.insert("validAfter".to_owned(), valid_after.to_string().into());
        let permit = Map::from_iter([
            ("from".to_owned(), from.to_checksum(None).into()),
            ("permitted".to_owned(), permitted.into()),
            ("spender".to_owned(), self.spender.to_checksum(None).into()),
            ("nonce".to_owned(), nonce.to_string().into()),
            ("deadline".to_owned(), deadline.to_string().into()),
            ("witness".to_owned(), witness.into()),
        ]);
        Map::from_iter([
            ("signature".to_owned(), self.signature.to_hex().into()),
            ("permit2Authorization".to_owned(), permit.into()),
        ])
    }
}

/// Where Permit2 keeps whether a nonce is used: the word, and the bit in it.
pub(crate) fn nonce_position(nonce: U256) -> (U256, usize) {
    (nonce >> 8, usize::from(nonce.byte(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_have_a_word_and_a_bit() {
        assert_eq!(nonce_position(U256::ZERO), (U256::ZERO, 0));
        assert_eq!(nonce_position(U256::from(0x1ff)), (U256::from(1), 255));
        assert_eq!(nonce_position(U256::MAX), (U256::MAX >> 8, 255));
    }
}
