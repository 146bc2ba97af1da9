//! What an audit asks of one node: in batches, patiently, and nothing without a bound.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U64, U256};
use pay402_core::error::Unavailable;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::judge::Mined;
use crate::network::errors;
use crate::rpc::{Answer, Block, Call, Receipt, Rpc};

/// Most questions of one round trip. One that is too large for the node is asked in halves.
pub const QUESTIONS_MAX: usize = 50;
/// How often something is asked that the node does not answer.
pub const TRIES_MAX: u32 = 4;
/// The pause after the first time; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// One node, for one audit.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) rpc: Rpc,
}

/// A transaction, as far as an audit reads it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Sent {
    pub(super) hash: B256,
    pub(super) from: Address,
    pub(super) to: Option<Address>,
    pub(super) nonce: U64,
    /// In wei.
    pub(super) value: U256,
    pub(super) input: Bytes,
}

impl Sent {
    /// With its receipt, before anything else is known of it.
    pub(super) fn mined(&self, receipt: &Receipt) -> Mined {
        Mined {
            hash: self.hash,
            from: self.from,
            to: self.to,
            nonce: self.nonce.to(),
            block: receipt.block(),
            block_hash: receipt.block_hash,
            time: 0,
            is_canonical: false,
            is_ours: false,
            fee: receipt.fee(),
            moved: if receipt.succeeded() { self.value } else { U256::ZERO },
            proofs: Vec::new(),
            strangers: Vec::new(),
        }
    }
}

/// The hashes of what is in a block.
#[derive(Debug, Deserialize)]
struct Hashes {
    transactions: Vec<B256>,
}

#[derive(Debug, Deserialize)]
struct Transactions {
    transactions: Vec<Sent>,
}

/// Whether a block is there and has a transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum InBlock {
    Yes,
    No,
    /// The node does not show the block.
    Unknown,
}

