//! A chain in memory and a node of it that fails as the weather says: blocks, a pool, fees that rise,
//! reorganisations, other people's transactions. No cryptography; what it shows of a payment follows the
//! rules of the EVM network's proofs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pay402_core::error::{Malformed, Misconfigured, Unavailable};
use pay402_core::facilitator::Kind;
use pay402_core::network::{
    Bid, BlockId, ChainStatus, Header, Identified, Network, Pack, Packing, SecretBytes, SendError,
    SentAs, SignedTransaction, Unverified, Verified,
};
use pay402_core::time::UnixTime;
use pay402_core::{
    Amount, Digest, NetworkId, Payment, PaymentKey, Presented, Refusal, Refused, Requirements,
    Scheme, WireVersion,
};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

mod tx;
mod view;

use super::journal::Store;
use super::world::{Die, Life, Sea};
use tx::{Item, Tx, cancelled, hash_of, is_unlucky, narrow, plan_of, signed};
use view::View;

/// Chain time at the beginning.
pub(super) const EPOCH: u64 = 1_000_000;
/// How far past an end a block must be for "never".
/// A look that two nodes answer alike.
const SECOND_LOOK: &str = "second look";
const FINALITY_MARGIN_S: u64 = 60;
/// How deep a cancellation must be.
const CANCEL_DEPTH: u64 = 12;
/// How long before its end a payment is not verified any more.
const MARGIN_S: u64 = 6;
/// Most that a payment offers for its gas. What cancels one offers one more.
pub(super) const LEVEL_MAX: u64 = 5;
/// Who sends what is not ours.
const STRANGER: &str = "0xstranger";

fn place(height: u64) -> usize {
    usize::try_from(height).expect("a short chain")
}

/// What happened in a block.
#[derive(Debug, Default)]
struct Block {
    /// Which branch it began: tells it from another of its height.
    fork: u64,
    time: u64,
    /// Ours, each with whether it made its payments.
    txs: Vec<(Tx, Vec<bool>)>,
    /// What others did with authorizations, before ours.
    deeds: Vec<Deed>,
}

/// What somebody else does on the chain.
#[derive(Clone, Debug)]
enum Deed {
    /// Sends the same authorization.
    Preempt(Item),
    /// The payer cancels it.
    Cancel(String),
    /// The payer spends all that it has.
    Drain(String),
}

/// How an authorization was used.
#[derive(Clone, Debug)]
struct Use {
    height: u64,
    /// The transaction that made the transfer; nothing when it was cancelled.
    by: Option<(String, Option<Tx>)>,
}

/// What the chain amounts to.
#[derive(Debug, Default)]
struct Ledger {
    used: BTreeMap<String, Use>,
    mined: BTreeMap<String, u64>,
    consumed: BTreeMap<String, u64>,
    /// What each payer has no more.
    gone: BTreeMap<String, u64>,
}

/// The chain.
#[derive(Debug)]
pub(super) struct State {
    blocks: Vec<Block>,
    tip: Ledger,
    pool: BTreeMap<(String, u64), Tx>,
    deeds: Vec<Deed>,
    /// What a transaction must offer.
    pub(super) level: u64,
    /// What each payer has at the beginning.
    pub(super) funds: BTreeMap<String, u64>,
    pub(super) confirmations: u64,
    pub(super) packing: Option<Packing>,
    /// How often blocks were taken out.
    forks: u64,
    /// Everything that a node was ever given: who carried out what with which nonce.
    handed: BTreeMap<(String, u64), Vec<String>>,
    /// Transactions that were signed to cancel others.
    cancelling: BTreeSet<String>,
    /// What payments were charged for undone packs that had left them out: a share that stays on its account
    /// although nobody paid it in the end.
    pub(super) left_out_undone: u64,
    /// What must not be.
    pub(super) violations: Vec<String>,
}

/// A payment by the chain: the transaction that made it, and how much it moved.
pub(super) type Made = BTreeMap<String, (String, u64)>;

