//! Keeping a paid response so that only the payer can have it again.
//!
//! What is on the chain is public, the payment included. A response is therefore sealed with a key
//! made from the id of the `payment-identifier` extension, which never touches the chain. The
//! store holds the sealed bytes and a hash of the id; neither opens the seal.
//!
//! **Invariant:** key and stored proof come from one secret under different labels, so that the
//! proof says nothing about the key.

use bytes::Bytes;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pay402_core::{Digest, PaymentKey};
use zeroize::Zeroizing;

use crate::Answer;

/// Largest sealed response that is kept, in bytes. Above it a lost answer is not given again.
pub const SEALED_BYTES_MAX: usize = 256 * 1024;

const KEY_LABEL: &[u8] = b"pay402 sealed response key v1";
const NONCE_LABEL: &[u8] = b"pay402 sealed response nonce v1";
const PROOF_LABEL: &[u8] = b"pay402 payment identifier proof v1";
const NONCE_BYTES: usize = 12;

/// The off-chain secret of one payment. Never printed, never stored.
pub(crate) struct Secret {
    identifier: Zeroizing<String>,
    key: PaymentKey,
}

impl Secret {
    pub(crate) fn new(identifier: &str, key: &PaymentKey) -> Self {
        Self { identifier: Zeroizing::new(identifier.to_owned()), key: key.clone() }
    }

    /// What is stored to recognise the secret by.
    pub(crate) fn proof(&self) -> Digest {
        self.derive(PROOF_LABEL, &[])
    }

    /// Seals `answer`; `None` when it would be larger than [`SEALED_BYTES_MAX`].
    pub(crate) fn seal(&self, answer: &Answer, payer: &str) -> Option<Vec<u8>> {
        if answer.body.len() > SEALED_BYTES_MAX {
            return None;
        }
        let plain = Zeroizing::new(encode(answer, payer)?);
        // The key is the same whenever this payment is claimed again after a release, and the
        // handler may then answer differently. So the nonce depends on what is sealed, and on the
        // secret, lest a reader of the store try out guesses.
        let nonce = self.derive(NONCE_LABEL, &plain).0;
        let nonce = &nonce[..NONCE_BYTES];
        let sealed = self.cipher().encrypt(&nonce_of(nonce)?, self.payload(&plain)).ok()?;
        let whole = [nonce, &sealed].concat();
        (whole.len() <= SEALED_BYTES_MAX).then_some(whole)
    }

    /// Opens what [`Secret::seal`] made: the response and its payer.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<(Answer, String)> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let plain = self.cipher().decrypt(&nonce_of(nonce)?, self.payload(sealed)).ok()?;
        decode(&plain)
    }

    fn payload<'a>(&'a self, msg: &'a [u8]) -> Payload<'a, 'a> {
        Payload { msg, aad: self.key.as_str().as_bytes() }
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        let key = Zeroizing::new(self.derive(KEY_LABEL, &[]).0);
        ChaCha20Poly1305::new(&Key::from(*key))
    }

    fn derive(&self, label: &[u8], more: &[u8]) -> Digest {
        Digest::of(&[label, self.identifier.as_bytes(), self.key.as_str().as_bytes(), more])
    }
}

fn nonce_of(bytes: &[u8]) -> Option<Nonce> {
    <[u8; NONCE_BYTES]>::try_from(bytes).ok().map(Nonce::from)
}

/// Status, payer, headers and body, each text preceded by its length.
fn encode(answer: &Answer, payer: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(answer.body.len() + 1024);
    let mut put = |bytes: &[u8]| -> Option<()> {
        out.extend(u32::try_from(bytes.len()).ok()?.to_be_bytes());
        out.extend(bytes);
        Some(())
    };
    put(&answer.status.as_u16().to_be_bytes())?;
    put(payer.as_bytes())?;
    put(&answer.body)?;
    for (name, value) in &answer.headers {
        put(name.as_str().as_bytes())?;
        put(value.as_bytes())?;
    }
    Some(out)
}

fn decode(plain: &[u8]) -> Option<(Answer, String)> {
    let mut rest = plain;
    let mut take = || -> Option<&[u8]> {
        let (length, more) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (text, more) = more.split_at_checked(length)?;
        rest = more;
        Some(text)
    };
    let status = u16::from_be_bytes(take()?.try_into().ok()?);
    let status = StatusCode::from_u16(status).ok()?;
    let payer = String::from_utf8(take()?.to_vec()).ok()?;
    let body = Bytes::copy_from_slice(take()?);
    let mut headers = HeaderMap::new();
    while let Some(name) = take() {
        let name = HeaderName::from_bytes(name).ok()?;
        headers.append(name, HeaderValue::from_bytes(take()?).ok()?);
    }
    Some((Answer { status, headers, body }, payer))
}

#[cfg(test)]
mod tests {
    use pay402_core::NetworkId;

    use super::*;

    fn key(nonce: &str) -> PaymentKey {
        PaymentKey::new(&NetworkId::eip155(84532), "0xasset", "0xpayer", nonce)
    }

    fn answer(body: &'static [u8]) -> Answer {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_static("a=1"));
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        Answer { status: StatusCode::PARTIAL_CONTENT, headers, body: Bytes::from_static(body) }
    }

    #[test]
    fn a_seal_opens_for_its_secret_and_payment_alone() {
        let secret = Secret::new("pay_0123456789abcdef", &key("1"));
        let sealed = secret.seal(&answer(b"data"), "0xpayer").unwrap();
        let (opened, payer) = secret.open(&sealed).unwrap();
        assert_eq!((opened, payer.as_str()), (answer(b"data"), "0xpayer"));
        assert!(Secret::new("pay_0123456789abcdeF", &key("1")).open(&sealed).is_none());
        assert!(Secret::new("pay_0123456789abcdef", &key("2")).open(&sealed).is_none());
        for index in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[index] ^= 1;
            assert!(secret.open(&bent).is_none(), "byte {index} was changed");
        }
        assert!(secret.open(&[]).is_none());
    }

    #[test]
    fn two_answers_of_one_payment_never_share_a_nonce() {
        let secret = Secret::new("pay_0123456789abcdef", &key("1"));
        let first = secret.seal(&answer(b"one"), "0xpayer").unwrap();
        let second = secret.seal(&answer(b"two"), "0xpayer").unwrap();
        assert_ne!(first[..NONCE_BYTES], second[..NONCE_BYTES]);
    }

    #[test]
    fn the_stored_proof_is_not_the_key() {
        let secret = Secret::new("pay_0123456789abcdef", &key("1"));
        assert_ne!(secret.proof(), secret.derive(KEY_LABEL, &[]));
        let stored = Key::from(secret.proof().0);
        let sealed = secret.seal(&answer(b"data"), "0xpayer").unwrap();
        let nonce = nonce_of(&sealed[..NONCE_BYTES]).unwrap();
        let thief = ChaCha20Poly1305::new(&stored);
        assert!(thief.decrypt(&nonce, secret.payload(&sealed[NONCE_BYTES..])).is_err());
    }

    #[test]
    fn large_answers_are_not_kept() {
        let large = Answer { body: vec![0; SEALED_BYTES_MAX].into(), ..answer(b"") };
        assert!(Secret::new("pay_0123456789abcdef", &key("1")).seal(&large, "0x").is_none());
    }
}
