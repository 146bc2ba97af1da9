//! `pay402 demo`: the whole of a paid request in one process, told step by step, and proven.
//!
//! Every claim of the story comes from what passed through the ports, from the chain or from the
//! books; a step that does not hold makes the demo fail.

mod story;
mod watch;

use std::sync::Arc;

use alloy::primitives::{Address, U256};
use alloy::providers::Provider as _;
use axum::Router;
use axum::response::Json;
use axum::routing::get;
use pay402_client::{OwnerPolicy, PayError, PayingClient, Wallet};
use pay402_core::facilitator::{Settled, Verdict};
use pay402_core::spend::{self, Plan, Quote, Spent};
use pay402_core::{Amount, Price};
use pay402_devchain::genesis;
use pay402_server::{ResourceServer, Route};
use reqwest::{Method, Request};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use self::story::{Story, Telling, fact, figure};
use self::watch::{Event, Watch, Watched};
use crate::books::{self, Books};
use crate::error::CliError;
use crate::stack::{self, PAYER_INDEX, Served, Stack};
use crate::{serve, terminal};

const WEATHER_PRICE: &str = "$0.01";
const ALMANAC_PRICE: &str = "$0.50";
const PER_PAYMENT: &str = "$0.02";
const IN_TOTAL: &str = "$0.03";
/// Decimal places of the demo's USDC.
const DECIMALS: u8 = 6;

/// Show a whole paid request, from the 402 to the books.
///
/// Starts an embedded chain, a facilitator, a paid API and an agent, all in this process and on
/// loopback. Nothing is installed, nothing is kept, no network is used.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave everything running, and print how to try it by hand.
    #[arg(long)]
    keep: bool,
    /// Tell the story as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let started = Instant::now();
    let folder = tempfile::tempdir().map_err(|error| CliError::general(error.to_string()))?;
    let telling = if args.json { Telling::Json } else { Telling::Text };
    let mut story = Story::new(telling);
    let scene = Scene::set(folder.path()).await?;
    scene.introduce(&story);

    scene.first_purchase(&mut story).await?;
    scene.overspending(&mut story).await?;
    scene.whole_budget(&mut story).await?;
    scene.compare_books(&mut story).await;

    let elapsed = started.elapsed().as_millis();
    let all_true = story.close(&format!("{}.{:02}", elapsed / 1000, elapsed % 1000 / 10));
    if !all_true {
        return Err(CliError::general("a step of the demo was not true; this is a bug"));
    }
    if args.keep {
        scene.keep(telling).await?;
    }
    Ok(())
}

/// The stack with a paid API and an agent in it.
struct Scene {
    stack: Stack,
    api: Served,
    agent: PayingClient,
    watch: Watch,
}

/// What one purchase left in the ports.
#[derive(Default)]
struct Passed {
    judged: Option<(Box<Quote>, Spent, spend::Verdict)>,
    signed: Option<Plan>,
    verified: Option<Verdict>,
    settled: Option<Settled>,
}

impl Scene {
    async fn set(folder: &std::path::Path) -> Result<Self, CliError> {
        let stack = Stack::start(folder).await?;
        let watch = Watch::default();
        let facilitator = Watched { inner: stack.remote()?, watch: watch.clone() };
        let server = stack.resource_server(Arc::new(facilitator)).await?;
        let api = stack::serve(api(&stack, &server)?, 0)
            .await
            .map_err(|error| CliError::network(error.to_string()))?;
        let policy = OwnerPolicy::new().per_payment(price(PER_PAYMENT)).total(price(IN_TOTAL));
        let scheme = Watched { inner: stack.payer_scheme(), watch: watch.clone() };
        let wallet = Wallet::builder(stack.ledger.clone())
            .scheme(Arc::new(scheme))
            .policy(Watched { inner: policy, watch: watch.clone() })
            .build()?;
        let agent = PayingClient::new(wallet)?;
        Ok(Self { stack, api, agent, watch })
    }

    fn introduce(&self, story: &Story) {
        let accounts = &self.stack.accounts;
        story.open(
            "Software pays software: a request, its price, its payment",
            &[
                String::new(),
                "HTTP has had a status for it since 1997: 402 Payment Required. x402 uses it."
                    .into(),
                "An agent asks an API for data, learns the price, signs a payment, gets the data."
                    .into(),
                String::new(),
                format!(
                    "chain        an Ethereum chain inside this process ({})",
                    accounts.network
                ),
                format!(
                    "facilitator  {}  sends the transaction and pays its gas",
                    self.stack.facilitator.url
                ),
                format!("paid API     {}  GET /weather costs {WEATHER_PRICE}", self.api.url),
                format!(
                    "agent        {}  may spend {PER_PAYMENT} per payment, {IN_TOTAL} in total",
                    short(accounts.payer)
                ),
            ],
        );
    }

