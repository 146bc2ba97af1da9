//! A chain that does what its script says: deterministic, in memory, no cryptography.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use pay402_core::error::{Malformed, Misconfigured, Unavailable};
use pay402_core::facilitator::Kind;
use pay402_core::network::{
    Backing, Bid, BlockId, ChainStatus, Header, Identified, Network, Pack, Packing, SecretBytes,
    SendError, SentAs, SignedTransaction, Unverified, Verified,
};
use pay402_core::time::UnixTime;
use pay402_core::{
    Amount, Digest, NetworkId, Payment, PaymentKey, Presented, Refusal, Refused, Requirements,
    Scheme, WireVersion,
};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// What the node does with the next transaction it is given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Node {
    /// Takes it and says so.
    Takes,
    /// Takes it; the answer is lost.
    TakesSilently,
    /// Loses it, and the answer.
    Loses,
    /// Says that it took it, and drops it.
    Drops,
    /// Refuses it.
    Refuses,
}

/// A transaction that was handed to the node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tx {
    pub signer: String,
    pub nonce: u64,
    pub hash: String,
    /// How much it transfers, each payment of it.
    pub amount: String,
    /// What it carries out.
    pub authorizations: Vec<String>,
    expires: u64,
}

#[derive(Debug, Default)]
pub struct State {
    pub time: u64,
    pub automine: bool,
    /// The nodes' behaviours, in order; afterwards it takes everything.
    pub script: VecDeque<Node>,
    /// Signers whose transactions are refused.
    pub out_of_gas: Vec<String>,
    pub sign_fails: bool,
    /// Payments that cannot be signed.
    pub unsignable: Vec<PaymentKey>,
    /// How long signing takes.
    pub sign_takes: Duration,
    /// Every payment that was to be signed, in order.
    pub asked_to_sign: Vec<String>,
    pub status_fails: bool,
    /// Nobody is answered where a payment stands.
    pub status_hangs: bool,
    /// How often it was asked where a payment stands.
    pub looks: usize,
    pub hangs: bool,
    pub shallow: bool,
    /// The next transaction that is mined reverts.
    pub reverts_next: bool,
    /// How payments are packed.
    pub packing: Option<Packing>,
    /// What a unit of gas is said to cost, in wei.
    pub gas_price: u64,
    /// What the payer had at first, in atomic units, where payments are held against that.
    pub held: Option<u64>,
    /// What carrying out a payment may cost, in wei; anything where it is not said.
    pub cost_max: HashMap<PaymentKey, u64>,
    /// What each transaction was allowed to cost that was signed, in order.
    pub bounds: Vec<Option<Amount>>,
    /// How often a replacement was asked for.
    pub replacements: usize,
    /// Nodes take no cancellation in place of what they have.
    pub cannot_be_outbid: bool,
    /// What the last replacement that was asked for was allowed to cost.
    pub replacement_bound: Option<Option<Amount>>,
    /// Payments that a pack does not make.
    pub leave_out: Vec<PaymentKey>,
    /// Payments whose authorization was cancelled not long ago.
    pub cancelled: Vec<PaymentKey>,
    /// Payments of which the chain shows nothing.
    pub hidden: Vec<PaymentKey>,
    /// What a node that lies shows of payments.
    pub lies: HashMap<PaymentKey, ChainStatus>,
    /// How many looks show nothing of what is mined: the node is behind.
    pub denies: usize,
    /// How many looks at what somebody else had mined first, or at what has expired, show none of our transactions
    /// although their nonces are counted: the node is behind.
    pub hides_ours: usize,
    /// What all transactions cost that were mined, in wei.
    pub spent: u64,
    pub verifications: usize,
    /// Everything the node was given, in order.
    pub handed: Vec<Tx>,
    pub transfers: usize,
    pub reverted: usize,
    /// Transactions of each signer that wait in a pool, and that no process remembers.
    pub waiting: u64,
    /// How often the newest block was asked for.
    pub heads: usize,
    /// By how many blocks whoever tells the newest block is behind the others.
    pub heads_behind: usize,
    /// How often blocks were asked for by number.
    pub headers: usize,
    blocks: Vec<Block>,
    pool: BTreeMap<(String, u64), Tx>,
    consumed: HashMap<String, u64>,
    used: HashMap<String, (String, BlockId)>,
    mined: HashMap<String, BlockId>,
    forks: usize,
}

/// A block and what is in it.
#[derive(Debug)]
struct Block {
    hash: String,
    txs: Vec<Tx>,
    /// Authorizations that somebody else used.
    preempted: Vec<String>,
}

