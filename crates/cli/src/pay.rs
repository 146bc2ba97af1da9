//! `pay402 pay`: curl that pays when it is asked to, inside the owner's limits.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address;
use pay402_client::{
    OwnerPolicy, Paid, PayError, PayingClient, Preview, Priced, Receipt, ReceiptStatus, Wallet,
};
use pay402_core::error::Misconfigured;
use pay402_core::refusal::Retry;
use pay402_core::scheme::ClientScheme;
use pay402_core::spend::Verdict;
use pay402_core::{NetworkId, Price};
use pay402_evm::account::SignedAdoption;
use pay402_evm::address::parse_address;
use pay402_evm::{AssetTable, ExactClient, Rpc, SessionClient, UptoClient};
use pay402_store::SqliteLedger;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Request};
use serde_json::{Map, Value, json};
use url::Url;

use crate::error::CliError;
use crate::{secret, terminal};

/// Most bytes of a request body.
const DATA_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What to do about a payment that is open.
const REPEAT: &str = "repeat the same call: the payment is not made twice as long as it could still \
                      be used. Only the chain can tell what became of it: once it has expired, \
                      --rpc-url is needed";

/// Most bytes of a file that --adoption names: more than twice the longest call in hexadecimal.
const ADOPTION_BYTES_MAX: u64 = 256 * 1024;

/// Fetch a URL, and pay for it when the server asks.
///
/// The response goes to standard output, everything else to standard error. The key of the paying
/// account is read from EVM_PRIVATE_KEY, from the file named by EVM_PRIVATE_KEY_FILE, or from
/// --keystore; with --account, a session key pays from an account that granted it. What was spent is
/// remembered in the state folder, so limits hold across calls.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done, 1 the output or the record of what was spent cannot be \
    written, 2 usage, 3 configuration, 4 network, 5 payment failed, 6 over --max-amount or \
    insufficient funds, 8 signing, 11 denied by policy, 13 payment sent but its outcome is \
    unknown, 22 HTTP error with --fail."
)]
pub(crate) struct Args {
    /// What to fetch.
    url: Url,
    /// HTTP method; POST when there is data.
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<Method>,
    /// Header to send, as 'Name: value'. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Body to send; @FILE reads it from a file.
    #[arg(short = 'd', long, value_name = "DATA")]
    data: Option<String>,
    /// Most that this payment may cost, in dollars.
    #[arg(long, value_name = "DOLLARS", default_value = "1", value_parser = dollars)]
    max_amount: Price,
    /// Most that may be spent in total, in dollars, over all calls that share the state folder. It
    /// holds for each account, network and token by itself: what is spent in another token, on
    /// another network or from another account does not count.
    #[arg(long, value_name = "DOLLARS", default_value = "10", value_parser = dollars)]
    max_spend: Price,
    /// Pay only on this network: a CAIP-2 id or a name. May be repeated.
    #[arg(short = 'n', long = "network", value_name = "NETWORK")]
    networks: Vec<NetworkId>,
    /// Show what it would cost, and whether the limits allow it. Signs nothing.
    #[arg(long)]
    dry_run: bool,
    /// Fail with exit code 22, and without output, when the status is 400 or more.
    #[arg(short = 'f', long)]
    fail: bool,
    /// Print the response's status line and headers before its body.
    #[arg(short = 'i', long)]
    include: bool,
    /// Say nothing about the payment.
    #[arg(short = 's', long)]
    silent: bool,
    /// Encrypted key file (Web3 Secret Storage v3); the password comes from PAY402_PASSWORD or
    /// PAY402_PASSWORD_FILE.
    #[arg(long, value_name = "FILE")]
    keystore: Option<PathBuf>,
    /// Account to pay from with a session key that it granted (see `pay402 account`).
    #[arg(long, env = "PAY402_ACCOUNT", value_name = "ADDRESS", value_parser = address)]
    account: Option<Address>,
    /// File with the session key; without it the key is read from PAY402_SESSION_KEY or the file
    /// named by PAY402_SESSION_KEY_FILE.
    #[arg(long, value_name = "FILE", conflicts_with = "keystore")]
    session_key: Option<PathBuf>,
    /// What the account's owner signed with `pay402 account adopt --save`: brought along until the chain
    /// shows it done.
    #[arg(long, value_name = "FILE", requires = "account")]
    adoption: Option<PathBuf>,
    /// Folder for the record of what was spent.
    #[arg(long, env = "PAY402_STATE_DIR", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// JSON-RPC node of the paying network: proves what became of a payment, and tells whether
    /// Permit2 lacks the allowance that a facilitator would sponsor.
    #[arg(long, env = "EVM_RPC_URL", value_name = "URL", hide_env_values = true)]
    rpc_url: Option<Url>,
}

