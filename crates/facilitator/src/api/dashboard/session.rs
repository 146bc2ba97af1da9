//! Who looks at the dashboard: a browser cannot send an API key with every request, so the key is
//! given once, and a cookie stands for it for a while.
//!
//! Sessions live in this process and end with it. Only their hashes are kept. They are good for reading
//! and for nothing else, and a page of another site cannot use them (`SameSite=Strict`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::api::access::{Reader, is_by_local_name};

/// How long a session lasts, in seconds.
const SESSION_S: u64 = 3_600;
/// Sessions at a time; the oldest ends for a new one.
const SESSIONS_MAX: usize = 64;
/// The cookie's name.
const COOKIE_NAME: &str = "pay402_dashboard";
/// Bytes of a session's secret.
const SECRET_BYTES: usize = 32;

/// The sessions of this process.
#[derive(Debug, Default)]
pub(in crate::api) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

#[derive(Clone, Debug)]
struct Session {
    reader: Reader,
    ends: Instant,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session and gives the cookie that stands for it. `None` without randomness.
    pub(super) fn begin(&self, reader: Reader, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut secret = [0_u8; SECRET_BYTES];
        getrandom::fill(&mut secret).ok()?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = Instant::now();
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.ends > now);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.ends);
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                sessions.remove(&oldest);
            }
        }
        let ends = now + Duration::from_secs(SESSION_S);
        sessions.insert(hash(&secret), Session { reader, ends });
        // On this machine there may be no TLS, and nobody who listens.
        let secure = if is_by_local_name(headers) { "" } else { "; Secure" };
        let cookie = format!(
            "{COOKIE_NAME}={secret}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict{secure}"
        );
        HeaderValue::try_from(cookie).ok()
    }

    /// Who reads, by the cookie that came along.
    pub(in crate::api) fn reader(&self, headers: &HeaderMap) -> Option<Reader> {
        let sessions = self.lock();
        let session = cookies(headers).find_map(|secret| sessions.get(&hash(secret)))?;
        (session.ends > Instant::now()).then(|| session.reader.clone())
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs =
        lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE_NAME).map(|(_, secret)| secret)
}