/// What becomes of the transactions of blocks that are undone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Undone {
    /// They are in no pool any more.
    Lost,
    /// They go back to the pool, and are in the first of the new blocks.
    Returned,
}

impl State {
    /// Mines everything that can be mined.
    pub fn mine(&mut self) {
        let block = self.next_block();
        loop {
            let next =
                self.pool.keys().find(|(s, n)| self.consumed.get(s).copied().unwrap_or(0) == *n);
            let Some(next) = next.cloned() else { break };
            let tx = self.pool.remove(&next).unwrap();
            *self.consumed.entry(tx.signer.clone()).or_default() += 1;
            let reverts = std::mem::take(&mut self.reverts_next);
            self.blocks.last_mut().unwrap().txs.push(tx.clone());
            self.spent += fee(tx.authorizations.len());
            let is_pack = tx.authorizations.len() > 1;
            for authorization in tx.authorizations {
                let left_out =
                    is_pack && self.leave_out.iter().any(|key| key.as_str() == authorization);
                if reverts
                    || left_out
                    || self.used.contains_key(&authorization)
                    || self.time >= tx.expires
                {
                    self.reverted += 1;
                } else {
                    self.transfers += 1;
                    self.used.insert(authorization, (tx.hash.clone(), block.clone()));
                }
            }
            self.mined.insert(tx.hash, block.clone());
        }
        // What lost its nonce to another transaction leaves the pool.
        let consumed = &self.consumed;
        self.pool.retain(|(s, n), _| consumed.get(s).copied().unwrap_or(0) <= *n);
    }

    /// The transaction of ours that is mined, and where.
    fn ours(&self, sent: &SentAs) -> Option<(&Tx, &BlockId)> {
        let mut hashes = [&sent.transaction].into_iter().chain(&sent.replaced);
        let (hash, block) = hashes.find_map(|hash| Some((hash, self.mined.get(hash)?)))?;
        Some((self.handed.iter().find(|tx| tx.hash == *hash)?, block))
    }

    /// Somebody else uses the signer's next nonce.
    pub fn steal_nonce(&mut self, signer: &str) {
        *self.consumed.entry(signer.into()).or_default() += 1;
    }

    /// A process that nobody remembers has this payment mined by the signer.
    pub fn make_unseen(&mut self, signer: &str, key: &PaymentKey) {
        let block = self.next_block();
        self.transfers += 1;
        *self.consumed.entry(signer.into()).or_default() += 1;
        self.used.insert(key.to_string(), (format!("0xunseen{}", self.transfers), block));
    }

    /// Somebody else has the authorization mined first.
    pub fn preempt(&mut self, key: &PaymentKey) {
        let block = self.next_block();
        self.transfers += 1;
        self.blocks.last_mut().unwrap().preempted.push(key.to_string());
        self.used.insert(key.to_string(), ("0xsomebody-else".into(), block));
    }

    /// The number of the newest block.
    pub fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn next_block(&mut self) -> BlockId {
        let hash = format!("0xfork{}-{}", self.forks, self.blocks.len() + 1);
        self.blocks.push(Block { hash, txs: Vec::new(), preempted: Vec::new() });
        self.block_id(self.blocks.len()).unwrap()
    }

    fn block_id(&self, number: usize) -> Option<BlockId> {
        let block = self.blocks.get(number.checked_sub(1)?)?;
        Some(BlockId { number: number as u64, hash: block.hash.clone() })
    }

    fn header(&self, number: usize) -> Option<Header> {
        let parent = self.block_id(number.saturating_sub(1)).map(|block| block.hash);
        let (block, time) = (self.block_id(number)?, UnixTime(self.time));
        Some(Header { block, parent: parent.unwrap_or_default(), time })
    }

    /// Undoes the last `depth` blocks; one more than these takes their place.
    pub fn reorganize(&mut self, depth: usize, undone: Undone) {
        self.undo(depth, undone);
        self.mine();
        for _ in 0..depth {
            self.next_block();
        }
    }