impl State {
    pub(super) fn new(confirmations: u64) -> Self {
        Self {
            blocks: vec![Block { time: EPOCH, ..Block::default() }],
            tip: Ledger::default(),
            pool: BTreeMap::new(),
            deeds: Vec::new(),
            level: 0,
            funds: BTreeMap::new(),
            confirmations,
            packing: None,
            forks: 0,
            handed: BTreeMap::new(),
            cancelling: BTreeSet::new(),
            left_out_undone: 0,
            violations: Vec::new(),
        }
    }

    fn block(&self, height: u64) -> &Block {
        &self.blocks[place(height)]
    }

    fn height(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    /// Mines a block at `time` out of what is in the pool and `includes` does not leave for later.
    pub(super) fn mine(&mut self, time: u64, mut includes: impl FnMut() -> bool) {
        let last = self.blocks.last().map_or(0, |block| block.time);
        let time = time.max(last + 1);
        let mut block = Block { fork: self.forks, time, ..Block::default() };
        let height = self.height() + 1;
        block.deeds = std::mem::take(&mut self.deeds);
        for deed in &block.deeds {
            self.tip.apply_deed(deed, height, &self.funds);
        }
        let keys: Vec<_> = self.pool.keys().cloned().collect();
        for key in keys {
            let next = self.tip.consumed.get(&key.0).copied().unwrap_or(0);
            let tx = &self.pool[&key];
            if key.1 != next || tx.level < self.level || !includes() {
                continue;
            }
            let tx = self.pool.remove(&key).expect("it is there");
            let made = self.tip.apply(&tx, height, block.time, &self.funds);
            block.txs.push((tx, made));
        }
        let consumed = &self.tip.consumed;
        self.pool.retain(|(signer, nonce), _| consumed.get(signer).copied().unwrap_or(0) <= *nonce);
        self.blocks.push(block);
    }

    /// Takes the last `depth` blocks out. What was in them goes back to the pool when `comes_back` says
    /// so, and is lost otherwise.
    pub(super) fn reorganize(&mut self, depth: u64, mut comes_back: impl FnMut() -> bool) {
        self.forks += 1;
        for _ in 0..depth.min(self.height()) {
            let block = self.blocks.pop().expect("there is a block");
            for (tx, made) in block.txs {
                if tx.items.len() > 1 {
                    let left_out = (0..).zip(&made).filter(|(_, made)| !**made);
                    let of = narrow(tx.items.len());
                    let share = |(index, _)| {
                        let part = pay402_core::network::Part { index, of };
                        part.share(tx.fee().into()).to_u256().saturating_to::<u64>()
                    };
                    self.left_out_undone += left_out.map(share).sum::<u64>();
                }
                if comes_back() {
                    self.pool.insert((tx.signer.clone(), tx.nonce), tx);
                }
            }
            for deed in block.deeds {
                if comes_back() {
                    self.deeds.push(deed);
                }
            }
        }
        self.tip = Ledger::default();
        for (height, block) in self.blocks.iter_mut().enumerate() {
            for deed in &block.deeds {
                self.tip.apply_deed(deed, height as u64, &self.funds);
            }
            for (tx, made) in &mut block.txs {
                *made = self.tip.apply(tx, height as u64, block.time, &self.funds);
            }
        }
    }

    fn block_id(&self, height: u64) -> BlockId {
        let hash = format!("0xblock{height}-{}", self.block(height).fork);
        BlockId { number: height, hash }
    }

    fn header(&self, height: u64) -> Header {
        let parent = height.checked_sub(1).map(|below| self.block_id(below).hash);
        Header {
            block: self.block_id(height),
            parent: parent.unwrap_or_default(),
            time: UnixTime(self.block(height).time),
        }
    }

    /// Whether the chain has this block.
    pub(super) fn stands(&self, block: &BlockId) -> bool {
        block.number <= self.height() && self.block_id(block.number) == *block
    }

    /// A transaction that waits, by its number.
    fn waiting(&self, number: u64) -> Option<(String, u64)> {
        let count = self.pool.len() as u64;
        let place = number.checked_rem(count).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.pool.keys().nth(place).cloned())
    }

    /// A transaction leaves the pool unmined.
    pub(super) fn drop_one(&mut self, number: u64) {
        if let Some(key) = self.waiting(number) {
            self.pool.remove(&key);
        }
    }