impl Reader {
    /// Asks all of `of`, each with as many questions as `ask` makes of it, which is the same for all.
    async fn each<T: Copy, A>(
        &self,
        of: &[T],
        ask: impl Fn(T) -> Vec<Call>,
        read: impl Fn(Vec<Answer>) -> Result<A, Unavailable>,
    ) -> Result<Vec<A>, Unavailable> {
        let mut answers = Vec::with_capacity(of.len());
        let (mut left, mut size) = (of, usize::MAX);
        while let Some(first) = left.first() {
            let each = ask(*first).len().max(1);
            size = size.min(QUESTIONS_MAX / each).max(1);
            let (now, later) = left.split_at(size.min(left.len()));
            let calls = || now.iter().flat_map(|one| ask(*one)).collect();
            let answered = match self.ask(&calls).await {
                Ok(answered) => answered,
                Err(_) if now.len() > 1 => {
                    size = now.len() / 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut answered = answered.into_iter();
            for _ in now {
                answers.push(read(answered.by_ref().take(each).collect())?);
            }
            left = later;
        }
        Ok(answers)
    }

    /// Asks until the node answers, or is given up.
    pub(super) async fn ask(
        &self,
        calls: &(impl Fn() -> Vec<Call> + ?Sized),
    ) -> Result<Vec<Answer>, Unavailable> {
        let mut pause = PAUSE;
        for _ in 1..TRIES_MAX {
            match self.rpc.ask_many(calls()).await {
                Ok(answers) if !answers.iter().any(is_busy) => return Ok(answers),
                Ok(_) | Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.rpc.ask_many(calls()).await
    }

    async fn one<T: DeserializeOwned>(&self, call: impl Fn() -> Call) -> Result<T, Unavailable> {
        let mut answers = self.ask(&|| vec![call()]).await?;
        self.rpc.read(answers.pop().expect("one answer per call"))
    }

    /// The newest block of a node of this chain.
    pub(super) async fn begin(&self, chain_id: u64) -> Result<Block, Unavailable> {
        let mut answers = self.ask(&|| vec![Call::chain_id(), Call::head()]).await?;
        let head = answers.pop().expect("one answer per call");
        self.rpc.read_chain(answers.pop().expect("one answer per call"), chain_id)?;
        self.rpc.read(head)
    }

    /// What became of each of these transactions; `None` of what is in no block.
    pub(super) async fn mined(
        &self,
        hashes: &[B256],
    ) -> Result<Vec<Option<(Receipt, Sent)>>, Unavailable> {
        let ask = |hash| vec![Call::receipt(hash), Call::transaction(hash)];
        self.each(hashes, ask, |mut answers| {
            let sent: Option<Sent> = self.rpc.read(answers.pop().expect("one answer per call"))?;
            let receipt = answers.pop().expect("one answer per call");
            match (self.rpc.read::<Option<Receipt>>(receipt)?, sent) {
                (None, _) => Ok(None),
                (Some(receipt), Some(sent)) => Ok(Some((receipt, sent))),
                (Some(_), None) => {
                    Err(self.rpc.unavailable("the transaction of a receipt is missing"))
                }
            }
        })
        .await
    }

    /// The canonical blocks with these numbers.
    pub(super) async fn blocks(&self, numbers: &[u64]) -> Result<Vec<Option<Block>>, Unavailable> {
        self.each(
            numbers,
            |number| vec![Call::block(number)],
            |mut answers| self.rpc.read(answers.pop().expect("one answer per call")),
        )
        .await
    }

    /// Whether each of these transactions is in the block beside it.
    pub(super) async fn in_blocks(
        &self,
        wanted: &[(B256, u64)],
    ) -> Result<Vec<InBlock>, Unavailable> {
        let ask = |(_, number)| vec![Call::block(number)];
        let found = self.each(wanted, ask, |mut answers| {
            self.rpc.read::<Option<Hashes>>(answers.pop().expect("one answer per call"))
        });
        let told = wanted.iter().zip(found.await?).map(|((hash, _), block)| match block {
            Some(block) if block.transactions.contains(hash) => InBlock::Yes,
            Some(_) => InBlock::No,
            None => InBlock::Unknown,
        });
        Ok(told.collect())
    }

    /// What a node may know only of new blocks: `Err` within says what it answered instead.
    async fn history(&self, call: impl Fn() -> Call) -> Result<Result<U256, String>, Unavailable> {
        let mut answers = self.ask(&|| vec![call()]).await?;
        match answers.pop().expect("one answer per call") {
            Ok(value) => self.rpc.read(Ok(value)).map(Ok),
            Err(error) => Ok(Err(error.public_text())),
        }
    }

    /// What an account held at the end of a block, in wei.
    pub(super) async fn balance(
        &self,
        account: Address,
        block: u64,
    ) -> Result<Result<U256, String>, Unavailable> {
        let params = || json!([account, U64::from(block)]);
        self.history(|| Call::new("eth_getBalance", params())).await
    }

    /// How many transactions of an account were mined by the end of a block.
    pub(super) async fn count(
        &self,
        account: Address,
        block: u64,
    ) -> Result<Result<u64, String>, Unavailable> {
        let count = self.history(|| Call::mined_nonces_at(account, block)).await?;
        Ok(count.map(|count| count.saturating_to()))
    }

    /// The block in which an account's nonce was consumed, after the block `low` and up to `high`: where the
    /// count of its transactions rises above the nonce.
    pub(super) async fn block_of(
        &self,
        (account, nonce): (Address, u64),
        (mut low, mut high): (u64, u64),
    ) -> Result<Result<u64, String>, Unavailable> {
        while low.saturating_add(1) < high {
            let middle = low + (high - low) / 2;
            match self.count(account, middle).await? {
                Ok(count) if count > nonce => high = middle,
                Ok(_) => low = middle,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(high))
    }

    /// The transaction that consumed an account's nonce in one of these blocks.
    pub(super) async fn find_nonce(
        &self,
        (account, nonce): (Address, u64),
        span: (u64, u64),
    ) -> Result<Result<Sent, String>, Unavailable> {
        let block = match self.block_of((account, nonce), span).await? {
            Ok(block) => block,
            Err(error) => return Ok(Err(error)),
        };
        let call = || Call::new("eth_getBlockByNumber", json!([U64::from(block), true]));
        let found: Option<Transactions> = self.one(call).await?;
        let Some(found) = found else { return Ok(Err(format!("block {block} is not shown"))) };
        let mut sent = found.transactions.into_iter();
        let is_it = |sent: &Sent| sent.from == account && sent.nonce == U64::from(nonce);
        Ok(sent.find(is_it).ok_or_else(|| format!("it is not in block {block}")))
    }
}

/// Whether it may be answered when it is asked again.
fn is_busy(answer: &Answer) -> bool {
    let busy = |error| errors::is_busy(error) && !errors::is_state_missing(error);
    answer.as_ref().is_err_and(busy)
}
