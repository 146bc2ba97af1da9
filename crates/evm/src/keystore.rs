//! Web3 Secret Storage version 3: the encrypted key files of geth, Foundry and eth-account, read.
//!
//! scrypt and PBKDF2 key derivation, AES-128-CTR, Keccak MAC compared in constant time. The cost
//! parameters come from the file and are bounded before any memory is taken. Key files are read
//! only when nobody but their owner can read them.

use std::path::Path;

use aes::cipher::{KeyIvInit, StreamCipher};
use alloy::hex;
use alloy::primitives::keccak256;
use pay402_core::error::Misconfigured;
use serde_json::Value;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Most memory that key derivation may take, in bytes. geth's standard cost takes 256 MiB.
pub const DERIVATION_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Most PBKDF2 rounds that are run. geth's standard is 262,144.
pub const PBKDF2_ROUNDS_MAX: u32 = 10_000_000;
/// Largest key file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why a key file gave no key. Names the field or the remedy, never a secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// The password is not the file's, or the file was changed.
    #[error("wrong password, or the key file is damaged")]
    WrongPassword,
    /// The file is not a version 3 key file that can be read.
    #[error("not a Web3 Secret Storage v3 file: {0}")]
    Format(String),
    /// The file cannot be read, or others than its owner can.
    #[error("{0}")]
    File(String),
}

/// Reads a key file and opens it with `password`. `setting` names the configuration key in errors.
///
/// # Errors
/// See [`KeystoreError`]; also when the file's mode lets others read it.
pub fn open_file(
    setting: &str,
    path: &Path,
    password: &str,
) -> Result<Zeroizing<[u8; 32]>, Misconfigured> {
    read_private(path, FILE_BYTES_MAX)
        .and_then(|json| open_json(&json, password))
        .map_err(|error| Misconfigured::new(setting, error.to_string()))
}

/// Reads a file of at most `bytes_max` bytes that holds a secret.
///
/// # Errors
/// [`KeystoreError::File`]: it cannot be read, is larger, or others than its owner can read it.
pub fn read_private(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| KeystoreError::File(format!("{shown}: {error}"));
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    refuse_loose_mode(path, &metadata)?;
    if metadata.len() > bytes_max {
        let problem = format!("{shown}: larger than {bytes_max} bytes; is it the right file?");
        return Err(KeystoreError::File(problem));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

#[cfg(unix)]
fn refuse_loose_mode(path: &Path, metadata: &std::fs::Metadata) -> Result<(), KeystoreError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let shown = path.display();
    Err(KeystoreError::File(format!(
        "{shown}: mode {mode:03o} lets others read it; run chmod 600 {shown}"
    )))
}

#[cfg(not(unix))]
fn refuse_loose_mode(_: &Path, _: &std::fs::Metadata) -> Result<(), KeystoreError> {
    Ok(())
}

/// Opens the JSON of a key file with `password`.
///
/// # Errors
/// [`KeystoreError::Format`] or [`KeystoreError::WrongPassword`].
pub fn open_json(json: &[u8], password: &str) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let file: Value = serde_json::from_slice(json).map_err(|_| format_error("it is not JSON"))?;
    if file["version"] != 3 {
        return Err(format_error("version must be 3"));
    }
    // geth writes `crypto`, older tools `Crypto`.
    let crypto = if file["crypto"].is_object() { &file["crypto"] } else { &file["Crypto"] };
    if crypto["cipher"] != "aes-128-ctr" {
        return Err(format_error("crypto.cipher must be aes-128-ctr"));
    }
    let sealed = hex_field(crypto, "ciphertext", 32)?;
    let iv = hex_field(&crypto["cipherparams"], "iv", 16)?;
    let mac = hex_field(crypto, "mac", 32)?;
    let derived = derive(crypto, password)?;

    let expected = keccak256([&derived[16..32], &sealed[..]].concat());
    if !bool::from(expected.as_slice().ct_eq(&mac)) {
        return Err(KeystoreError::WrongPassword);
    }
    let mut key = Zeroizing::new([0_u8; 32]);
    key.copy_from_slice(&sealed);
    ctr::Ctr128BE::<aes::Aes128>::new_from_slices(&derived[..16], &iv)
        .expect("a 16-byte key and a 16-byte iv")
        .apply_keystream(&mut key[..]);
    Ok(key)
}

