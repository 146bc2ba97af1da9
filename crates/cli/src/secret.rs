//! Keys and passwords from the environment or from files, wiped after use, never printed.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use alloy::hex;
use alloy::signers::local::PrivateKeySigner;
use http::HeaderValue;
use pay402_core::error::Misconfigured;
use pay402_evm::keystore::read_private;
use zeroize::Zeroizing;

/// The environment variable with the API key at a facilitator, or `<name>_FILE` with a file.
pub(crate) const API_KEY: &str = "FACILITATOR_API_KEY";
/// Largest secret file, in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// What proves to a facilitator who calls: `Bearer` and the API key, when one is set. It is never
/// printed.
pub(crate) fn bearer() -> Result<Option<HeaderValue>, Misconfigured> {
    let Some(key) = from_environment(API_KEY)? else { return Ok(None) };
    let key = key.trim();
    if key.is_empty() {
        let problem = "is empty; set the key, or unset the variable";
        return Err(Misconfigured::new(API_KEY, problem));
    }
    let bearer = Zeroizing::new(format!("Bearer {key}"));
    let mut value = HeaderValue::from_str(&bearer)
        .map_err(|_| Misconfigured::new(API_KEY, "has characters that no header may have"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Writes a file that was not there, for its owner alone (mode 600), and has it on the disk before it
/// returns.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content).and_then(|()| file.sync_all())
}

/// The value of `name`, or the content of the file that `<name>_FILE` names.
pub(crate) fn from_environment(name: &str) -> Result<Option<Zeroizing<String>>, Misconfigured> {
    if let Ok(value) = std::env::var(name) {
        return Ok(Some(Zeroizing::new(value)));
    }
    match std::env::var_os(format!("{name}_FILE")) {
        Some(path) => from_file(&format!("{name}_FILE"), Path::new(&path)).map(Some),
        None => Ok(None),
    }
}

/// The first line of a secret file that only its owner can read.
pub(crate) fn from_file(setting: &str, path: &Path) -> Result<Zeroizing<String>, Misconfigured> {
    let content = read_private(path, SECRET_FILE_BYTES_MAX)
        .map_err(|error| Misconfigured::new(setting, error.to_string()))?;
    let text = std::str::from_utf8(&content)
        .map_err(|_| Misconfigured::new(setting, format!("{}: is not text", path.display())))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// Reads a private key: 32 bytes of hexadecimal, with or without `0x`.
pub(crate) fn signer(setting: &str, key: &str) -> Result<PrivateKeySigner, Misconfigured> {
    let bad =
        || Misconfigured::new(setting, "is not a private key; it must be 32 bytes of hexadecimal");
    let mut bytes = Zeroizing::new([0_u8; 32]);
    let digits = key.trim();
    hex::decode_to_slice(digits.strip_prefix("0x").unwrap_or(digits), &mut bytes[..])
        .map_err(|_| bad())?;
    signer_from(setting, &bytes)
}

/// A signer from the bytes of its key.
pub(crate) fn signer_from(
    setting: &str,
    bytes: &Zeroizing<[u8; 32]>,
) -> Result<PrivateKeySigner, Misconfigured> {
    PrivateKeySigner::from_slice(&bytes[..])
        .map_err(|_| Misconfigured::new(setting, "is not a private key of secp256k1"))
}

/// The key of the account that pays: from an encrypted key file, else from EVM_PRIVATE_KEY or the
/// file named by EVM_PRIVATE_KEY_FILE.
pub(crate) fn account(keystore: Option<&Path>) -> Result<PrivateKeySigner, Misconfigured> {
    if let Some(path) = keystore {
        let password = from_environment("PAY402_PASSWORD")?.ok_or_else(|| {
            Misconfigured::new("PAY402_PASSWORD", "is not set; --keystore needs the password")
        })?;
        let key = pay402_evm::keystore::open_file("--keystore", path, &password)?;
        return signer_from("--keystore", &key);
    }
    let key = from_environment("EVM_PRIVATE_KEY")?.ok_or_else(|| {
        let problem = "is not set; it must hold the key of the account (or use \
                       EVM_PRIVATE_KEY_FILE, or --keystore)";
        Misconfigured::new("EVM_PRIVATE_KEY", problem)
    })?;
    signer("EVM_PRIVATE_KEY", &key)
}

/// The session key that pays from another account: from a file, else from PAY402_SESSION_KEY or the
/// file named by PAY402_SESSION_KEY_FILE. `None` where none is set.
pub(crate) fn session_key(file: Option<&Path>) -> Result<Option<PrivateKeySigner>, Misconfigured> {
    let (setting, key) = match file {
        Some(path) => ("--session-key", Some(from_file("--session-key", path)?)),
        None => ("PAY402_SESSION_KEY", from_environment("PAY402_SESSION_KEY")?),
    };
    key.map(|key| signer(setting, &key)).transpose()
}

/// The user's folder for state that outlives a call: `$XDG_STATE_HOME/pay402`, else
/// `~/.local/state/pay402`.
pub(crate) fn state_folder() -> Result<PathBuf, Misconfigured> {
    if let Some(folder) = std::env::var_os("XDG_STATE_HOME").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(folder).join("pay402"));
    }
    let home = std::env::var_os("HOME")
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Misconfigured::new("HOME", "is not set; name a folder with --state-dir"))?;
    Ok(PathBuf::from(home).join(".local/state/pay402"))
}
