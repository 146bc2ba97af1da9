//! Webhooks in the configuration, and `pay402 facilitator webhooks`: sending events anew.

use pay402_core::error::Misconfigured;
use pay402_core::time::SystemClock;
use pay402_facilitator::webhooks::{Of, PAUSE_FIRST, Receiver, Targets, Webhook};
use serde::Deserialize;

use super::config::{self, Config, Secret};
use super::{journal, needed};
use crate::error::CliError;
use crate::terminal;

/// `webhook` of a `[[caller]]`, or `[webhook]` for whoever operates the facilitator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where events are sent. It may hold a token, so it is never printed. `${VAR}` is replaced.
    url: Secret,
    /// The environment variable with the secret that signs them, or `<name>_FILE`.
    secret_env: String,
}

/// What is done with webhooks.
#[derive(Clone, Debug, Eq, PartialEq, clap::Subcommand)]
pub(crate) enum Verb {
    /// Send events anew, beginning after one of them.
    ///
    /// The facilitator that runs notices within a second or so. Receivers see the same `webhook-id`
    /// again.
    Replay(Replay),
}

/// What is sent anew.
#[derive(Clone, Debug, Eq, PartialEq, clap::Args)]
pub(crate) struct Replay {
    /// The name of the caller; without it, the operator's own webhook.
    #[arg(long)]
    caller: Option<String>,
    /// The id of the event after which to begin; 0 for all.
    #[arg(long, value_name = "ID")]
    from: u64,
}

/// Everybody who is sent events.
pub(super) fn all(config: &Config) -> Result<Vec<Webhook>, Misconfigured> {
    let targets = match config.dangerous_private_webhooks {
        true => Targets::DangerousPrivate,
        false => Targets::Public,
    };
    let own = config.webhook.iter().map(|of| ("webhook".to_owned(), Of::All, of));
    let callers = config.callers.iter().enumerate().filter_map(|(index, caller)| {
        let setting = format!("caller[{index}].webhook");
        Some((setting, Of::Caller(caller.name.clone()), caller.webhook.as_ref()?))
    });
    own.chain(callers)
        .map(|(setting, of, settings)| {
            let variable = format!("{setting}.secret_env");
            config::check_variable(&variable, &settings.secret_env)?;
            let secret = needed(&variable, &settings.secret_env)?;
            let url = config::expand(&format!("{setting}.url"), &settings.url.0)?;
            let receiver = Receiver { url: &url, secret: &secret, targets };
            Webhook::new(&setting, of, receiver, PAUSE_FIRST)
        })
        .collect()
}

pub(super) async fn run(verb: Verb, config: &Config) -> Result<(), CliError> {
    let Verb::Replay(Replay { caller, from }) = verb;
    let of = caller.map_or(Of::All, Of::Caller);
    let name = of.hook();
    let journal = journal(config, &SystemClock).await?;
    let set_back = journal.replay_hook(&name, from).await;
    let set_back = set_back.map_err(|error| CliError::general(error.to_string()))?;
    if set_back == 0 {
        let problem = format!(
            "no webhook of {name:?} has come further than event {from}; name a caller of this \
             configuration, or an earlier event"
        );
        return Err(Misconfigured::new("--from", problem).into());
    }
    terminal::say(&format!("events after {from} are sent anew, on {set_back} networks"));
    Ok(())
}
