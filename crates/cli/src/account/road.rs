//! Who sends what the root signed: a facilitator, the account itself, or whoever settles a payment that
//! brings it along.

use std::path::PathBuf;
use std::time::Duration;

use alloy::primitives::{Address, Bytes};
use alloy::signers::local::PrivateKeySigner;
use pay402_core::Refusal;
use pay402_core::error::Misconfigured;
use pay402_core::host::is_loopback;
use pay402_core::refusal::Reason;
use pay402_evm::account::relay::{self, Adopting, RelayError};
use pay402_evm::account::state::Standing;
use pay402_evm::account::{RootOperation, SignedAdoption};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};
use url::Url;

use super::call_data;
use super::chain::Chain;
use crate::error::CliError;
use crate::secret;

/// Longest wait for a connection to the facilitator.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for its answer: it waits for the transaction to be mined.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest reason that is shown, in characters.
const REASON_CHARS_MAX: usize = 256;
/// What to do where it is not known whether something was sent. A repeat grants nothing twice: the
/// key is the same, and a key has one session.
pub(super) const LOOK: &str =
    "look with `pay402 account status`; repeating the same call does no harm";
/// How often the receipt of our own transaction is asked for.
const RECEIPT_EVERY: Duration = Duration::from_millis(500);
/// How often at most: for two minutes.
const RECEIPTS_MAX: usize = 240;

/// What is to be sent.
pub(super) struct Errand {
    /// Whether the account adopts the agent account.
    pub(super) adopts: bool,
    /// What the account is to do.
    pub(super) operation: Option<RootOperation>,
}

/// Who sends it.
pub(super) enum Road {
    Facilitator {
        client: reqwest::Client,
        url: Url,
        key: Option<HeaderValue>,
    },
    SelfFunded,
    /// Nobody yet: it is kept in a new file, for payments to bring along. `good_for_s`: how long its
    /// registration is good, in seconds.
    Kept {
        file: PathBuf,
        good_for_s: u64,
    },
}

impl Road {
    pub(super) fn of(facilitator: Option<&Url>, self_funded: bool) -> Result<Self, CliError> {
        match (facilitator, self_funded) {
            (_, true) => Ok(Self::SelfFunded),
            (Some(url), false) => Self::facilitator(url).map_err(CliError::from),
            (None, false) => Err(CliError::usage("who sends it and pays the gas?").suggest(
                "name a facilitator with --facilitator URL (or FACILITATOR_URL), or pay from the \
                 account with --self-funded",
            )),
        }
    }

    fn facilitator(base: &Url) -> Result<Self, Misconfigured> {
        let bad = |problem: &str| Misconfigured::new("--facilitator", problem);
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(bad("must be a URL with https:// (or http://) and a host"));
        }
        let mut url = base.clone();
        url.set_fragment(None);
        url.set_path(&format!("{}/account", base.path().trim_end_matches('/')));
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WAIT)
            .timeout(ANSWER_WAIT)
            // The API key is for this facilitator and for nobody that it names.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let client =
            builder.build().map_err(|_| bad("cannot be used: the TLS library did not start"))?;
        let key = secret::bearer()?;
        let has_secret = key.is_some() || !url.username().is_empty() || url.password().is_some();
        if has_secret && url.scheme() == "http" && !is_loopback(&url) {
            return Err(bad(
                "is not encrypted, so anybody on the way could read the API key; use https://, or \
                 send no key",
            ));
        }
        Ok(Self::Facilitator { client, url, key })
    }

    /// Has it sent, and names the transaction where there is one. That it was done is for the chain
    /// to show.
    pub(super) async fn carry_out(
        &self,
        chain: &Chain,
        root: &PrivateKeySigner,
        standing: &Standing,
        errand: &Errand,
    ) -> Result<Option<String>, CliError> {
        match self {
            Self::SelfFunded => send(chain, root, standing, errand).await.map(Some),
            Self::Kept { file, .. } => {
                let body = request(chain, root, standing, errand).await?;
                // It spends nothing, but whoever has it can send it first.
                let written = secret::write_new(file, format!("{body:#}\n").as_bytes());
                written.map_err(|error| {
                    let problem = format!("{}: {error}", file.display());
                    CliError::from(Misconfigured::new("--save", problem))
                })?;
                Ok(None)
            }
            Self::Facilitator { client, url, key } => {
                let body = request(chain, root, standing, errand).await?;
                let mut call = client
                    .post(url.clone())
                    .header(CONTENT_TYPE, "application/json")
                    .body(body.to_string());
                if let Some(key) = key {
                    call = call.header(AUTHORIZATION, key.clone());
                }
                read(ask(call).await?)
            }
        }
    }
}

