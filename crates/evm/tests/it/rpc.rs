//! Who watches the road to a node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pay402_core::network::Network as _;
use pay402_core::time::{ManualClock, UnixTime};
use pay402_devchain::genesis::dev_signer;
use pay402_evm::{AssetTable, EvmNetwork, Rpc, RpcEnd, RpcWatch, Settings};

use crate::support::{FACILITATOR, House, START, network_id, payment};

#[derive(Default)]
struct Seen(Mutex<BTreeMap<(&'static str, String), usize>>);

impl RpcWatch for Seen {
    fn ended(&self, method: &'static str, end: RpcEnd) {
        *self.0.lock().unwrap().entry((method, format!("{end:?}"))).or_default() += 1;
    }
}

impl Seen {
    fn take(&self) -> BTreeMap<(&'static str, String), usize> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn of(&self, method: &'static str, end: RpcEnd) -> usize {
        self.0.lock().unwrap().get(&(method, format!("{end:?}"))).copied().unwrap_or(0)
    }
}

fn watched(rpc: Rpc) -> (EvmNetwork, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let rpc = rpc.watched(seen.clone());
    let clock = Arc::new(ManualClock::new(UnixTime(START)));
    let signers = vec![dev_signer(FACILITATOR)];
    let assets = AssetTable::defaults();
    let network =
        EvmNetwork::new(network_id(), rpc, signers, assets, clock, Settings::default()).unwrap();
    (network, seen)
}

#[tokio::test]
async fn every_question_is_told_once_with_its_end() {
    let house = House::new();
    let (network, seen) = watched(Rpc::provided(&network_id(), &house.chain.provider()));
    network.check().await.unwrap();
    // Questions in one batch are told one by one.
    let asked = seen.take();
    assert_eq!(asked.get(&("eth_chainId", "Answered".into())), Some(&1), "{asked:?}");
    assert!(asked.get(&("eth_getCode", "Answered".into())) > Some(&1), "{asked:?}");
    network.verify(&payment()).await.unwrap();
    assert!(seen.of("eth_call", RpcEnd::Answered) > 0);
    assert_eq!(seen.of("eth_call", RpcEnd::Unanswered), 0);
    seen.take();
    let late = network.send(&pay402_core::network::SecretBytes::new(vec![1, 2, 3])).await;
    late.unwrap_err();
    assert_eq!(
        seen.take(),
        BTreeMap::from([(("eth_sendRawTransaction", "Failed".into()), 1)]),
        "an error of the node is an answer"
    );
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_any_more_is_told_too() {
    // Connections are taken by the system and nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (network, seen) = watched(Rpc::http("rpc", &network_id(), &url).unwrap());
    let signer = network.signers().remove(0);
    let asked = network.consumed_nonces(&signer);
    assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
    drop(silent);
    let nonce = ("eth_getTransactionCount", "Unanswered".to_owned());
    assert_eq!(seen.take(), BTreeMap::from([(nonce.clone(), 1)]));
    // Nor is there anybody now.
    assert!(network.consumed_nonces(&signer).await.is_err());
    assert_eq!(seen.take(), BTreeMap::from([(nonce, 1)]));
}