fn address(text: &str) -> Result<Address, String> {
    parse_address(text).map_err(|error| error.to_string())
}

fn dollars(text: &str) -> Result<Price, String> {
    let plain = text.strip_prefix('$').unwrap_or(text);
    Price::parse_plain(plain).map_err(|error| error.to_string())
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let request = request(&args)?;
    let client = client(&args).await?;
    if args.dry_run {
        let preview = client.quote_only(request).await.map_err(explain)?;
        return show_preview(&preview);
    }
    let Paid { response, receipt } = client.execute(request).await.map_err(explain)?;
    if !args.silent {
        show_receipt(&receipt);
    }
    deliver(&args, response, &receipt).await
}

async fn client(args: &Args) -> Result<PayingClient, CliError> {
    let rpc = match &args.rpc_url {
        Some(url) => Some(Rpc::discover("--rpc-url", url.as_str()).await?),
        None => None,
    };
    let schemes = schemes(args, rpc)?;
    let folder = match &args.state_dir {
        Some(folder) => folder.clone(),
        None => secret::state_folder()?,
    };
    let ledger = SqliteLedger::open(folder.join("ledger.db"))?;
    let mut policy = OwnerPolicy::new().per_payment(args.max_amount).total(args.max_spend);
    if !args.networks.is_empty() {
        policy = policy.only_networks(args.networks.iter().cloned());
    }
    let wallet = Wallet::builder(Arc::new(ledger)).policy(policy);
    let wallet = schemes.into_iter().fold(wallet, |wallet, scheme| wallet.scheme(scheme));
    let wallet = wallet.build()?;
    let http = || {
        reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("pay402/", env!("CARGO_PKG_VERSION")))
    };
    Ok(PayingClient::builder(wallet).http(http).build()?)
}

/// What pays: an account with its own key, or a session key from the account that granted it.
fn schemes(
    args: &Args,
    rpc: Option<(NetworkId, Rpc)>,
) -> Result<Vec<Arc<dyn ClientScheme>>, CliError> {
    let assets = AssetTable::defaults();
    let session_key = secret::session_key(args.session_key.as_deref())?;
    let (account, key) = match (args.account, session_key) {
        (Some(account), Some(key)) => (account, key),
        (Some(_), None) => {
            let problem = "needs a session key; name its file with --session-key, or set \
                           PAY402_SESSION_KEY or PAY402_SESSION_KEY_FILE";
            return Err(Misconfigured::new("--account", problem).into());
        }
        (None, Some(_)) => {
            let problem =
                "needs the account that it pays from: --account ADDRESS, or PAY402_ACCOUNT";
            return Err(Misconfigured::new("--session-key", problem).into());
        }
        (None, None) => {
            let signer = secret::account(args.keystore.as_deref())?;
            let mut exact = ExactClient::new(signer.clone(), assets.clone());
            let mut upto = UptoClient::new(signer, assets);
            if let Some((network, rpc)) = rpc {
                exact = exact.with_rpc(network.clone(), rpc.clone());
                upto = upto.with_rpc(network, rpc);
            }
            return Ok(vec![Arc::new(exact), Arc::new(upto)]);
        }
    };
    let (network, rpc) = rpc.ok_or_else(|| {
        let problem =
            "is not set; a session key asks the chain what it may spend (or use EVM_RPC_URL)";
        Misconfigured::new("--rpc-url", problem)
    })?;
    let mut client = SessionClient::new(account, key, assets).with_rpc(network, rpc);
    if let Some(file) = &args.adoption {
        client = client.with_adoption(read_adoption(file)?).map_err(|error| {
            let problem = format!("{}: {error}", file.display());
            Misconfigured::new("--adoption", problem)
        })?;
    }
    Ok(vec![Arc::new(client)])
}

