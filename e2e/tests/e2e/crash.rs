//! The facilitator's process dies at every edge between a durable write and an outside effect, is
//! started again, and the payment settles exactly once.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use pay402::stack::{CHAIN_ID, SIGNER_INDEX};
use pay402_core::network::Network;
use pay402_core::time::SystemClock;
use pay402_core::{NetworkId, Payment, Refusal, WireVersion, wire};
use pay402_devchain::genesis;
use pay402_e2e::{Market, PRICE_ATOMIC};
use pay402_evm::{AssetTable, EvmNetwork, Settings};
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::failpoint::{Failpoint, Failpoints, VARIABLE};
use pay402_facilitator::{Engine, Options};
use pay402_store::SqliteJournal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Set in the child process: the node's URL and the journal's path, separated by a space.
const CHILD: &str = "PAY402_E2E_FACILITATOR";
/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test of its own: the process that dies. Does nothing unless it was started as the child.
#[tokio::test(flavor = "multi_thread")]
async fn facilitator_process() {
    let Ok(setting) = std::env::var(CHILD) else { return };
    let (url, path) = setting.split_once(' ').unwrap();
    let id = NetworkId::eip155(CHAIN_ID);
    let signers = vec![genesis::dev_signer(SIGNER_INDEX)];
    let clock = Arc::new(SystemClock);
    let network =
        EvmNetwork::connect(id, url, signers, AssetTable::defaults(), clock, Settings::default());
    let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network.unwrap())];
    let options = Options {
        failpoints: Failpoints::from_env().unwrap(),
        lease: Duration::from_secs(3),
        ..Options::default()
    };
    let journal = Arc::new(SqliteJournal::open(path).unwrap());
    let engine = Engine::start(networks, journal, Arc::new(SystemClock), options).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nlistening http://{}", listener.local_addr().unwrap());
    axum::serve(listener, router(engine, Access::Open)).await.unwrap();
}

/// Starts the child, dying at `failpoint` if one is given, and returns its URL.
async fn start(setting: &str, failpoint: Option<Failpoint>) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "crash::facilitator_process", "--nocapture"])
        .env(CHILD, setting)
        .env_remove(VARIABLE)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(failpoint) = failpoint {
        command.env(VARIABLE, failpoint.name());
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = tokio::time::timeout(PATIENCE, async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the child listens");
            if let Some(url) = line.strip_prefix("listening ") {
                return url.to_owned();
            }
        }
    });
    (child, url.await.unwrap())
}

async fn settle(http: &reqwest::Client, url: &str, body: &str) -> Result<Value, reqwest::Error> {
    let request = http.post(format!("{url}/settle")).header("content-type", "application/json");
    let answer = request.body(body.to_owned()).send().await?;
    Ok(serde_json::from_slice(&answer.bytes().await?).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_edge_settles_exactly_once() {
    let market = Market::start().await;
    let node = market.chain.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let http = reqwest::Client::new();
    let price = u128::from(PRICE_ATOMIC);
    for failpoint in Failpoint::ALL.iter().copied() {
        // Reached only by a caller who collects what another one was owed: see the engine's tests.
        if failpoint == Failpoint::AfterCollectBeforeAnswer {
            continue;
        }
        // Reached only by a payment that waits for an errand: see the engine's tests.
        if failpoint == Failpoint::AfterErrandBeforePayment {
            continue;
        }
        let journal = market.folder.path().join(format!("{failpoint}.db"));
        let setting = format!("{} {}", node.http_url(), journal.display());
        let presented = market.signed("/paid", WireVersion::V2).await;
        let payment = Payment::pair(presented.accepted.clone().unwrap(), presented).unwrap();
        let body = wire::encode_facilitator_request(&payment, wire::Endpoint::Settle).to_string();
        let before = market.tokens().await;

        let (mut child, url) = start(&setting, Some(failpoint)).await;
        let cut_off = settle(&http, &url, &body).await;
        assert!(cut_off.is_err(), "{failpoint}: {cut_off:?}");
        let died = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert!(!died.success(), "{failpoint}: the process lives");

        let (_child, url) = start(&setting, None).await;
        let answer = tokio::time::timeout(PATIENCE, async {
            loop {
                let answer = settle(&http, &url, &body).await.unwrap();
                if answer["errorReason"] != Refusal::SettlementPending.code() {
                    return answer;
                }
            }
        });
        let answer = answer.await.unwrap();
        // The first caller may have been told: then nobody is told again, but by the hash.
        if failpoint == Failpoint::AfterCloseBeforeAnswer {
            assert_eq!(answer["errorReason"], Refusal::DuplicateSettlement.code(), "{failpoint}");
        } else {
            assert_eq!(answer["success"], true, "{failpoint}: {answer}");
        }
        assert!(answer["transaction"].as_str().unwrap().starts_with("0x"), "{failpoint}");
        let after = market.tokens().await;
        let moved = (before.0 - after.0, after.1 - before.1);
        assert_eq!(moved, (price, price), "{failpoint}: tokens moved");

        let again = settle(&http, &url, &body).await.unwrap();
        assert_eq!(again["errorReason"], Refusal::DuplicateSettlement.code(), "{failpoint}");
        assert_eq!(again["transaction"], answer["transaction"], "{failpoint}");
    }
    node.shutdown().await;
}