    fn request(&self, path: &str) -> Result<Request, CliError> {
        let url = Url::parse(&format!("{}{path}", self.api.url))
            .map_err(|error| CliError::general(error.to_string()))?;
        Ok(Request::new(Method::GET, url))
    }

    fn passed(&self) -> Passed {
        let mut passed = Passed::default();
        for event in self.watch.take() {
            match event {
                Event::Judged { quote, spent, verdict } => {
                    passed.judged = Some((quote, spent, verdict));
                }
                Event::Signed(plan) => passed.signed = Some(plan),
                Event::Verified(verdict) => passed.verified = Some(verdict),
                Event::Settled(settled) => passed.settled = Some(settled),
            }
        }
        passed
    }

    async fn first_purchase(&self, story: &mut Story) -> Result<(), CliError> {
        let before = self.balances().await?;
        let unpaid = reqwest::get(format!("{}/weather", self.api.url))
            .await
            .map_err(|error| CliError::network(error.to_string()))?;
        let asked = unpaid.status().as_u16();

        let paid = self.agent.execute(self.request("/weather")?).await.map_err(failed)?;
        let status = paid.response.status().as_u16();
        let body =
            paid.response.text().await.map_err(|error| CliError::network(error.to_string()))?;
        let passed = self.passed();
        let after = self.balances().await?;

        self.tell_asking(story, asked, &passed);
        tell_promise(story, &passed);
        self.tell_settlement(story, &passed).await?;
        story.step(
            "delivered",
            "The agent has its data",
            &[
                figure("status", "status", status.to_string(), status),
                figure(
                    "data",
                    "data",
                    body.trim(),
                    serde_json::from_str(&body).unwrap_or(Value::Null),
                ),
            ],
            status == 200 && body.contains("Lisbon"),
        );
        self.tell_balances(story, &before, &after);
        Ok(())
    }

    fn tell_asking(&self, story: &mut Story, asked: u16, passed: &Passed) {
        let mut facts = vec![
            fact("request", "request", format!("GET {}/weather", self.api.url)),
            figure("answer", "status", format!("{asked} Payment Required"), asked),
        ];
        if let Some((quote, ..)) = &passed.judged {
            let units = quote.amount.to_units(quote.decimals);
            facts.push(figure(
                "price",
                "price",
                format!("{units} {} to {}", quote.symbol, quote.pay_to),
                json!({ "amount": quote.amount, "asset": quote.asset.address, "pay_to": quote.pay_to }),
            ));
        }
        story.step("asked", "The agent asks for data and is told the price", &facts, asked == 402);
    }

    async fn tell_settlement(&self, story: &mut Story, passed: &Passed) -> Result<(), CliError> {
        let payer = match &passed.verified {
            Some(Verdict::Valid { payer }) => payer.clone(),
            other => format!("{other:?}"),
        };
        story.step(
            "verified",
            "The API has the payment verified before it does any work",
            &[
                fact(
                    "checked",
                    "checked",
                    "signature, amount, payee, times, balance, unused nonce",
                ),
                fact("payer", "payer", payer),
            ],
            matches!(passed.verified, Some(Verdict::Valid { .. })),
        );
        let Some(Settled::Done(settlement)) = &passed.settled else {
            story.step("settled", "The facilitator settles on the chain", &[], false);
            return Ok(());
        };
        let hash = settlement.transaction.parse().map_err(|_| CliError::general("no hash"))?;
        let receipt =
            self.stack.provider().get_transaction_receipt(hash).await.map_err(chain_error)?;
        let receipt = receipt.ok_or_else(|| CliError::general("the transaction is not mined"))?;
        let paid_gas = receipt.from == self.stack.accounts.signer;
        story.step(
            "settled",
            "The facilitator settles it on the chain, and pays the gas",
            &[
                fact("transaction", "transaction", &settlement.transaction),
                figure(
                    "block",
                    "block",
                    format!("{}", receipt.block_number.unwrap_or_default()),
                    receipt.block_number,
                ),
                figure(
                    "gas",
                    "gas_used",
                    format!(
                        "{} units, paid by the facilitator {}",
                        receipt.gas_used,
                        short(receipt.from)
                    ),
                    receipt.gas_used,
                ),
            ],
            receipt.status() && paid_gas,
        );
        Ok(())
    }