fn read_adoption(file: &Path) -> Result<SignedAdoption, Misconfigured> {
    let bad = |problem: String| {
        Misconfigured::new("--adoption", format!("{}: {problem}", file.display()))
    };
    let size = std::fs::metadata(file).map_err(|error| bad(error.to_string()))?.len();
    if size > ADOPTION_BYTES_MAX {
        return Err(bad(format!("larger than {ADOPTION_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let value: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|error| bad(format!("is not a JSON object: {error}")))?;
    SignedAdoption::parse(&value).map_err(|error| bad(error.to_string()))
}

fn request(args: &Args) -> Result<Request, CliError> {
    let body = args.data.as_deref().map(read_data).transpose()?;
    let default = if body.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::new(args.method.clone().unwrap_or(default), args.url.clone());
    for header in &args.headers {
        let bad = || CliError::usage(format!("-H {:?} must be 'Name: value'", name_of(header)));
        let (name, value) = header.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| bad())?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| bad())?;
        request.headers_mut().append(name, value);
    }
    if let Some(body) = body {
        if !request.headers().contains_key(CONTENT_TYPE) {
            // As curl's -d would say; a JSON text is called by its name.
            let json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
            let kind = if json { "application/json" } else { "application/x-www-form-urlencoded" };
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        *request.body_mut() = Some(body.into());
    }
    Ok(request)
}

/// A header's value may be a credential: only its name is shown.
fn name_of(header: &str) -> &str {
    header.split(':').next().unwrap_or_default()
}

fn read_data(data: &str) -> Result<Vec<u8>, CliError> {
    let Some(path) = data.strip_prefix('@') else { return Ok(data.as_bytes().to_vec()) };
    let fail = |problem: String| CliError::usage(format!("-d @{path}: {problem}"));
    let metadata = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    if metadata.len() > DATA_BYTES_MAX {
        return Err(fail(format!("larger than {DATA_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|error| fail(error.to_string()))
}

/// The response to standard output, as it arrives.
async fn deliver(
    args: &Args,
    mut response: reqwest::Response,
    receipt: &Receipt,
) -> Result<(), CliError> {
    let status = response.status();
    let mut out = std::io::stdout().lock();
    let failed = |error: std::io::Error| CliError::general(format!("standard output: {error}"));
    if args.include {
        let version = response.version();
        writeln!(out, "{version:?} {status}\r").map_err(failed)?;
        for (name, value) in response.headers() {
            let value = String::from_utf8_lossy(value.as_bytes());
            writeln!(out, "{name}: {value}\r").map_err(failed)?;
        }
        writeln!(out, "\r").map_err(failed)?;
    }
    if args.fail && status.as_u16() >= 400 {
        return Err(CliError::http_failed(status.as_u16()));
    }
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => out.write_all(&chunk).map_err(failed)?,
            Ok(None) => break,
            Err(_) => return Err(broken_off(receipt)),
        }
    }
    out.flush().map_err(failed)
}

/// The response ended before its end; what that means depends on what is known of its payment.
fn broken_off(receipt: &Receipt) -> CliError {
    let message = "the response broke off before its end";
    let mut error = match receipt.status {
        ReceiptStatus::Free => CliError::network(message),
        ReceiptStatus::Settled | ReceiptStatus::Claimed => CliError {
            retryable: false,
            payment: Some("settled"),
            ..CliError::network(message)
                .suggest("the payment is made and booked; the same call pays again")
        },
        ReceiptStatus::Unknown => CliError {
            payment: Some("unknown"),
            ..CliError::unclear(format!("{message}, and the outcome of its payment is not known"))
                .suggest(REPEAT)
        },
        ReceiptStatus::Unsettled => CliError {
            payment: Some("sent"),
            ..CliError::network(format!("{message}, and its payment was not charged so far"))
                .suggest(
                    "repeat the same call: as long as the payment that was sent could still be \
                     used, it is presented again and no other is made",
                )
        },
    };
    if let Some(transaction) = &receipt.transaction {
        *error.details = json!({ "transaction": transaction });
    }
    error
}

fn show_receipt(receipt: &Receipt) {
    let Some(terms) = &receipt.terms else { return };
    if !terminal::stderr_is_terminal() {
        terminal::note(&json!({ "payment": receipt }).to_string());
        return;
    }
    let style = terminal::stderr_style();
    let said = match receipt.status {
        ReceiptStatus::Settled => style.good("paid"),
        ReceiptStatus::Claimed => style.good("paid (by the server's word)"),
        ReceiptStatus::Unknown => style.bad("payment sent, outcome unknown:"),
        ReceiptStatus::Unsettled | ReceiptStatus::Free => style.dim("not charged:"),
    };
    let transaction = match &receipt.transaction {
        Some(transaction) => format!(", transaction {transaction}"),
        None => String::new(),
    };
    let network = &terms.network;
    terminal::note(&format!(
        "{said} {} to {} on {network}{transaction}",
        terms.charged_units(receipt.charged),
        terms.pay_to
    ));
    if let Some(note) = &receipt.note {
        terminal::note(&style.dim(note));
    }
}

fn show_preview(preview: &Preview) -> Result<(), CliError> {
    let (value, text) = match preview {
        Preview::Free { status } => (
            json!({ "payment_required": false, "status": status }),
            format!("free: the server answers {status} without asking for payment"),
        ),
        Preview::Priced(priced) => (priced_json(priced), priced_text(priced)),
    };
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        terminal::say(&text);
    } else {
        terminal::say(&value.to_string());
    }
    Ok(())
}

fn priced_json(priced: &Priced) -> Value {
    let candidates = priced.candidates.iter().map(|candidate| {
        let mut value = json!(candidate.terms);
        value["metered"] = candidate.terms.is_metered().into();
        value["allowed"] = matches!(candidate.verdict, Verdict::Allow(_)).into();
        if let Verdict::Deny(why) | Verdict::Ask(why) = &candidate.verdict {
            value["rule"] = why.rule.into();
            value["reason"] = why.message.clone().into();
        }
        value["spent"] = candidate.spent.posted.to_string().into();
        value["reserved"] = candidate.spent.reserved.to_string().into();
        value["remaining"] = candidate.remaining.map(|amount| amount.to_string()).into();
        value
    });
    json!({
        "payment_required": true,
        "within_budget": priced.chosen.is_some(),
        "chosen": priced.chosen,
        "offers": candidates.collect::<Value>(),
        "not_payable": priced.declined.iter().map(|declined| json!({
            "scheme": declined.scheme.to_string(),
            "network": declined.network.to_string(),
            "reason": declined.reason.to_string(),
        })).collect::<Value>(),
        "open_payment": priced.open,
    })
}

fn priced_text(priced: &Priced) -> String {
    let style = terminal::stdout_style();
    let mut lines = Vec::new();
    for (index, candidate) in priced.candidates.iter().enumerate() {
        let terms = &candidate.terms;
        let said = match &candidate.verdict {
            Verdict::Allow(_) if Some(index) == priced.chosen => style.good("would pay"),
            Verdict::Allow(_) => style.dim("could pay"),
            Verdict::Ask(_) | Verdict::Deny(_) => style.bad("would not pay"),
        };
        lines.push(format!("{said} {} to {} on {}", terms.units(), terms.pay_to, terms.network));
        if let Verdict::Deny(why) | Verdict::Ask(why) = &candidate.verdict {
            lines.push(format!("  {}: {}", why.rule, why.message));
        }
        if let Some(remaining) = candidate.remaining {
            let units = remaining.to_units(terms.decimals);
            lines.push(style.dim(&format!("  {units} {} remain of the total", terms.symbol)));
        }
    }
    for declined in &priced.declined {
        let (scheme, network) = (&declined.scheme, &declined.network);
        lines.push(style.dim(&format!("cannot pay by {scheme} on {network}: {}", declined.reason)));
    }
    if let Some(open) = &priced.open {
        lines.push(format!("an earlier payment of {} is open and would be used", open.units()));
    }
    lines.join("\n")
}

fn explain(error: PayError) -> CliError {
    let payment = error.payment_status().as_str();
    let mut shown = CliError::payment(error.code(), error.exit_code(), error.to_string(), payment);
    shown.retryable = error.retry() == Retry::Same;
    if let Some(denied) = error.denied() {
        *shown.details = json!({
            "rule": denied.rule,
            "asked": denied.asked.to_string(),
            "limit": denied.limit.map(|amount| amount.to_string()),
            "remaining": denied.remaining.map(|amount| amount.to_string()),
        });
        shown.suggestion = match denied.rule {
            "max_per_payment" => Some("raise --max-amount if you want to pay that much".into()),
            "total_budget" => Some(
                "raise --max-spend if you want to spend more in total of this token on this network \
                 from this account"
                    .into(),
            ),
            rule if rule.starts_with("session_") => {
                Some("the account's owner sets what a session key may pay: `pay402 account`".into())
            }
            _ => None,
        };
    }
    if let Some(transaction) = error.transaction() {
        shown.details["transaction"] = transaction.into();
    }
    shown.suggestion = match (error.code(), error.terms()) {
        ("insufficient_funds", Some(terms)) => {
            let (payer, symbol, network) = (&terms.payer, &terms.symbol, &terms.network);
            Some(format!("fund {payer} with {symbol} on {network}, then repeat the same call"))
        }
        ("allowance_required", Some(terms)) => {
            let (payer, symbol, network) = (&terms.payer, &terms.symbol, &terms.network);
            Some(format!(
                "let {payer} approve the Permit2 contract for {symbol} on {network}, once, then \
                 repeat the same call"
            ))
        }
        _ if error.retry() == Retry::Same && payment != "not_sent" => Some(REPEAT.into()),
        _ => shown.suggestion,
    };
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::exit;

    #[test]
    fn a_response_that_broke_off_tells_how_far_its_payment_came() {
        let cases = [
            (ReceiptStatus::Free, exit::NETWORK, true, None),
            (ReceiptStatus::Settled, exit::NETWORK, false, Some("settled")),
            (ReceiptStatus::Claimed, exit::NETWORK, false, Some("settled")),
            (ReceiptStatus::Unknown, exit::OUTCOME_UNKNOWN, true, Some("unknown")),
            (ReceiptStatus::Unsettled, exit::NETWORK, true, Some("sent")),
        ];
        for (status, code, retryable, payment) in cases {
            let error = broken_off(&Receipt { status, ..Receipt::free() });
            assert_eq!((error.exit, error.retryable, error.payment), (code, retryable, payment));
        }
    }
}