/// The body of `POST /account`.
async fn request(
    chain: &Chain,
    root: &PrivateKeySigner,
    standing: &Standing,
    errand: &Errand,
) -> Result<Value, CliError> {
    let operation = errand.operation.as_ref();
    if errand.adopts {
        let (network, nonce) = (&chain.network, standing.nonce);
        return Ok(SignedAdoption::sign(root, network, nonce, operation).await?.to_json());
    }
    let account: Address = root.address();
    let mut body = Map::new();
    body.insert("network".into(), json!(chain.network));
    body.insert("account".into(), json!(account));
    if let Some(call) = call_data(operation, root).await? {
        body.insert("call".into(), json!(call));
    }
    Ok(Value::Object(body))
}

async fn ask(call: reqwest::RequestBuilder) -> Result<(u16, Vec<u8>), CliError> {
    let failed = |error: reqwest::Error| match error.is_connect() {
        true => CliError::network("no connection to the facilitator"),
        false => {
            CliError::unclear("the facilitator did not answer; it may have sent it").suggest(LOOK)
        }
    };
    let mut response = call.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(CliError::unclear("the facilitator's answer is too large").suggest(LOOK));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, body))
}

/// Reads the facilitator's answer; it has the form of an answer to a settlement.
fn read((status, body): (u16, Vec<u8>)) -> Result<Option<String>, CliError> {
    let answer = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let text = |name: &str| answer.get(name).and_then(Value::as_str).map(tidy);
    let transaction = text("transaction").filter(|hash| !hash.is_empty());
    let reason = text("errorReason").or_else(|| text("error"));
    match (answer.get("success").and_then(Value::as_bool), reason) {
        (Some(true), _) => Ok(transaction),
        // The chain tells how it ends.
        (Some(false), Some(reason)) if reason == "settlement_pending" => Ok(transaction),
        (_, Some(reason)) => {
            let why = text("errorMessage").or_else(|| text("message")).unwrap_or_default();
            let message = format!("the facilitator refused: {why}");
            let error = match status {
                401 | 403 => CliError::refused("facilitator_access", message)
                    .suggest("set FACILITATOR_API_KEY or FACILITATOR_API_KEY_FILE"),
                404 => no_such_service(),
                _ if reason == Refusal::SponsoringNotOffered.code() => no_such_service(),
                408 | 429 | 500.. if !is_before_entry(&reason) => {
                    let message = format!(
                        "the facilitator answered HTTP {status} and may have taken it: {why}"
                    );
                    CliError::unclear(message).suggest(LOOK)
                }
                408 | 429 | 500.. => {
                    CliError { retryable: true, ..CliError::refused("busy", message) }
                }
                _ if reason == Refusal::DelegateNotAllowed.code() => {
                    CliError::refused("facilitator_refused", message)
                        .suggest("send it from the account itself: --self-funded")
                }
                _ => CliError::refused("facilitator_refused", message),
            };
            Err(error.with_details(json!({ "reason": reason, "transaction": transaction })))
        }
        (_, None) if status == 404 => Err(no_such_service()),
        (_, None) => Err(CliError::unclear(format!(
            "the facilitator answered HTTP {status} and did not say what it did"
        ))
        .suggest(LOOK)),
    }
}

/// Whether a facilitator that gives this reason has certainly recorded nothing that it would send
/// later. "Busy" alone does not say that: its journal may have taken the request all the same.
fn is_before_entry(reason: &str) -> bool {
    matches!(
        Reason::parse(reason),
        Reason::Known(
            Refusal::SponsoringNotOffered
                | Refusal::SponsoringLimit
                | Refusal::AdoptionInvalid
                | Refusal::DelegateNotAllowed
                | Refusal::AccountNotAdopted
                | Refusal::OperationNotAllowed
                | Refusal::PayerSuspended
        )
    )
}

fn no_such_service() -> CliError {
    CliError::refused("not_sponsored", "the facilitator does not send anything for accounts")
        .suggest("use another facilitator, or pay the gas from the account: --self-funded")
}

/// A stranger's text, fit to be shown.
fn tidy(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect()
}

