//! An Ethereum chain inside the process, for tests, demos and local development.
//!
//! revm runs the transactions under Ethereum's current rules (Osaka, so EIP-1559 fees, EIP-7702 delegations and the
//! P-256 precompile); around it are a mempool, blocks with real hashes, receipts, logs and filters, and a JSON-RPC
//! that viem, ethers, web3.py, `cast` and alloy take for a node. It is used as an alloy transport without a socket
//! ([`Devchain::transport`]) or on a port ([`Devchain::serve`]). Tests hold, drop, reorder and rewind it.
//!
//! Block 0 has a USDC-like token, Permit2 and the x402 proxies, Multicall3, the CREATE2 deployer, our own contracts and ten
//! funded accounts whose keys are public ([`genesis`]). Badly behaved contracts for tests are in [`zoo`].
//!
//! Where it differs from a real chain, on purpose:
//! - a block may have its parent's timestamp, so that many blocks a second do not run ahead of the clock;
//! - a call at the head sees the time of the block that would be made now, not the head's;
//! - the header's state root is not a Merkle root, and there are no storage proofs;
//! - `safe` and `finalized` are [`SAFE_DEPTH`] and [`FINALIZED_DEPTH`] behind the head;
//! - states are kept for [`STATE_HISTORY`] blocks, beside that of genesis, and blocks for [`BLOCK_HISTORY`];
//! - with instant mining a fee cap below the base fee is refused, since nothing would ever lower that fee.
//!
//! It holds no other crate's types but alloy's, and nothing of the payment protocol.

mod block;
mod chain;
mod error;
mod execute;
mod fee;
pub mod genesis;
mod handle;
mod history;
mod mempool;
mod rpc;
mod server;
mod state;
mod time;
mod transport;
pub mod zoo;

pub use chain::{EVENT_HISTORY, FINALIZED_DEPTH, SAFE_DEPTH, SNAPSHOT_LIMIT};
pub use error::{Rejection, RpcError};
pub use fee::{FEE_HISTORY_LIMIT, GENESIS_BASE_FEE, PERCENTILE_LIMIT, SUGGESTED_TIP};
pub use handle::{
    Config, DEFAULT_BLOCK_GAS, DEFAULT_CHAIN_ID, Devchain, Mining, ReorgTransactions, SnapshotId,
};
pub use history::{BLOCK_HISTORY, STATE_HISTORY};
pub use mempool::MEMPOOL_CAPACITY;
pub use rpc::dev::MINE_LIMIT;
pub use rpc::filters::{FILTER_LIMIT, LOG_RANGE_LIMIT, LOG_RESULT_LIMIT};
pub use rpc::{BATCH_LIMIT, BODY_LIMIT};
pub use server::{SUBSCRIPTION_LIMIT, Serving};
pub use time::{Clock, wall_clock};
pub use transport::DevTransport;
