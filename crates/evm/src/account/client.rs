//! The payer's side of `exact` by ERC-7710: a session key pays from the account that granted it.
//!
//! **A payment's nonce** is the account's epoch (8 bytes) and 192 random bits. So the plan alone
//! says what is signed, whatever the epoch is when it is signed again; and no two processes that
//! hold the same key ever plan the same. (Nonces that count up share storage and save the
//! facilitator some 17,000 gas each, but need a counter that all those processes share.)

use std::collections::BTreeMap;
use std::fmt;

use alloy::primitives::{Address, U64, U256};
use alloy::signers::Signer;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolEvent as _;
use async_trait::async_trait;
use pay402_core::error::{Malformed, Unavailable};
use pay402_core::scheme::{Authorized, ClientScheme, Decline, Fate, Unplanned};
use pay402_core::spend::{Clearance, Denied, Quote, Reservation};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, NetworkId, Requirements, Scheme};
use serde_json::{Map, Value, json};

use super::AgentAccount;
use super::abi::AgentAccount as Contract;
use super::adoption::SignedAdoption;
use super::payment::{LIFETIME_S_MAX, SessionPayment};
use super::session::{Payees, fits_u48};
use super::state::{self, Delegate, KeyState, Policy, Standing};
use crate::address::{canonical, parse_payee};
use crate::assets::{Asset, AssetTable, TransferMethod};
use crate::exact::Erc7710Payload;
use crate::network::sight::{CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S, LOG_SPANS_BLOCKS};
use crate::payer::{asset_of, cannot, chain_id_of, identifier, quote_in, sign};
use crate::rpc::{Block, Call, Log, Rpc};
use crate::sponsor::ACCOUNT_ADOPTION;

/// Bytes of a nonce that hold the epoch.
const EPOCH_BYTES: usize = 8;

/// Pays by `exact` with ERC-7710 from one adopted account, with a session key of it.
pub struct SessionClient<S = PrivateKeySigner> {
    account: Address,
    signer: S,
    assets: AssetTable,
    rpcs: BTreeMap<NetworkId, Rpc>,
    epochs: BTreeMap<NetworkId, u64>,
    adoptions: BTreeMap<NetworkId, SignedAdoption>,
}

impl<S: Signer + Send + Sync> SessionClient<S> {
    /// A payer from `account` with the session key of `signer`, in the tokens of `assets` and
    /// nothing else. The signer must be deterministic, as local keys are.
    pub const fn new(account: Address, signer: S, assets: AssetTable) -> Self {
        Self {
            account,
            signer,
            assets,
            rpcs: BTreeMap::new(),
            epochs: BTreeMap::new(),
            adoptions: BTreeMap::new(),
        }
    }

    /// Lets what the session key may spend on `network`, the account's epoch there, and the fate of
    /// payments be read from the chain.
    #[must_use]
    pub fn with_rpc(mut self, network: NetworkId, rpc: Rpc) -> Self {
        self.rpcs.insert(network, rpc);
        self
    }

    /// Sets the account's epoch on `network`, for payers without a node there. Payments of another
    /// epoch are refused by the chain.
    #[must_use]
    pub fn with_epoch(mut self, network: NetworkId, epoch: u64) -> Self {
        self.epochs.insert(network, epoch);
        self
    }

    /// Brings the account's adoption along with payments until the chain shows it done, where a server
    /// says that its facilitator sends it (`accountAdoption`).
    ///
    /// # Errors
    /// When it is another account's.
    pub fn with_adoption(mut self, adoption: SignedAdoption) -> Result<Self, Malformed> {
        if adoption.account().address != self.account {
            return Err(Malformed::new("account", "is another than the one that pays"));
        }
        self.adoptions.insert(adoption.network().clone(), adoption);
        Ok(self)
    }

    fn rpc(&self, network: &NetworkId) -> Result<&Rpc, Unavailable> {
        self.rpcs.get(network).ok_or_else(|| {
            let problem = "no RPC URL is configured, so the chain cannot be asked about the \
                           account and its payments";
            Unavailable::new(format!("rpc {network}"), problem)
        })
    }

