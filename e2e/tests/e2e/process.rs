//! A facilitator in a process of its own, which can die at a failpoint and be started again with
//! the journal that it left.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address;
use pay402::stack::{CHAIN_ID, SIGNER_INDEX};
use pay402_core::network::Network;
use pay402_core::time::SystemClock;
use pay402_core::{NetworkId, Refusal};
use pay402_devchain::genesis;
use pay402_evm::{Asset, AssetTable, EvmNetwork, Peg, Settings, Sponsoring};
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::failpoint::{Failpoint, Failpoints, VARIABLE};
use pay402_facilitator::{Engine, Options};
use pay402_store::SqliteJournal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Set in the child process: its [`Wiring`], as JSON.
const CHILD: &str = "PAY402_E2E_FACILITATOR";
/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Most that is sent to a payer for the gas of its approval, in wei.
const ADVANCE_WEI_MAX: u128 = 1_000_000_000_000_000;

/// What a facilitator's process is made of, and what outlives it.
#[derive(Clone)]
pub(crate) struct Wiring {
    /// The URL of the chain's node.
    node: String,
    journal: PathBuf,
    /// An ERC-20 token beside the default ones. With it, errands are carried out.
    token: Option<Address>,
}

impl Wiring {
    pub(crate) fn new(node: String, journal: PathBuf) -> Self {
        Self { node, journal, token: None }
    }

    pub(crate) fn sponsoring(self, token: Address) -> Self {
        Self { token: Some(token), ..self }
    }

    pub(crate) fn journal(&self) -> SqliteJournal {
        SqliteJournal::open(&self.journal).unwrap()
    }

    pub(crate) fn assets(&self) -> AssetTable {
        let plain = |token: Address| {
            let id = NetworkId::eip155(CHAIN_ID);
            Asset::erc20(&id, &token.to_string(), "PLAIN", 6, Peg::Other).unwrap()
        };
        self.token.map(plain).into_iter().fold(AssetTable::defaults(), AssetTable::with)
    }

    /// The network as the facilitator sees it.
    pub(crate) fn network(&self) -> EvmNetwork {
        let signers = vec![genesis::dev_signer(SIGNER_INDEX)];
        let sponsoring = Sponsoring {
            adoptions: self.token.is_some(),
            approvals: self.token.is_some(),
            advance_wei_max: ADVANCE_WEI_MAX,
            ..Sponsoring::default()
        };
        let settings = Settings {
            delegates: vec![pay402_evm::account::AGENT_ACCOUNT],
            sponsoring,
            ..Settings::default()
        };
        let (id, clock) = (NetworkId::eip155(CHAIN_ID), Arc::new(SystemClock));
        EvmNetwork::connect(id, &self.node, signers, self.assets(), clock, settings).unwrap()
    }

    fn encode(&self) -> String {
        json!({ "node": self.node, "journal": self.journal, "token": self.token }).to_string()
    }

    fn decode(text: &str) -> Self {
        let value: Value = serde_json::from_str(text).unwrap();
        let wiring = Self::new(
            value["node"].as_str().unwrap().to_owned(),
            Path::new(value["journal"].as_str().unwrap()).to_owned(),
        );
        Self { token: value["token"].as_str().map(|token| token.parse().unwrap()), ..wiring }
    }

    /// Starts the process.
    pub(crate) async fn start(&self) -> Process {
        Process::start(self, None).await
    }

    /// Starts a process that dies when it comes to a failpoint after it passed it so often.
    pub(crate) async fn start_to_die(&self, (failpoint, passes): (Failpoint, usize)) -> Process {
        Process::start(self, Some(format!("{failpoint}@{passes}"))).await
    }

    /// Asks such a process, and looks that it dies.
    pub(crate) async fn crash(&self, at: (Failpoint, usize), path: &str, body: &str) {
        self.start_to_die(at).await.die(path, body).await;
    }
}

/// A facilitator that runs; it is killed with its owner.
pub(crate) struct Process {
    child: Child,
    /// Where it is to die.
    failpoint: Option<String>,
    /// Kept open: the test harness that it runs in ends when it has nowhere to report to.
    _output: Lines<BufReader<ChildStdout>>,
    url: String,
    http: reqwest::Client,
}

impl Process {
    async fn start(wiring: &Wiring, failpoint: Option<String>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "process::facilitator_process", "--nocapture"])
            .env(CHILD, wiring.encode())
            .env_remove(VARIABLE)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        if let Some(failpoint) = &failpoint {
            command.env(VARIABLE, failpoint);
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
        let url = url.await.unwrap();
        Self { child, failpoint, _output: lines, url, http: reqwest::Client::new() }
    }

    pub(crate) async fn ask(&self, path: &str, body: &str) -> Result<Value, reqwest::Error> {
        let request = self.http.post(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json").body(body.to_owned());
        let answer = request.send().await?;
        Ok(serde_json::from_slice(&answer.bytes().await?).unwrap())
    }

    /// Asks until the outcome is known.
    pub(crate) async fn told(&self, path: &str, body: &str) -> Value {
        let answer = tokio::time::timeout(PATIENCE, async {
            loop {
                let answer = self.ask(path, body).await.unwrap();
                if answer["errorReason"] != Refusal::SettlementPending.code() {
                    return answer;
                }
            }
        });
        answer.await.unwrap()
    }

    /// Asks, and looks that it dies before it answers.
    pub(crate) async fn die(mut self, path: &str, body: &str) {
        let cut_off = self.ask(path, body).await;
        assert!(cut_off.is_err(), "{:?}: {cut_off:?}", self.failpoint);
        let died = tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(!died.success(), "{:?}: the process lives", self.failpoint);
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Not a test of its own: the process that dies. Does nothing unless it was started as the child.
#[tokio::test(flavor = "multi_thread")]
async fn facilitator_process() {
    let Ok(wiring) = std::env::var(CHILD) else { return };
    let wiring = Wiring::decode(&wiring);
    let networks: Vec<Arc<dyn Network>> = vec![Arc::new(wiring.network())];
    let options = Options {
        failpoints: Failpoints::from_env().unwrap(),
        lease: Duration::from_secs(3),
        ..Options::default()
    };
    let journal = Arc::new(wiring.journal());
    let engine = Engine::start(networks, journal, Arc::new(SystemClock), options).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nlistening http://{}", listener.local_addr().unwrap());
    axum::serve(listener, router(engine, Access::Open)).await.unwrap();
}
