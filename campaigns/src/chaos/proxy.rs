//! A JSON-RPC proxy in front of a chain that behaves like a bad node: late, silent, behind, lying.
//!
//! A request that is delayed, lost or stale is so as a whole; the calls of a batch are otherwise handled
//! one by one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::consensus::TxEnvelope;
use alloy::consensus::transaction::SignerRecoverable as _;
use alloy::eips::eip2718::Decodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::RpcError;
use alloy::sol_types::{SolCall as _, SolEvent as _};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use pay402::stack::{Served, serve};
use pay402_evm::contracts::Eip3009;
use serde_json::{Value, json};

use super::faults::{Fault, Faults};
use crate::Result;

/// How long a late answer takes.
const DELAY: Duration = Duration::from_millis(1_500);
/// After how long the proxy ends a connection on which no answer will come.
const SILENCE: Duration = Duration::from_secs(15);
/// A chain that is not the one behind the proxy.
const OTHER_CHAIN: &str = "0x1";
/// Transactions that are remembered, to make up receipts of them.
const REMEMBERED_MAX: usize = 65_536;

/// A node that misbehaves.
pub(crate) struct Proxy {
    pub(crate) url: String,
    pub(crate) faults: Arc<Faults>,
    _served: Served,
}

struct Shared {
    chain: RpcClient,
    faults: Arc<Faults>,
    seen: Mutex<HashMap<B256, Transfer>>,
}

/// What a transaction would do if it were mined and good.
#[derive(Clone, Debug)]
struct Transfer {
    sender: Address,
    token: Address,
    from: Address,
    to: Address,
    value: U256,
    nonce: B256,
}

impl Proxy {
    pub(crate) async fn start(chain: RpcClient, faults: Faults) -> Result<Self> {
        let faults = Arc::new(faults);
        let shared = Shared { chain, faults: Arc::clone(&faults), seen: Mutex::default() };
        let router = Router::new().route("/", post(answer)).with_state(Arc::new(shared));
        let served = serve(router, 0).await?;
        Ok(Self { url: served.url.clone(), faults, _served: served })
    }
}

async fn answer(State(shared): State<Arc<Shared>>, body: axum::body::Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (calls, is_batch) = match request {
        Value::Array(calls) => (calls, true),
        call => (vec![call], false),
    };
    let first = calls.first().and_then(|call| call["method"].as_str()).unwrap_or_default();
    let fault = shared.faults.of_request(first);
    let mut head = None;
    match fault {
        Some(Fault::Delay) => tokio::time::sleep(DELAY).await,
        Some(Fault::Timeout) => {
            tokio::time::sleep(SILENCE).await;
            return StatusCode::GATEWAY_TIMEOUT.into_response();
        }
        Some(Fault::Stale { blocks }) => head = shared.head_ago(blocks).await,
        _ => {}
    }
    let mut answers = Vec::with_capacity(calls.len());
    for call in calls {
        answers.push(shared.call(call, head).await);
    }
    if fault == Some(Fault::Lost) {
        return cut_off();
    }
    let answer = if is_batch { Value::Array(answers) } else { answers.swap_remove(0) };
    axum::Json(answer).into_response()
}

/// An answer that begins, and whose connection breaks.
fn cut_off() -> Response {
    let parts = [Ok("{"), Err(std::io::Error::other("cut off"))];
    Body::from_stream(futures_util::stream::iter(parts)).into_response()
}

impl Shared {
    async fn call(&self, call: Value, head: Option<u64>) -> Value {
        let (id, method) = (call["id"].clone(), call["method"].as_str().unwrap_or_default());
        let params = call["params"].clone();
        let answered = match self.faults.of_call(method) {
            Some(Fault::Error) => Err(json!({ "code": -32603, "message": "internal error" })),
            Some(Fault::OtherChain) => Ok(json!(OTHER_CHAIN)),
            Some(Fault::Forged) => self.forged(params).await,
            Some(Fault::Dropped) => Ok(json!(hash_of(&params))),
            Some(Fault::Twice) => {
                let answered = self.send(params.clone()).await;
                // The second is refused as known, and nobody is told.
                _ = self.send(params).await;
                answered
            }
            _ if method == "eth_sendRawTransaction" => self.send(params).await,
            _ => match head {
                None => self.ask(method, params).await,
                Some(head) => self.as_of(method, params, head).await,
            },
        };
        match answered {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
        }
    }

    async fn ask(&self, method: &str, params: Value) -> std::result::Result<Value, Value> {
        let asked = self.chain.request::<Value, Value>(method.to_owned(), params).await;
        asked.map_err(|error| match error {
            RpcError::ErrorResp(error) => {
                let data = error.data.as_ref().and_then(|it| serde_json::from_str(it.get()).ok());
                json!({ "code": error.code, "message": error.message, "data": data.unwrap_or(Value::Null) })
            }
            other => json!({ "code": -32603, "message": other.to_string() }),
        })
    }

    async fn head_ago(&self, blocks: u64) -> Option<u64> {
        let head: U64 = self.chain.request_noparams("eth_blockNumber").await.ok()?;
        Some(head.to::<u64>().saturating_sub(blocks))
    }

