//! Seals what the journal stores, so that a copy of the database is worth nothing.
//!
//! XChaCha20-Poly1305 under the network's sealing key; 24 random bytes of nonce, which do not
//! repeat in practice however many entries there are; bound to the payment and to what the bytes
//! are, so that one cannot be put in the place of another.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use pay402_core::PaymentKey;
use pay402_core::error::Unavailable;
use pay402_core::network::SecretBytes;
use zeroize::Zeroizing;

/// The form of sealed bytes, written before them.
const FORM: u8 = 1;
/// Length of the nonce, in bytes.
const NONCE_BYTES: usize = 24;

/// What is sealed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// What has to be called to settle.
    Plan,
    /// A signed transaction.
    Raw,
}

impl Content {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Plan => b"plan ",
            Self::Raw => b"raw ",
        }
    }
}

/// Sealed bytes that do not open: another key, another payment, or damage.
#[derive(Debug, thiserror::Error)]
#[error("the journal's bytes do not open with this network's signers; were the signers changed?")]
pub(crate) struct Unopened;

/// Seals and opens for one network.
pub(crate) struct Sealer(XChaCha20Poly1305);

impl Sealer {
    pub(crate) fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self(XChaCha20Poly1305::new((&**key).into()))
    }

    pub(crate) fn seal(
        &self,
        content: Content,
        key: &PaymentKey,
        bytes: &SecretBytes,
    ) -> Result<Vec<u8>, Unavailable> {
        let mut nonce = [0_u8; NONCE_BYTES];
        getrandom::fill(&mut nonce)
            .map_err(|_| Unavailable::new("randomness", "the system gave none"))?;
        let payload = Payload { msg: bytes.expose(), aad: &bound_to(content, key) };
        let sealed = self
            .0
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| Unavailable::new("sealing", "the bytes are too long"))?;
        let mut out = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        out.push(FORM);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    pub(crate) fn open(
        &self,
        content: Content,
        key: &PaymentKey,
        sealed: &[u8],
    ) -> Result<SecretBytes, Unopened> {
        let Some((&FORM, rest)) = sealed.split_first() else { return Err(Unopened) };
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES).ok_or(Unopened)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| Unopened)?;
        let payload = Payload { msg: sealed, aad: &bound_to(content, key) };
        let opened = self.0.decrypt(&XNonce::from(nonce), payload).map_err(|_| Unopened)?;
        Ok(SecretBytes::new(opened))
    }
}

fn bound_to(content: Content, key: &PaymentKey) -> Vec<u8> {
    [content.label(), key.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pay402_core::NetworkId;

    #[test]
    fn sealed_bytes_open_only_in_their_place() {
        let sealer = Sealer::new(&Zeroizing::new([7; 32]));
        let key = |nonce| PaymentKey::new(&NetworkId::eip155(1), "0xa", "0xb", nonce);
        let secret = SecretBytes::new(b"a signed transaction".to_vec());
        let sealed = sealer.seal(Content::Raw, &key("1"), &secret).unwrap();
        let again = sealer.seal(Content::Raw, &key("1"), &secret).unwrap();
        assert_ne!(sealed, again, "a nonce repeated");
        assert!(!sealed.windows(6).any(|window| window == b"signed"));
        assert_eq!(sealer.open(Content::Raw, &key("1"), &sealed).unwrap(), secret);

        assert!(sealer.open(Content::Raw, &key("2"), &sealed).is_err(), "another payment");
        assert!(sealer.open(Content::Plan, &key("1"), &sealed).is_err(), "another content");
        let stranger = Sealer::new(&Zeroizing::new([8; 32]));
        assert!(stranger.open(Content::Raw, &key("1"), &sealed).is_err(), "another key");
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(sealer.open(Content::Raw, &key("1"), &damaged).is_err(), "byte {at}");
            assert!(sealer.open(Content::Raw, &key("1"), &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
