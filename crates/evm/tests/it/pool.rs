//! A network through several nodes, some of which fail, lag behind, lie, or are on another chain.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::U256;
use alloy::providers::Provider as _;
use pay402_core::network::{ChainStatus, Network as _, SecretBytes, SendError, SentAs};
use pay402_devchain::genesis::dev_signer;
use pay402_evm::{
    AssetTable, Certainty, EvmNetwork, NodeState, Nodes, Rpc, RpcEnd, RpcWatch, Settings, Tier,
};
use serde_json::{Value, json};

use crate::faults::{Meddling, rpc_over};
use crate::support::{CHAIN_ID, FACILITATOR, House, network_id, payment, sign_with, usdc};

/// Longest that a test waits for what happens beside it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a node's standing, in order.
#[derive(Default)]
struct Told {
    states: Mutex<Vec<NodeState>>,
    disagreed: AtomicUsize,
}

impl RpcWatch for Told {
    fn ended(&self, _: &'static str, _: RpcEnd) {}

    fn stands(&self, state: NodeState) {
        self.states.lock().unwrap().push(state);
    }

    fn disagreed(&self) {
        self.disagreed.fetch_add(1, Ordering::SeqCst);
    }
}

fn pool(house: &House, settings: Settings, rpcs: Vec<Rpc>) -> EvmNetwork {
    let named = |(index, rpc): (usize, Rpc)| (["a", "b", "c"][index].to_owned(), rpc);
    let nodes = rpcs.into_iter().enumerate().map(named).collect();
    EvmNetwork::new(
        network_id(),
        Nodes::new("network.node", nodes).unwrap(),
        vec![dev_signer(FACILITATOR)],
        AssetTable::defaults(),
        house.time.clone(),
        settings,
    )
    .unwrap()
}

fn honest(house: &House) -> Rpc {
    rpc_over(house, |_, _| Meddling::Pass)
}

/// Above the test payment's tier: so many nodes must show it.
fn tiered(nodes: u32) -> Settings {
    let certainty = Certainty { confirmations: 1, nodes };
    let tier = Tier { token: usdc().token(), from: U256::ONE, certainty };
    Settings { tiers: vec![tier], ..Settings::default() }
}

async fn signed(house: &House) -> (SecretBytes, SentAs, SecretBytes) {
    let plan = house.verify(&payment()).await.unwrap().plan;
    let (sent, raw) = sign_with(&house.network, &plan).await;
    (plan, sent, raw)
}

fn refusing(house: &House, why: &'static str) -> Rpc {
    rpc_over(house, move |method, _| match method {
        "eth_sendRawTransaction" => Meddling::Keep(why),
        _ => Meddling::Pass,
    })
}

#[tokio::test]
async fn what_one_node_takes_is_sent_whatever_the_others_say() {
    let house = House::new();
    let rpcs = vec![refusing(&house, "nonce too low"), refusing(&house, "underpriced")];
    let network = pool(&house, Settings::default(), [rpcs, vec![honest(&house)]].concat());
    let (plan, sent, raw) = signed(&house).await;
    network.send(&raw).await.unwrap();
    let status = network.status(&plan, Some(&sent)).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
}

#[tokio::test]
async fn a_transaction_is_refused_only_if_all_refuse_it() {
    let house = House::new();
    let (_, _, raw) = signed(&house).await;
    let both = |other: Rpc| {
        pool(&house, Settings::default(), vec![refusing(&house, "underpriced"), other])
    };
    let refused = both(refusing(&house, "insufficient funds")).send(&raw).await;
    assert!(matches!(refused, Err(SendError::Rejected(_))), "{refused:?}");
    // It took it, perhaps.
    let silent = rpc_over(&house, |method, _| match method {
        "eth_sendRawTransaction" => Meddling::Drop,
        _ => Meddling::Pass,
    });
    let unknown = both(silent).send(&raw).await;
    assert!(matches!(unknown, Err(SendError::Unknown(_))), "{unknown:?}");
}

#[tokio::test]
async fn a_decision_is_made_with_another_node_when_one_does_not_answer() {
    let house = House::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = asked.clone();
    let dead = rpc_over(&house, move |_, _| {
        counting.fetch_add(1, Ordering::SeqCst);
        Meddling::Drop
    });
    let told = Arc::new(Told::default());
    let rpcs = vec![dead.watched(told.clone()), honest(&house)];
    let network = pool(&house, Settings::default(), rpcs);
    network.check().await.unwrap();
    for _ in 0..20 {
        network.verify(&payment()).await.unwrap();
    }
    // After some failures it is left alone.
    assert_eq!(*told.states.lock().unwrap(), [NodeState::Resting]);
    assert!((3..=8).contains(&asked.load(Ordering::SeqCst)), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_made_with_another_node_when_one_hangs() {
    let house = House::new();
    let hanging = rpc_over(&house, |_, _| Meddling::Hang);
    let network = pool(&house, Settings::default(), vec![hanging, honest(&house)]);
    let began = tokio::time::Instant::now();
    network.verify(&payment()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Answers from a past in which the payer has nothing.
fn stale(house: &House, is_stale: Arc<AtomicBool>) -> Rpc {
    rpc_over(house, move |method, params| {
        if !is_stale.load(Ordering::SeqCst) {
            return Meddling::Pass;
        }
        match method {
            "eth_getBlockByNumber" if params[0] == "latest" => Meddling::Earlier(20),
            "eth_call" => Meddling::Answer(json!(format!("0x{:064}", 0))),
            _ => Meddling::Pass,
        }
    })
}

#[tokio::test]
async fn a_node_that_is_behind_is_not_believed() {
    let house = House::new();
    house.chain.mine(30);
    let is_stale = Arc::new(AtomicBool::new(false));
    let rpcs = || vec![stale(&house, is_stale.clone()), honest(&house), honest(&house)];
    let network = pool(&house, Settings::default(), rpcs());
    network.check().await.unwrap();
    network.verify(&payment()).await.unwrap();
    is_stale.store(true, Ordering::SeqCst);
    network.verify(&payment()).await.unwrap();
    // It alone is believed, whatever it shows: that is what the others are for.
    let alone = pool(&house, Settings::default(), rpcs().drain(..1).collect());
    alone.verify(&payment()).await.unwrap_err();
}

fn of_chain(
    house: &House,
    chain_id: u64,
    is_other: Arc<AtomicBool>,
    is_gone: Arc<AtomicBool>,
) -> Rpc {
    rpc_over(house, move |method, _| match method {
        _ if is_gone.load(Ordering::SeqCst) => Meddling::Drop,
        "eth_chainId" if is_other.load(Ordering::SeqCst) => {
            Meddling::Answer(json!(format!("{chain_id:#x}")))
        }
        // What another chain would say: no such account.
        "eth_call" if is_other.load(Ordering::SeqCst) => {
            Meddling::Answer(json!(format!("0x{:064}", 0)))
        }
        _ => Meddling::Pass,
    })
}

#[tokio::test]
async fn a_node_of_another_chain_stops_the_start_and_is_named() {
    let house = House::new();
    let yes = || Arc::new(AtomicBool::new(true));
    let no = || Arc::new(AtomicBool::new(false));
    let other = of_chain(&house, 1, yes(), no());
    let network = pool(&house, Settings::default(), vec![honest(&house), other]);
    let error = network.check().await.unwrap_err();
    assert_eq!(error.key, "network.rpc");
    assert_eq!(error.problem, format!("node b is a node of eip155:1, not of eip155:{CHAIN_ID}"));
    // One that is away does not, as long as there is another.
    let away = of_chain(&house, 1, no(), yes());
    pool(&house, Settings::default(), vec![away.clone(), honest(&house)]).check().await.unwrap();
    pool(&house, Settings::default(), vec![away]).check().await.unwrap_err();
}

#[tokio::test]
async fn whoever_comes_back_on_another_chain_is_asked_nothing_more() {
    let house = House::new();
    let flag = || Arc::new(AtomicBool::new(false));
    for beside in [true, false] {
        let (is_other, is_gone, told) = (flag(), flag(), Arc::new(Told::default()));
        let turning = of_chain(&house, 1, is_other.clone(), is_gone.clone()).watched(told.clone());
        let mut rpcs = vec![turning];
        rpcs.extend(beside.then(|| honest(&house)));
        let network = pool(&house, Settings::default(), rpcs);
        network.check().await.unwrap();
        network.verify(&payment()).await.unwrap();
        is_gone.store(true, Ordering::SeqCst);
        assert_eq!(network.verify(&payment()).await.is_ok(), beside);
        is_gone.store(false, Ordering::SeqCst);
        is_other.store(true, Ordering::SeqCst);
        let verified = network.verify(&payment()).await;
        match verified {
            Ok(_) => assert!(beside, "an answer of another chain was believed"),
            Err(error) => {
                let error = format!("{error:?}");
                assert!(!beside && error.contains("Unavailable"), "{error}");
            }
        }
        assert_eq!(*told.states.lock().unwrap(), [NodeState::OtherChain]);
    }
}

#[tokio::test]
async fn above_a_tier_no_node_proves_a_settlement_alone() {
    // What is mined for one is not for the others: a node that makes receipts up.
    let (house, elsewhere) = (House::new(), House::new());
    let (plan, sent, raw) = signed(&house).await;
    elsewhere.network.send(&raw).await.unwrap();
    let told = Arc::new(Told::default());
    let rpcs = || {
        let liar = honest(&elsewhere).watched(told.clone());
        vec![liar, honest(&house), honest(&house)]
    };
    let below = pool(&house, Settings::default(), rpcs());
    let status = below.status(&plan, Some(&sent)).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { .. }), "the node does not lie: {status:?}");

    let network = pool(&house, tiered(2), rpcs());
    for _ in 0..6 {
        let status = network.status(&plan, Some(&sent)).await.unwrap();
        let open = ChainStatus::Open { expired: false, displaced: false };
        assert_eq!(status, open, "one node alone");
    }
    assert_eq!(told.disagreed.load(Ordering::SeqCst), 2, "each node is the first in turn");
    // Of two nobody knows who lies.
    let two = pool(&house, tiered(2), rpcs().drain(..2).collect());
    let looks = [two.status(&plan, Some(&sent)).await, two.status(&plan, Some(&sent)).await];
    let error = looks.iter().find_map(|look| look.as_ref().err()).unwrap();
    assert!(error.problem.contains("do not show the same"), "{error}");
    assert!(!looks.iter().flatten().any(|status| matches!(status, ChainStatus::Proven { .. })));

    // What two show is proven, whatever the third says.
    network.send(&raw).await.unwrap();
    let mined = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(ChainStatus::Proven { transaction, .. }) =
                network.status(&plan, Some(&sent)).await
            {
                return transaction;
            }
        }
    });
    assert_eq!(mined.await.unwrap(), sent.transaction);
}