    /// Undoes the last `depth` blocks; none has taken their place yet.
    pub fn undo(&mut self, depth: usize, undone: Undone) {
        self.forks += 1;
        for block in self.blocks.split_off(self.blocks.len() - depth) {
            for authorization in block.preempted {
                self.used.remove(&authorization);
                self.transfers -= 1;
            }
            for tx in block.txs {
                *self.consumed.get_mut(&tx.signer).unwrap() -= 1;
                self.mined.remove(&tx.hash);
                self.spent -= fee(tx.authorizations.len());
                for authorization in &tx.authorizations {
                    match self.used.get(authorization) {
                        Some((by, _)) if *by == tx.hash => {
                            self.used.remove(authorization);
                            self.transfers -= 1;
                        }
                        _ => self.reverted -= 1,
                    }
                }
                if undone == Undone::Returned {
                    self.pool.insert((tx.signer.clone(), tx.nonce), tx);
                }
            }
        }
        if undone == Undone::Lost {
            self.pool.clear();
        }
    }

    /// A reorganisation takes out everything that was mined, and nobody has it any more.
    pub fn forget(&mut self) {
        self.forks += 1;
        self.blocks.clear();
        self.used.clear();
        self.mined.clear();
        self.pool.clear();
        self.consumed.clear();
        (self.transfers, self.reverted, self.spent) = (0, 0, 0);
    }

    pub fn hashes(&self) -> Vec<String> {
        let mut hashes: Vec<_> = self.handed.iter().map(|tx| tx.hash.clone()).collect();
        hashes.sort();
        hashes.dedup();
        hashes
    }
}

/// The chain and its node.
#[derive(Clone)]
pub struct Chain {
    id: NetworkId,
    signers: Vec<String>,
    state: Arc<Mutex<State>>,
}

pub const NOW: u64 = 1_000_000;
/// When the payments of the tests expire.
pub const EXPIRES: u64 = NOW + 300;
/// What a payment of the tests charges, in atomic units.
const PRICE: u64 = 10_000;
/// What payments are taken from.
const PURSE: &str = "0xasset/0xpayer";
/// Stands in every plan and every signed transaction.
pub const CANARY: &str = "CANARY-spendable-bytes";

pub fn network() -> NetworkId {
    NetworkId::eip155(84_532)
}

pub fn terms() -> Requirements {
    Requirements {
        scheme: Scheme::EXACT,
        network: network(),
        amount: Amount::from(PRICE),
        asset: "0xasset".into(),
        pay_to: "0xpayee".into(),
        max_timeout_seconds: 60,
        extra: Map::new(),
        other: Map::new(),
    }
}

pub fn presented(version: WireVersion, terms: &Requirements, nonce: &str) -> Presented {
    let payload = json!({"from": "0xpayer", "nonce": nonce, "signature": "good"});
    Presented {
        version,
        scheme: terms.scheme.clone(),
        network: terms.network.clone(),
        accepted: (version == WireVersion::V2).then(|| terms.clone()),
        payload: payload.as_object().unwrap().clone(),
        resource: None,
        extensions: Map::new(),
        other: Map::new(),
    }
}

/// The payment with this nonce.
pub fn payment(nonce: &str) -> Payment {
    payment_on(terms(), nonce)
}

pub fn payment_on(terms: Requirements, nonce: &str) -> Payment {
    let presented = presented(WireVersion::V2, &terms, nonce);
    Payment::pair(terms, presented).unwrap()
}

/// The metered payment with this nonce, of which `charge` is to be collected.
pub fn metered(nonce: &str, charge: u64) -> Payment {
    payment_on(Requirements { scheme: Scheme::UPTO, ..terms() }, nonce)
        .charging(charge.into())
        .unwrap()
}

/// The payment with this nonce by another payer.
pub fn payment_by(payer: &str, nonce: &str) -> Payment {
    let mut presented = presented(WireVersion::V2, &terms(), nonce);
    presented.payload.insert("from".into(), payer.into());
    Payment::pair(terms(), presented).unwrap()
}

pub fn key(nonce: &str) -> PaymentKey {
    PaymentKey::new(&network(), "0xasset", "0xpayer", nonce)
}

