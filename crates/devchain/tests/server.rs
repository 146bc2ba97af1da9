//! The chain on a port, as strangers see it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod support;

use std::time::Duration;

use alloy::consensus::BlockHeader;
use alloy::primitives::{B256, U256};
use alloy::providers::{Provider, ProviderBuilder, WsConnect};
use alloy::rpc::types::{Filter, TransactionRequest};
use futures_util::StreamExt;
use pay402_devchain::genesis::{DEV_ACCOUNTS, USDC_ADDRESS, dev_signer};
use pay402_devchain::{BATCH_LIMIT, Serving};
use serde_json::{Value, json};
use support::{Harness, PAYEE, authorization, transfer};

async fn served() -> (Harness, Serving) {
    let harness = Harness::new();
    let serving = harness.chain.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    (harness, serving)
}

async fn post(serving: &Serving, body: &Value) -> Value {
    let client = reqwest::Client::new();
    client.post(serving.http_url()).json(body).send().await.unwrap().json().await.unwrap()
}

async fn rpc(serving: &Serving, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer = post(serving, &body).await;
    assert_eq!(answer["id"], 1);
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

#[tokio::test]
async fn what_every_client_asks_first() {
    let (_harness, serving) = served().await;
    for (method, expected) in [
        ("eth_chainId", json!("0x14a34")),
        ("net_version", json!("84532")),
        ("eth_blockNumber", json!("0x0")),
        ("eth_syncing", json!(false)),
        ("eth_gasPrice", json!("0x6fc23ac0")),
        ("eth_maxPriorityFeePerGas", json!("0x3b9aca00")),
        ("eth_blobBaseFee", json!("0x1")),
    ] {
        assert_eq!(rpc(&serving, method, json!([])).await, expected, "{method}");
    }
    let client = rpc(&serving, "web3_clientVersion", json!([])).await;
    assert!(client.as_str().unwrap().starts_with("pay402-devchain/"));
    assert_eq!(rpc(&serving, "eth_accounts", json!([])).await.as_array().unwrap().len(), 10);
    let missing =
        post(&serving, &json!({"jsonrpc": "2.0", "id": 1, "method": "eth_nothing"})).await;
    assert_eq!(missing["error"]["code"], -32601);
    let absent = rpc(&serving, "eth_getBlockByNumber", json!(["0x99", false])).await;
    assert_eq!(absent, Value::Null);
    let block = rpc(&serving, "eth_getBlockByNumber", json!(["latest", false])).await;
    for key in [
        "hash",
        "parentHash",
        "logsBloom",
        "baseFeePerGas",
        "timestamp",
        "size",
        "mixHash",
        "uncles",
    ] {
        assert!(!block[key].is_null(), "{key} in {block}");
    }
    let slot = rpc(&serving, "eth_getStorageAt", json!([USDC_ADDRESS, "0x1", "latest"])).await;
    assert_eq!(slot.as_str().unwrap().len(), 66);
}

#[tokio::test]
async fn batches_and_bad_bodies() {
    let (_harness, serving) = served().await;
    let one = json!({"jsonrpc": "2.0", "id": 7, "method": "eth_chainId", "params": []});
    let answers = post(&serving, &json!([one, one])).await;
    assert_eq!(answers[1], json!({"jsonrpc": "2.0", "id": 7, "result": "0x14a34"}));
    let many = vec![one; BATCH_LIMIT + 1];
    assert_eq!(post(&serving, &json!(many)).await["error"]["code"], -32005);
    let client = reqwest::Client::new();
    let broken = client.post(serving.http_url()).body("{nonsense").send().await.unwrap();
    let broken: Value = broken.json().await.unwrap();
    assert_eq!(broken["error"]["code"], -32700);
    let big = client.post(serving.http_url()).body(vec![b' '; pay402_devchain::BODY_LIMIT + 1]);
    assert_eq!(big.send().await.unwrap().status(), 413);
    let odd =
        post(&serving, &json!({"id": 1, "method": "eth_getBalance", "params": ["0x12"]})).await;
    assert_eq!(odd["error"]["code"], -32602);
}

#[tokio::test]
async fn reverts_look_like_geths() {
    let (harness, serving) = served().await;
    let payment = authorization(&harness, &dev_signer(1), PAYEE, 5);
    let forged = payment.bytes_call(payment.sign(&dev_signer(2)));
    let data = alloy::hex::encode_prefixed(alloy::sol_types::SolCall::abi_encode(&forged));
    let call = json!({"to": USDC_ADDRESS, "data": data});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]});
    let answer = post(&serving, &body).await;
    assert_eq!(answer["error"]["code"], 3);
    assert_eq!(answer["error"]["message"], "execution reverted: FiatTokenV2: invalid signature");
    assert!(answer["error"]["data"].as_str().unwrap().starts_with("0x08c379a0"));
}

#[tokio::test]
async fn unlocked_accounts_send() {
    let (harness, serving) = served().await;
    let tx = json!({"from": DEV_ACCOUNTS[4], "to": PAYEE, "value": "0x5"});
    let hash = rpc(&serving, "eth_sendTransaction", json!([tx])).await;
    let receipt = rpc(&serving, "eth_getTransactionReceipt", json!([hash])).await;
    assert_eq!((&receipt["status"], &receipt["type"]), (&json!("0x1"), &json!("0x2")));
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::from(5));
    let stranger = json!({"from": PAYEE, "to": PAYEE, "value": "0x5"});
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_sendTransaction", "params": [stranger]});
    assert_eq!(post(&serving, &body).await["error"]["message"], "unknown account");
}

