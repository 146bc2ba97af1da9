//! Signatures over an authorization: their encodings brought to one form.
//!
//! Which rules apply depends on whether the payer's account has code, and that only the chain
//! knows. An account without code signs with ECDSA, and exactly one form is let through: 65 bytes,
//! low `s`, `v` of 27 or 28. For an account with code the bytes belong to that account (EIP-1271)
//! and stay as they are; they are never recovered.

use std::fmt;
use std::sync::LazyLock;

use alloy::primitives::{Address, B256, Bytes, Signature, U256, b256, uint};
use alloy::sol_types::SolValue as _;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, Secp256k1, VerifyOnly};
use zeroize::Zeroizing;

/// Longest signature that is read, in bytes. Passkey wallets need about 1,000.
pub const SIGNATURE_BYTES_MAX: usize = 4096;

/// Half of the order of secp256k1; an `s` above it is the malleable twin of a signature.
const HALF_ORDER: U256 =
    uint!(0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0_U256);

/// What verifying needs of the curve, computed once.
static CURVE: LazyLock<Secp256k1<VerifyOnly>> = LazyLock::new(Secp256k1::verification_only);

/// What marks a signature that brings a deployment along (ERC-6492).
const ERC6492_MAGIC: B256 =
    b256!("0x6492649264926492649264926492649264926492649264926492649264926492");

/// How an account without code comes to be (ERC-6492).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Deployment {
    /// The contract that makes it.
    pub(crate) factory: Address,
    /// What the factory is called with.
    pub(crate) calldata: Bytes,
}

/// A signature as it was presented. A bearer capability: hidden from `Debug`, wiped on drop.
#[derive(Clone, Eq, PartialEq)]
pub struct SignatureBytes(Zeroizing<Vec<u8>>);

impl SignatureBytes {
    /// Takes over `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads `0x` and an even number of hexadecimal digits, up to [`SIGNATURE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// What is wrong, without the signature in it.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let digits = text.strip_prefix("0x").ok_or(SignatureError::Form)?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SignatureError::Form);
        }
        if digits.len() > 2 * SIGNATURE_BYTES_MAX {
            return Err(SignatureError::TooLong);
        }
        alloy::hex::decode(digits).map(Self::new).map_err(|_| SignatureError::Form)
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as they go on the wire.
    pub(crate) fn to_hex(&self) -> String {
        alloy::hex::encode_prefixed(self.expose())
    }

    /// The deployment that a signature of an account without code brings along (ERC-6492), and the
    /// signature proper. `None` when there is none, or it is not one.
    pub(crate) fn unwrap_deployment(&self) -> Option<(Deployment, Self)> {
        let wrapped = self.0.strip_suffix(ERC6492_MAGIC.as_slice())?;
        let (factory, calldata, signature) =
            <(Address, Bytes, Bytes)>::abi_decode_params_validate(wrapped).ok()?;
        let deployment = Deployment { factory, calldata };
        Some((deployment, Self::new(signature.to_vec())))
    }

    /// The one ECDSA form, if these bytes are one of its encodings: 65 bytes with `v` of 0, 1, 27
    /// or 28, or the 64 bytes of EIP-2098. `None` is not an error: a contract may accept them.
    pub fn ecdsa(&self) -> Option<Ecdsa> {
        let (r_and_s, odd) = match *self.0.as_slice() {
            [ref r_and_s @ .., v] if r_and_s.len() == 64 => match v {
                0 | 27 => (r_and_s, false),
                1 | 28 => (r_and_s, true),
                _ => return None,
            },
            // EIP-2098 keeps the parity in the highest bit of `s`.
            ref compact if compact.len() == 64 => (compact, compact[32] & 0x80 != 0),
            _ => return None,
        };
        let r = U256::from_be_slice(&r_and_s[..32]);
        let mut s = U256::from_be_slice(&r_and_s[32..]);
        if self.0.len() == 64 {
            s.set_bit(255, false);
        }
        Some(Ecdsa(Signature::new(r, s, odd)))
    }

    /// What can be said about the signature of `digest` by `payer` without asking the chain.
    pub fn judge(&self, digest: &B256, payer: &Address) -> Judgement {
        let Some(ecdsa) = self.ecdsa() else { return Judgement::Undecided };
        match (ecdsa.recover(digest) == Some(*payer), ecdsa.is_low()) {
            (true, true) => Judgement::Payer(ecdsa),
            (true, false) => Judgement::Malleated,
            (false, _) => Judgement::Undecided,
        }
    }
}

impl fmt::Debug for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignatureBytes({} bytes)", self.0.len())
    }
}

/// What a signature is, as far as can be told without the chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// The payer's own key made it. It counts as long as the account has no code.
    Payer(Ecdsa),
    /// The payer's own key made it and somebody re-encoded it with a high `s`. Never accepted.
    Malleated,
    /// The payer's own key did not make it. An account with code may accept it nevertheless.
    Undecided,
}

/// An ECDSA signature in its parts. `Debug` hides it.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Ecdsa(Signature);

impl Ecdsa {
    /// The first half.
    pub fn r(&self) -> B256 {
        self.0.r().into()
    }

    /// The second half.
    pub fn s(&self) -> B256 {
        self.0.s().into()
    }