#[tokio::test]
async fn what_one_node_made_up_no_second_look_shows() {
    let (house, elsewhere) = (House::new(), House::new());
    let (plan, sent, raw) = signed(&house).await;
    elsewhere.network.send(&raw).await.unwrap();
    let pool = |rpcs| pool(&house, Settings::default(), rpcs);
    let three = pool(vec![honest(&elsewhere), honest(&house), honest(&house)]);
    let look = async |network: &EvmNetwork| {
        let mut statuses = network.second_look(&[(&plan, &sent)]).await;
        assert_eq!(statuses.len(), 1);
        statuses.remove(0)
    };
    for _ in 0..6 {
        let open = ChainStatus::Open { expired: false, displaced: false };
        assert_eq!(look(&three).await.unwrap(), open, "two against one");
    }
    // Of two nobody knows who lies, whoever is asked first.
    let two = pool(vec![honest(&elsewhere), honest(&house)]);
    for _ in 0..2 {
        let error = look(&two).await.unwrap_err();
        assert!(error.problem.contains("do not show the same"), "{error}");
    }
    // Who is out of reach says nothing against it.
    let gone = rpc_over(&house, |_, _| Meddling::Drop);
    let one = pool(vec![gone, honest(&elsewhere)]);
    for network in [&one, &pool(vec![honest(&elsewhere)])] {
        let status = look(network).await.unwrap();
        assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    }
    house.network.send(&raw).await.unwrap();
    let status = look(&three).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
}