    /// The payment that a reservation stands for.
    fn payment(
        &self,
        reservation: &Reservation,
    ) -> Result<(SessionPayment, AgentAccount), Unavailable> {
        if reservation.payer != canonical(&self.account) {
            return Err(cannot("the reservation is for another account"));
        }
        let Reservation { quote, plan, .. } = reservation;
        if quote.scheme != Scheme::EXACT
            || TransferMethod::of(&quote.offer) != Some(TransferMethod::Erc7710)
        {
            return Err(cannot("the reservation is for another method"));
        }
        let asset = self
            .assets
            .find(&quote.asset)
            .ok_or_else(|| cannot("the asset is no longer in the asset table"))?;
        let to = parse_payee(&quote.pay_to).map_err(|_| cannot("the payee is no address"))?;
        if !fits_u48(plan.valid_before) {
            return Err(cannot("the plan's times are out of range"));
        }
        // Valid up to and including its deadline, where the plan's end is excluded; and never for
        // longer than the account lets a session key sign.
        let latest = plan.valid_after.plus_s(LIFETIME_S_MAX);
        let account = AgentAccount { chain_id: chain_id_of(reservation)?, address: self.account };
        let payment = SessionPayment {
            key: self.signer.address(),
            token: asset.token(),
            to,
            value: quote.amount.to_u256(),
            nonce: U256::from_be_bytes(plan.nonce),
            valid_after: plan.valid_after,
            deadline: plan.valid_before.minus_s(1).min(latest),
            epoch: epoch_of(&plan.nonce)?,
        };
        Ok((payment, account))
    }

    /// Asks the account whether it would let the key make the payment, and for its epoch.
    async fn ask_account(&self, rpc: &Rpc, quote: &Quote) -> Result<u64, Unplanned> {
        let (account, key) = (self.account, self.signer.address());
        let standing = state::standing(rpc, account).await?;
        let adoption = self.adoptions.get(&quote.asset.network);
        if standing.delegate != Delegate::AgentAccount {
            if let Some(adoption) = adoption {
                return self.ask_adoption(adoption, &standing, quote);
            }
            let message = format!(
                "{} is not an agent account on {}; its owner can adopt one with `pay402 account \
                 adopt`",
                account.to_checksum(None),
                quote.asset.network
            );
            return Err(denied("session_account", message, quote).into());
        }
        let policy = state::policies(rpc, account, standing.epoch, &[key]).await?;
        let policy =
            policy.first().ok_or_else(|| rpc.unavailable("the node answered too little"))?;
        if let Some(adoption) = adoption.filter(|_| policy.state == KeyState::Unknown) {
            return self.ask_adoption(adoption, &standing, quote);
        }
        check_policy(policy, key, standing.time, quote)?;
        let asset = self.assets.find(&quote.asset).ok_or_else(|| cannot("the asset is unknown"))?;
        let payee = parse_payee(&quote.pay_to).map_err(|_| cannot("the payee is no address"))?;
        let allowed = state::view(account, &Contract::isPayeeAllowedCall { key, payee });
        let allowed = rpc.ask(allowed).await?;
        if !state::returned::<Contract::isPayeeAllowedCall>(rpc, allowed)? {
            let message = format!("the session key may not pay {}", quote.pay_to);
            return Err(denied("session_payee", message, quote).into());
        }
        let allowances = state::allowances(rpc, account, key, &[asset.token()]).await?;
        check_allowance(allowances.first(), asset, quote)?;
        Ok(standing.epoch)
    }

    /// Whether the account would let the key make the payment once it has adopted and registered what
    /// comes along, and in what epoch.
    fn ask_adoption(
        &self,
        adoption: &SignedAdoption,
        standing: &Standing,
        quote: &Quote,
    ) -> Result<u64, Unplanned> {
        let (key, now) = (self.signer.address(), standing.time);
        let no = |message: &str| Err(denied("session_account", message.to_owned(), quote).into());
        if standing.delegate != Delegate::AgentAccount && adoption.nonce() != standing.nonce {
            return no(
                "the adoption that comes along cannot take effect any more: the account has \
                       sent a transaction since it was signed; its owner can sign another",
            );
        }
        let Some((epoch, session)) = adoption.session(key) else {
            let message = "the adoption that comes along grants this key nothing";
            return Err(denied("session_key", message.to_owned(), quote).into());
        };
        if epoch != standing.epoch || adoption.deadline().is_some_and(|deadline| deadline <= now) {
            return no("the registration that comes along is over; its owner can sign another");
        }
        let (payees, any_payee) = match &session.payees {
            Payees::Any => (&[][..], true),
            Payees::Only(payees) => (payees.as_slice(), false),
        };
        let (valid_after, expiry) = (session.valid_after, session.expiry);
        let policy = Policy { state: KeyState::Registered, valid_after, expiry, any_payee };
        check_policy(&policy, key, now, quote)?;
        let payee = parse_payee(&quote.pay_to).map_err(|_| cannot("the payee is no address"))?;
        if !any_payee && !payees.contains(&payee) {
            let message = format!("the session key may not pay {}", quote.pay_to);
            return Err(denied("session_payee", message, quote).into());
        }
        let asset = self.assets.find(&quote.asset).ok_or_else(|| cannot("the asset is unknown"))?;
        let limit = session.tokens.iter().find(|limit| limit.token == asset.token());
        let allowance = limit.map(|limit| state::Allowance {
            limit: *limit,
            left: U256::from(limit.budget),
            resets: None,
        });
        check_allowance(allowance.as_ref(), asset, quote)?;
        Ok(epoch)
    }

