//! Looks at the chain that concurrent verifications share.
//!
//! What most payments need (EIP-3009 by an account with a key) is asked for many of them in one
//! `eth_call`: it runs `contracts/src/PaymentTrials.sol` without deploying it. Nothing waits for others to
//! come: what arrives while [`LOOKS_MAX`] questions are on their way goes with the next one.
//!
//! **Invariant:** the answer is only ever a shortcut. It is as of one block, each payment is tried apart
//! from the others, and whatever it does not say for certain is asked anew for that payment alone.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolValue as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use crate::rpc::{Call, Called, Rpc, VIEW_GAS_MAX};

/// Questions on their way at a time. One more would wait for a third of a round trip less.
pub const LOOKS_MAX: usize = 3;
/// Payments in one question: as many as fit into the gas that nodes give a call, 50 million as a rule.
pub const PAYMENTS_MAX: usize = 32;
/// Payments that wait for a question; above, they are asked for one by one.
const WAITING_MAX: usize = 1_024;
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
    /// Whether the transfer works. It is not tried with a nonce that is used.
    pub(crate) works: bool,
}

impl Seen {
    fn read(time: u64, block: u64, flags: U256, held: U256) -> Self {
        let has = |bit: usize| flags.bit(bit);
        Self {
            time,
            block,
            has_code: has(0),
            held: has(1).then_some(held),
            used: has(2).then_some(has(3)),
            works: has(4),
        }
    }
}

/// The looks of one network. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Together(Arc<Shared>);

struct Shared {
    rpc: Rpc,
    transfer_gas: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    looks: usize,
}

struct Waiting {
    question: Question,
    tell: oneshot::Sender<Option<Seen>>,
}

impl Together {
    /// Looks through `rpc`; `transfer_gas` is the most that one transfer may use.
    pub(crate) fn new(rpc: Rpc, transfer_gas: u64) -> Self {
        Self(Arc::new(Shared { rpc, transfer_gas, state: Mutex::default() }))
    }

    /// What the chain shows of a payment; `None` when it cannot be told this way.
    pub(crate) async fn look(&self, question: Question) -> Option<Seen> {
        let (tell, told) = oneshot::channel();
        let starts = {
            let mut state = self.lock();
            if state.waiting.len() >= WAITING_MAX {
                return None;
            }
            state.waiting.push_back(Waiting { question, tell });
            let starts = state.looks < LOOKS_MAX;
            state.looks += usize::from(starts);
            starts
        };
        if starts {
            // A task of its own: whoever began it may go away, and others wait for it.
            tokio::spawn(self.clone().run());
        }
        told.await.ok().flatten()
    }

    /// Asks until nobody waits.
    async fn run(self) {
        let look = Look(&self);
        while let Some(batch) = look.next() {
            let (questions, tells): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|it| (it.question, it.tell)).unzip();
            let seen = self.ask(questions).await;
            for (index, tell) in tells.into_iter().enumerate() {
                // Whoever left does not want to know.
                _ = tell.send(seen.as_ref().and_then(|seen| seen.get(index).copied()));
            }
        }
    }

    async fn ask(&self, questions: Vec<Question>) -> Option<Vec<Seen>> {
        let Shared { rpc, transfer_gas, .. } = &*self.0;
        let count = questions.len();
        let call = question(questions, *transfer_gas);
        let answer = rpc.ask(call).await.ok()?;
        match rpc.read_call(answer).ok()? {
            Called::Returned(bytes) => read(&bytes, count),
            Called::Failed(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the looks that may be on their way.
struct Look<'a>(&'a Together);

impl Look<'_> {
    /// Who is next to be asked for.
    fn next(&self) -> Option<Vec<Waiting>> {
        let mut state = self.0.lock();
        let count = state.waiting.len().min(PAYMENTS_MAX);
        let batch: Vec<Waiting> = state.waiting.drain(..count).collect();
        (!batch.is_empty()).then_some(batch)
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.looks -= 1;
        // Who came between the last look into the queue and this would wait for nobody.
        let forgotten = !state.waiting.is_empty() && state.looks == 0;
        state.looks += usize::from(forgotten);
        drop(state);
        if forgotten && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.0.clone().run());
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
    if words.len() != HEADER_WORDS + 2 * count {
        return None;
    }
    let number = |word: &[u8; 32]| U256::from_be_bytes(*word);
    let (time, block) = (number(&words[0]).try_into().ok()?, number(&words[1]).try_into().ok()?);
    let (answers, _) = words[HEADER_WORDS..].as_chunks::<2>();
    let seen =
        answers.iter().map(|[flags, held]| Seen::read(time, block, number(flags), number(held)));
    Some(seen.collect())
}
