//! The chain itself: takes transactions, makes blocks, and does to them what tests ask.
//!
//! It is plain data behind one lock (`handle.rs`); it never waits and knows no JSON. The invariants kept: a block's
//! transactions were valid in order on its parent's state; a mined transaction is not in the mempool; every change of
//! the canonical chain is an event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{
    Eip658Value, Header, Receipt, ReceiptEnvelope, Transaction, TxEnvelope, Typed2718,
};
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::map::HashSet;
use alloy::primitives::{Address, B256, U256};

use crate::block::{Block, Draft, MinedTransaction};
use crate::error::{Rejection, RpcError};
use crate::execute::{self, Checks, INIT_CODE_LIMIT, TX_GAS_CAP, View};
use crate::fee;
use crate::handle::{Config, Mining, ReorgTransactions, SnapshotId};
use crate::history::{History, STATE_HISTORY};
use crate::mempool::{Mempool, Waiting};
use crate::state::State;
use crate::time::{Clock, TimeShift};

/// How far the `safe` block is behind the head.
pub const SAFE_DEPTH: u64 = 32;
/// How far the `finalized` block is behind the head.
pub const FINALIZED_DEPTH: u64 = 64;
/// Most snapshots that are kept; the oldest goes first.
pub const SNAPSHOT_LIMIT: usize = 64;
/// Most events that filters and subscriptions can lag behind.
pub const EVENT_HISTORY: usize = 8_192;

/// Something that happened to the canonical chain or the mempool.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A block became the head.
    Added(Arc<Block>),
    /// The head was taken off by a reorg or a revert.
    Removed(Arc<Block>),
    /// A transaction entered the mempool.
    Pending(B256),
}

/// Whether waiting transactions go into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Include {
    Ready,
    Nothing,
}

/// The chain.
pub(crate) struct Chain {
    pub(crate) chain_id: u64,
    gas_limit: u64,
    beneficiary: Address,
    clock: Clock,
    pub(crate) mining: Mining,
    held: bool,
    history: History,
    pool: Mempool,
    shift: TimeShift,
    base_fee: Option<u64>,
    fork: u64,
    snapshots: BTreeMap<u64, Snapshot>,
    next_snapshot: u64,
    events: VecDeque<Event>,
    first_event: u64,
}

/// Everything a revert restores.
struct Snapshot {
    history: History,
    pool: Mempool,
    shift: TimeShift,
    base_fee: Option<u64>,
}