#[tokio::test]
async fn the_verbs_of_other_development_chains() {
    let (harness, serving) = served().await;
    let snapshot = rpc(&serving, "evm_snapshot", json!([])).await;
    rpc(&serving, "anvil_mine", json!(["0x3", "0xa"])).await;
    assert_eq!(harness.chain.block_number(), 3);
    let later = harness.chain.now() + 500;
    rpc(&serving, "evm_setNextBlockTimestamp", json!([later])).await;
    rpc(&serving, "evm_mine", json!([])).await;
    let block = harness.provider.get_block(4.into()).await.unwrap().unwrap();
    assert_eq!(block.header.timestamp(), later);
    rpc(&serving, "evm_increaseTime", json!(["0x64"])).await;
    assert!(harness.chain.now() >= later + 100);
    rpc(&serving, "hardhat_setBalance", json!([PAYEE, "0x11"])).await;
    rpc(&serving, "anvil_setCode", json!([PAYEE, "0x6001"])).await;
    rpc(&serving, "anvil_setStorageAt", json!([PAYEE, "0x1", B256::repeat_byte(9)])).await;
    rpc(&serving, "anvil_setNonce", json!([PAYEE, "0x6"])).await;
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::from(17));
    assert_eq!(rpc(&serving, "eth_getCode", json!([PAYEE, "latest"])).await, "0x6001");
    let slot = harness.provider.get_storage_at(PAYEE, U256::from(1)).await.unwrap();
    assert_eq!(B256::from(slot), B256::repeat_byte(9));
    assert_eq!(harness.provider.get_transaction_count(PAYEE).await.unwrap(), 6);
    rpc(&serving, "anvil_setNextBlockBaseFeePerGas", json!(["0x77359400"])).await;
    rpc(&serving, "evm_setAutomine", json!([false])).await;
    let hash = harness.raw(&harness.signed(0, transfer(0))).await.unwrap();
    assert!(harness.receipt(hash).await.is_none());
    let status = rpc(&serving, "txpool_status", json!([])).await;
    assert_eq!(status, json!({"pending": "0x1", "queued": "0x0"}));
    assert_eq!(rpc(&serving, "anvil_dropTransaction", json!([hash])).await, json!(hash));
    rpc(&serving, "evm_mine", json!([])).await;
    let block = harness.provider.get_block(5.into()).await.unwrap().unwrap();
    assert_eq!(block.header.base_fee_per_gas(), Some(2_000_000_000));
    rpc(&serving, "anvil_reorg", json!([1, []])).await;
    let replaced = harness.provider.get_block(5.into()).await.unwrap().unwrap();
    assert_ne!(replaced.header.hash, block.header.hash);
    assert_eq!(rpc(&serving, "evm_revert", json!([snapshot])).await, true);
    assert_eq!(harness.chain.block_number(), 0);
}

#[tokio::test]
async fn subscriptions_over_websocket() {
    let (harness, serving) = served().await;
    let provider =
        ProviderBuilder::new().connect_ws(WsConnect::new(serving.ws_url())).await.unwrap();
    let mut heads = provider.subscribe_blocks().await.unwrap().into_stream();
    let filter = Filter::new().address(USDC_ADDRESS);
    let mut logs = provider.subscribe_logs(&filter).await.unwrap().into_stream();
    let mut pending = provider.subscribe_pending_transactions().await.unwrap().into_stream();
    let payment = authorization(&harness, &dev_signer(1), PAYEE, 5);
    let receipt = harness.send(0, USDC_ADDRESS, &payment.vrs_call(&dev_signer(1))).await;
    let limit = Duration::from_secs(20);
    let head = tokio::time::timeout(limit, heads.next()).await.unwrap().unwrap();
    assert_eq!(Some(head.hash), receipt.block_hash);
    let log = tokio::time::timeout(limit, logs.next()).await.unwrap().unwrap();
    assert_eq!(log, receipt.inner.logs()[0]);
    let hash = tokio::time::timeout(limit, pending.next()).await.unwrap().unwrap();
    assert_eq!(hash, receipt.transaction_hash);
    // A transaction sent on the connection itself is reported on it, too.
    let tx = TransactionRequest::default().from(DEV_ACCOUNTS[3]).to(PAYEE).value(U256::from(1));
    let hash: B256 = provider.raw_request("eth_sendTransaction".into(), (tx,)).await.unwrap();
    assert_eq!(tokio::time::timeout(limit, pending.next()).await.unwrap().unwrap(), hash);
}

#[tokio::test]
async fn the_port_closes() {
    let (_harness, serving) = served().await;
    let addr = serving.local_addr();
    let provider =
        ProviderBuilder::new().connect_ws(WsConnect::new(serving.ws_url())).await.unwrap();
    assert_eq!(provider.get_block_number().await.unwrap(), 0);
    tokio::time::timeout(Duration::from_secs(20), serving.shutdown()).await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
