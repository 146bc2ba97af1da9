//! Webhooks: events sent to whoever asked for them, signed, until they are taken.
//!
//! - **The history is the outbox.** How far a hook has come on a network is kept in the journal; what was
//!   not taken when the process died is sent by the next.
//! - **At least once, and in order of each payment.** An event is sent again until it is answered with
//!   2xx; the next one of the same payment waits for it. Receivers know a repeat by `webhook-id`.
//! - **One sender.** Only the holder of a network's lease sends its events, and only while the lease
//!   is its own is it noted how far it came.
//! - **Given up, not lost.** An event that is refused [`ATTEMPTS_MAX`] times is left behind, with an
//!   error in the log and in the figures; it stays in the history, from where it can be sent anew.

mod sign;
mod target;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use pay402_core::PaymentKey;
use pay402_core::error::Misconfigured;
use pay402_core::history::{Change, Record};
use pay402_core::journal::{JournalError, Lease};
use reqwest::redirect::Policy;
use serde_json::json;
use tokio::time::timeout;
use url::Url;

use self::sign::Secret;
use self::target::Guard;
pub use self::target::Targets;
use crate::api::{Reader, event};
use crate::desk::Desk;
use crate::failpoint::Failpoint;
use crate::metrics::Count;

/// Times that an event is sent before it is given up: more than an hour.
pub const ATTEMPTS_MAX: u32 = 20;
/// Longest pause between two of them.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How long a receiver may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a receiver may take to be connected to.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Records read at a time; how far a hook has come is noted after each lot.
const PAGE: usize = 128;
/// Events that are sent to one hook at the same time, of as many payments.
const AT_ONCE: usize = 16;
/// Records that are passed over before that is noted although nothing was sent.
const PASSED_MAX: u64 = 1_000;
/// How often the journal is asked for what is new.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after the journal did not answer.
const RETRY: Duration = Duration::from_secs(2);

/// Whose events a hook is sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Of {
    /// All of them.
    All,
    /// Those of the payments that the caller of this name entered.
    Caller(String),
}

impl Of {
    /// What the journal and the figures know the hook by.
    pub fn hook(&self) -> String {
        match self {
            Self::All => "operator".to_owned(),
            Self::Caller(name) => format!("caller {name}"),
        }
    }
}

/// One receiver of events.
#[derive(Clone)]
pub struct Webhook(Arc<Hook>);

struct Hook {
    /// What the journal knows it by.
    name: String,
    url: Url,
    secret: Secret,
    of: Of,
    client: reqwest::Client,
    first_pause: Duration,
    delivered: Count,
    repeated: Count,
    given_up: Count,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its URL may hold a token.
        f.debug_struct("Webhook").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// Where a hook's events go.
#[derive(Clone, Copy, Debug)]
pub struct Receiver<'a> {
    /// Its URL.
    pub url: &'a str,
    /// The secret that both sides know: `whsec_` and 24 to 64 bytes in base64.
    pub secret: &'a str,
    /// Which targets are allowed.
    pub targets: Targets,
}

/// Pause before an event is sent for the second time; then it doubles.
pub const PAUSE_FIRST: Duration = Duration::from_secs(1);

