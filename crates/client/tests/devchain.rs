//! The client with the real scheme on an embedded chain: what it presents settles, and the books
//! follow the chain.

#[cfg(test)]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy::consensus::transaction::SignerRecoverable;
use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::network::TxSignerSync;
use alloy::primitives::{B256, Signature, TxKind, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolCall;
use pay402_client::{PayingClient, ReceiptStatus, RetryRules, Wallet};
use pay402_core::asset::AssetId;
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::spend::Ledger;
use pay402_core::{Amount, Presented};
use pay402_devchain::genesis::{USDC_ADDRESS, dev_signer};
use pay402_devchain::{Config, Devchain};
use pay402_evm::contracts::Eip3009;
use pay402_evm::{AssetTable, ExactClient, Rpc};
use pay402_store::SqliteLedger;
use support::server::{Reply, Server, ask, outcome, refused};
use support::{PAYEE, USDC, get, network, offer, required};

/// Sends what was presented to the chain, as a facilitator would, from the second dev account.
struct Settler {
    chain: Devchain,
    nonce: AtomicU64,
}

impl Settler {
    fn settle(&self, presented: &Presented) -> B256 {
        let field = |name: &str| {
            presented.payload["authorization"][name].as_str().expect("a text").to_owned()
        };
        let number = |name: &str| field(name).parse::<U256>().expect("a number");
        let signature = presented.payload["signature"].as_str().expect("a text");
        let signature: Signature = signature.parse().expect("a signature");
        let call = Eip3009::transferWithAuthorization_0Call {
            from: field("from").parse().expect("an address"),
            to: field("to").parse().expect("an address"),
            value: number("value"),
            validAfter: number("validAfter"),
            validBefore: number("validBefore"),
            nonce: field("nonce").parse().expect("32 bytes"),
            v: 27 + u8::from(signature.v()),
            r: signature.r().into(),
            s: signature.s().into(),
        };
        let mut transaction = TxEip1559 {
            chain_id: self.chain.chain_id(),
            nonce: self.nonce.fetch_add(1, Ordering::SeqCst),
            gas_limit: 300_000,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(USDC_ADDRESS),
            input: call.abi_encode().into(),
            ..TxEip1559::default()
        };
        let signature = dev_signer(1).sign_transaction_sync(&mut transaction).expect("it signs");
        let envelope: TxEnvelope = transaction.into_signed(signature).into();
        let recovered = envelope.try_into_recovered().expect("it was signed");
        self.chain.submit(recovered).expect("the chain takes it")
    }
}

fn delivered(transaction: B256) -> Reply {
    let settlement = Settlement {
        transaction: transaction.to_string(),
        network: network(),
        payer: None,
        charged: None,
    };
    outcome(200, &Settled::Done(settlement), "content")
}

fn client(chain: &Devchain, ledger: &Arc<SqliteLedger>) -> PayingClient {
    let rpc = Rpc::over(&network(), &chain.rpc_client());
    let scheme = ExactClient::new(dev_signer(0), AssetTable::defaults()).with_rpc(network(), rpc);
    let wallet = Wallet::builder(Arc::clone(ledger) as Arc<dyn Ledger>)
        .scheme(Arc::new(scheme))
        .build()
        .expect("it has a scheme");
    let retry = RetryRules { presentations_max: 1, ..RetryRules::default() };
    PayingClient::builder(wallet).retry(retry).build().expect("the settings are right")
}

async fn balance_of_payee(chain: &Devchain) -> U256 {
    let call = Eip3009::balanceOfCall { account: PAYEE.parse().expect("an address") };
    let request = TransactionRequest::default().to(USDC_ADDRESS).input(call.abi_encode().into());
    let answer = chain.provider().call(request).await.expect("the chain answers");
    U256::from_be_slice(&answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_equal_the_chain_after_payments_lost_answers_and_duplicates() {
    let chain = Devchain::start(Config { chain_id: 84_532, ..Config::default() });
    let before = balance_of_payee(&chain).await;
    let settler = Settler { chain: chain.clone(), nonce: AtomicU64::new(0) };
    let lost_once = AtomicU64::new(0);
    let server = Server::start(move |seen, _| match (seen.payment(), seen.path.as_str()) {
        (None, _) => ask(&required("", vec![offer("10000", USDC)])),
        (Some(paid), "/lost") if lost_once.fetch_add(1, Ordering::SeqCst) == 0 => {
            settler.settle(&paid);
            Reply::Hang
        }
        (Some(_), "/lost") => refused(409, pay402_core::Refusal::DuplicateSettlement),
        (Some(paid), _) => delivered(settler.settle(&paid)),
    })
    .await;
    let ledger = Arc::new(SqliteLedger::open_in_memory().unwrap());

    let paid = client(&chain, &ledger).execute(get(&server.url("/data"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
    assert!(paid.receipt.transaction.is_some_and(|hash| hash.starts_with("0x")));

    let error = client(&chain, &ledger).execute(get(&server.url("/lost"))).await.unwrap_err();
    assert_eq!(error.code(), "ambiguous_payment");
    let error = client(&chain, &ledger).execute(get(&server.url("/lost"))).await.unwrap_err();
    assert_eq!(error.code(), "already_settled");
    let sent = server.paid();
    assert_eq!(sent[1].payment_bytes(), sent[2].payment_bytes(), "another signature was made");

    let payer = client(&chain, &ledger).wallet().payers().remove(0);
    let spent = ledger.spent(&payer, &AssetId::new(network(), USDC)).await.unwrap();
    assert_eq!(spent.reserved, Amount::ZERO);
    assert_eq!(spent.posted.to_u256(), balance_of_payee(&chain).await - before);
    assert_eq!(spent.posted, Amount::from(20_000));
}