impl Chain {
    pub(crate) fn new(config: &Config) -> Self {
        let start = config.genesis_timestamp.unwrap_or_else(|| (config.clock)());
        let genesis = Draft {
            parent_hash: B256::ZERO,
            parent_state_root: B256::from(U256::from(config.chain_id)),
            number: 0,
            timestamp: start,
            base_fee: fee::GENESIS_BASE_FEE,
            gas_limit: config.gas_limit,
            beneficiary: config.beneficiary,
            fork: 0,
        };
        let state = crate::genesis::state(&config.funding);
        Self {
            chain_id: config.chain_id,
            gas_limit: config.gas_limit,
            beneficiary: config.beneficiary,
            clock: config.clock.clone(),
            mining: config.mining,
            held: false,
            history: History::new(Arc::new(genesis.seal(Vec::new())), state),
            pool: Mempool::default(),
            shift: TimeShift::starting_at(start, &config.clock),
            base_fee: None,
            fork: 0,
            snapshots: BTreeMap::new(),
            next_snapshot: 1,
            events: VecDeque::new(),
            first_event: 0,
        }
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// Base fee of the next block, wei per gas.
    pub(crate) fn next_base_fee(&self) -> u64 {
        self.base_fee.unwrap_or_else(|| fee::next_base_fee(&self.history.head().header))
    }

    // ---- reading

    /// The number that `tag` means, where it means a mined block.
    pub(crate) fn number(&self, tag: BlockNumberOrTag) -> Option<u64> {
        let head = self.history.head().number();
        match tag {
            BlockNumberOrTag::Latest => Some(head),
            BlockNumberOrTag::Safe => {
                Some(head.saturating_sub(SAFE_DEPTH).max(self.history.first()))
            }
            BlockNumberOrTag::Finalized => {
                Some(head.saturating_sub(FINALIZED_DEPTH).max(self.history.first()))
            }
            BlockNumberOrTag::Earliest => Some(self.history.first()),
            BlockNumberOrTag::Number(number) => self.history.block(number).map(|_| number),
            BlockNumberOrTag::Pending => None,
        }
    }

    /// The block that `id` means; `pending` is made on the spot.
    pub(crate) fn block(&self, id: BlockId) -> Option<Arc<Block>> {
        match id {
            BlockId::Hash(hash) => {
                self.history.block(self.history.number_of(hash.block_hash)?).cloned()
            }
            BlockId::Number(BlockNumberOrTag::Pending) => Some(Arc::new(self.pending().0)),
            BlockId::Number(tag) => self.history.block(self.number(tag)?).cloned(),
        }
    }

    /// The state after the block that `id` means.
    pub(crate) fn state(&self, id: BlockId) -> Result<State, RpcError> {
        match id {
            BlockId::Number(BlockNumberOrTag::Pending) if !self.pool.is_empty() => {
                Ok(self.pending().1)
            }
            BlockId::Number(BlockNumberOrTag::Latest | BlockNumberOrTag::Pending) => {
                Ok(self.history.head_state().clone())
            }
            other => {
                let block = self.block(other).ok_or_else(RpcError::block_not_found)?;
                self.state_at(block.number())
            }
        }
    }

    /// What a call at `id` runs on. A call at the head sees the time it would have in the next block, so that an idle
    /// chain does not look stale to contracts that compare times.
    pub(crate) fn view(&self, id: BlockId) -> Result<View, RpcError> {
        let chain_id = self.chain_id;
        if id == BlockId::Number(BlockNumberOrTag::Pending) {
            let (block, state) = self.pending();
            return Ok(View { chain_id, state, block: execute::block_env(&block.header) });
        }
        let block = self.block(id).ok_or_else(RpcError::block_not_found)?;
        let mut env = execute::block_env(&block.header);
        if block.hash == self.history.head().hash {
            env.timestamp = U256::from(self.next_timestamp());
        }
        Ok(View { chain_id, state: self.state_at(block.number())?, block: env })
    }

    /// When the next block would be made.
    pub(crate) fn next_timestamp(&self) -> u64 {
        self.shift.next_block_time(self.history.head().header.timestamp, &self.clock)
    }

    // ---- transactions

    /// Takes a signed transaction, and mines it at once where mining is instant.
    pub(crate) fn submit(&mut self, tx: Recovered<TxEnvelope>) -> Result<B256, Rejection> {
        self.admissible(&tx)?;
        let hash = *tx.tx_hash();
        self.pool.insert(Arc::new(tx))?;
        self.emit(Event::Pending(hash));
        self.mine_if_instant();
        Ok(hash)
    }

    fn admissible(&self, tx: &Recovered<TxEnvelope>) -> Result<(), Rejection> {
        if tx.is_eip4844() {
            return Err(Rejection::TypeNotSupported);
        }
        if let Some(have) = tx.chain_id().filter(|have| *have != self.chain_id) {
            return Err(Rejection::ChainId { have, want: self.chain_id });
        }
        if tx.authorization_list().is_some_and(<[_]>::is_empty) {
            return Err(Rejection::NoAuthorizations);
        }
        if tx.kind().is_create() && tx.input().len() > INIT_CODE_LIMIT {
            return Err(Rejection::InitCodeSize);
        }
        if tx.gas_limit() > TX_GAS_CAP {
            return Err(Rejection::GasCap { cap: TX_GAS_CAP, gas: tx.gas_limit() });
        }
        if tx.gas_limit() > self.gas_limit {
            return Err(Rejection::BlockGasLimit);
        }
        let max_fee = tx.max_fee_per_gas();
        if let Some(tip) = tx.max_priority_fee_per_gas().filter(|tip| *tip > max_fee) {
            return Err(Rejection::TipAboveFee { tip, max_fee });
        }
        let needed = execute::least_gas(&execute::signed_env(tx));
        if tx.gas_limit() < needed {
            return Err(Rejection::IntrinsicGas { gas: tx.gas_limit(), needed });
        }
        let state = self.history.head_state();
        let expected = state.nonce(tx.signer());
        if tx.nonce() < expected {
            return Err(Rejection::NonceTooLow { expected, nonce: tx.nonce() });
        }
        if state.is_contract(tx.signer()) {
            return Err(Rejection::SenderNotEoa);
        }
        let gas_cost = U256::from(tx.gas_limit()).saturating_mul(U256::from(max_fee));
        let cost = gas_cost.saturating_add(tx.value());
        let balance = state.balance(tx.signer());
        if balance < cost {
            return Err(Rejection::InsufficientFunds { balance, cost });
        }
        // Where blocks are made by and by, a low fee waits for the base fee to fall; here it would wait for ever.
        let base_fee = self.next_base_fee();
        if self.mining == Mining::Instant && !self.held && max_fee < u128::from(base_fee) {
            return Err(Rejection::FeeBelowBase { max_fee, base_fee });
        }
        Ok(())
    }

    /// Forgets a waiting transaction.
    pub(crate) fn drop_transaction(&mut self, hash: B256) -> bool {
        self.pool.remove(hash)
    }

    /// Keeps transactions out of blocks until they are released.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    pub(crate) fn release(&mut self) {
        self.held = false;
        self.mine_if_instant();
    }

