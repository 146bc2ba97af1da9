//! Metered payments on the embedded chain: what the handler says is what moves.

use std::sync::Arc;

use axum::extract::Query;
use axum::routing::get;
use axum::{Extension, Router};
use pay402::stack::{self, PAYER_INDEX, Served};
use pay402_client::{OwnerPolicy, Paid, PayingClient, ReceiptStatus, Wallet};
use pay402_core::asset::AssetId;
use pay402_core::{Amount, Price, Refusal};
use pay402_devchain::genesis::dev_signer;
use pay402_e2e::Market;
use pay402_evm::{AssetTable, Rpc, UptoClient, UptoServer};
use pay402_server::{Charge, PaidBy, ResourceServer, Route};
use reqwest::{Method, Request};

/// The ceiling of `/metered`, in atomic units: a cent.
const CEILING: u64 = 10_000;

/// An API whose handler charges what its caller asks for.
async fn api(market: &Market) -> Served {
    let facilitator = Arc::new(market.remote().unwrap());
    let server = ResourceServer::builder(facilitator, market.grants.clone())
        .scheme(Arc::new(UptoServer::new(AssetTable::defaults())))
        .loopback_urls()
        .start()
        .await
        .unwrap();
    let route = Route::new("$0.01", market.accounts.payee.to_checksum(None))
        .on(market.accounts.network.as_str())
        .metered();
    let handler = async |Query(asked): Query<Vec<(String, Amount)>>,
                         Extension(paid_by): Extension<PaidBy>| {
        assert_eq!((paid_by.amount, paid_by.decimals), (CEILING.into(), 6));
        let charge = asked[0].1;
        (Extension(Charge::atomic(charge)), format!("used {charge}"))
    };
    let app = Router::new().route("/metered", get(handler).layer(server.layer(route).unwrap()));
    stack::serve(app, 0).await.unwrap()
}

fn agent(market: &Market) -> PayingClient {
    let network = market.accounts.network.clone();
    let rpc = Rpc::provided(&network, &market.provider());
    let scheme =
        UptoClient::new(dev_signer(PAYER_INDEX), AssetTable::defaults()).with_rpc(network, rpc);
    let policy = OwnerPolicy::new().total(Price::parse("$0.05").unwrap());
    let wallet = Wallet::builder(market.ledger.clone()).scheme(Arc::new(scheme)).policy(policy);
    PayingClient::new(wallet.build().unwrap()).unwrap()
}

async fn buy(agent: &PayingClient, api: &Served, charge: u64) -> Paid {
    let url = format!("{}/metered?charge={charge}", api.url);
    agent.execute(Request::new(Method::GET, url.parse().unwrap())).await.unwrap()
}

/// (posted, reserved) in the payer's ledger.
async fn books(market: &Market) -> (Amount, Amount) {
    use pay402_core::spend::Ledger as _;
    let accounts = &market.accounts;
    let asset = AssetId::new(accounts.network.clone(), &accounts.token.to_checksum(None));
    let payer = format!("{:#x}", accounts.payer);
    let spent = market.ledger.spent(&payer, &asset).await.unwrap();
    (spent.posted, spent.reserved)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_charge_moves_and_not_the_ceiling() {
    let market = Market::start().await;
    let (api, agent) = (api(&market).await, agent(&market));
    let before = market.tokens().await;
    let mut total = 0;
    for charge in [2_500, 1, CEILING] {
        let paid = buy(&agent, &api, charge).await;
        assert_eq!(paid.receipt.status, ReceiptStatus::Settled, "{:?}", paid.receipt);
        assert_eq!(paid.receipt.charged, Some(charge.into()));
        assert_eq!(paid.receipt.ceiling, Some(CEILING.into()));
        assert!(paid.receipt.transaction.is_some());
        assert_eq!(paid.response.text().await.unwrap(), format!("used {charge}"));
        total += charge;
        assert_eq!(books(&market).await, (total.into(), Amount::ZERO));
    }
    let after = market.tokens().await;
    let total = u128::from(total);
    assert_eq!((before.0 - after.0, after.1 - before.1), (total, total));
    assert_eq!(market.chain.block_number(), 3, "transactions");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_charged_without_a_transaction_and_above_the_ceiling() {
    let market = Market::start().await;
    let (api, agent) = (api(&market).await, agent(&market));
    let before = market.tokens().await;

    let paid = buy(&agent, &api, 0).await;
    assert_eq!(paid.receipt.status, ReceiptStatus::Unsettled, "{:?}", paid.receipt);
    assert_eq!((paid.receipt.charged, paid.receipt.transaction), (Some(Amount::ZERO), None));
    assert_eq!(paid.response.text().await.unwrap(), "used 0");
    assert_eq!(books(&market).await, (Amount::ZERO, CEILING.into()));
    // The same request is answered from what was kept: it was charged for once.
    let again = buy(&agent, &api, 0).await;
    assert!(again.receipt.resumed);
    assert_eq!(again.response.text().await.unwrap(), "used 0");

    let above = buy(&agent, &api, CEILING + 1).await;
    assert_eq!(above.response.status(), 500);
    assert_ne!(above.receipt.status, ReceiptStatus::Settled);
    assert_eq!(market.tokens().await, before);
    assert_eq!(market.chain.block_number(), 0, "transactions");
}

/// What was waived stays waived: the facilitator settles the authorization for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_for_nothing_is_not_settled_for_more() {
    use pay402_core::transport::http::{read_payment_required, write_payment};
    use pay402_core::wire::{Endpoint, encode_facilitator_request};
    use pay402_core::{Payment, scheme::ClientScheme as _};

    let market = Market::start().await;
    let api = api(&market).await;
    let url: reqwest::Url = format!("{}/metered?charge=0", api.url).parse().unwrap();
    let answer = reqwest::get(url.clone()).await.unwrap();
    let required = read_payment_required(answer.headers(), b"").unwrap();
    let network = market.accounts.network.clone();
    let rpc = Rpc::provided(&network, &market.provider());
    let scheme =
        UptoClient::new(dev_signer(PAYER_INDEX), AssetTable::defaults()).with_rpc(network, rpc);
    assert!(scheme.quote(&required.accepts[0]).is_ok());
    let wallet = Wallet::builder(market.ledger.clone()).scheme(Arc::new(scheme)).build().unwrap();
    let purchase = pay402_client::Purchase::new(Method::GET, url.clone(), b"");
    let ready = wallet.prepare(&purchase, &required).await.unwrap();
    let mut headers = reqwest::header::HeaderMap::new();
    write_payment(&mut headers, ready.presented()).unwrap();
    let served = reqwest::Client::new().get(url).headers(headers).send().await.unwrap();
    assert_eq!(served.status(), 200);

    let terms = required.accepts[0].clone();
    let payment = Payment::pair(terms, ready.presented().clone()).unwrap();
    for charge in [CEILING, 1] {
        let payment = payment.clone().charging(charge.into()).unwrap();
        for (path, endpoint) in [("/verify", Endpoint::Verify), ("/settle", Endpoint::Settle)] {
            let told = reqwest::Client::new()
                .post(market.facilitator_url(path))
                .header("content-type", "application/json")
                .body(encode_facilitator_request(&payment, endpoint).to_string());
            let told = told.send().await.unwrap().text().await.unwrap();
            assert!(told.contains(Refusal::DuplicateSettlement.code()), "{path}: {told}");
        }
    }
    assert_eq!(market.chain.block_number(), 0, "transactions");
}