impl Chain {
    pub fn new(signers: &[&str]) -> Self {
        let state = State { time: NOW, automine: true, gas_price: 1, ..State::default() };
        Self {
            id: network(),
            signers: signers.iter().map(|signer| (*signer).to_owned()).collect(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn maybe_hang(&self) {
        let hangs = self.state().hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}

/// What a transaction with so many payments costs. Odd, so that shares differ.
pub fn fee(payments: usize) -> u64 {
    if payments == 1 { 21_000 } else { 10_001 + 5_003 * u64::try_from(payments).unwrap() }
}

/// The signer and the nonce of a plan that only consumes it.
fn cancelled(plan: &SecretBytes) -> Option<(String, u64)> {
    let plan: Value = serde_json::from_slice(plan.expose()).unwrap();
    Some((plan["cancels"].as_str()?.to_owned(), plan["nonce"].as_u64()?))
}

fn key_of(plan: &SecretBytes) -> (String, Value) {
    let plan: Value = serde_json::from_slice(plan.expose()).unwrap();
    (plan["key"].as_str().unwrap().to_owned(), plan["amount"].clone())
}

fn transaction(signer: &str, nonce: u64, keys: &[String], amount: &Value) -> SignedTransaction {
    let raw = json!({
        "signer": signer, "nonce": nonce, "keys": keys, "amount": amount, "canary": CANARY,
    });
    let raw = raw.to_string().into_bytes();
    let hash = Digest::of(&[&raw]).0.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    SignedTransaction { transaction: format!("0x{hash}"), raw: SecretBytes::new(raw) }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[async_trait]
impl Network for Chain {
    fn id(&self) -> &NetworkId {
        &self.id
    }

    fn kinds(&self) -> Vec<Kind> {
        let kind =
            |version, scheme| Kind { version, scheme, network: self.id.clone(), extra: Map::new() };
        vec![
            kind(WireVersion::V1, Scheme::EXACT),
            kind(WireVersion::V2, Scheme::EXACT),
            kind(WireVersion::V2, Scheme::UPTO),
        ]
    }

    fn signers(&self) -> Vec<String> {
        self.signers.clone()
    }

    fn sealing_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(Digest::of(&[self.signers.join(",").as_bytes()]).0)
    }

    async fn check(&self) -> Result<(), Misconfigured> {
        Ok(())
    }

    fn form(&self, presented: &Presented) -> Result<(), Malformed> {
        match presented.payload.get("nonce") {
            Some(Value::String(_)) => Ok(()),
            _ => Err(Malformed::new("payload.nonce", "must be a string")),
        }
    }

    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed> {
        if terms.pay_to.starts_with("0x") {
            Ok(())
        } else {
            Err(Malformed::new("payTo", "must be an address"))
        }
    }

    fn identify(&self, payment: &Payment) -> Result<Identified, Refused> {
        let payload = &payment.presented().payload;
        let (from, nonce) = (text(payload, "from"), text(payload, "nonce"));
        if !text(payload, "signature").starts_with("good") {
            return Err(Refused::from(Refusal::InvalidSignature).by(from));
        }
        let terms = payment.terms();
        let amount = terms.amount.to_string();
        let parts = [from, nonce, &terms.pay_to, &amount].map(str::as_bytes);
        Ok(Identified {
            key: PaymentKey::new(&self.id, &terms.asset, from, nonce),
            fingerprint: Digest::of(&parts),
            payer: from.into(),
        })
    }

    async fn verify(&self, payment: &Payment) -> Result<Verified, Unverified> {
        self.maybe_hang().await;
        let identified = self.identify(payment)?;
        let mut state = self.state();
        state.verifications += 1;
        if state.used.contains_key(identified.key.as_str()) {
            return Err(Refused::from(Refusal::NonceAlreadyUsed).by(identified.payer).into());
        }
        if state.time >= EXPIRES {
            return Err(Refused::from(Refusal::ValidBefore).by(identified.payer).into());
        }
        let (key, amount) = (identified.key.as_str(), payment.charge());
        let plan = json!({"key": key, "amount": amount, "canary": CANARY}).to_string();
        let held = state.held.map(|held| held - PRICE * u64::try_from(state.transfers).unwrap());
        let backing = held.map(|held| Backing { source: PURSE.into(), held: held.into() });
        let verified = Verified::attest(
            identified.key,
            identified.fingerprint,
            identified.payer,
            payment.terms().amount,
            UnixTime(EXPIRES),
            SecretBytes::new(plan.into_bytes()),
        );
        Ok(verified.backed_by(backing.into_iter().collect()))
    }

    fn refuses_again(&self, key: &PaymentKey) -> bool {
        key.asset() == "0xasset"
    }

    fn gas(&self, _plan: &SecretBytes) -> u64 {
        fee(1)
    }

    async fn gas_price(&self) -> Result<Amount, Unavailable> {
        Ok(self.state().gas_price.into())
    }

    fn cost_max(&self, plan: &SecretBytes) -> Option<Amount> {
        if cancelled(plan).is_some() {
            return None;
        }
        let (key, _) = key_of(plan);
        let state = self.state();
        let bound = state.cost_max.iter().find(|(of, _)| of.as_str() == key)?;
        Some(Amount::from(*bound.1))
    }

    fn cancellation(&self, signer: &str, nonce: u64) -> Option<SecretBytes> {
        let plan = json!({ "cancels": signer, "nonce": nonce }).to_string();
        Some(SecretBytes::new(plan.into_bytes()))
    }

    fn cancels(&self, plan: &SecretBytes) -> Option<(String, u64)> {
        cancelled(plan)
    }

    fn sources(&self, _: &SecretBytes) -> Vec<String> {
        self.state().held.map(|_| PURSE.into()).into_iter().collect()
    }

    async fn consumed_nonces(&self, signer: &str) -> Result<u64, Unavailable> {
        self.maybe_hang().await;
        Ok(self.state().consumed.get(signer).copied().unwrap_or(0))
    }

    async fn known_nonces(&self, signer: &str) -> Result<u64, Unavailable> {
        Ok(self.consumed_nonces(signer).await? + self.state().waiting)
    }

    async fn sign(
        &self,
        signer: &str,
        nonce: u64,
        plan: &SecretBytes,
        cost_max: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable> {
        self.state().bounds.push(cost_max);
        self.maybe_hang().await;
        let takes = self.state().sign_takes;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        if self.state().sign_fails {
            return Err(Unavailable::new("rpc", "no fees"));
        }
        if let Some(cancelled) = cancelled(plan) {
            assert_eq!(cancelled, (signer.to_owned(), nonce), "another nonce than it is for");
            return Ok(transaction(signer, nonce, &[], &"0".into()));
        }
        let (key, amount) = key_of(plan);
        self.state().asked_to_sign.push(key.clone());
        if self.state().unsignable.iter().any(|unsignable| unsignable.as_str() == key) {
            return Err(Unavailable::new("signer", "the payer's account changed"));
        }
        Ok(transaction(signer, nonce, &[key], &amount))
    }

    fn packing(&self) -> Option<Packing> {
        self.state().packing
    }

    fn may_be_packed(&self, _: &SecretBytes) -> bool {
        self.state().packing.is_some()
    }

    async fn pack(&self, plans: &[&SecretBytes]) -> Vec<Pack> {
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
        cost_max: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable> {
        self.state().bounds.push(cost_max);
        let (keys, mut amounts): (Vec<_>, Vec<_>) = plans.iter().map(|plan| key_of(plan)).unzip();
        Ok(transaction(signer, nonce, &keys, &amounts.pop().unwrap()))
    }

    async fn replacement(
        &self,
        _: &SentAs,
        _: &SecretBytes,
        bid: Bid,
    ) -> Result<Option<SignedTransaction>, Unavailable> {
        let mut state = self.state();
        state.replacements += 1;
        state.replacement_bound = Some(bid.cost_max);
        Ok(None)
    }

    fn lapses(&self, plan: &SecretBytes) -> bool {
        cancelled(plan).is_none()
    }

    async fn cancel(
        &self,
        sent: &SentAs,
        raw: &SecretBytes,
    ) -> Result<Option<SignedTransaction>, Unavailable> {
        let read: Value = serde_json::from_slice(raw.expose()).unwrap();
        let is_cancellation = read["keys"].as_array().unwrap().is_empty();
        let may_be = !self.state().cannot_be_outbid;
        let signed = || transaction(&sent.signer, sent.nonce, &[], &"0".into());
        Ok((may_be && !is_cancellation).then(signed))
    }

    async fn send(&self, raw: &SecretBytes) -> Result<(), SendError> {
        self.maybe_hang().await;
        let read: Value = serde_json::from_slice(raw.expose()).unwrap();
        let hash =
            Digest::of(&[raw.expose()]).0.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let tx = Tx {
            signer: read["signer"].as_str().unwrap().into(),
            nonce: read["nonce"].as_u64().unwrap(),
            hash: format!("0x{hash}"),
            amount: read["amount"].as_str().unwrap().into(),
            authorizations: serde_json::from_value(read["keys"].clone()).unwrap(),
            expires: EXPIRES,
        };
        let mut state = self.state();
        state.handed.push(tx.clone());
        if state.out_of_gas.contains(&tx.signer) {
            return Err(SendError::Rejected("insufficient funds for gas".into()));
        }
        if state.consumed.get(&tx.signer).copied().unwrap_or(0) > tx.nonce {
            return Err(SendError::NonceSpent);
        }
        let node = state.script.pop_front().unwrap_or(Node::Takes);
        if matches!(node, Node::Takes | Node::TakesSilently) {
            let place = (tx.signer.clone(), tx.nonce);
            match tx.authorizations.is_empty() {
                // It offers more than what it cancels.
                true => _ = state.pool.insert(place, tx),
                false => _ = state.pool.entry(place).or_insert(tx),
            }
            if state.automine {
                state.mine();
            }
        }
        match node {
            Node::Takes | Node::Drops => Ok(()),
            Node::TakesSilently | Node::Loses => Err(SendError::Unknown("no answer".into())),
            Node::Refuses => Err(SendError::Rejected("nonce too high".into())),
        }
    }

    async fn head(&self) -> Result<Header, Unavailable> {
        self.maybe_hang().await;
        let mut state = self.state();
        state.heads += 1;
        if state.blocks.is_empty() {
            state.next_block();
        }
        let newest = state.blocks.len().saturating_sub(state.heads_behind).max(1);
        Ok(state.header(newest).unwrap())
    }

    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Option<Header>>, Unavailable> {
        self.maybe_hang().await;
        let mut state = self.state();
        state.headers += numbers.len();
        let header = |number: &u64| state.header(usize::try_from(*number).unwrap());
        Ok(numbers.iter().map(header).collect())
    }

    async fn status(
        &self,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        self.maybe_hang().await;
        let status_hangs = self.state().status_hangs;
        if status_hangs {
            std::future::pending::<()>().await;
        }
        let plan: Value = serde_json::from_slice(plan.expose()).unwrap();
        let mut state = self.state();
        state.looks += 1;
        // A cancellation carries no payment out.
        let key = plan["key"].as_str().unwrap_or_default();
        if let Some(lie) =
            state.lies.iter().find_map(|(of, lie)| (of.as_str() == key).then_some(lie))
        {
            return Ok(lie.clone());
        }
        if state.denies > 0 {
            state.denies -= 1;
            return Ok(ChainStatus::Open { expired: false, displaced: false });
        }
        if state.cancelled.iter().any(|cancelled| cancelled.as_str() == key) {
            return Ok(ChainStatus::Open { expired: false, displaced: false });
        }
        let has_lost = |sent: &SentAs| {
            state.consumed.get(&sent.signer).is_some_and(|consumed| *consumed > sent.nonce)
        };
        let is_late = state.time >= EXPIRES && sent.is_some_and(has_lost);
        let is_behind = state.hides_ours > 0 && (state.used.contains_key(key) || is_late);
        if is_behind {
            state.hides_ours -= 1;
        }
        let state = &*state;
        if state.status_fails {
            return Err(Unavailable::new("rpc", "down"));
        }
        if state.hidden.iter().any(|hidden| hidden.as_str() == key) {
            return Err(Unavailable::new("rpc", "no logs"));
        }
        let ours =
            sent.filter(|_| !is_behind).and_then(|sent| Some((sent.part, state.ours(sent)?)));
        let cost = ours.map_or(Amount::ZERO, |(part, (tx, _))| {
            part.share(fee(tx.authorizations.len()).into())
        });
        if let (true, Some((_, (tx, block)))) = (key.is_empty(), ours) {
            let transaction = tx.hash.clone();
            let (number, block) = (block.number, block.clone());
            return Ok(ChainStatus::Proven { transaction, number, block, fee: fee(0).into() });
        }
        if let Some((transaction, block)) = state.used.get(key) {
            let transaction = transaction.clone();
            if state.shallow {
                return Ok(ChainStatus::Shallow { transaction });
            }
            let mined = ours.map(|(_, (_, mined))| mined);
            let newest = mined.filter(|mined| mined.number > block.number).unwrap_or(block);
            let (number, block) = (block.number, newest.clone());
            return Ok(ChainStatus::Proven { transaction, number, block, fee: cost });
        }
        if let Some((part, (tx, block))) = ours {
            let block = block.clone();
            if !part.is_whole() || tx.authorizations.is_empty() {
                let expired = state.time >= EXPIRES;
                return Ok(ChainStatus::LeftOut { expired, block, fee: cost });
            }
            let refused =
                Refused::from(Refusal::TransactionReverted).with_transaction(tx.hash.clone());
            return Ok(ChainStatus::Failed { refused, block, fee: cost });
        }
        let consumed = |signer: &str| state.consumed.get(signer).copied().unwrap_or(0);
        Ok(ChainStatus::Open {
            expired: !key.is_empty() && state.time >= EXPIRES,
            displaced: sent.is_some_and(|sent| consumed(&sent.signer) > sent.nonce),
        })
    }
}
