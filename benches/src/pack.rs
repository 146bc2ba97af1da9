//! The gas of a payment in a pack of 50, as a facilitator makes it: beside [`ONE_TRANSACTION_GAS`], of which it may be a
//! share and no more, and beside what a payment by itself takes on the same chain.

use std::sync::Arc;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use pay402::stack::{CHAIN_ID, SIGNER_INDEX};
use pay402_client::OwnerPolicy;
use pay402_core::network::{Network as _, SecretBytes, SignedTransaction};
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _, Tariff};
use pay402_core::spend::{Intent, clear};
use pay402_core::time::{Clock as _, SystemClock};
use pay402_core::{Digest, NetworkId, Payment, Presented, Price, Scheme, WireVersion};
use pay402_devchain::genesis::{self, USDC_ADDRESS, usdc_balance_slot};
use pay402_devchain::{Config, Devchain};
use pay402_evm::{AssetTable, EvmNetwork, ExactClient, ExactServer, Rpc, Settings};
use pay402_store::SqliteLedger;
use serde_json::Map;

use crate::Result;
use crate::report::{Bench, Round, Unit};

pub(crate) const NAMES: &[&str] = &[
    "pack_gas_one_payee",
    "pack_gas_one_payee_vs_alone",
    "pack_gas_distinct_payees",
    "pack_gas_distinct_payees_vs_alone",
];

/// Gas of one transaction for each payment that the bounds are shares of: a fixed figure, so that a dearer token does not
/// loosen them.
const ONE_TRANSACTION_GAS: f64 = 65_500.0;
/// Most gas of a payment in a pack, as a share of [`ONE_TRANSACTION_GAS`]: to one payee, and to one each.
const SHARES_MAX: [f64; 2] = [0.70, 0.78];

/// Payments of a pack.
const MEMBERS: usize = 50;
const PRICE: &str = "$0.01";
const MAX_TIMEOUT_S: u64 = 300;
/// What everybody has before, in atomic units: no account is new to the token.
const HELD: u64 = 1_000_000;

/// Gas does not vary from round to round: one is enough.
pub(crate) async fn run() -> Result<Vec<Bench>> {
    let mut benches = Vec::new();
    for ((names, distinct), share_max) in NAMES.chunks(2).zip([false, true]).zip(SHARES_MAX) {
        let alone = measure(distinct).await?;
        let most = ONE_TRANSACTION_GAS * share_max;
        if alone.subject > most {
            return Err(format!("{}: {} gas, of {most} at most", names[0], alone.subject).into());
        }
        let fixed = Round { reference: ONE_TRANSACTION_GAS, ..alone };
        let references = [("one transaction each", fixed), ("one of ours by itself", alone)];
        for (&name, (against, round)) in names.iter().zip(references) {
            benches.push(Bench { name, against, unit: Unit::Gas, rounds: vec![round] });
        }
    }
    Ok(benches)
}

/// A packed payment, and one by itself.
async fn measure(distinct: bool) -> Result<Round> {
    let chain = Devchain::start(Config { chain_id: CHAIN_ID, ..Config::default() });
    let id = NetworkId::eip155(CHAIN_ID);
    let network = EvmNetwork::new(
        id.clone(),
        Rpc::over(&id, &chain.rpc_client()),
        vec![genesis::dev_signer(SIGNER_INDEX)],
        AssetTable::defaults(),
        Arc::new(SystemClock),
        Settings::default(),
    )?;
    network.check().await?;
    let signer = network.signers().remove(0);
    let payee = |index: usize| account(&format!("payee {}", if distinct { index } else { 0 }));
    let (mut alone, mut plans) = (0, Vec::with_capacity(MEMBERS));
    for index in 0..=MEMBERS {
        let plan = plan(&chain, &network, index, payee(index).address()).await?;
        if index < MEMBERS {
            plans.push(plan);
            continue;
        }
        let nonce = network.consumed_nonces(&signer).await?;
        alone = gas(&chain, &network, network.sign(&signer, nonce, &plan, None).await?).await?;
    }
    let plans: Vec<&SecretBytes> = plans.iter().collect();
    let packs = network.pack(&plans).await;
    let [pack] = packs.as_slice() else { return Err("not one pack".into()) };
    if pack.members.len() != MEMBERS {
        return Err(format!("a pack of {}", pack.members.len()).into());
    }
    let nonce = network.consumed_nonces(&signer).await?;
    let signed = network.sign_pack(&signer, nonce, &plans, pack.item_gas, None).await?;
    let packed = gas(&chain, &network, signed).await?;
    Ok(Round { subject: packed as f64 / MEMBERS as f64, reference: alone as f64 })
}

fn account(name: &str) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&keccak256(name)).expect("a hash is a key")
}

/// What settles a payment by a payer of its own.
async fn plan(
    chain: &Devchain,
    network: &EvmNetwork,
    index: usize,
    payee: Address,
) -> Result<SecretBytes> {
    let payer = account(&format!("payer {index}"));
    for holder in [payer.address(), payee] {
        chain.set_storage(USDC_ADDRESS, usdc_balance_slot(holder), U256::from(HELD));
    }
    let payer = ExactClient::new(payer, AssetTable::defaults());
    let tariff = Tariff::Usd(Price::parse(PRICE)?);
    let server = ExactServer::new(AssetTable::defaults());
    let offer = server.requirements(network.id(), &tariff, &payee.to_string(), MAX_TIMEOUT_S)?;
    let (ledger, policy) = (SqliteLedger::open_in_memory()?, OwnerPolicy::new());
    let policy = policy.total(Price::parse("$100")?);
    let (id, origin) = (Digest::of(&[&index.to_be_bytes()]), "http://127.0.0.1".to_owned());
    let intent = Intent { id, resource: format!("{origin}/{index}"), origin };
    let quote = payer.quote(&offer)?;
    let clearance = clear(&policy, &ledger, &payer, quote, intent, id.0, SystemClock.now()).await?;
    let presented = Presented {
        version: WireVersion::V2,
        scheme: Scheme::EXACT,
        network: offer.network.clone(),
        accepted: Some(offer.clone()),
        payload: payer.authorize(&clearance).await?.payload,
        resource: None,
        extensions: Map::new(),
        other: Map::new(),
    };
    let payment = Payment::pair(offer, presented)?;
    let verified = network.verify(&payment).await;
    Ok(verified.map_err(|refused| format!("{refused:?}"))?.plan)
}

/// The gas of a transaction, which must have moved every payment: one log of a use and one of a transfer
/// for each.
async fn gas(chain: &Devchain, network: &EvmNetwork, signed: SignedTransaction) -> Result<u64> {
    network.send(&signed.raw).await.map_err(|refused| format!("{refused:?}"))?;
    let hash: B256 = signed.transaction.parse()?;
    let receipt = chain.provider().get_transaction_receipt(hash).await?;
    let receipt = receipt.ok_or("not mined at once")?;
    let logs = receipt.inner.logs().len();
    if logs != 2 && logs != 2 * MEMBERS {
        return Err(format!("{logs} logs").into());
    }
    Ok(receipt.gas_used)
}
