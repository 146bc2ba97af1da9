//! All roles in one process, on the embedded chain: for the demo, end-to-end tests and benchmarks.
//!
//! It is the wiring of the subcommands with the files in one folder and the ports on loopback;
//! nothing in it is a stand-in.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use alloy::providers::DynProvider;
use alloy::signers::local::PrivateKeySigner;
use axum::Router;
use pay402_core::NetworkId;
use pay402_core::error::Misconfigured;
use pay402_core::facilitator::Facilitator;
use pay402_core::network::Network;
use pay402_core::time::SystemClock;
use pay402_devchain::{Config, Devchain, genesis};
use pay402_evm::{AssetTable, EvmNetwork, ExactClient, ExactServer, Rpc, Settings};
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::{Engine, Options};
use pay402_server::{RemoteFacilitator, ResourceServer};
use pay402_store::{SqliteGrants, SqliteJournal, SqliteLedger};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::books::Accounts;

/// The chain id of the stack: that of Base Sepolia, so that every x402 client knows its USDC.
pub const CHAIN_ID: u64 = 84532;
/// Which public dev account sends the facilitator's transactions.
pub const SIGNER_INDEX: usize = 0;
/// Which public dev account pays.
pub const PAYER_INDEX: usize = 1;
/// Which public dev account is paid.
pub const PAYEE_INDEX: usize = 2;

/// A task that serves; it ends with its owner.
#[derive(Debug)]
pub struct Served {
    /// The base URL, without a slash at the end.
    pub url: String,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `app` on `port` of the loopback interface; 0 picks a free port.
///
/// # Errors
/// When the port cannot be had.
pub async fn serve(app: Router, port: u16) -> std::io::Result<Served> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let task = tokio::spawn(async move {
        // It ends only when its task is aborted.
        let _ = axum::serve(listener, app).await;
    });
    Ok(Served { url, task })
}

/// A chain with a facilitator on it, and the books of all three roles.
pub struct Stack {
    /// The embedded chain.
    pub chain: Devchain,
    /// Who is who on it.
    pub accounts: Accounts,
    /// The facilitator, in process.
    pub engine: Engine,
    /// The same facilitator over HTTP.
    pub facilitator: Served,
    /// The facilitator's books.
    pub journal: Arc<SqliteJournal>,
    /// The resource server's books.
    pub grants: Arc<SqliteGrants>,
    /// The payer's books.
    pub ledger: Arc<SqliteLedger>,
}

impl Stack {
    /// Starts chain and facilitator, with the books as files in `folder`.
    ///
    /// # Errors
    /// What cannot work, named by its setting.
    pub async fn start(folder: &Path) -> Result<Self, Misconfigured> {
        let chain = Devchain::start(Config { chain_id: CHAIN_ID, ..Config::default() });
        let journal = Arc::new(SqliteJournal::open(folder.join("facilitator.db"))?);
        let engine = engine(&chain, journal.clone(), Options::default()).await?;
        let facilitator = serve(router(engine.clone(), Access::Open), 0)
            .await
            .map_err(|error| Misconfigured::new("listen", error.to_string()))?;
        let address = |index| genesis::dev_signer(index).address();
        Ok(Self {
            accounts: Accounts {
                network: NetworkId::eip155(chain.chain_id()),
                token: genesis::USDC_ADDRESS,
                payer: address(PAYER_INDEX),
                payee: address(PAYEE_INDEX),
                signer: address(SIGNER_INDEX),
            },
            chain,
            engine,
            facilitator,
            journal,
            grants: Arc::new(SqliteGrants::open(folder.join("grants.db"))?),
            ledger: Arc::new(SqliteLedger::open(folder.join("ledger.db"))?),
        })
    }

    /// A view of the chain.
    pub fn provider(&self) -> DynProvider {
        self.chain.provider()
    }

    /// A client of the facilitator over HTTP.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn remote(&self) -> Result<RemoteFacilitator, Misconfigured> {
        RemoteFacilitator::new(&self.facilitator.url)
    }

    /// A resource server that is paid through `facilitator`.
    ///
    /// # Errors
    /// When the facilitator cannot be asked.
    pub async fn resource_server(
        &self,
        facilitator: Arc<dyn Facilitator>,
    ) -> Result<ResourceServer, Misconfigured> {
        ResourceServer::builder(facilitator, self.grants.clone())
            .scheme(Arc::new(ExactServer::new(AssetTable::defaults())))
            .loopback_urls()
            .start()
            .await
    }

    /// The payer's scheme: signs with the payer's key, reads fates from the chain.
    pub fn payer_scheme(&self) -> ExactClient<PrivateKeySigner> {
        let network = self.accounts.network.clone();
        let rpc = Rpc::provided(&network, &self.provider());
        ExactClient::new(genesis::dev_signer(PAYER_INDEX), AssetTable::defaults())
            .with_rpc(network, rpc)
    }
}

/// A facilitator engine on the embedded chain.
///
/// # Errors
/// As [`Engine::start`].
pub async fn engine(
    chain: &Devchain,
    journal: Arc<SqliteJournal>,
    options: Options,
) -> Result<Engine, Misconfigured> {
    let network = evm_network(chain)?;
    let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network)];
    Engine::start(networks, journal, Arc::new(SystemClock), options).await
}

/// The embedded chain as a facilitator sees it.
///
/// # Errors
/// As [`EvmNetwork::new`].
pub fn evm_network(chain: &Devchain) -> Result<EvmNetwork, Misconfigured> {
    let id = NetworkId::eip155(chain.chain_id());
    let rpc = Rpc::provided(&id, &chain.provider());
    let signers = vec![genesis::dev_signer(SIGNER_INDEX)];
    let clock = Arc::new(SystemClock);
    EvmNetwork::new(id, rpc, signers, AssetTable::defaults(), clock, Settings::default())
}