    /// The answer of a node whose newest block is this one.
    async fn as_of(
        &self,
        method: &str,
        mut params: Value,
        head: u64,
    ) -> std::result::Result<Value, Value> {
        let number = |value: &Value| value.as_str()?.parse::<U64>().ok().map(|it| it.to::<u64>());
        let newest = json!(U64::from(head));
        if method == "eth_blockNumber" {
            return Ok(newest);
        }
        if method == "eth_getLogs" {
            let filter = &mut params[0];
            if number(&filter["fromBlock"]).is_some_and(|from| from > head) {
                return Ok(json!([]));
            }
            if number(&filter["toBlock"]).is_none_or(|to| to > head) {
                filter["toBlock"] = newest;
            }
            return self.ask(method, params).await;
        }
        for parameter in params.as_array_mut().into_iter().flatten() {
            if matches!(parameter.as_str(), Some("latest" | "pending")) {
                *parameter = newest.clone();
            }
        }
        let asked = params.as_array().into_iter().flatten().filter_map(number).max();
        let of_block = matches!(method, "eth_getBlockByNumber" | "eth_call" | "eth_getCode")
            || matches!(method, "eth_getTransactionCount" | "eth_getBalance");
        if of_block && asked.is_some_and(|asked| asked > head) {
            return match method {
                "eth_getBlockByNumber" => Ok(Value::Null),
                _ => Err(json!({ "code": -32000, "message": "header not found" })),
            };
        }
        let answered = self.ask(method, params).await?;
        let is_later = number(&answered["blockNumber"]).is_some_and(|block| block > head);
        Ok(if is_later { Value::Null } else { answered })
    }

    /// A receipt that is not the chain's: of a success that was not, or of a failure.
    async fn forged(&self, params: Value) -> std::result::Result<Value, Value> {
        let hash: Option<B256> = params[0].as_str().and_then(|hash| hash.parse().ok());
        let mut receipt = self.ask("eth_getTransactionReceipt", params).await?;
        let made_up = hash.and_then(|hash| Some((hash, self.lock().get(&hash)?.clone())));
        if receipt.is_null() {
            return match made_up {
                Some((hash, transfer)) => self.made_up(hash, &transfer).await,
                None => Ok(receipt),
            };
        }
        // Which of these is by the transaction's own hash.
        match hash.map_or(0, |hash| hash[0] % 3) {
            0 => {
                receipt["status"] = json!("0x0");
                receipt["logs"] = json!([]);
            }
            1 => receipt["logs"] = json!([]),
            _ => receipt["blockHash"] = json!(keccak256("another block")),
        }
        Ok(receipt)
    }

    /// The receipt of a transaction that was not mined, as if it were, in the newest block.
    async fn made_up(&self, hash: B256, transfer: &Transfer) -> std::result::Result<Value, Value> {
        let block = self.ask("eth_getBlockByNumber", json!(["latest", false])).await?;
        let (number, block_hash) = (&block["number"], &block["hash"]);
        let log = |index: u64, topics: Value, data: Bytes| {
            json!({
                "address": transfer.token, "topics": topics, "data": data, "blockNumber": number,
                "blockHash": block_hash, "transactionHash": hash, "transactionIndex": "0x0",
                "logIndex": U64::from(index), "removed": false,
            })
        };
        let (from, to) = (transfer.from.into_word(), transfer.to.into_word());
        let used = json!([Eip3009::AuthorizationUsed::SIGNATURE_HASH, from, transfer.nonce]);
        let moved = json!([Eip3009::Transfer::SIGNATURE_HASH, from, to]);
        let value = Bytes::from(transfer.value.to_be_bytes::<32>());
        Ok(json!({
            "transactionHash": hash, "transactionIndex": "0x0", "blockHash": block_hash,
            "blockNumber": number, "from": transfer.sender, "to": transfer.token, "status": "0x1",
            "gasUsed": "0xffdc", "cumulativeGasUsed": "0xffdc", "effectiveGasPrice": "0x3b9aca00",
            "contractAddress": null, "type": "0x2", "logsBloom": format!("0x{}", "0".repeat(512)),
            "logs": [log(0, used, Bytes::new()), log(1, moved, value)],
        }))
    }

    async fn send(&self, params: Value) -> std::result::Result<Value, Value> {
        if let Some((hash, transfer)) = read_transfer(&params) {
            let mut seen = self.lock();
            if seen.len() < REMEMBERED_MAX {
                seen.insert(hash, transfer);
            }
        }
        self.ask("eth_sendRawTransaction", params).await
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<B256, Transfer>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raw(params: &Value) -> Option<Bytes> {
    params[0].as_str()?.parse().ok()
}

fn hash_of(params: &Value) -> B256 {
    raw(params).map(keccak256).unwrap_or_default()
}

/// The transfer that a transaction makes, if it is one by EIP-3009 and nothing else.
fn read_transfer(params: &Value) -> Option<(B256, Transfer)> {
    use alloy::consensus::Transaction as _;
    let bytes = raw(params)?;
    let transaction = TxEnvelope::decode_2718(&mut bytes.as_ref()).ok()?;
    let sender = transaction.recover_signer().ok()?;
    let (token, input) = (transaction.to()?, transaction.input());
    let transfer = |from, to, value, nonce| Transfer { sender, token, from, to, value, nonce };
    let read = Eip3009::transferWithAuthorization_0Call::abi_decode(input)
        .map(|call| transfer(call.from, call.to, call.value, call.nonce))
        .or_else(|_| {
            Eip3009::transferWithAuthorization_1Call::abi_decode(input)
                .map(|call| transfer(call.from, call.to, call.value, call.nonce))
        });
    Some((keccak256(&bytes), read.ok()?))
}