#[tokio::test]
async fn above_a_tier_too_few_nodes_leave_it_open() {
    let house = House::new();
    let (plan, sent, raw) = signed(&house).await;
    let gone = rpc_over(&house, |_, _| Meddling::Drop);
    let network = pool(&house, tiered(2), vec![honest(&house), gone]);
    house.network.send(&raw).await.unwrap();
    let error = network.status(&plan, Some(&sent)).await.unwrap_err();
    assert!(error.problem.contains("too few nodes"), "{error}");
    let both = pool(&house, tiered(2), vec![honest(&house), honest(&house)]);
    let status = both.status(&plan, Some(&sent)).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
}

async fn block(house: &House, number: &str) -> Value {
    let asked = house.chain.provider();
    asked.raw_request("eth_getBlockByNumber".into(), json!([number, false])).await.unwrap()
}

#[tokio::test]
async fn above_a_tier_no_node_alone_undoes_a_block() {
    // The same height, and other blocks.
    let (house, elsewhere) = (House::new(), House::new());
    let (_, _, raw) = signed(&house).await;
    elsewhere.network.send(&raw).await.unwrap();
    elsewhere.chain.mine(3);
    let number = elsewhere.chain.block_number();
    house.chain.mine(number - house.chain.block_number());
    let hash = block(&house, &format!("{number:#x}")).await["hash"].as_str().unwrap().to_owned();
    let rpcs = || vec![honest(&elsewhere), honest(&house), honest(&house)];
    let shown = async |network: &EvmNetwork, number| {
        let headers = network.headers(&[number]).await.unwrap();
        headers[0].as_ref().map(|header| header.block.hash.clone())
    };
    let below = pool(&house, Settings::default(), rpcs());
    assert_ne!(shown(&below, number).await.as_ref(), Some(&hash), "the node does not lie");
    let network = pool(&house, tiered(2), rpcs());
    for _ in 0..6 {
        assert_eq!(shown(&network, number).await.as_ref(), Some(&hash), "one node alone");
        assert_eq!(shown(&network, number + 1).await, None);
    }
    let two = pool(&house, tiered(2), rpcs().drain(..2).collect());
    for _ in 0..2 {
        assert_eq!(shown(&two, number).await, None, "of two nobody knows who lies");
    }
    let gone = rpc_over(&house, |_, _| Meddling::Drop);
    let few = pool(&house, tiered(2), vec![honest(&house), gone]);
    few.headers(&[number]).await.unwrap_err();
}

