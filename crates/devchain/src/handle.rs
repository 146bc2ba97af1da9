//! The handle that everything else holds: configuration, the lock around the chain, and what tests can do to it.
//!
//! The invariant kept: the lock is held for one operation at a time, never across an await, and every operation that
//! changed something wakes those who listen.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use alloy::consensus::TxEnvelope;
use alloy::consensus::transaction::Recovered;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::client::RpcClient;
use tokio::sync::watch;

use crate::chain::Chain;
use crate::error::Rejection;
use crate::genesis::{self, Funding};
use crate::rpc::filters::Filters;
use crate::time::{Clock, wall_clock};
use crate::transport::DevTransport;

/// Chain id that is used unless another is asked for.
pub const DEFAULT_CHAIN_ID: u64 = 31_337;
/// Gas limit of a block that is used unless another is asked for.
pub const DEFAULT_BLOCK_GAS: u64 = 36_000_000;
/// How often in-process providers look for a receipt that was not there at once.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// When blocks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mining {
    /// As soon as a transaction is ready: its receipt is there when sending it returns.
    Instant,
    /// At an interval, with or without transactions.
    Interval(Duration),
    /// Only when asked, by [`Devchain::mine`] or `evm_mine`.
    Manual,
}

/// What happens to the transactions of blocks that a reorg removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReorgTransactions {
    /// They wait again, and go into the new blocks unless the mempool is held.
    Keep,
    /// They are forgotten, as if they had never been seen.
    Drop,
}

/// Names a state to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotId(pub(crate) u64);

/// How a chain starts.
#[derive(Clone)]
pub struct Config {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// When blocks are made.
    pub mining: Mining,
    /// Who holds what in block 0.
    pub funding: Vec<Funding>,
    /// Time of block 0, seconds since the Unix epoch; the clock flows from there. The clock's time if absent.
    pub genesis_timestamp: Option<u64>,
    /// Gas limit of every block.
    pub gas_limit: u64,
    /// Who receives tips.
    pub beneficiary: Address,
    /// Where time comes from.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            chain_id: DEFAULT_CHAIN_ID,
            mining: Mining::Instant,
            funding: genesis::dev_funding(),
            genesis_timestamp: None,
            gas_limit: DEFAULT_BLOCK_GAS,
            beneficiary: Address::ZERO,
            clock: wall_clock(),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("chain_id", &self.chain_id)
            .field("mining", &self.mining)
            .field("genesis_timestamp", &self.genesis_timestamp)
            .field("gas_limit", &self.gas_limit)
            .finish_non_exhaustive()
    }
}

/// An Ethereum chain in this process. Clones share it; it ends with the last one.
#[derive(Clone)]
pub struct Devchain {
    inner: Arc<Inner>,
}

struct Inner {
    chain: Mutex<Chain>,
    filters: Mutex<Filters>,
    events: watch::Sender<u64>,
    /// Ends the timer of interval mining when it goes.
    timer: Mutex<Option<SyncSender<Infallible>>>,
}

impl std::fmt::Debug for Devchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let chain = self.lock();
        f.debug_struct("Devchain")
            .field("chain_id", &chain.chain_id)
            .field("head", &chain.history().head().number())
            .finish()
    }
}

impl Devchain {
    /// Starts a chain. Needs no runtime: interval mining has a thread of its own.
    pub fn start(config: Config) -> Self {
        let chain = Self {
            inner: Arc::new(Inner {
                chain: Mutex::new(Chain::new(&config)),
                filters: Mutex::default(),
                events: watch::Sender::new(0),
                timer: Mutex::default(),
            }),
        };
        chain.start_timer(config.mining);
        chain
    }

    /// An alloy transport that runs every request on the caller's task, without a socket.
    pub fn transport(&self) -> DevTransport {
        DevTransport::new(self.clone())
    }

    /// An alloy client over [`Self::transport`].
    pub fn rpc_client(&self) -> RpcClient {
        RpcClient::new(self.transport(), true).with_poll_interval(POLL_INTERVAL)
    }

    /// An alloy provider over [`Self::transport`], without fillers or wallet.
    pub fn provider(&self) -> DynProvider {
        ProviderBuilder::default().connect_client(self.rpc_client()).erased()
    }

    /// The chain id.
    pub fn chain_id(&self) -> u64 {
        self.lock().chain_id
    }

    /// Number of the last block.
    pub fn block_number(&self) -> u64 {
        self.lock().history().head().number()
    }