fn derive(crypto: &Value, password: &str) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let params = &crypto["kdfparams"];
    let number = |name: &str| -> Result<u32, KeystoreError> {
        let value = params[name].as_u64().and_then(|value| u32::try_from(value).ok());
        value.ok_or_else(|| format_error(&format!("crypto.kdfparams.{name} must be a number")))
    };
    let salt = hex::decode(params["salt"].as_str().unwrap_or_default())
        .map_err(|_| format_error("crypto.kdfparams.salt must be hexadecimal"))?;
    if number("dklen")? != 32 {
        return Err(format_error("crypto.kdfparams.dklen must be 32"));
    }
    let mut derived = Zeroizing::new([0_u8; 32]);
    match crypto["kdf"].as_str() {
        Some("scrypt") => {
            let (n, r, p) = (number("n")?, number("r")?, number("p")?);
            let bytes = u64::from(n).saturating_mul(u64::from(r)).saturating_mul(128);
            let lanes = u64::from(r).saturating_mul(u64::from(p)).saturating_mul(128);
            let bounded = bytes.saturating_add(lanes) <= DERIVATION_BYTES_MAX && p <= 64;
            if !n.is_power_of_two() || n < 2 || !bounded {
                return Err(format_error(
                    "crypto.kdfparams asks for too much memory or is invalid",
                ));
            }
            let log_n = u8::try_from(n.trailing_zeros()).expect("at most 31");
            let params = scrypt::Params::new(log_n, r, p)
                .map_err(|_| format_error("crypto.kdfparams is not valid scrypt"))?;
            scrypt::scrypt(password.as_bytes(), &salt, &params, &mut derived[..])
                .map_err(|_| format_error("crypto.kdfparams is not valid scrypt"))?;
        }
        Some("pbkdf2") => {
            let rounds = number("c")?;
            if params["prf"] != "hmac-sha256" || rounds == 0 || rounds > PBKDF2_ROUNDS_MAX {
                return Err(format_error("crypto.kdfparams must be hmac-sha256 with sane rounds"));
            }
            pbkdf2::pbkdf2_hmac::<sha2::Sha256>(
                password.as_bytes(),
                &salt,
                rounds,
                &mut derived[..],
            );
        }
        _ => return Err(format_error("crypto.kdf must be scrypt or pbkdf2")),
    }
    Ok(derived)
}

fn hex_field(object: &Value, name: &str, bytes: usize) -> Result<Vec<u8>, KeystoreError> {
    object[name]
        .as_str()
        .and_then(|text| hex::decode(text).ok())
        .filter(|decoded| decoded.len() == bytes)
        .ok_or_else(|| format_error(&format!("{name} must be {bytes} bytes of hexadecimal")))
}

fn format_error(problem: &str) -> KeystoreError {
    KeystoreError::Format(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The two public test vectors of the Web3 Secret Storage definition (a public dev key).
    const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    const PBKDF2: &str = r#"{"crypto":{"cipher":"aes-128-ctr",
        "cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf":"pbkdf2","kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
        "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
        "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
        "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
    const SCRYPT: &str = r#"{"crypto":{"cipher":"aes-128-ctr",
        "cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
        "kdf":"scrypt","kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,
        "salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
        "mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
        "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;

    #[test]
    fn public_vectors_open() {
        for file in [PBKDF2, SCRYPT] {
            let key = open_json(file.as_bytes(), "testpassword").unwrap();
            assert_eq!(hex::encode(&key[..]), SECRET);
        }
    }

    #[test]
    fn a_wrong_password_or_a_changed_byte_gives_no_key() {
        let wrong = KeystoreError::WrongPassword;
        assert_eq!(open_json(PBKDF2.as_bytes(), "Testpassword").unwrap_err(), wrong);
        let changed = PBKDF2.replace("5318b4d5", "5318b4d6");
        assert_eq!(open_json(changed.as_bytes(), "testpassword").unwrap_err(), wrong);
    }

    #[test]
    fn greedy_costs_are_refused_before_they_are_paid() {
        for (from, to) in [
            ("\"n\":262144", "\"n\":1073741824"),
            ("\"n\":262144", "\"n\":262143"),
            ("\"r\":1", "\"r\":4294967295"),
            ("\"p\":8", "\"p\":1073741823"),
            ("\"dklen\":32", "\"dklen\":64"),
            ("aes-128-ctr", "none"),
            ("\"version\":3", "\"version\":1"),
        ] {
            let greedy = SCRYPT.replace(from, to);
            let error = open_json(greedy.as_bytes(), "testpassword").unwrap_err();
            assert!(matches!(error, KeystoreError::Format(_)), "{to}: {error}");
        }
        let rounds = PBKDF2.replace("262144", "4294967295");
        assert!(open_json(rounds.as_bytes(), "testpassword").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        std::fs::write(&path, PBKDF2).unwrap();
        let set = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(0o644);
        let error = open_file("signer.keystore", &path, "testpassword").unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        set(0o600);
        open_file("signer.keystore", &path, "testpassword").unwrap();
    }
}