#[tokio::test]
async fn above_a_tier_no_node_alone_says_how_deep_a_block_is() {
    let house = House::new();
    house.chain.mine(10);
    let mut ahead = block(&house, "latest").await;
    ahead["number"] = json!("0xffffff");
    let ahead = rpc_over(&house, move |method, params| match method {
        "eth_getBlockByNumber" if params[0] == "latest" => Meddling::Answer(ahead.clone()),
        _ => Meddling::Pass,
    });
    let behind = rpc_over(&house, |method, params| match method {
        "eth_getBlockByNumber" if params[0] == "latest" => Meddling::Earlier(2),
        _ => Meddling::Pass,
    });
    let top = house.chain.block_number();
    for (rpcs, nodes, expected) in [
        (vec![ahead.clone(), honest(&house), honest(&house)], 2, top),
        (vec![behind.clone(), honest(&house), honest(&house)], 2, top),
        (vec![behind.clone(), honest(&house)], 2, top - 2),
        // Below every tier one node is believed.
        (vec![ahead, honest(&house)], 1, 0xff_ffff),
    ] {
        let network = pool(&house, tiered(nodes), rpcs);
        let seen = network.head().await.unwrap();
        let head = network.common_head(seen).await.unwrap();
        assert_eq!(head.block.number, expected);
    }
}

#[test]
fn a_tier_asks_for_no_more_nodes_than_there_are() {
    let house = House::new();
    let network = |settings, rpcs: Vec<Rpc>| {
        let nodes = rpcs.into_iter().enumerate().map(|(i, rpc)| (i.to_string(), rpc)).collect();
        EvmNetwork::new(
            network_id(),
            Nodes::new("network.node", nodes).unwrap(),
            vec![dev_signer(FACILITATOR)],
            AssetTable::defaults(),
            house.time.clone(),
            settings,
        )
    };
    let two = || vec![honest(&house), honest(&house)];
    assert!(network(tiered(2), two()).is_ok());
    let error = network(tiered(3), two()).unwrap_err();
    assert_eq!(error.key, "network.tier[0].nodes");
    let rpc = honest(&house);
    let twice = vec![("a".into(), rpc.clone()), ("a".into(), rpc.clone())];
    assert!(Nodes::new("network.node", twice).is_err());
    assert!(Nodes::new("network.node", Vec::new()).is_err());
    let many = (0..9).map(|index: usize| (index.to_string(), rpc.clone())).collect();
    assert!(Nodes::new("network.node", many).is_err());
}

#[tokio::test]
async fn operators_are_told_of_every_node() {
    let house = House::new();
    let gone = rpc_over(&house, |_, _| Meddling::Drop);
    let network = pool(&house, Settings::default(), vec![gone, honest(&house)]);
    let survey = network.survey().await.unwrap();
    let nodes: Vec<_> = survey.findings.iter().filter(|finding| finding.part == "node").collect();
    let names: Vec<_> = nodes.iter().map(|finding| finding.subject.as_str()).collect();
    assert_eq!(names, [format!("eip155:{CHAIN_ID} a"), format!("eip155:{CHAIN_ID} b")]);
    assert!(nodes[1].message.starts_with("block "), "{nodes:?}");
}

/// A lone node is asked no more than it was before there were pools.
#[tokio::test]
async fn a_lone_node_is_asked_nothing_more() {
    let house = House::new();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let listening = asked.clone();
    let rpc = rpc_over(&house, move |method, _: &Value| {
        listening.lock().unwrap().push(method.to_owned());
        Meddling::Pass
    });
    let network = pool(&house, Settings::default(), vec![rpc]);
    let plan = network.verify(&payment()).await.unwrap().plan;
    let address = dev_signer(FACILITATOR).address().to_checksum(None);
    network.consumed_nonces(&address).await.unwrap();
    network.status(&plan, None).await.unwrap();
    let taken = std::mem::take(&mut *asked.lock().unwrap());
    let expected = ["eth_call", "eth_getTransactionCount", "eth_getBlockByNumber", "eth_call"];
    assert_eq!(taken, expected);
}