    /// Somebody acts on what waits in the pool: sends the authorization, cancels it, or empties the wallet.
    pub(super) fn meddle(&mut self, number: u64, how: u64) {
        let Some(key) = self.waiting(number) else { return };
        let Some(item) = self.pool[&key].items.first().cloned() else { return };
        self.deeds.push(match how % 3 {
            0 => Deed::Preempt(item),
            1 => Deed::Cancel(item.key),
            _ => Deed::Drain(item.payer),
        });
    }

    /// Every payment that the chain made.
    pub(super) fn made(&self) -> Made {
        let mut made = Made::new();
        for block in &self.blocks {
            for deed in &block.deeds {
                if let Deed::Preempt(item) = deed
                    && let Some(Use { by: Some((hash, None)), .. }) = self.tip.used.get(&item.key)
                {
                    made.insert(item.key.clone(), (hash.clone(), item.amount));
                }
            }
            for (tx, done) in &block.txs {
                for (item, _) in tx.items.iter().zip(done).filter(|(_, done)| **done) {
                    made.insert(item.key.clone(), (tx.hash.clone(), item.amount));
                }
            }
        }
        made
    }

    /// What our transactions cost.
    pub(super) fn spent(&self) -> u64 {
        self.blocks.iter().flat_map(|block| &block.txs).map(|(tx, _)| tx.fee()).sum()
    }

    /// How many transactions were cancelled in the end.
    pub(super) fn cancelled(&self) -> u64 {
        let mined = self.blocks.iter().flat_map(|block| &block.txs);
        mined.filter(|(tx, _)| self.cancelling.contains(&tx.hash)).count() as u64
    }

    fn time(&self) -> u64 {
        self.block(self.height()).time
    }

    /// Nonces that carried out one thing and another.
    pub(super) fn reused(&self) -> Vec<String> {
        let several = |(_, what): &(_, &Vec<String>)| what.len() > 1;
        let reused = self.handed.iter().filter(several);
        reused.map(|((signer, nonce), what)| format!("{signer} {nonce}: {what:?}")).collect()
    }

    /// What a node whose head is `behind` shows.
    fn view(&self, behind: u64) -> View<'_> {
        View { state: self, head: self.height().saturating_sub(behind), is_mixed: false }
    }
}

impl Ledger {
    fn apply(
        &mut self,
        tx: &Tx,
        height: u64,
        time: u64,
        funds: &BTreeMap<String, u64>,
    ) -> Vec<bool> {
        *self.consumed.entry(tx.signer.clone()).or_default() += 1;
        self.mined.insert(tx.hash.clone(), height);
        let mut made = Vec::with_capacity(tx.items.len());
        for item in &tx.items {
            let good = time < item.expires
                && (tx.items.len() == 1 || !is_unlucky(item))
                && !self.used.contains_key(&item.key)
                && self.pay(item, funds);
            if good {
                let by = Some((tx.hash.clone(), Some(tx.clone())));
                self.used.insert(item.key.clone(), Use { height, by });
            }
            made.push(good);
        }
        made
    }

    fn apply_deed(&mut self, deed: &Deed, height: u64, funds: &BTreeMap<String, u64>) {
        match deed {
            Deed::Preempt(item) => {
                if !self.used.contains_key(&item.key) && self.pay(item, funds) {
                    let hash = hash_of(format!("{STRANGER} {}", item.key).as_bytes());
                    self.used.insert(item.key.clone(), Use { height, by: Some((hash, None)) });
                }
            }
            Deed::Cancel(key) => {
                self.used.entry(key.clone()).or_insert(Use { height, by: None });
            }
            Deed::Drain(payer) => {
                self.gone.insert(payer.clone(), u64::MAX);
            }
        }
    }

    fn pay(&mut self, item: &Item, funds: &BTreeMap<String, u64>) -> bool {
        let had = funds.get(&item.payer).copied().unwrap_or(0);
        let gone = self.gone.entry(item.payer.clone()).or_default();
        let good = had.saturating_sub(*gone) >= item.amount;
        if good {
            *gone += item.amount;
        }
        good
    }
}

/// The network as one process sees it.
pub(super) struct Port {
    id: NetworkId,
    signers: Vec<String>,
    pub(super) chain: Arc<Mutex<State>>,
    store: Arc<Store>,
    life: Arc<Life>,
    sea: Arc<Sea>,
}

