//! Nodes that lose answers, lag behind one another, or talk nonsense.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use alloy::primitives::{U64, U256};
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{
    ErrorPayload, RequestPacket, Response, ResponsePacket, ResponsePayload,
};
use alloy::sol_types::SolCall as _;
use alloy::transports::{TransportError, TransportErrorKind, TransportFut};
use pay402_core::Refusal;
use pay402_core::network::{ChainStatus, Network as _, SendError, Unverified, Verified};
use pay402_core::refusal::Reason;
use pay402_devchain::DevTransport;
use pay402_devchain::genesis::dev_signer;
use pay402_evm::contracts::Eip3009;
use pay402_evm::{AssetTable, EvmNetwork, Rpc, Settings};
use serde_json::{Value, json};
use tower_service::Service;

use crate::support::{FACILITATOR, House, START, network_id, payment, sign_with};

/// What happens to one request.
#[derive(Clone)]
pub(crate) enum Meddling {
    /// The node answers.
    Pass,
    /// The node acts on it and its answer is lost.
    Lose,
    /// Something else answers.
    Answer(Value),
    /// The node refuses.
    Refuse(&'static str),
    /// The node refuses, and does not act on it.
    Keep(&'static str),
    /// Nothing gets through.
    Drop,
    /// No answer ever comes.
    Hang,
    /// The node answers with a block that is so many blocks older.
    Earlier(u64),
}

type Script = Arc<dyn Fn(&str, &Value) -> Meddling + Send + Sync>;

/// The chain, with somebody on the line.
#[derive(Clone)]
struct Line {
    chain: DevTransport,
    script: Script,
}

impl Service<RequestPacket> for Line {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let mut line = self.clone();
        Box::pin(async move {
            let (requests, single) = match packet {
                RequestPacket::Single(request) => (vec![request], true),
                RequestPacket::Batch(requests) => (requests, false),
            };
            let mut responses = Vec::new();
            for request in requests {
                let params: Value = serde_json::from_str(request.params().unwrap().get()).unwrap();
                let meddling = (line.script)(request.method(), &params);
                let id = request.id().clone();
                let refusal = |why: &'static str| {
                    let error = ErrorPayload { code: -32600, message: why.into(), data: None };
                    Response { id: id.clone(), payload: ResponsePayload::Failure(error) }
                };
                match meddling {
                    Meddling::Keep(why) => {
                        responses.push(refusal(why));
                        continue;
                    }
                    Meddling::Drop => {
                        return Err(TransportErrorKind::custom_str("connection lost"));
                    }
                    Meddling::Hang => std::future::pending::<()>().await,
                    _ => {}
                }
                let answered = line.chain.call(RequestPacket::Single(request)).await?;
                responses.push(match meddling {
                    Meddling::Pass => match answered {
                        ResponsePacket::Single(response) => response,
                        ResponsePacket::Batch(_) => unreachable!("one request was sent"),
                    },
                    Meddling::Lose => {
                        return Err(TransportErrorKind::custom_str("connection lost"));
                    }
                    Meddling::Answer(value) => {
                        let raw = serde_json::value::to_raw_value(&value).unwrap();
                        Response { id, payload: ResponsePayload::Success(raw) }
                    }
                    Meddling::Refuse(why) => refusal(why),
                    Meddling::Earlier(blocks) => earlier(answered, blocks),
                    Meddling::Keep(_) | Meddling::Drop | Meddling::Hang => {
                        unreachable!("did not come so far")
                    }
                });
            }
            Ok(match single {
                true => ResponsePacket::Single(responses.remove(0)),
                false => ResponsePacket::Batch(responses),
            })
        })
    }
}

/// The block that was answered with, as if it were so many blocks older.
fn earlier(answered: ResponsePacket, blocks: u64) -> Response {
    let ResponsePacket::Single(mut response) = answered else {
        unreachable!("one request was sent")
    };
    if let ResponsePayload::Success(raw) = &response.payload {
        let mut block: Value = serde_json::from_str(raw.get()).unwrap();
        let number: U64 = serde_json::from_value(block["number"].take()).unwrap();
        block["number"] = json!(number - U64::from(blocks));
        let raw = serde_json::value::to_raw_value(&block).unwrap();
        response.payload = ResponsePayload::Success(raw);
    }
    response
}

