//! The budget holds under concurrency, across clients and across restarts.

#[cfg(test)]
mod support;

use std::sync::Arc;

use pay402_client::{OwnerPolicy, ReceiptStatus};
use pay402_core::Price;
use pay402_store::SqliteLedger;
use support::server::{Server, ask, plain, sell};
use support::{USDC, World, get, offer, required};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_payments_at_once_never_exceed_the_budget() {
    let mut world = World::new();
    world.policy = OwnerPolicy::new().total(Price::parse("$0.10").unwrap());
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC)])),
        // Half of the answers fail, so that open reservations count too.
        Some(_) if seen.path.ends_with('1') => plain(500, ""),
        Some(_) => sell(&chain, seen),
    })
    .await;
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let client = world.client();
            let request = get(&server.url(&format!("/{number}")));
            tokio::spawn(async move { client.execute(request).await })
        })
        .collect();
    let mut paid = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => paid += 1,
            Err(error) => {
                assert_eq!(error.denied().map(|denied| denied.rule), Some("total_budget"));
            }
        }
    }
    assert_eq!((paid, world.scheme.nonces().len()), (10, 10));
    let (posted, reserved) = world.books().await;
    assert_eq!(posted + reserved, 100_000);
}

#[tokio::test]
async fn a_restart_does_not_renew_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let mut signed = 0;
    for round in 0..4 {
        let mut world = World::on(SqliteLedger::open(&path).unwrap());
        world.policy = OwnerPolicy::new().total(Price::parse("$0.03").unwrap());
        let chain = Arc::clone(&world.chain);
        let server = Server::start(move |seen, _| match seen.payment() {
            None => ask(&required("", vec![offer("10000", USDC)])),
            Some(_) => sell(&chain, seen),
        })
        .await;
        let outcome = world.client().execute(get(&server.url("/"))).await;
        assert_eq!(outcome.is_ok(), round < 3, "round {round}");
        signed += world.scheme.nonces().len();
    }
    assert_eq!(signed, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_at_once_is_one_purchase_and_ids_tell_them_apart() {
    let world = World::new();
    let server = Server::start(|seen, _| match seen.payment() {
        None => ask(&required("", vec![offer("10000", USDC)])),
        Some(_) => plain(500, ""),
    })
    .await;
    let at_once = |ids: Vec<Option<String>>| {
        let calls = ids.into_iter().map(|id| {
            let client = world.client();
            let request = get(&server.url("/"));
            tokio::spawn(async move {
                match id {
                    Some(id) => client.execute_as(request, &id).await,
                    None => client.execute(request).await,
                }
            })
        });
        futures_util::future::join_all(calls.collect::<Vec<_>>())
    };
    for call in at_once(vec![None; 10]).await {
        assert_eq!(call.unwrap().unwrap().receipt.status, ReceiptStatus::Unsettled);
    }
    assert_eq!(world.scheme.nonces().len(), 1);
    at_once((0..3).map(|id| Some(id.to_string())).collect()).await;
    assert_eq!(world.scheme.nonces().len(), 4);
    assert_eq!(world.books().await, (0, 40_000));
}
