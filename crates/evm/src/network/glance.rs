//! Looks at the chain that concurrent verifications share.
//!
//! What most payments need (EIP-3009 by an account with a key) is asked for many of them in one
//! `eth_call`: it runs `contracts/src/PaymentTrials.sol` without deploying it.
//!
//! **Invariant:** the answer is only ever a shortcut. It is as of one block, each payment is tried apart
//! from the others, and whatever it does not say for certain is asked anew for that payment alone.

use std::sync::LazyLock;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolValue as _;
use serde::Deserialize;
use serde_json::json;

use super::together::{Batch, Together};
use crate::rpc::{Call, Called, Rpc, VIEW_GAS_MAX};

/// Questions on their way at a time.
pub const LOOKS_MAX: usize = 4;
/// How long a payment waits for a question that is on its way before another one is asked: each costs us
/// what ten payments in it do, and a node nearby answers sooner.
const PACE: Duration = Duration::from_millis(4);
/// How long a payment waits for others where several were asked about together just now.
const GATHERS: Duration = Duration::from_millis(2);
/// Payments in one question: as many as fit into the gas that nodes give a call, 50 million as a rule.
pub const PAYMENTS_MAX: usize = 32;
/// Gas of the question itself, beside what its payments may use.
const OVERHEAD_GAS: u64 = 2_000_000;
/// Gas of one look at a token. Tokens behind proxies answer within 50,000.
const LOOK_GAS: u64 = VIEW_GAS_MAX / 10;
/// Words before those of the payments: the block's time and number.
const HEADER_WORDS: usize = 2;

/// Runs the question: the contract's creation code, followed by its arguments.
static TRIALS: LazyLock<Bytes> = LazyLock::new(|| {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Compiled {
        creation_code: Bytes,
    }
    let artifact = include_str!("../../../../contracts/artifacts/PaymentTrials.json");
    let compiled: Compiled = serde_json::from_str(artifact)
        .expect("committed artefacts are checked by contracts/compile.mjs");
    compiled.creation_code
});

/// A payment whose verification looks at the chain.
pub(crate) struct Question {
    pub(crate) token: Address,
    pub(crate) payer: Address,
    pub(crate) nonce: B256,
    /// The call of the token that makes the transfer.
    pub(crate) transfer: Bytes,
}

/// What the chain showed of a payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Seen {
    /// The block's time, in seconds since the Unix epoch.
    pub(crate) time: u64,
    pub(crate) block: u64,
    /// Whether the payer's account has code. Then nothing was tried.
    pub(crate) has_code: bool,
    /// What the payer holds; `None` when the token did not say.
    pub(crate) held: Option<U256>,
    /// Whether the nonce is used; `None` when the token did not say.
    pub(crate) used: Option<bool>,
    /// The gas of the transfer, if it works. It is not tried with a nonce that is used.
    pub(crate) works: Option<u64>,
}

impl Seen {
    fn read((time, block): (u64, u64), [flags, held, gas]: [U256; 3]) -> Self {
        let has = |bit: usize| flags.bit(bit);
        Self {
            time,
            block,
            has_code: has(0),
            held: has(1).then_some(held),
            used: has(2).then_some(has(3)),
            works: has(4).then(|| gas.saturating_to()),
        }
    }
}

/// The looks of one network. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Glances(Together<Glance>);

struct Glance {
    rpc: Rpc,
    transfer_gas: u64,
}

impl Glances {
    /// Looks through `rpc`; `transfer_gas` is the most that one transfer may use.
    pub(crate) fn new(rpc: Rpc, transfer_gas: u64) -> Self {
        Self(Together::new(Glance { rpc, transfer_gas }))
    }

    /// What the chain shows of a payment; `None` when it cannot be told this way.
    pub(crate) async fn look(&self, question: Question) -> Option<Seen> {
        self.0.ask(question).await.flatten()
    }
}

impl Batch for Glance {
    type Question = Question;
    type Answer = Option<Seen>;

    const AT_A_TIME: usize = LOOKS_MAX;
    const PACE: Duration = PACE;
    const GATHERS: Duration = GATHERS;
    const SIZE_MAX: usize = PAYMENTS_MAX;
    const WAITING_MAX: usize = 1_024;

    async fn ask(&self, questions: Vec<Question>) -> Vec<Option<Seen>> {
        let count = questions.len();
        let call = question(questions, self.transfer_gas);
        let asked = async {
            match self.rpc.read_call(self.rpc.ask(call).await.ok()?).ok()? {
                Called::Returned(bytes) => {
                    let seen = read(&bytes, count)?;
                    if let Some(first) = seen.first() {
                        self.rpc.saw(first.block).ok()?;
                    }
                    Some(seen)
                }
                Called::Failed(_) => None,
            }
        };
        match asked.await {
            Some(seen) => seen.into_iter().map(Some).collect(),
            None => vec![None; count],
        }
    }
}

fn question(questions: Vec<Question>, transfer_gas: u64) -> Call {
    let gas = transfer_gas.saturating_add(2 * LOOK_GAS);
    let count = u64::try_from(questions.len()).unwrap_or(u64::MAX);
    let gas = gas.saturating_mul(count).saturating_add(OVERHEAD_GAS);
    let payments: Vec<(Address, Address, B256, Bytes)> =
        questions.into_iter().map(|it| (it.token, it.payer, it.nonce, it.transfer)).collect();
    let arguments = (payments, U256::from(LOOK_GAS), U256::from(transfer_gas)).abi_encode_params();
    let data = Bytes::from([&TRIALS[..], &arguments].concat());
    let call = json!({ "data": data, "gas": alloy::primitives::U64::from(gas) });
    Call::new("eth_call", json!([call, "latest"]))
}

/// Reads the answer for so many payments; `None` for anything else.
fn read(bytes: &[u8], count: usize) -> Option<Vec<Seen>> {
    let (words, []) = bytes.as_chunks::<32>() else { return None };
    if words.len() != HEADER_WORDS + 3 * count {
        return None;
    }
    let number = |word: &[u8; 32]| U256::from_be_bytes(*word);
    let (time, block) = (number(&words[0]).try_into().ok()?, number(&words[1]).try_into().ok()?);
    let (answers, _) = words[HEADER_WORDS..].as_chunks::<3>();
    let seen = answers.iter().map(|answer| {
        let answer = answer.each_ref().map(number);
        Seen::read((time, block), answer)
    });
    Some(seen.collect())
}