impl Webhook {
    /// A hook; `setting` is what it is called in the configuration.
    ///
    /// # Errors
    /// Names what is wrong, and shows neither URL nor secret.
    pub fn new(
        setting: &str,
        of: Of,
        receiver: Receiver<'_>,
        first_pause: Duration,
    ) -> Result<Self, Misconfigured> {
        let wrong = |field: &str, problem: String| {
            Misconfigured::new(format!("{setting}.{field}"), problem)
        };
        let url = Url::parse(receiver.url)
            .map_err(|error| wrong("url", format!("is not a URL ({error})")))?;
        receiver.targets.check(&url).map_err(|problem| {
            let remedy = "; only with dangerous_private_webhooks = true may it be inside";
            wrong("url", format!("{problem}{remedy}"))
        })?;
        let secret = Secret::parse(receiver.secret).ok_or_else(|| {
            let problem = "must be whsec_ and 24 to 64 random bytes in base64; make one with: echo \
                           whsec_$(openssl rand -base64 32)";
            wrong("secret", problem.to_owned())
        })?;
        let client = reqwest::Client::builder()
            .dns_resolver(Arc::new(Guard(receiver.targets)))
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            .user_agent(concat!("pay402/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong("url", format!("cannot be called ({error})")))?;
        Ok(Self(Arc::new(Hook {
            name: of.hook(),
            url,
            secret,
            of,
            client,
            first_pause,
            delivered: Count::default(),
            repeated: Count::default(),
            given_up: Count::default(),
        })))
    }

    /// What the journal and the figures know it by.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How often something was taken, sent again, and given up.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        let hook = &self.0;
        [
            ("delivered", hook.delivered.read()),
            ("repeated", hook.repeated.read()),
            ("given_up", hook.given_up.read()),
        ]
    }

    /// Callers are sent how payments ended; operators everything that ended too. What is on its way is
    /// told by the stream of events.
    fn wants(&self, record: &Record) -> bool {
        let ended = matches!(
            record.change,
            Change::Settled { .. } | Change::Failed { .. } | Change::Reverted { .. }
        );
        ended
            && match &self.0.of {
                Of::All => true,
                Of::Caller(name) => record.entered_by.as_ref() == Some(name),
            }
    }
}

/// Sends the events of the desk's network until the desk halts or the lease is lost.
pub(crate) async fn deliver(desk: Arc<Desk>, lease: Lease, webhook: Webhook) {
    let mut news = desk.bell.listen();
    let mut outbox = Outbox { desk, lease, webhook, cursor: None };
    loop {
        match outbox.forward().await {
            Ok(Forward::More) => {}
            Ok(Forward::End) => _ = timeout(LOOK, news.changed()).await,
            Err(JournalError::LeaseLost(_)) => return,
            Err(error) => {
                let name = outbox.webhook.name();
                tracing::warn!(network = %outbox.desk.id, webhook = name, %error, "held up");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

enum Forward {
    /// There may be more.
    More,
    /// Nothing more is recorded.
    End,
}

/// How far a hook has come on a network.
#[derive(Clone, Copy)]
struct Cursor {
    /// As it is noted in the journal.
    noted: u64,
    /// As far as was looked at.
    at: u64,
}

/// One hook's way through the history.
struct Outbox {
    desk: Arc<Desk>,
    lease: Lease,
    webhook: Webhook,
    cursor: Option<Cursor>,
}

impl Outbox {
    /// Sends what the next records are about, and notes that it was taken.
    async fn forward(&mut self) -> Result<Forward, JournalError> {
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None => self.begin().await?,
        };
        let page = self.desk.journal.history(cursor.at, PAGE).await?;
        let Some(last) = page.last().map(|record| record.seq) else {
            // Somebody may have asked to have events sent anew.
            let noted = self.desk.journal.hook(self.webhook.name(), &self.desk.id).await?;
            self.cursor = Some(cursor).filter(|cursor| noted == Some(cursor.noted));
            return Ok(if self.cursor.is_some() { Forward::End } else { Forward::More });
        };
        let mut by_payment: HashMap<PaymentKey, Vec<Record>> = HashMap::new();
        for record in page {
            if record.network == self.desk.id && self.webhook.wants(&record) {
                by_payment.entry(record.key.clone()).or_default().push(record);
            }
        }
        let sent_some = !by_payment.is_empty();
        futures_util::stream::iter(by_payment.into_values())
            .for_each_concurrent(AT_ONCE, |records| async {
                for record in records {
                    self.send(&record).await;
                }
            })
            .await;
        let failpoints = &self.desk.options.failpoints;
        if sent_some {
            failpoints.pass(Failpoint::AfterPostBeforeNoted).await;
        }
        let mut noted = cursor.noted;
        if sent_some || last.saturating_sub(noted) >= PASSED_MAX {
            let from = Some(noted);
            let moved = self.desk.journal.move_hook(&self.lease, self.webhook.name(), from, last);
            if !moved.await? {
                self.cursor = None;
                return Ok(Forward::More);
            }
            noted = last;
            failpoints.pass(Failpoint::AfterNotedBeforePost).await;
        }
        self.cursor = Some(Cursor { noted, at: last });
        Ok(Forward::More)
    }

    /// Where the last process stopped; the end of the history for a hook that is new.
    async fn begin(&self) -> Result<Cursor, JournalError> {
        let name = self.webhook.name();
        loop {
            if let Some(noted) = self.desk.journal.hook(name, &self.desk.id).await? {
                return Ok(Cursor { noted, at: noted });
            }
            let end = self.desk.journal.history_end().await?;
            self.desk.journal.move_hook(&self.lease, name, None, end).await?;
            self.desk.options.failpoints.pass(Failpoint::AfterHookBeginsBeforePost).await;
        }
    }

    /// Sends one event until it is taken, or given up.
    async fn send(&self, record: &Record) {
        let hook = &self.webhook.0;
        let reader = match &hook.of {
            Of::All => Reader::Operator,
            Of::Caller(name) => Reader::Caller(name.clone()),
        };
        let Some(data) = event(record, &reader) else { return };
        let id = format!("evt_{}", record.seq);
        let body = json!({
            "type": format!("settlement.{}", record.change.name()),
            "timestamp": record.at.to_utc().replacen(' ', "T", 1).replace(" UTC", "Z"),
            "data": data,
        })
        .to_string();
        let mut pause = hook.first_pause;
        for attempt in 1..=ATTEMPTS_MAX {
            let problem = match hook.post(&id, self.desk.clock.now().0, body.clone()).await {
                Ok(()) => {
                    hook.delivered.add(1);
                    return;
                }
                Err(problem) => problem,
            };
            let name = &hook.name;
            tracing::warn!(webhook = name, event = id, attempt, problem, "webhook not taken");
            if attempt < ATTEMPTS_MAX {
                hook.repeated.add(1);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        hook.given_up.add(1);
        tracing::error!(
            webhook = hook.name,
            event = id,
            "webhook given up; send it anew with \
            `pay402 facilitator webhooks replay`"
        );
    }
}

impl Hook {
    /// Sends a message once.
    async fn post(&self, id: &str, timestamp: u64, body: String) -> Result<(), String> {
        let signature = self.secret.sign(id, timestamp, &body);
        let sent = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body)
            .send();
        match sent.await {
            // What it says beside is not read.
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("answered {}", answer.status().as_u16())),
            // The URL may hold a token.
            Err(error) => Err(error.without_url().to_string()),
        }
    }
}