    fn tell_balances(&self, story: &mut Story, before: &Balances, after: &Balances) {
        let price = price(WEATHER_PRICE).to_amount(DECIMALS).map(Amount::to_u256);
        let held = price.is_ok_and(|price| {
            after.payer_usdc + price == before.payer_usdc
                && after.payee_usdc == before.payee_usdc + price
                && after.payer_wei == before.payer_wei
                && after.signer_wei < before.signer_wei
        });
        let usdc = |amount: U256| Amount::new(amount).to_units(DECIMALS);
        let wei = |amount: U256| Amount::new(amount).to_units(18);
        let row = |one: String, other: String| format!("{one} → {other}");
        story.step(
            "balances",
            "The money moved, and only the money",
            &[
                fact(
                    "agent",
                    "agent_usdc",
                    row(usdc(before.payer_usdc), usdc(after.payer_usdc)) + " USDC",
                ),
                fact(
                    "seller",
                    "seller_usdc",
                    row(usdc(before.payee_usdc), usdc(after.payee_usdc)) + " USDC",
                ),
                fact(
                    "agent gas",
                    "agent_eth",
                    row(wei(before.payer_wei), wei(after.payer_wei)) + " ETH: none",
                ),
                fact(
                    "facilitator",
                    "facilitator_eth",
                    row(wei(before.signer_wei), wei(after.signer_wei)) + " ETH",
                ),
            ],
            held,
        );
    }

    async fn overspending(&self, story: &mut Story) -> Result<(), CliError> {
        let outcome = self.agent.execute(self.request("/almanac")?).await;
        let passed = self.passed();
        let (rule, message) = denial(outcome.err());
        let held = rule == "max_per_payment" && passed.signed.is_none() && passed.settled.is_none();
        story.step(
            "overspend_refused",
            &format!("The agent wants the almanac for {ALMANAC_PRICE}, above its limit"),
            &[
                fact("stopped by", "rule", rule),
                fact("because", "reason", message),
                figure("signed", "signed", "nothing", passed.signed.is_some()),
            ],
            held,
        );
        Ok(())
    }

    async fn whole_budget(&self, story: &mut Story) -> Result<(), CliError> {
        // One payment is booked; two more fit the total, the next does not.
        let mut bought = 0_u32;
        let stopped = loop {
            match self.agent.execute(self.request("/weather")?).await {
                Ok(_) if bought < 10 => bought += 1,
                other => break other.err(),
            }
        };
        let _ = self.watch.take();
        let (rule, message) = denial(stopped);
        let spent = self.spent().await?;
        let limit = price(IN_TOTAL).to_amount(DECIMALS).ok();
        story.step(
            "budget_exhausted",
            "It buys the weather again and again, until its budget is spent",
            &[
                figure("bought", "bought", format!("{bought} more times"), bought),
                fact("stopped by", "rule", rule),
                fact("because", "reason", message),
                figure(
                    "spent",
                    "spent",
                    format!("{} USDC", spent.to_units(DECIMALS)),
                    spent.to_string(),
                ),
            ],
            rule == "total_budget" && bought == 2 && Some(spent) == limit,
        );
        Ok(())
    }

    async fn compare_books(&self, story: &mut Story) {
        let stack = &self.stack;
        let books =
            Books { ledger: &*stack.ledger, grants: &*stack.grants, journal: &*stack.journal };
        let compared = books::compare(&stack.provider(), &stack.accounts, &books).await;
        let (held, facts) = match &compared {
            Ok(found) => (
                found.payments == 3,
                vec![
                    figure(
                        "payments",
                        "payments",
                        format!("{} on the chain, each in all three books", found.payments),
                        found.payments,
                    ),
                    figure(
                        "agent",
                        "agent_paid",
                        format!(
                            "{} USDC in its ledger and on the chain",
                            found.paid.to_units(DECIMALS)
                        ),
                        found.paid.to_string(),
                    ),
                    figure(
                        "API",
                        "api_received",
                        format!(
                            "{} USDC delivered for and received",
                            found.received.to_units(DECIMALS)
                        ),
                        found.received.to_string(),
                    ),
                    figure(
                        "facilitator",
                        "gas_wei",
                        format!("{} wei of gas in its journal and on the chain", found.gas),
                        found.gas.to_string(),
                    ),
                ],
            ),
            Err(error) => (false, vec![fact("differs", "error", error.to_string())]),
        };
        story.step("books", "The books of all three agree with the chain", &facts, held);
    }

    async fn balances(&self) -> Result<Balances, CliError> {
        let (chain, accounts) = (self.stack.provider(), &self.stack.accounts);
        let usdc = async |account| {
            let found = books::balances(&chain, accounts, account).await;
            found.map(|(_, now)| now).map_err(|error| CliError::general(error.to_string()))
        };
        let wei = async |account| chain.get_balance(account).await.map_err(chain_error);
        Ok(Balances {
            payer_usdc: usdc(accounts.payer).await?,
            payee_usdc: usdc(accounts.payee).await?,
            payer_wei: wei(accounts.payer).await?,
            signer_wei: wei(accounts.signer).await?,
        })
    }