/// A node over a line that `script` meddles with.
pub(crate) fn rpc_over(
    house: &House,
    script: impl Fn(&str, &Value) -> Meddling + Send + Sync + 'static,
) -> Rpc {
    let line = Line { chain: house.chain.transport(), script: Arc::new(script) };
    Rpc::over(&network_id(), &RpcClient::new(line, true))
}

/// The facilitator's network over a line that `script` meddles with.
pub(crate) fn over(
    house: &House,
    script: impl Fn(&str, &Value) -> Meddling + Send + Sync + 'static,
) -> EvmNetwork {
    over_as(house, Settings::default(), script)
}

/// As [`over`], with these settings.
pub(crate) fn over_as(
    house: &House,
    settings: Settings,
    script: impl Fn(&str, &Value) -> Meddling + Send + Sync + 'static,
) -> EvmNetwork {
    EvmNetwork::new(
        network_id(),
        rpc_over(house, script),
        vec![dev_signer(FACILITATOR)],
        AssetTable::defaults(),
        house.time.clone(),
        settings,
    )
    .unwrap()
}

/// Whether this is the question that verifications share: a call without a destination.
pub(crate) fn is_shared(method: &str, params: &Value) -> bool {
    method == "eth_call" && params[0].get("to").is_none()
}

/// A node that lags behind: what it calls the latest state has no used authorization.
fn lagging(method: &str, params: &Value) -> Meddling {
    let selector = alloy::hex::encode_prefixed(Eip3009::authorizationStateCall::SELECTOR);
    let is_state = method == "eth_call"
        && params[0]["data"].as_str().is_some_and(|data| data.starts_with(&selector));
    if is_state && params[1] == "latest" {
        return Meddling::Answer(json!(format!("0x{:064}", 0)));
    }
    Meddling::Pass
}

async fn verified(house: &House) -> Verified {
    house.verify(&payment()).await.unwrap()
}

#[tokio::test]
async fn a_lost_answer_to_sending_is_unknown_and_sending_again_is_harmless() {
    let house = House::new();
    let verified = verified(&house).await;
    let flaky = over(&house, |method, _| match method {
        "eth_sendRawTransaction" => Meddling::Lose,
        _ => Meddling::Pass,
    });
    let (sent, raw) = sign_with(&flaky, &verified.plan).await;
    let lost = flaky.send(&raw).await;
    assert!(matches!(lost, Err(SendError::Unknown(_))), "{lost:?}");
    let status = flaky.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    assert_eq!(house.network.send(&raw).await, Err(SendError::NonceSpent));
}

#[tokio::test]
async fn gas_is_estimated_up_to_the_cap() {
    let house = House::new();
    let verified = verified(&house).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let listened = over(&house, move |method, params| {
        if method == "eth_estimateGas" {
            heard.lock().unwrap().push(params[0]["gas"].clone());
        }
        match is_shared(method, params) {
            true => Meddling::Refuse("not supported"),
            false => Meddling::Pass,
        }
    });
    sign_with(&listened, &verified.plan).await;
    let cap = format!("{:#x}", Settings::default().gas_limit_max);
    assert_eq!(*asked.lock().unwrap(), [json!(cap)]);
}

#[tokio::test]
async fn a_lagging_node_does_not_turn_a_paid_payment_into_a_failed_one() {
    let house = House::new();
    let verified = verified(&house).await;
    let (ours, raw) = sign_with(&house.network, &verified.plan).await;
    let (theirs, rival_raw) = sign_with(&house.rival(), &verified.plan).await;
    house.network.send(&rival_raw).await.unwrap();
    house.network.send(&raw).await.unwrap();
    let lagging = over(&house, lagging);
    let status = lagging.status(&verified.plan, Some(&ours)).await.unwrap();
    let ChainStatus::Proven { transaction, .. } = &status else { panic!("{status:?}") };
    assert_eq!(*transaction, theirs.transaction);
}

