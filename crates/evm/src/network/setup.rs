//! What an operator has put on a network once for all: `Packer`, at the same address everywhere.
//!
//! Anybody may put it there, through the deterministic deployer; nobody can put anything else there.

use std::time::Duration;

use alloy::primitives::{Address, Bytes, U64, U256};
use pay402_core::error::Unavailable;
use pay402_core::network::Network as _;
use serde_json::json;

use super::pack::{CREATE2_DEPLOYER, PACKER, deployment, is_packer};
use super::{EvmNetwork, errors, submit};
use crate::rpc::{Call, Receipt};

/// Gas of the deployment at most; it takes about 280,000.
const DEPLOYMENT_GAS_MAX: u64 = 1_000_000;
/// How often it is looked for once it is sent, and how long apart.
const LOOKS: u32 = 120;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How `Packer` stands on a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PackerFound {
    /// It is there.
    There,
    /// It is missing, and can be deployed.
    Missing {
        /// Gas that it takes.
        gas: u64,
        /// What that costs at the fees of the present, in wei.
        wei: U256,
        /// Who would pay.
        payer: Address,
    },
    /// The network lacks the deterministic deployer.
    NoDeployer,
}

impl EvmNetwork {
    /// Looks whether `Packer` is there, and what it would cost to put it there.
    ///
    /// # Errors
    /// When the node does not answer, is one of another network, or the deployment would fail.
    pub async fn find_packer(&self) -> Result<PackerFound, Unavailable> {
        let rpc = &self.rpc;
        let calls = [Call::chain_id(), Call::code(PACKER), Call::code(CREATE2_DEPLOYER)];
        let [chain_id, packer, deployer] = rpc.ask_all(calls).await?;
        if rpc.read::<U64>(chain_id)?.to::<u64>() != self.chain_id {
            return Err(rpc.unavailable("the node is one of another network; correct id or rpc"));
        }
        if is_packer(&rpc.read_bytes(packer)?) {
            return Ok(PackerFound::There);
        }
        if rpc.read_bytes(deployer)?.is_empty() {
            return Ok(PackerFound::NoDeployer);
        }
        let payer = self.first_signer();
        let estimate = submit::estimate(payer, CREATE2_DEPLOYER, &deployment(), DEPLOYMENT_GAS_MAX);
        let gas = match rpc.ask(estimate).await? {
            Ok(gas) => rpc.read::<U64>(Ok(gas))?.to::<u64>(),
            Err(error) => {
                let why = errors::execution_failure(&error);
                let why = why.unwrap_or_else(|| error.public_text());
                return Err(rpc.unavailable(&format!("it cannot be deployed: {why}")));
            }
        };
        let wei = U256::from(gas).saturating_mul(U256::from(self.fees().await?.cap()));
        Ok(PackerFound::Missing { gas, wei, payer })
    }

    /// Puts `Packer` there at the first signer's cost, and waits until it is. Returns the transaction's hash.
    ///
    /// # Errors
    /// When it is not there in the end; the transaction may still be mined.
    pub async fn deploy_packer(&self, gas: u64) -> Result<String, Unavailable> {
        let rpc = &self.rpc;
        let signer = self.first_signer();
        // Behind what is in the pool already, as far as the node tells.
        let pending = Call::new("eth_getTransactionCount", json!([signer, "pending"]));
        let nonce = rpc.read::<U64>(rpc.ask(pending).await?)?.to::<u64>();
        let to: (Address, Bytes) = (CREATE2_DEPLOYER, deployment());
        let signed = submit::sign_call(self, nonce, to, gas.saturating_add(gas / 4)).await?;
        self.send(&signed.raw).await.map_err(|refused| {
            rpc.unavailable(&format!("the node did not take the deployment: {refused:?}"))
        })?;
        let hash = signed.transaction;
        let transaction = hash.parse().map_err(|_| rpc.unavailable("a hash that is none"))?;
        for _ in 0..LOOKS {
            let receipt = rpc.ask(Call::receipt(transaction)).await?;
            if let Some(receipt) = rpc.read::<Option<Receipt>>(receipt)? {
                let code = rpc.read_bytes(rpc.ask(Call::code(PACKER)).await?)?;
                return match receipt.succeeded() && is_packer(&code) {
                    true => Ok(hash),
                    false => Err(rpc.unavailable(&format!("{hash} did not deploy it"))),
                };
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(rpc.unavailable(&format!("{hash} is not mined yet; look again later")))
    }
}