    pub(crate) fn set_mining(&mut self, mining: Mining) {
        self.mining = mining;
        self.mine_if_instant();
    }

    // ---- blocks

    /// Makes one block of what is ready.
    pub(crate) fn mine(&mut self) -> Arc<Block> {
        let include = if self.held { Include::Nothing } else { Include::Ready };
        let parent = self.history.head().header.timestamp;
        let timestamp = self.shift.take_block_time(parent, &self.clock);
        let (block, state) = self.assemble(timestamp, include);
        self.base_fee = None;
        for mined in &block.transactions {
            self.pool.forget_below(mined.tx.signer(), state.nonce(mined.tx.signer()));
        }
        let block = Arc::new(block);
        self.history.push(Arc::clone(&block), state);
        self.emit(Event::Added(Arc::clone(&block)));
        block
    }

    fn mine_if_instant(&mut self) {
        while self.mining == Mining::Instant && !self.held && self.has_ready() {
            if self.mine().transactions.is_empty() {
                return;
            }
        }
    }

    /// Whether a waiting transaction could run now.
    fn has_ready(&self) -> bool {
        let state = self.history.head_state();
        let base_fee = u128::from(self.next_base_fee());
        self.pool.senders().any(|sender| {
            self.pool.at(sender, state.nonce(sender)).is_some_and(|waiting| {
                let cost = U256::from(waiting.tx.gas_limit())
                    .saturating_mul(U256::from(waiting.tx.max_fee_per_gas()))
                    .saturating_add(waiting.tx.value());
                waiting.tx.max_fee_per_gas() >= base_fee && state.balance(sender) >= cost
            })
        })
    }

    /// The block that would be made now, and the state after it.
    fn pending(&self) -> (Block, State) {
        self.assemble(self.next_timestamp(), Include::Ready)
    }

    fn assemble(&self, timestamp: u64, include: Include) -> (Block, State) {
        let parent = self.history.head();
        let draft = Draft {
            parent_hash: parent.hash,
            parent_state_root: parent.header.state_root,
            number: parent.number() + 1,
            timestamp,
            base_fee: self.next_base_fee(),
            gas_limit: self.gas_limit,
            beneficiary: self.beneficiary,
            fork: self.fork,
        };
        let mut state = self.history.head_state().clone();
        let transactions = match include {
            Include::Ready => self.run_ready(&draft.header(), &mut state),
            Include::Nothing => Vec::new(),
        };
        (draft.seal(transactions), state)
    }

    /// Runs waiting transactions, best tip first and each sender's in order of nonce, until none fits.
    fn run_ready(&self, header: &Header, state: &mut State) -> Vec<MinedTransaction> {
        let base_fee = header.base_fee_per_gas.unwrap_or_default();
        let env = execute::block_env(header);
        let bid = |waiting: &Waiting| {
            let tip = waiting.tx.effective_tip_per_gas(base_fee)?;
            Some((tip, Reverse(waiting.arrival), waiting.tx.signer()))
        };
        let mut bids: BinaryHeap<_> = self
            .pool
            .senders()
            .filter_map(|sender| bid(self.pool.at(sender, state.nonce(sender))?))
            .collect();
        let mut mined = Vec::new();
        let (mut gas_used, mut logs) = (0, 0);
        while let Some((_, _, sender)) = bids.pop() {
            let Some(waiting) = self.pool.at(sender, state.nonce(sender)) else {
                continue;
            };
            if waiting.tx.gas_limit() > header.gas_limit - gas_used {
                continue;
            }
            let tx = execute::signed_env(&waiting.tx);
            let Ok(outcome) = execute::run(self.chain_id, state, env.clone(), tx, Checks::Mined)
            else {
                // It may become valid again (funds, fees), so it keeps waiting.
                continue;
            };
            state.commit(outcome.state);
            let result = outcome.result;
            gas_used += result.tx_gas_used();
            let receipt = Receipt {
                status: Eip658Value::Eip658(result.is_success()),
                cumulative_gas_used: gas_used,
                logs: if result.is_success() { result.logs().to_vec() } else { Vec::new() },
            };
            let count = receipt.logs.len() as u64;
            mined.push(MinedTransaction {
                receipt: ReceiptEnvelope::from_typed(waiting.tx.tx_type(), receipt.with_bloom()),
                gas_used: result.tx_gas_used(),
                effective_gas_price: waiting.tx.effective_gas_price(Some(base_fee)),
                created: waiting.tx.kind().is_create().then(|| sender.create(waiting.tx.nonce())),
                first_log: logs,
                tx: Arc::clone(&waiting.tx),
            });
            logs += count;
            bids.extend(self.pool.at(sender, state.nonce(sender)).and_then(bid));
        }
        mined
    }