    /// The adoption to bring along: none where the chain shows it done.
    async fn adoption(&self, network: &NetworkId, epoch: u64) -> Option<&SignedAdoption> {
        let adoption = self.adoptions.get(network)?;
        let Some(rpc) = self.rpcs.get(network) else { return Some(adoption) };
        let key = self.signer.address();
        let is_done = async {
            let standing = state::standing(rpc, self.account).await?;
            let policies = state::policies(rpc, self.account, epoch, &[key]).await?;
            let is_known = policies.iter().all(|policy| policy.state != KeyState::Unknown);
            Ok::<_, Unavailable>(standing.delegate == Delegate::AgentAccount && is_known)
        };
        // Where the node does not say, the facilitator finds out.
        (!is_done.await.unwrap_or(false)).then_some(adoption)
    }

    /// The transaction that made a payment, if the newest blocks show it.
    async fn transaction_of(
        &self,
        rpc: &Rpc,
        payment: &SessionPayment,
        head: u64,
    ) -> Option<String> {
        let said = [payment.value.to_be_bytes::<32>(), payment.nonce.to_be_bytes::<32>()].concat();
        let mut to = head;
        for span in LOG_SPANS_BLOCKS {
            let from = to.saturating_sub(span - 1);
            let filter = json!({
                "address": self.account,
                "fromBlock": U64::from(from),
                // The head may have moved since it was read.
                "toBlock": if to == head { json!("latest") } else { json!(U64::from(to)) },
                "topics": [
                    Contract::Paid::SIGNATURE_HASH,
                    payment.key.into_word(),
                    payment.token.into_word(),
                    payment.to.into_word(),
                ],
            });
            let answer = rpc.ask(Call::new("eth_getLogs", json!([filter]))).await.ok()?;
            let logs: Vec<Log> = rpc.read(answer).ok()?;
            let paid = logs.iter().find(|log| *log.data == *said);
            if let Some(hash) = paid.and_then(|log| log.transaction_hash) {
                return Some(hash.to_string());
            }
            to = from.checked_sub(1)?;
        }
        None
    }
}

/// The epoch that a planned nonce begins with.
fn epoch_of(nonce: &[u8; 32]) -> Result<u64, Unavailable> {
    let (epoch, _) = nonce.split_first_chunk().expect("a nonce is longer than an epoch");
    let epoch = u64::from_be_bytes(*epoch);
    // Nobody revokes everything four billion times: this nonce was not planned here.
    if epoch > u64::from(u32::MAX) {
        return Err(cannot("the reservation's nonce does not name the account's epoch"));
    }
    Ok(epoch)
}

fn denied(rule: &'static str, message: String, quote: &Quote) -> Denied {
    Denied { rule, message, asked: quote.amount, limit: None, remaining: None }
}

fn check_policy(
    policy: &Policy,
    key: Address,
    now: UnixTime,
    quote: &Quote,
) -> Result<(), Unplanned> {
    let problem = match policy.state {
        KeyState::Unknown => "is not registered; the owner can add it",
        KeyState::Revoked => "is revoked; the owner can add another",
        KeyState::Registered if now >= policy.expiry => "has expired; the owner can add another",
        KeyState::Registered if now < policy.valid_after => "may not pay yet",
        KeyState::Registered => return Ok(()),
    };
    let message = format!("the session key {} {problem}", key.to_checksum(None));
    Err(denied("session_key", message, quote).into())
}

fn check_allowance(
    allowance: Option<&state::Allowance>,
    asset: &Asset,
    quote: &Quote,
) -> Result<(), Unplanned> {
    let Some(allowance) = allowance else {
        let message = format!("the session key may not spend {}", asset.info.symbol);
        return Err(denied("session_token", message, quote).into());
    };
    let units = |amount: Amount| format!("{} {}", amount.to_units(quote.decimals), quote.symbol);
    let (cap, budget) = (U256::from(allowance.limit.cap), U256::from(allowance.limit.budget));
    let (cap, budget, left) = (Amount::new(cap), Amount::new(budget), Amount::new(allowance.left));
    let (rule, message, limit, remaining) = if quote.amount > cap {
        let asked = units(quote.amount);
        let message = format!(
            "the payment of {asked} is over the session key's cap of {} per payment",
            units(cap)
        );
        ("session_cap", message, cap, None)
    } else if quote.amount > left {
        let resets =
            allowance.resets.map(|at| format!(", until {}", at.to_utc())).unwrap_or_default();
        let message = format!(
            "the payment of {} is over what remains of the session key's budget: {} of {}{resets}",
            units(quote.amount),
            left.to_units(quote.decimals),
            units(budget)
        );
        ("session_budget", message, budget, Some(left))
    } else {
        return Ok(());
    };
    let denied = denied(rule, message, quote);
    Err(Denied { limit: Some(limit), remaining, ..denied }.into())
}