/// Sends it from the account itself.
async fn send(
    chain: &Chain,
    root: &PrivateKeySigner,
    standing: &Standing,
    errand: &Errand,
) -> Result<String, CliError> {
    let account = chain.agent_account(root.address());
    let adopting = if errand.adopts { Adopting::Yes } else { Adopting::No };
    let call = errand.operation.as_ref().map_or_else(Bytes::new, RootOperation::unsigned);
    let sent = relay::send(&chain.rpc, root, account, standing, adopting, call).await;
    let hash = sent.map_err(|error| match error {
        RelayError::Funds { .. } => CliError::refused("insufficient_funds", error.to_string())
            .suggest(format!(
                "send {} some of the network's own coin, or let a facilitator pay: --facilitator URL",
                account.address
            )),
        RelayError::Pending { nonce } => {
            CliError::refused("pending_transaction", error.to_string()).suggest(format!(
                "wait until it is mined, then repeat the call; if it never is, replace it from a \
                 wallet: any transaction of {} with nonce {nonce} and fees at least 10 % higher. \
                 What needs no adoption a facilitator can send meanwhile: --facilitator URL",
                account.address
            ))
        }
        RelayError::Refused(why) => CliError::refused("refused", why),
        RelayError::Unavailable(error) => error.into(),
        RelayError::Unknown { .. } => CliError::unclear(error.to_string()).suggest(LOOK),
    })?;
    for _ in 0..RECEIPTS_MAX {
        match relay::succeeded(&chain.rpc, hash).await? {
            Some(true) => return Ok(hash.to_string()),
            Some(false) => {
                let message = format!("the transaction {hash} failed on the chain");
                return Err(CliError::refused("reverted", message));
            }
            None => tokio::time::sleep(RECEIPT_EVERY).await,
        }
    }
    Err(CliError::unclear(format!("the transaction {hash} is not mined yet")).suggest(LOOK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Option<String>, CliError> {
        read((status, body.as_bytes().to_vec()))
    }

    #[test]
    fn answers_are_read_strictly() {
        let done = r#"{"success":true,"transaction":"0xab","network":"eip155:1","payer":"0x1"}"#;
        assert_eq!(answer(200, done).unwrap().as_deref(), Some("0xab"));
        assert_eq!(answer(200, r#"{"success":true,"transaction":""}"#).unwrap(), None);
        let pending =
            r#"{"success":false,"errorReason":"settlement_pending","transaction":"0xab"}"#;
        assert_eq!(answer(200, pending).unwrap().as_deref(), Some("0xab"));
        let cases = [
            (
                200,
                r#"{"success":false,"errorReason":"x","errorMessage":"why"}"#,
                "facilitator_refused",
            ),
            (401, r#"{"error":"unauthorized","message":"no key"}"#, "facilitator_access"),
            (404, r#"{"error":"not_found","message":"x"}"#, "not_sponsored"),
            (404, "", "not_sponsored"),
            (200, r#"{"success":false,"errorReason":"sponsoring_not_offered"}"#, "not_sponsored"),
            (503, r#"{"success":false,"errorReason":"x"}"#, "outcome_unknown"),
            (
                503,
                r#"{"success":false,"errorReason":"unexpected_settle_error"}"#,
                "outcome_unknown",
            ),
            (
                503,
                r#"{"success":false,"errorReason":"account_operation_failed"}"#,
                "outcome_unknown",
            ),
            (429, r#"{"error":"too_many_requests","message":"slow down"}"#, "outcome_unknown"),
            (408, r#"{"error":"timeout","message":"too slow"}"#, "outcome_unknown"),
            (500, r#"{"error":"internal"}"#, "outcome_unknown"),
            (504, r#"{"error":"timeout"}"#, "outcome_unknown"),
            (429, r#"{"success":false,"errorReason":"payer_suspended"}"#, "busy"),
            (503, r#"{"success":false,"errorReason":"sponsoring_limit_reached"}"#, "busy"),
            (400, r#"{"error":"bad_request","message":"call: is missing"}"#, "facilitator_refused"),
            (200, "{}", "outcome_unknown"),
            (200, "", "outcome_unknown"),
            (500, "<html>", "outcome_unknown"),
        ];
        for (status, body, code) in cases {
            assert_eq!(answer(status, body).unwrap_err().code, code, "{status} {body}");
        }
        let long = format!(r#"{{"errorReason":"x","errorMessage":"{}\u001b["}}"#, "y".repeat(2000));
        let message = answer(200, &long).unwrap_err().message;
        assert!(message.len() < 300 && !message.contains('\u{1b}'), "{message}");
    }

    #[test]
    fn a_facilitator_is_a_url_with_a_host() {
        let road = |text: &str| Road::of(Some(&Url::parse(text).unwrap()), false);
        let Road::Facilitator { url, .. } = road("https://f.example/base/?k=1").unwrap() else {
            panic!("another road")
        };
        assert_eq!(url.as_str(), "https://f.example/base/account?k=1");
        assert_eq!(road("ftp://f.example").err().unwrap().exit, 3);
        assert_eq!(Road::of(None, false).err().unwrap().exit, 2);
        assert!(matches!(Road::of(None, true), Ok(Road::SelfFunded)));
    }
}
