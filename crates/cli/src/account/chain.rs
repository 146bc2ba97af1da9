//! The network that the account is on, and waiting until it shows what was sent.

use std::time::Duration;

use alloy::primitives::Address;
use pay402_core::NetworkId;
use pay402_core::error::Misconfigured;
use pay402_evm::account::AgentAccount;
use pay402_evm::account::state::{self, Standing};
use pay402_evm::{AssetTable, Rpc};

use super::Common;
use super::road::LOOK;
use crate::error::CliError;

/// How often the chain is asked whether it shows what was sent.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is asked at most: for two minutes, ten blocks of Ethereum.
const LOOKS_MAX: usize = 240;

/// A node and what network it is of.
pub(super) struct Chain {
    pub(super) rpc: Rpc,
    pub(super) network: NetworkId,
    pub(super) assets: AssetTable,
    id: u64,
}

impl Chain {
    pub(super) async fn connect(common: &Common) -> Result<Self, CliError> {
        let (network, rpc) = Rpc::discover("--rpc-url", common.rpc_url.as_str()).await?;
        if let Some(wanted) = common.network.as_ref().filter(|wanted| **wanted != network) {
            let problem = format!("is a node of {network}, not of {wanted}");
            return Err(Misconfigured::new("--rpc-url", problem).into());
        }
        let id = network
            .evm_chain_id()
            .ok_or_else(|| Misconfigured::new("--rpc-url", "is a node without a chain id"))?;
        let assets = AssetTable::defaults().only(|asset| asset.info.id.network == network);
        Ok(Self { rpc, network, assets, id })
    }

    pub(super) const fn agent_account(&self, address: Address) -> AgentAccount {
        AgentAccount { chain_id: self.id, address }
    }

    /// Waits until the chain shows what was sent.
    pub(super) async fn wait(
        &self,
        account: Address,
        transaction: Option<&str>,
        is_done: impl AsyncFn(&Standing) -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        for _ in 0..LOOKS_MAX {
            let now = state::standing(&self.rpc, account).await?;
            if is_done(&now).await? {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let sent = transaction.map_or_else(String::new, |hash| format!(" (transaction {hash})"));
        Err(CliError::unclear(format!("it was sent, and the chain does not show it yet{sent}"))
            .suggest(LOOK))
    }
}