    // ---- what tests do

    pub(crate) fn snapshot(&mut self) -> SnapshotId {
        let id = self.next_snapshot;
        self.next_snapshot += 1;
        let snapshot = Snapshot {
            history: self.history.clone(),
            pool: self.pool.clone(),
            shift: self.shift,
            base_fee: self.base_fee,
        };
        self.snapshots.insert(id, snapshot);
        if self.snapshots.len() > SNAPSHOT_LIMIT {
            self.snapshots.pop_first();
        }
        SnapshotId(id)
    }

    /// Goes back to a snapshot, which is used up by it, as are later ones.
    pub(crate) fn revert(&mut self, id: SnapshotId) -> bool {
        let mut after = self.snapshots.split_off(&id.0);
        let Some(snapshot) = after.remove(&id.0) else {
            self.snapshots.append(&mut after);
            return false;
        };
        let kept: HashSet<B256> = self.common_blocks(&snapshot.history);
        while !kept.contains(&self.history.head().hash) {
            let Some(block) = self.history.pop() else { break };
            self.emit(Event::Removed(block));
        }
        let common = self.history.head().number();
        self.history = snapshot.history;
        self.pool = snapshot.pool;
        self.shift = snapshot.shift;
        self.base_fee = snapshot.base_fee;
        self.fork += 1;
        for number in common + 1..=self.history.head().number() {
            if let Some(block) = self.history.block(number).cloned() {
                self.emit(Event::Added(block));
            }
        }
        true
    }

    fn common_blocks(&self, other: &History) -> HashSet<B256> {
        let first = self.history.head().number().saturating_sub(self.history.depth() as u64);
        (first..=self.history.head().number())
            .filter_map(|number| self.history.block(number))
            .map(|block| block.hash)
            .filter(|hash| other.number_of(*hash).is_some())
            .collect()
    }

    /// Replaces the last `depth` blocks by as many others. The new ones are empty, but for transactions that were kept
    /// and are free to go in again. Gives how many were replaced.
    pub(crate) fn reorg(&mut self, depth: u64, transactions: ReorgTransactions) -> u64 {
        let possible = u64::try_from(self.history.depth()).unwrap_or(u64::MAX);
        let depth = depth.min(possible);
        let mut freed = Vec::new();
        for _ in 0..depth {
            let Some(block) = self.history.pop() else { break };
            freed.push(
                block.transactions.iter().map(|mined| Arc::clone(&mined.tx)).collect::<Vec<_>>(),
            );
            self.emit(Event::Removed(block));
        }
        self.fork += 1;
        if transactions == ReorgTransactions::Keep {
            for tx in freed.into_iter().rev().flatten() {
                // A waiting transaction with the same nonce that pays more stays: that is a replacement.
                let _ = self.pool.insert(tx);
            }
        }
        for _ in 0..depth {
            self.mine();
        }
        depth
    }

    pub(crate) fn increase_time(&mut self, seconds: u64) -> i64 {
        self.shift.increase(seconds);
        self.shift.offset()
    }

    /// Sets the exact time of the next block; refused if it is before the head's.
    pub(crate) fn set_next_block_timestamp(&mut self, time: u64) -> bool {
        let possible = time >= self.history.head().header.timestamp;
        if possible {
            self.shift.set_next(time);
        }
        possible
    }

    pub(crate) fn set_next_base_fee(&mut self, wei: u64) {
        self.base_fee = Some(wei);
    }

    /// Changes the head's state by hand; the change belongs to the head, so a reorg of that block undoes it.
    pub(crate) fn edit_state(&mut self, edit: impl FnOnce(&mut State)) {
        edit(self.history.head_state_mut());
    }

    // ---- events

    /// Position after the last event.
    pub(crate) fn event_end(&self) -> u64 {
        self.first_event + self.events.len() as u64
    }

    /// Events from position `from` on, or nothing if they are no longer kept.
    pub(crate) fn events_since(&self, from: u64) -> Option<Vec<Event>> {
        let skip = usize::try_from(from.checked_sub(self.first_event)?).ok()?;
        Some(self.events.iter().skip(skip).cloned().collect())
    }

    fn emit(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > EVENT_HISTORY {
            self.events.pop_front();
            self.first_event += 1;
        }
    }

    fn state_at(&self, number: u64) -> Result<State, RpcError> {
        self.history
            .state(number)
            .cloned()
            .ok_or_else(|| RpcError::state_pruned(number, STATE_HISTORY as u64))
    }
}