    async fn spent(&self) -> Result<Amount, CliError> {
        use pay402_core::spend::Ledger as _;
        let accounts = &self.stack.accounts;
        let token = format!("{:#x}", accounts.token);
        let asset = pay402_core::asset::AssetId::new(accounts.network.clone(), &token);
        let spent = self.stack.ledger.spent(&format!("{:#x}", accounts.payer), &asset).await?;
        Ok(spent.posted)
    }

    async fn keep(&self, telling: Telling) -> Result<(), CliError> {
        let serving = self.stack.chain.serve(([127, 0, 0, 1], 0).into()).await;
        let serving = serving.map_err(|error| CliError::network(error.to_string()))?;
        let key = genesis::PUBLIC_DEV_KEYS[PAYER_INDEX];
        if telling == Telling::Json {
            let urls = json!({
                "api": self.api.url, "facilitator": self.stack.facilitator.url,
                "rpc": serving.http_url(),
            });
            terminal::say(&urls.to_string());
        } else {
            for line in [
                "Everything stays up until Ctrl-C. Try it:".to_owned(),
                String::new(),
                format!("  curl -i {}/weather", self.api.url),
                format!("  curl {}/supported", self.stack.facilitator.url),
                String::new(),
                "  # the key of a public dev account, worth nothing anywhere".to_owned(),
                format!("  export EVM_PRIVATE_KEY={key} EVM_RPC_URL={}", serving.http_url()),
                format!("  pay402 pay --dry-run {}/weather", self.api.url),
                format!("  pay402 pay {}/weather", self.api.url),
            ] {
                terminal::say(&line);
            }
        }
        serve::until_asked_to_stop().await;
        serving.shutdown().await;
        Ok(())
    }
}

fn tell_promise(story: &mut Story, passed: &Passed) {
    let mut facts = Vec::new();
    if let Some((quote, spent, _)) = &passed.judged {
        let units = |amount: Amount| amount.to_units(quote.decimals);
        facts.push(fact(
            "rules",
            "rules",
            format!("at most {PER_PAYMENT} per payment, {IN_TOTAL} in total"),
        ));
        facts.push(fact("so far", "spent", format!("{} {}", units(spent.posted), quote.symbol)));
        facts.push(fact(
            "reserved",
            "reserved",
            format!("{} {}, on disk, before anything is signed", units(quote.amount), quote.symbol),
        ));
    }
    let allowed = matches!(&passed.judged, Some((_, _, spend::Verdict::Allow(_))));
    story.step("rule_checked", "The owner's rules allow it", &facts, allowed);

    let mut facts = vec![fact("what", "what", "exactly this amount, to exactly this payee, once")];
    if let Some(plan) = &passed.signed {
        let lifetime = plan.valid_before.0.saturating_sub(plan.valid_after.0);
        facts.push(figure(
            "until",
            "valid_before",
            format!("{} (Unix time), {lifetime} s after it begins", plan.valid_before),
            plan.valid_before.0,
        ));
    }
    facts.push(fact("costs", "gas", "no gas and no transaction: a signature"));
    story.step("signed", "The agent signs the payment", &facts, passed.signed.is_some());
}

struct Balances {
    payer_usdc: U256,
    payee_usdc: U256,
    payer_wei: U256,
    signer_wei: U256,
}

fn api(stack: &Stack, server: &ResourceServer) -> Result<Router, CliError> {
    let route = |price: &str, description: &str| {
        Route::new(price, stack.accounts.payee.to_checksum(None))
            .on(stack.accounts.network.as_str())
            .description(description)
            .mime_type("application/json")
    };
    let weather = server.layer(route(WEATHER_PRICE, "The weather in Lisbon"))?;
    let almanac = server.layer(route(ALMANAC_PRICE, "A year of weather"))?;
    let answer = async || Json(json!({ "city": "Lisbon", "sky": "clear", "celsius": 21 }));
    let year = async || Json(json!({ "year": 2026, "sunny_days": 291 }));
    Ok(Router::new()
        .route("/weather", get(answer).layer(weather))
        .route("/almanac", get(year).layer(almanac)))
}

fn price(text: &str) -> Price {
    Price::parse(text).expect("a constant in the grammar of prices")
}

fn short(address: Address) -> String {
    let text = address.to_checksum(None);
    format!("{}…{}", &text[..6], &text[text.len() - 4..])
}

fn denial(error: Option<PayError>) -> (&'static str, String) {
    match error {
        Some(error) => match error.denied() {
            Some(denied) => (denied.rule, denied.message.clone()),
            None => ("none", error.to_string()),
        },
        None => ("none", "nothing stopped it".to_owned()),
    }
}

fn failed(error: PayError) -> CliError {
    CliError::general(format!("the agent could not pay: {error}"))
}

fn chain_error(error: impl std::fmt::Display) -> CliError {
    CliError::general(format!("the chain cannot be read: {error}"))
}