impl<S: Signer + Send + Sync> fmt::Debug for SessionClient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionClient")
            .field("account", &self.account)
            .field("key", &self.signer.address())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: Signer + Send + Sync> ClientScheme for SessionClient<S> {
    fn scheme(&self) -> Scheme {
        Scheme::EXACT
    }

    fn payer(&self) -> String {
        canonical(&self.account)
    }

    fn quote(&self, offer: &Requirements) -> Result<Quote, Decline> {
        let asset = asset_of(&self.assets, &Scheme::EXACT, offer)?;
        if TransferMethod::of(offer) != Some(TransferMethod::Erc7710) {
            let why = "a session key pays by erc7710, which this offer does not name";
            return Err(Decline(why.into()));
        }
        quote_in(asset, &Scheme::EXACT, offer)
    }

    async fn plan_nonce(&self, quote: &Quote, fresh: [u8; 32]) -> Result<[u8; 32], Unplanned> {
        let network = &quote.asset.network;
        let epoch = match (self.rpcs.get(network), self.epochs.get(network)) {
            (None, Some(epoch)) => *epoch,
            _ => self.ask_account(self.rpc(network)?, quote).await?,
        };
        let mut nonce = fresh;
        nonce[..EPOCH_BYTES].copy_from_slice(&epoch.to_be_bytes());
        Ok(nonce)
    }

    async fn authorize(&self, clearance: &Clearance) -> Result<Authorized, Unavailable> {
        let (payment, account) = self.payment(clearance.reservation())?;
        let signature = sign(&self.signer, &payment.digest(&account)).await?;
        let payload = Erc7710Payload {
            manager: account.address,
            context: payment.context(&signature),
            delegator: account.address,
        };
        Ok(Authorized::new(payload.to_json()))
    }

    async fn extensions(
        &self,
        clearance: &Clearance,
        advertised: &Map<String, Value>,
    ) -> Map<String, Value> {
        let reservation = clearance.reservation();
        let Ok((payment, _)) = self.payment(reservation) else { return Map::new() };
        if !advertised.contains_key(ACCOUNT_ADOPTION) {
            return Map::new();
        }
        let adoption = self.adoption(&reservation.quote.asset.network, payment.epoch).await;
        adoption.map(|one| (ACCOUNT_ADOPTION.to_owned(), one.info().into())).into_iter().collect()
    }

    async fn identifier(&self, clearance: &Clearance) -> Result<String, Unavailable> {
        let reservation = clearance.reservation();
        self.payment(reservation)?;
        identifier(&self.signer, &reservation.quote.asset, reservation.plan.nonce).await
    }

    /// Dead is what no block can make any more: the epoch or the key ended, deep enough that no
    /// reorganization undoes it, or the deadline is well past. A payment that the chain took in an
    /// epoch that has ended since is still found used.
    async fn fate(&self, clearance: &Clearance) -> Result<Fate, Unavailable> {
        let reservation = clearance.reservation();
        let (payment, account) = self.payment(reservation)?;
        let rpc = self.rpc(&reservation.quote.asset.network)?;
        let head: Block = rpc.read(rpc.ask(Call::head()).await?)?;
        let settled = head.number().saturating_sub(CANCEL_DEPTH_BLOCKS);
        let subject = (payment.epoch, payment.key, payment.nonce);
        let traces = state::traces(rpc, account.address, subject, head.number(), settled).await?;
        if traces.is_used {
            let transaction = self.transaction_of(rpc, &payment, head.number()).await;
            return Ok(Fate::Used { transaction, charged: Some(reservation.quote.amount) });
        }
        let is_deep = head.number() >= CANCEL_DEPTH_BLOCKS;
        let ended = traces.settled_epoch > payment.epoch
            || traces.settled_policy.state == KeyState::Revoked;
        let over = UnixTime(head.time()) > payment.deadline.plus_s(FINALITY_MARGIN_S);
        Ok(if over || (is_deep && ended) { Fate::Dead } else { Fate::Live })
    }
}