#[tokio::test]
async fn a_lagging_node_does_not_end_a_payment_that_was_made() {
    let house = House::new();
    let verified = verified(&house).await;
    house.submit(&verified.plan).await;
    house.advance_to(START + 100);
    let lagging = over(&house, lagging);
    let status = lagging.status(&verified.plan, None).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
}

/// How many blocks a query for logs spans, on a chain with this head.
fn span(params: &Value, head: u64) -> u64 {
    let number = |key: &str| {
        let text = params[0][key].as_str().unwrap();
        text.strip_prefix("0x").map_or(head, |digits| u64::from_str_radix(digits, 16).unwrap())
    };
    number("toBlock") + 1 - number("fromBlock")
}

#[tokio::test]
async fn verifying_a_used_payment_takes_one_small_log_query_at_most() {
    let house = House::new();
    let good = payment();
    let plan = house.verify(&good).await.unwrap().plan;
    let (sent, _) = house.submit(&plan).await;
    let refused = house.refuses(&good, Refusal::NonceAlreadyUsed).await;
    assert_eq!(refused.transaction, Some(sent.transaction), "a recent use is named");
    house.chain.mine(20_000);
    let head = house.chain.block_number();
    // Out of reach, or refused, or lost: the answer stays the same.
    for way in 0..3 {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let heard = spans.clone();
        let busy = over(&house, move |method, params| match method {
            "eth_getLogs" => {
                heard.lock().unwrap().push(span(params, head));
                match way {
                    0 => Meddling::Pass,
                    1 => Meddling::Refuse("rate limit exceeded"),
                    _ => Meddling::Lose,
                }
            }
            _ => Meddling::Pass,
        });
        let answer = busy.verify(&good).await;
        let Err(Unverified::Invalid(refused)) = answer else { panic!("{answer:?}") };
        assert!(refused.reason.is(Refusal::NonceAlreadyUsed), "{refused}");
        let spans = spans.lock().unwrap();
        assert!(spans.len() == 1 && spans[0] <= 10, "{spans:?}");
    }
}

#[tokio::test]
async fn a_node_that_refuses_wide_log_queries_still_shows_the_use() {
    // Used by another's transaction, a while ago; ours came too late.
    for (limit, later) in [(10, 0), (10, 150), (120, 1_000), (2_000, 9_000)] {
        let house = House::new();
        let verified = verified(&house).await;
        let (ours, raw) = sign_with(&house.network, &verified.plan).await;
        let (theirs, rival_raw) = sign_with(&house.rival(), &verified.plan).await;
        house.network.send(&rival_raw).await.unwrap();
        house.network.send(&raw).await.unwrap();
        house.chain.mine(later);
        let head = house.chain.block_number();
        let narrow = over(&house, move |method, params| {
            match method == "eth_getLogs" && span(params, head) > limit {
                true => Meddling::Refuse("block range is too large"),
                false => Meddling::Pass,
            }
        });
        for sent in [None, Some(&ours)] {
            let status = narrow.status(&verified.plan, sent).await.unwrap();
            let ChainStatus::Proven { transaction, .. } = &status else { panic!("{status:?}") };
            assert_eq!(*transaction, theirs.transaction);
        }
    }
}

#[tokio::test]
async fn a_late_look_begins_at_our_own_receipt() {
    let house = House::new();
    let verified = verified(&house).await;
    let (ours, raw) = sign_with(&house.network, &verified.plan).await;
    let (theirs, rival_raw) = sign_with(&house.rival(), &verified.plan).await;
    house.network.send(&rival_raw).await.unwrap();
    house.network.send(&raw).await.unwrap();
    house.chain.mine(5_000);
    let head = house.chain.block_number();
    let narrow = over(&house, move |method, params| {
        match method == "eth_getLogs" && span(params, head) > 10 {
            true => Meddling::Refuse("block range is too large"),
            false => Meddling::Pass,
        }
    });
    // Too far back from the head for ten blocks at a time.
    assert!(narrow.status(&verified.plan, None).await.is_err());
    let status = narrow.status(&verified.plan, Some(&ours)).await.unwrap();
    let ChainStatus::Proven { transaction, .. } = &status else { panic!("{status:?}") };
    assert_eq!(*transaction, theirs.transaction);
}