impl Port {
    pub(super) fn new(
        signers: Vec<String>,
        chain: Arc<Mutex<State>>,
        store: Arc<Store>,
        life: Arc<Life>,
        sea: Arc<Sea>,
    ) -> Self {
        Self { id: network(), signers, chain, store, life, sea }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a question: time passes, the process may end, and the node may not answer. Gives a die for the
    /// rest.
    async fn ask(&self, what: &str) -> Result<Die, Unavailable> {
        self.life.step(what).await;
        let mut die = self.sea.die(&format!("{} {what}", self.life.name()));
        self.sea.pass_time(&mut die, Duration::from_millis(120)).await;
        self.life.step(what).await;
        match self.sea.happens(&mut die, |weather| weather.node_fails) {
            true => Err(Unavailable::new("node", "it does not answer")),
            false => Ok(die),
        }
    }

    /// How far the node that answers is behind.
    fn behind(&self, die: &mut Die) -> u64 {
        match self.sea.happens(die, |weather| weather.stale) {
            true => 1 + die.below(2),
            false => 0,
        }
    }

    /// Where a payment stands by one node, or by two of which one does not lie.
    async fn look(
        &self,
        what: &str,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        let item = match cancelled(plan) {
            Some(_) => None,
            None => Some(plan_of(plan)),
        };
        let name = item.as_ref().map_or("of a cancellation", |item| item.key.as_str());
        let mut die = self.ask(&format!("{what} {name}")).await?;
        let behind = self.behind(&mut die);
        // Whoever asks again when nonce and receipt contradict each other seldom finds that they still do.
        let is_mixed = self.sea.happens(&mut die, |weather| weather.stale / 20);
        let lies = what != SECOND_LOOK && self.sea.happens(&mut die, |weather| weather.node_lies);
        let status = {
            let state = self.state();
            let view = View { is_mixed, ..state.view(behind) };
            match (&item, sent) {
                (Some(item), Some(sent)) if lies => {
                    view.lie(sent, view.status(item, Some(sent)), &mut die)
                }
                (Some(item), _) => view.status(item, sent),
                (None, _) => view.status_of_cancellation(sent),
            }
        };
        self.sea.note(&format!("{name} is {status:?}{}", if lies { ", a lie" } else { "" }));
        self.life.step("looked").await;
        Ok(status)
    }
}

pub(super) fn network() -> NetworkId {
    NetworkId::eip155(84_532)
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn expires(payment: &Payment) -> u64 {
    text(&payment.presented().payload, "expires").parse().unwrap_or(0)
}

#[async_trait]
impl Network for Port {
    fn id(&self) -> &NetworkId {
        &self.id
    }

    fn kinds(&self) -> Vec<Kind> {
        let kind = |scheme| Kind {
            version: WireVersion::V2,
            scheme,
            network: self.id.clone(),
            extra: Map::new(),
        };
        vec![kind(Scheme::EXACT), kind(Scheme::UPTO)]
    }

    fn signers(&self) -> Vec<String> {
        self.signers.clone()
    }

    fn refuses_again(&self, key: &PaymentKey) -> bool {
        key.asset() == "0xasset"
    }

    fn sealing_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([7; 32])
    }

    async fn check(&self) -> Result<(), Misconfigured> {
        Ok(())
    }

    fn form(&self, _: &Presented) -> Result<(), Malformed> {
        Ok(())
    }

    fn terms_form(&self, _: &Requirements) -> Result<(), Malformed> {
        Ok(())
    }

    fn identify(&self, payment: &Payment) -> Result<Identified, Refused> {
        let payload = &payment.presented().payload;
        let (from, nonce) = (text(payload, "from"), text(payload, "nonce"));
        let terms = payment.terms();
        let amount = terms.amount.to_string();
        let parts = [from, nonce, text(payload, "expires"), &terms.pay_to, &amount];
        Ok(Identified {
            key: PaymentKey::new(&self.id, &terms.asset, from, nonce),
            fingerprint: Digest::of(&parts.map(str::as_bytes)),
            payer: from.into(),
        })
    }

    async fn verify(&self, payment: &Payment) -> Result<Verified, Unverified> {
        let identified = self.identify(payment)?;
        let mut die = self.ask(&format!("verify {}", identified.key)).await?;
        let refused = |refusal| Refused::from(refusal).by(identified.payer.clone()).into();
        let expires = expires(payment);
        let behind = self.behind(&mut die);
        let amount = payment.charge().to_u256().saturating_to::<u64>();
        let plan = format!("{}\n{}\n{amount}\n{expires}\n", identified.key, identified.payer);
        {
            let state = self.state();
            let view = state.view(behind);
            match view.used(identified.key.as_str()) {
                Some(Use { by: None, .. }) => return Err(refused(Refusal::AuthorizationCanceled)),
                Some(_) => return Err(refused(Refusal::NonceAlreadyUsed)),
                None => {}
            }
            if view.time() + MARGIN_S >= expires {
                return Err(refused(Refusal::ValidBefore));
            }
            let gone = state.tip.gone.get(&identified.payer).copied().unwrap_or(0);
            let had = state.funds.get(&identified.payer).copied().unwrap_or(0);
            if had.saturating_sub(gone) < amount {
                return Err(refused(Refusal::InsufficientFunds));
            }
        }
        self.life.step("verified").await;
        Ok(Verified::attest(
            identified.key,
            identified.fingerprint,
            identified.payer,
            payment.terms().amount,
            UnixTime(expires),
            SecretBytes::new(plan.into_bytes()),
        ))
    }

    async fn consumed_nonces(&self, signer: &str) -> Result<u64, Unavailable> {
        let mut die = self.ask(&format!("consumed {signer}")).await?;
        let behind = self.behind(&mut die);
        let consumed = self.state().view(behind).consumed(signer);
        Ok(consumed)
    }

    fn cancellation(&self, signer: &str, nonce: u64) -> Option<SecretBytes> {
        Some(SecretBytes::new(format!("cancel {signer} {nonce}\n").into_bytes()))
    }

    fn cancels(&self, plan: &SecretBytes) -> Option<(String, u64)> {
        cancelled(plan)
    }

    async fn sign(
        &self,
        signer: &str,
        nonce: u64,
        plan: &SecretBytes,
        cost_max: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable> {
        self.sign_pack(signer, nonce, &[plan], 0, cost_max).await
    }

    fn packing(&self) -> Option<Packing> {
        self.state().packing
    }

    fn may_be_packed(&self, _: &SecretBytes) -> bool {
        self.state().packing.is_some()
    }

    async fn pack(&self, plans: &[&SecretBytes]) -> Vec<Pack> {
        if self.ask("pack").await.is_err() {
            return Vec::new();
        }
        let Some(packing) = self.state().packing else { return Vec::new() };
        let places: Vec<usize> = (0..plans.len()).collect();
        let packs = places.chunks(packing.members_max).filter(|members| members.len() > 1);
        packs.map(|members| Pack { members: members.to_vec(), item_gas: 1 }).collect()
    }

    async fn sign_pack(
        &self,
        signer: &str,
        nonce: u64,
        plans: &[&SecretBytes],
        _: u64,
        _: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable> {
        let cancelled = cancelled(plans[0]);
        if let Some((_, cancelled)) = &cancelled
            && *cancelled != nonce
        {
            return Err(Unavailable::new("signer", "a cancellation of another nonce"));
        }
        let what = cancelled.map_or_else(|| plan_of(plans[0]).key, |_| format!("nonce {nonce}"));
        self.ask(&format!("sign {what}")).await?;
        let level = self.state().level.min(LEVEL_MAX);
        let mut raw = format!("{signer}\n{nonce}\n{level}\n");
        for plan in plans {
            raw.push_str(std::str::from_utf8(plan.expose()).expect("a plan of ours"));
        }
        Ok(signed(raw))
    }

    async fn replacement(
        &self,
        _: &SentAs,
        raw: &SecretBytes,
        _: Bid,
    ) -> Result<Option<SignedTransaction>, Unavailable> {
        let tx = Tx::read(raw);
        self.ask(&format!("replacement {}", tx.hash)).await?;
        let level = self.state().level.min(LEVEL_MAX);
        if tx.level >= level {
            return Ok(None);
        }
        let text = std::str::from_utf8(raw.expose()).expect("bytes of ours");
        let items: Vec<&str> = text.lines().skip(3).collect();
        Ok(Some(signed(format!("{}\n{}\n{level}\n{}\n", tx.signer, tx.nonce, items.join("\n")))))
    }

    fn lapses(&self, plan: &SecretBytes) -> bool {
        cancelled(plan).is_none()
    }

    async fn cancel(
        &self,
        _: &SentAs,
        raw: &SecretBytes,
    ) -> Result<Option<SignedTransaction>, Unavailable> {
        let tx = Tx::read(raw);
        self.ask(&format!("cancel {}", tx.hash)).await?;
        let mut state = self.state();
        let wanted = state.level.min(LEVEL_MAX + 1);
        let level = match tx.items.is_empty() {
            true if tx.level >= wanted => return Ok(None),
            true => wanted,
            false => wanted.max(tx.level + 1),
        };
        let may_be_paid =
            |item: &Item| state.time() < item.expires && !state.tip.used.contains_key(&item.key);
        if tx.items.iter().any(may_be_paid) {
            state.violations.push(format!("{} is cancelled before its time", tx.hash));
        }
        let cancellation = signed(format!("{}\n{}\n{level}\n", tx.signer, tx.nonce));
        state.cancelling.insert(cancellation.transaction.clone());
        Ok(Some(cancellation))
    }

    async fn send(&self, raw: &SecretBytes) -> Result<(), SendError> {
        let lost = |error: Unavailable| SendError::Unknown(error.problem);
        let tx = Tx::read(raw);
        let mut die = self.ask(&format!("send {}", tx.hash)).await.map_err(lost)?;
        self.sea.note(&format!("node gets {} {} {}", tx.signer, tx.nonce, tx.hash));
        let answer = {
            let mut state = self.state();
            if !self.store.has_signed(&tx.hash) {
                state.violations.push(format!("{} was sent and not recorded", tx.hash));
            }
            let what: Vec<&str> = tx.items.iter().map(|item| item.key.as_str()).collect();
            let what = what.join(" ");
            let handed = state.handed.entry((tx.signer.clone(), tx.nonce)).or_default();
            // What does nothing takes the place of what was lost.
            if !what.is_empty() && !handed.contains(&what) {
                handed.push(what);
            }
            state.take(tx)
        };
        let forgets = self.sea.happens(&mut die, |weather| weather.node_forgets);
        if forgets {
            let tx = Tx::read(raw);
            self.state().pool.remove(&(tx.signer, tx.nonce));
        }
        self.life.step("sent").await;
        match self.sea.happens(&mut die, |weather| weather.answer_lost) {
            true => Err(SendError::Unknown("no answer".into())),
            false => answer,
        }
    }

    async fn head(&self) -> Result<Header, Unavailable> {
        let mut die = self.ask("head").await?;
        let behind = self.behind(&mut die);
        let state = self.state();
        let head = state.view(behind).head;
        Ok(state.header(head))
    }

    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Option<Header>>, Unavailable> {
        let mut die = self.ask("headers").await?;
        let behind = self.behind(&mut die);
        let state = self.state();
        let head = state.view(behind).head;
        let header = |number: &u64| (*number <= head).then(|| state.header(*number));
        Ok(numbers.iter().map(header).collect())
    }

    async fn status(
        &self,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        self.look("status", plan, sent).await
    }

    async fn second_look(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        let mut statuses = Vec::new();
        for (plan, sent) in members {
            statuses.push(self.look(SECOND_LOOK, plan, Some(sent)).await);
        }
        statuses
    }
}

impl State {
    /// A node is given a transaction.
    fn take(&mut self, tx: Tx) -> Result<(), SendError> {
        if self.tip.consumed.get(&tx.signer).copied().unwrap_or(0) > tx.nonce {
            return Err(SendError::NonceSpent);
        }
        let place = (tx.signer.clone(), tx.nonce);
        match self.pool.get(&place) {
            Some(known) if known.hash == tx.hash => Ok(()),
            Some(known) if known.level >= tx.level => {
                Err(SendError::Rejected("replacement transaction underpriced".into()))
            }
            _ => {
                self.pool.insert(place, tx);
                Ok(())
            }
        }
    }
}
