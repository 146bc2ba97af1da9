//! anvil, with our token on it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, Bytes, U256};
use pay402::stack::CHAIN_ID;
use pay402_devchain::genesis;
use serde_json::{Value, json};
use tokio::process::Command;

use super::process::{Process, free_address};
use crate::Result;

/// Where `cargo xtask setup` puts it.
const FOLDERS: &str = "../interop/node_modules/@foundry-rs";

/// Gas of a block: enough for 1,800 settlements.
pub(super) const GAS_LIMIT: &str = "120000000";
/// How often one comes where a load is measured, in seconds.
pub(super) const BLOCK_TIME_S: u64 = 1;
/// Longest until the first one.
const FIRST_BLOCK_MAX: Duration = Duration::from_secs(20);

/// The program, where it is installed.
pub(super) fn program() -> Option<PathBuf> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDERS);
    std::fs::read_dir(folders)
        .into_iter()
        .flatten()
        .flatten()
        .map(|package| package.path().join("bin/anvil"))
        .find(|program| program.is_file() && !program.parent().is_some_and(is_script))
}

/// The package that only chooses among those of each platform.
fn is_script(bin: &Path) -> bool {
    bin.parent().is_some_and(|package| package.ends_with("anvil"))
}

/// anvil with these arguments, and our contracts where the embedded chain has them.
pub(super) struct Anvil {
    process: Process,
    http: reqwest::Client,
}

impl Anvil {
    pub(super) async fn start(arguments: &[&str]) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(program().ok_or("anvil is not installed")?);
        let (port, chain) = (address.port().to_string(), CHAIN_ID.to_string());
        command.args(["--silent", "--port", &port, "--chain-id", &chain]).args(arguments);
        let process = Process::start(command, address, None).await?;
        let anvil = Self { process, http: reqwest::Client::new() };
        for (at, artifact) in [
            (genesis::USDC_ADDRESS, &genesis::USDC),
            (genesis::MULTICALL3, &genesis::MULTICALL),
            (genesis::PERMIT2, &genesis::PERMIT2_CONTRACT),
            (genesis::EXACT_PERMIT2_PROXY, &genesis::EXACT_PROXY_CONTRACT),
            (genesis::UPTO_PERMIT2_PROXY, &genesis::UPTO_PROXY_CONTRACT),
        ] {
            anvil.place(at, &artifact.runtime_code).await?;
        }
        anvil.wait_for_a_block().await?;
        Ok(anvil)
    }

    /// anvil as loads of settlements are measured on it.
    pub(super) async fn with_room() -> Result<Self> {
        let block_time = BLOCK_TIME_S.to_string();
        Self::start(&["--block-time", &block_time, "--gas-limit", GAS_LIMIT]).await
    }

    /// Has the contract on it that `pay402 facilitator setup` deploys.
    pub(super) async fn place_packer(&self) -> Result<()> {
        self.place(genesis::PACKER_ADDRESS, &genesis::PACKER.runtime_code).await
    }

    /// Waits for the first block after genesis, whose time may be long ago: what is signed now is not valid then.
    async fn wait_for_a_block(&self) -> Result<()> {
        let began = Instant::now();
        while self.call("eth_blockNumber", json!([])).await? == json!("0x0") {
            if began.elapsed() > FIRST_BLOCK_MAX {
                return Err("anvil makes no block".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.process.address
    }

    async fn place(&self, at: Address, code: &Bytes) -> Result<()> {
        self.call("anvil_setCode", json!([at, code])).await.map(drop)
    }

    /// Gives `holder` so many atomic units of the token.
    pub(super) async fn fund(&self, holder: Address, units: u64) -> Result<()> {
        let slot = genesis::usdc_balance_slot(holder);
        let value = format!("{:#066x}", U256::from(units));
        self.call("anvil_setStorageAt", json!([genesis::USDC_ADDRESS, slot, value])).await.map(drop)
    }

    /// How many transactions `sender` has in blocks.
    pub(super) async fn mined(&self, sender: Address) -> Result<u64> {
        let count = self.call("eth_getTransactionCount", json!([sender, "latest"])).await?;
        let digits = count.as_str().and_then(|text| text.strip_prefix("0x"));
        Ok(u64::from_str_radix(digits.ok_or("not a number")?, 16)?)
    }

    /// Makes `sender` one that has sent so many transactions.
    pub(super) async fn set_mined(&self, sender: Address, count: u64) -> Result<()> {
        self.call("anvil_setNonce", json!([sender, format!("{count:#x}")])).await.map(drop)
    }

    /// Makes a block every so many seconds from now on; 0 for none at all.
    pub(super) async fn set_block_time(&self, seconds: u64) -> Result<()> {
        self.call("evm_setAutomine", json!([false])).await?;
        self.call("evm_setIntervalMining", json!([seconds])).await.map(drop)
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let url = format!("http://{}", self.address());
        let text = self
            .http
            .post(url)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await?
            .text()
            .await?;
        let mut answer: Value = serde_json::from_str(&text)?;
        match answer.get("error") {
            Some(error) => Err(format!("{method}: {error}").into()),
            None => Ok(answer["result"].take()),
        }
    }
}
