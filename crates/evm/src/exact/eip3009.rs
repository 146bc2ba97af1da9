//! The payload of EIP-3009: `{signature, authorization}`.

use pay402_core::error::Malformed;
use serde_json::{Map, Value};

use crate::fields::{Fields, texts};
use crate::signature::SignatureBytes;
use crate::typed_data::Authorization;

/// The scheme's part of a payment: `{signature, authorization}`. `Debug` hides the signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Eip3009Payload {
    /// What was signed.
    pub authorization: Authorization,
    /// The signature as presented.
    pub signature: SignatureBytes,
}

impl Eip3009Payload {
    /// Reads `payload` strictly: decimal strings without any ornament, 32-byte nonce, addresses
    /// whose checksum holds.
    ///
    /// # Errors
    /// The field that is wrong, relative to the payment message.
    pub fn parse(payload: &Map<String, Value>) -> Result<Self, Malformed> {
        let fields = Fields::new(payload, "payload");
        let signature = fields.signature("signature")?;
        let fields = fields.object("authorization")?;
        let authorization = Authorization {
            from: fields.address("from")?,
            to: fields.address("to")?,
            value: fields.number("value")?,
            valid_after: fields.number("validAfter")?,
            valid_before: fields.number("validBefore")?,
            nonce: fields.word("nonce")?,
        };
        Ok(Self { authorization, signature })
    }

    /// Writes the payload as it goes on the wire.
    pub fn to_json(&self) -> Map<String, Value> {
        let Authorization { from, to, value, valid_after, valid_before, nonce } =
            self.authorization;
        let authorization = texts([
            ("from", from.to_checksum(None)),
            ("to", to.to_checksum(None)),
            ("value", value.to_string()),
            ("validAfter", valid_after.to_string()),
            ("validBefore", valid_before.to_string()),
            ("nonce", nonce.to_string()),
        ]);
        Map::from_iter([
            ("signature".to_owned(), self.signature.to_hex().into()),
            ("authorization".to_owned(), authorization.into()),
        ])
    }
}