    /// Time of the block that would be made now, seconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.lock().next_timestamp()
    }

    /// Sends a signed transaction.
    ///
    /// # Errors
    /// A [`Rejection`], worded like geth's.
    pub fn submit(&self, tx: Recovered<TxEnvelope>) -> Result<B256, Rejection> {
        self.with(|chain| chain.submit(tx))
    }

    /// Makes `blocks` blocks; the first takes what is ready.
    pub fn mine(&self, blocks: u64) {
        for _ in 0..blocks {
            self.with(Chain::mine);
        }
    }

    /// Changes when blocks are made.
    pub fn set_mining(&self, mining: Mining) {
        self.with(|chain| chain.set_mining(mining));
        self.start_timer(mining);
    }

    /// When blocks are made.
    pub fn mining(&self) -> Mining {
        self.lock().mining
    }

    /// Remembers everything, to go back to it by [`Self::revert`].
    pub fn snapshot(&self) -> SnapshotId {
        self.with(Chain::snapshot)
    }

    /// Goes back to a snapshot, blocks, mempool and time alike; false if it is unknown or was used.
    pub fn revert(&self, snapshot: SnapshotId) -> bool {
        self.with(|chain| chain.revert(snapshot))
    }

    /// Moves the clock forward; gives by how many seconds it is now ahead of the machine's.
    pub fn increase_time(&self, seconds: u64) -> i64 {
        self.with(|chain| chain.increase_time(seconds))
    }

    /// Sets the exact time of the next block, from which the clock goes on; false if it is before the last block's.
    pub fn set_next_block_timestamp(&self, time: u64) -> bool {
        self.with(|chain| chain.set_next_block_timestamp(time))
    }

    /// Takes transactions but puts none into blocks, until [`Self::release_mempool`].
    pub fn hold_mempool(&self) {
        self.with(Chain::hold);
    }

    /// Lets waiting transactions into blocks again; where mining is instant, at once.
    pub fn release_mempool(&self) {
        self.with(Chain::release);
    }

    /// Forgets a waiting transaction; false if there is none.
    pub fn drop_transaction(&self, hash: B256) -> bool {
        self.with(|chain| chain.drop_transaction(hash))
    }

    /// Hashes of waiting transactions, in no order.
    pub fn pending_transactions(&self) -> Vec<B256> {
        self.lock().pool().iter().map(|waiting| waiting.hash()).collect()
    }

    /// Replaces the last `depth` blocks by as many new ones; gives how many were replaced, which is fewer if older
    /// states are no longer kept.
    pub fn reorg(&self, depth: u64, transactions: ReorgTransactions) -> u64 {
        self.with(|chain| chain.reorg(depth, transactions))
    }

    /// Sets a native balance, in wei.
    pub fn set_balance(&self, address: Address, wei: U256) {
        self.with(|chain| chain.edit_state(|state| state.set_balance(address, wei)));
    }

    /// Sets an account's next nonce.
    pub fn set_nonce(&self, address: Address, nonce: u64) {
        self.with(|chain| chain.edit_state(|state| state.set_nonce(address, nonce)));
    }

    /// Sets an account's code.
    pub fn set_code(&self, address: Address, code: Bytes) {
        self.with(|chain| chain.edit_state(|state| state.set_code(address, code)));
    }

    /// Sets one storage slot.
    pub fn set_storage(&self, address: Address, slot: U256, value: U256) {
        self.with(|chain| chain.edit_state(|state| state.set_storage(address, slot, value)));
    }

    /// Sets the base fee of the next block, wei per gas; later ones follow EIP-1559 from it.
    pub fn set_next_base_fee(&self, wei: u64) {
        self.with(|chain| chain.set_next_base_fee(wei));
    }

    /// Wakes when something happened to the chain; the value is the position after the last event.
    pub(crate) fn events(&self) -> watch::Receiver<u64> {
        self.inner.events.subscribe()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Chain> {
        // A panic while the lock was held can only have been a broken invariant; tests want to see what is left.
        self.inner.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn filters(&self) -> MutexGuard<'_, Filters> {
        self.inner.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an operation that may change the chain, and wakes listeners if it did.
    pub(crate) fn with<R>(&self, operation: impl FnOnce(&mut Chain) -> R) -> R {
        let mut chain = self.lock();
        let before = chain.event_end();
        let result = operation(&mut chain);
        let after = chain.event_end();
        drop(chain);
        if after != before {
            self.inner.events.send_modify(|seen| *seen = (*seen).max(after));
        }
        result
    }

    /// Starts the timer that `mining` needs, and ends the one before.
    fn start_timer(&self, mining: Mining) {
        let mut timer = self.inner.timer.lock().unwrap_or_else(PoisonError::into_inner);
        *timer = None;
        if let Mining::Interval(every) = mining {
            let (alive, ended) = sync_channel(1);
            *timer = Some(alive);
            let chain = Arc::downgrade(&self.inner);
            std::thread::spawn(move || mine_at_interval(&chain, every, &ended));
        }
    }
}

/// Makes a block every so often, until the other end of `ended` is gone: nothing is ever sent on it.
fn mine_at_interval(chain: &Weak<Inner>, every: Duration, ended: &Receiver<Infallible>) {
    while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let Some(inner) = chain.upgrade() else { return };
        Devchain { inner }.with(|chain| {
            // Mining may have been changed while this waited for the lock.
            if chain.mining == Mining::Interval(every) {
                chain.mine();
            }
        });
    }
}