#[tokio::test]
async fn a_receipt_without_its_logs_proves_nothing() {
    let house = House::new();
    let verified = verified(&house).await;
    let (sent, _) = house.submit(&verified.plan).await;
    // Status 1, but of another token's transfer, or of none.
    use alloy::providers::Provider as _;
    let receipt: Value = house
        .chain
        .provider()
        .raw_request("eth_getTransactionReceipt".into(), (sent.transaction.clone(),))
        .await
        .unwrap();
    let number = |key: &str| receipt[key].as_str().unwrap().parse::<U256>().unwrap();
    let spent = number("gasUsed") * number("effectiveGasPrice");
    let foreign = json!(format!("0x{}", "66".repeat(20)));
    let spoilt: [fn(&mut Value, &Value); 4] = [
        |receipt, _| receipt["logs"] = json!([]),
        |receipt, foreign| receipt["logs"][1]["address"] = foreign.clone(),
        |receipt, _| receipt["logs"][1]["data"] = json!(format!("0x{:064x}", 9_999)),
        |receipt, _| drop(receipt["logs"].as_array_mut().unwrap().remove(0)),
    ];
    assert_eq!(receipt["logs"].as_array().unwrap().len(), 2);
    for spoil in spoilt {
        let mut receipt = receipt.clone();
        spoil(&mut receipt, &foreign);
        let liar = over(&house, move |method, _| match method {
            "eth_getTransactionReceipt" => Meddling::Answer(receipt.clone()),
            _ => Meddling::Pass,
        });
        let status = liar.status(&verified.plan, Some(&sent)).await.unwrap();
        let ChainStatus::Failed { refused, fee, .. } = &status else { panic!("{status:?}") };
        assert_eq!(refused.reason, Reason::Known(Refusal::TransferEventMismatch));
        assert_eq!(fee.to_u256(), spent, "ours is counted once");
    }
}

#[tokio::test]
async fn a_receipt_of_a_block_that_is_not_on_the_chain_proves_nothing() {
    let house = House::new();
    let verified = verified(&house).await;
    let (sent, _) = house.submit(&verified.plan).await;
    let orphaned = over(&house, |method, params| match (method, &params[0]) {
        ("eth_getBlockByNumber", tag) if *tag == "latest" => Meddling::Answer(json!({
            "number": "0x1", "hash": format!("0x{}", "77".repeat(32)), "timestamp": "0x1",
        })),
        _ => Meddling::Pass,
    });
    let status = orphaned.status(&verified.plan, Some(&sent)).await.unwrap();
    assert_eq!(status, ChainStatus::Open { expired: false, displaced: false });
}

#[tokio::test]
async fn nonsense_is_never_believed() {
    let house = House::new();
    let good = payment();
    let verified = verified(&house).await;
    let (sent, _) = house.submit(&verified.plan).await;
    let methods = ["eth_getBlockByNumber", "eth_getCode", "eth_call", "eth_getTransactionReceipt"];
    for method in methods {
        for nonsense in [json!(7), json!("zz"), json!([]), json!({"number": "x"}), json!(true)] {
            let liar = over(&house, move |asked, params| match asked == method {
                true => Meddling::Answer(nonsense.clone()),
                // Every question of its own, so that each is answered with nonsense.
                false if is_shared(asked, params) => Meddling::Refuse("not supported"),
                false => Meddling::Pass,
            });
            if method != "eth_getTransactionReceipt" {
                let answer = liar.verify(&good).await;
                assert!(matches!(answer, Err(Unverified::Unavailable(_))), "{method}: {answer:?}");
            }
            if method == "eth_getTransactionReceipt" || method == "eth_getBlockByNumber" {
                let status = liar.status(&verified.plan, Some(&sent)).await;
                assert!(status.is_err(), "{method}: {status:?}");
            }
        }
    }
}