    /// 27 or 28.
    pub fn v(&self) -> u8 {
        27 + u8::from(self.0.v())
    }

    /// The canonical 65 bytes: `r`, `s`, `v` of 27 or 28.
    pub fn to_bytes(self) -> SignatureBytes {
        SignatureBytes::new(self.0.as_bytes().to_vec())
    }

    /// Whether `s` is in the lower half, as tokens demand.
    pub fn is_low(&self) -> bool {
        self.0.s() <= HALF_ORDER
    }

    pub(crate) fn recover(&self, digest: &B256) -> Option<Address> {
        // A high `s` is made low first, so that its maker is known and it can be told apart.
        let signature = self.0.normalized_s();
        let parity = if signature.v() { RecoveryId::One } else { RecoveryId::Zero };
        let signature = &signature.as_bytes()[..64];
        let signature = RecoverableSignature::from_compact(signature, parity).ok()?;
        // libsecp256k1 is five times as fast as what alloy recovers with.
        let key = CURVE.recover_ecdsa(Message::from_digest(digest.0), &signature).ok()?;
        let key = key.serialize_uncompressed();
        Some(Address::from_raw_public_key(&key[1..]))
    }
}

impl From<Signature> for Ecdsa {
    fn from(signature: Signature) -> Self {
        Self(signature)
    }
}

impl fmt::Debug for Ecdsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ecdsa(..)")
    }
}

/// Why a text is not a signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// No hexadecimal bytes.
    #[error("must be 0x and an even number of hexadecimal digits")]
    Form,
    /// Longer than any wallet needs.
    #[error("must be at most {SIGNATURE_BYTES_MAX} bytes long")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use alloy::signers::SignerSync as _;
    use alloy::signers::local::PrivateKeySigner;

    use super::*;

    const ORDER: U256 =
        uint!(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256);
    const DIGEST: B256 = B256::repeat_byte(7);

    /// A public development key, known to everyone.
    fn signer() -> PrivateKeySigner {
        let key = b256!("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d");
        PrivateKeySigner::from_bytes(&key).unwrap()
    }

    /// All encodings of one signature that are about: 65 and 64 bytes, low and high `s`.
    fn encodings(signature: &Signature) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let long = |s: U256, v: u8| {
            [&signature.r().to_be_bytes::<32>()[..], &s.to_be_bytes::<32>(), &[v]].concat()
        };
        let (s, parity) = (signature.s(), u8::from(signature.v()));
        let low = vec![long(s, parity), long(s, 27 + parity), signature.as_erc2098().to_vec()];
        let flipped = 1 - parity;
        let high = vec![long(ORDER - s, flipped), long(ORDER - s, 27 + flipped)];
        (low, high)
    }

    #[test]
    fn every_encoding_becomes_one_form_or_is_refused() {
        for seed in 0..16_u8 {
            let digest = B256::repeat_byte(seed);
            let signature = signer().sign_hash_sync(&digest).unwrap();
            let (low, high) = encodings(&signature);
            for bytes in low {
                let judged = SignatureBytes::new(bytes).judge(&digest, &signer().address());
                let Judgement::Payer(ecdsa) = judged else { panic!("{judged:?}") };
                assert_eq!(ecdsa.to_bytes().expose(), signature.as_bytes());
            }
            for bytes in high {
                let judged = SignatureBytes::new(bytes).judge(&digest, &signer().address());
                assert_eq!(judged, Judgement::Malleated);
            }
        }
    }

    #[test]
    fn other_bytes_are_left_to_the_account() {
        let signature = signer().sign_hash_sync(&DIGEST).unwrap().as_bytes().to_vec();
        let stranger = Address::repeat_byte(1);
        let judge =
            |bytes: Vec<u8>, payer: &Address| SignatureBytes::new(bytes).judge(&DIGEST, payer);
        assert_eq!(judge(signature.clone(), &stranger), Judgement::Undecided);
        for bad_v in [2, 26, 29, 35, 255] {
            let mut changed = signature.clone();
            changed[64] = bad_v;
            assert_eq!(judge(changed, &signer().address()), Judgement::Undecided);
        }
        for length in [1, 63, 66, 130] {
            assert_eq!(judge(vec![1; length], &signer().address()), Judgement::Undecided);
        }
        assert_eq!(judge(vec![0; 65], &Address::ZERO), Judgement::Undecided);
        assert_eq!(judge(vec![0xff; 65], &Address::ZERO), Judgement::Undecided);
    }

    #[test]
    fn hexadecimal_is_read_strictly_and_never_printed() {
        let secret = SignatureBytes::parse("0xc0ffee").unwrap();
        assert_eq!(secret.expose(), [0xc0, 0xff, 0xee]);
        assert_eq!(format!("{secret:?}"), "SignatureBytes(3 bytes)");
        for bad in ["", "0x", "c0ffee", "0xc0f", "0xzz", "0x c0", "0x0xc0", "0xc0\n"] {
            assert_eq!(SignatureBytes::parse(bad), Err(SignatureError::Form), "{bad:?}");
        }
        let long = format!("0x{}", "00".repeat(SIGNATURE_BYTES_MAX + 1));
        assert_eq!(SignatureBytes::parse(&long), Err(SignatureError::TooLong));
    }
}
