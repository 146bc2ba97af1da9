//! Lost answers, second 402s, lying servers, restarts: one purchase, one authorization, and books
//! that never show less than what may have been spent.

#[cfg(test)]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pay402_client::{PayError, PaymentStatus, Purchase, ReceiptStatus};
use pay402_core::facilitator::Settled;
use pay402_core::refusal::Retry;
use pay402_core::spend::Ledger;
use pay402_core::time::{Clock, UnixTime};
use pay402_core::{Refusal, Refused};
use pay402_store::SqliteLedger;
use support::server::{Reply, Server, ask, claim_paid, outcome, plain, refused, sell, with_header};
use support::{NOW, TX, USDC, World, get, offer, required};

fn price() -> Reply {
    ask(&required("", vec![offer("10000", USDC)]))
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_bytes() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, count| match (seen.payment(), count) {
        (None, _) => price(),
        (Some(_), 1) => {
            // Settled, and the answer got lost.
            chain.settle(seen.nonce());
            Reply::Hang
        }
        (Some(_), _) => claim_paid(),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
    let sent = server.paid();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].payment_bytes(), sent[1].payment_bytes());
    assert_eq!(world.scheme.signed().len(), 1);
    assert_eq!(world.books().await, (10_000, 0));
}

#[tokio::test]
async fn after_a_restart_the_same_authorization_is_presented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let mut world = World::on(SqliteLedger::open(&path).unwrap());
    let server = Server::start(|seen, count| match (seen.payment(), count) {
        (None, _) => price(),
        (Some(_), 0..=3) => Reply::Hang,
        (Some(_), _) => claim_paid(),
    })
    .await;
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("ambiguous_payment", 13));
    assert_eq!((error.payment_status(), error.retry()), (PaymentStatus::Unknown, Retry::Same));
    assert_eq!(world.books().await, (0, 10_000));

    // The first presentation settles after all, while the payer is away for an hour.
    let nonce = server.paid()[0].nonce();
    world.chain.settle(nonce);
    world.ledger = Arc::new(SqliteLedger::open(&path).unwrap());
    world.clock.set(UnixTime(NOW + 3_600));
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert!(paid.receipt.resumed);
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
    let sent = server.paid();
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|seen| seen.payment_bytes() == sent[0].payment_bytes()));
    assert_eq!(world.scheme.nonces().len(), 1);
    assert_eq!(world.books().await, (10_000, 0));
}

#[tokio::test]
async fn a_new_authorization_is_made_only_when_the_chain_proves_the_old_dead() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, count| match (seen.payment(), count) {
        (None, _) => price(),
        (Some(_), 0..=3) => Reply::Hang,
        (Some(_), _) => sell(&chain, seen),
    })
    .await;
    world.client().execute(get(&server.url("/"))).await.unwrap_err();
    // Expired by our clock, but the chain cannot be asked: nothing new is signed.
    world.chain.down.store(true, Ordering::SeqCst);
    world.clock.set(UnixTime(NOW + 3_600));
    let wallet = world.wallet();
    let purchase = Purchase::new(http::Method::GET, server.url("/").parse().unwrap(), b"");
    let ready = wallet.prepare(&purchase, &required("", vec![offer("10000", USDC)])).await;
    assert!(ready.unwrap().resumed());
    assert_eq!(world.scheme.nonces().len(), 1);
    // The chain proves it dead: released, and paid anew.
    world.chain.down.store(false, Ordering::SeqCst);
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert!(!paid.receipt.resumed);
    assert_eq!(world.scheme.nonces().len(), 2);
    assert_eq!(world.books().await, (10_000, 0));
}

#[tokio::test]
async fn a_second_402_never_brings_a_second_signature() {
    let world = World::new();
    let server = Server::start(|_, _| price()).await;
    let client = world.client();
    for _ in 0..3 {
        let error = client.execute(get(&server.url("/"))).await.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("payment_refused", 5));
        assert_eq!((error.payment_status(), error.retry()), (PaymentStatus::Sent, Retry::Same));
    }
    let sent = server.paid();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|seen| seen.payment_bytes() == sent[0].payment_bytes()));
    assert_eq!(world.scheme.nonces().len(), 1);
    assert_eq!(world.books().await, (0, 10_000));
}

#[tokio::test]
async fn refusals_carry_the_servers_reason() {
    let world = World::new();
    let server = Server::start(|seen, _| match (seen.payment(), seen.path.as_str()) {
        (None, _) => price(),
        (_, "/header") => refused(402, Refusal::InsufficientFunds),
        (_, "/offer") => {
            let mut required = required("", vec![offer("10000", USDC)]);
            required.error = Some("insufficient_funds: the balance is 0".into());
            ask(&required)
        }
        _ => refused(402, Refused::new(Refusal::InvalidSignature, "bad\u{1b}[2J signature")),
    })
    .await;
    let client = world.client();
    for path in ["/header", "/offer"] {
        let error = client.execute(get(&server.url(path))).await.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("insufficient_funds", 6), "{path}");
    }
    let error = client.execute(get(&server.url("/other"))).await.unwrap_err();
    let PayError::Refused { refused, .. } = &error else { panic!("{error:?}") };
    assert!(refused.reason.is(Refusal::InvalidSignature));
    assert!(!error.to_string().contains('\u{1b}'));
}

#[tokio::test]
async fn a_duplicate_is_booked_by_the_chain_and_told_as_paid() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match (seen.payment(), seen.path.as_str()) {
        (None, _) => price(),
        (_, "/settled") => {
            chain.settle(seen.nonce());
            refused(409, Refused::from(Refusal::DuplicateSettlement).with_transaction(TX))
        }
        // The same words without a settlement on the chain: a lie, or not yet.
        _ => refused(409, Refused::from(Refusal::DuplicateSettlement).with_transaction(TX)),
    })
    .await;
    let client = world.client();
    let error = client.execute(get(&server.url("/settled"))).await.unwrap_err();
    assert_eq!((error.code(), error.payment_status()), ("already_settled", PaymentStatus::Settled));
    assert_eq!((error.transaction(), error.retry()), (Some(TX), Retry::NewPayment));
    assert_eq!(world.books().await, (10_000, 0));
    let error = client.execute(get(&server.url("/lie"))).await.unwrap_err();
    assert_eq!((error.code(), error.payment_status()), ("payment_refused", PaymentStatus::Sent));
    assert_eq!(world.books().await, (10_000, 10_000));
}

#[tokio::test]
async fn pending_is_asked_again_and_then_told_as_unknown() {
    let world = World::new();
    let server = Server::start(|seen, _| match (seen.payment(), seen.path.as_str()) {
        (None, _) => price(),
        (_, "/409") => refused(409, Refusal::SettlementPending),
        (_, "/402") => outcome(402, &Settled::Pending { transaction: Some(TX.into()) }, "{}"),
        _ => plain(503, r#"{"error":"settlement_pending"}"#),
    })
    .await;
    for (count, path) in ["/409", "/402", "/503"].into_iter().enumerate() {
        let error = world.client().execute(get(&server.url(path))).await.unwrap_err();
        assert_eq!(error.code(), "ambiguous_payment", "{path}: {error}");
        assert_eq!(error.payment_status(), PaymentStatus::Unknown);
        assert_eq!(server.paid().len(), 3 * (count + 1));
        assert_eq!(world.scheme.nonces().len(), count + 1);
    }
    assert_eq!(world.books().await, (0, 30_000));
}

#[tokio::test]
async fn a_busy_server_is_asked_again_with_the_same_payment() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, count| match (seen.payment(), count) {
        (None, _) => price(),
        (Some(_), 1) => plain(502, "bad gateway"),
        (Some(_), 2) => refused(503, Refusal::UnexpectedVerifyError),
        (Some(_), _) => sell(&chain, seen),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
    assert_eq!((server.paid().len(), world.scheme.signed().len()), (3, 1));
}

#[tokio::test]
async fn a_retry_after_beyond_the_window_ends_the_call() {
    let world = World::new();
    let server = Server::start(|seen, _| match seen.payment() {
        None => price(),
        Some(_) => with_header(plain(503, "later"), "retry-after", "3600"),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!((paid.response.status().as_u16(), server.paid().len()), (503, 1));
    assert_eq!(paid.receipt.status, ReceiptStatus::Unsettled);
    assert_eq!(paid.response.text().await.unwrap(), "later", "the body was looked at, not taken");
    assert_eq!(world.books().await, (0, 10_000));
}

#[tokio::test]
async fn a_failing_handler_is_the_answer_and_is_not_paid_anew() {
    let world = World::new();
    let server = Server::start(|seen, _| match (seen.payment(), seen.path.as_str()) {
        (None, _) => price(),
        (_, "/conflict") => plain(409, r#"{"error":"version conflict"}"#),
        _ => plain(500, "oops"),
    })
    .await;
    let client = world.client();
    for (path, status, body) in
        [("/fails", 500, "oops"), ("/conflict", 409, r#"{"error":"version conflict"}"#)]
    {
        for _ in 0..2 {
            let paid = client.execute(get(&server.url(path))).await.unwrap();
            assert_eq!(paid.response.status(), status);
            assert_eq!(paid.receipt.status, ReceiptStatus::Unsettled);
            assert_eq!(paid.response.text().await.unwrap(), body);
        }
    }
    assert_eq!((server.paid().len(), world.scheme.nonces().len()), (4, 2));
    assert_eq!(world.books().await, (0, 20_000));
}

#[tokio::test]
async fn a_servers_word_is_compared_with_the_chain() {
    // The chain does not show it: it stays reserved.
    let world = World::new();
    let server = Server::start(|seen, _| match (seen.payment(), seen.path.as_str()) {
        (None, _) => price(),
        (_, "/silent") => plain(200, "content"),
        (_, "/garbled") => with_header(plain(200, "content"), "payment-response", "!!!"),
        (_, "/denies") => refused(200, Refusal::InsufficientFunds),
        _ => claim_paid(),
    })
    .await;
    for path in ["/claims", "/silent", "/garbled", "/denies"] {
        let paid = world.client().execute(get(&server.url(path))).await.unwrap();
        assert_eq!(paid.receipt.status, ReceiptStatus::Unknown, "{path}");
        assert!(paid.receipt.note.is_some(), "{path}");
    }
    assert_eq!(world.books().await, (0, 40_000));

    // Nobody can ask the chain: a claim is booked in full, silence stays reserved.
    let world = World::new();
    world.chain.down.store(true, Ordering::SeqCst);
    let paid = world.client().execute(get(&server.url("/claims"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Claimed);
    let paid = world.client().execute(get(&server.url("/silent"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Unknown);
    assert_eq!(world.books().await, (10_000, 10_000));
}

#[tokio::test]
async fn a_silent_server_that_settled_is_found_out_by_the_chain() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match seen.payment() {
        None => price(),
        Some(_) => {
            chain.settle(seen.nonce());
            plain(200, "content")
        }
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
    assert_eq!(world.books().await, (10_000, 0));
}

#[tokio::test]
async fn reconciling_posts_voids_and_keeps() {
    let world = World::new();
    let server = Server::start(|seen, _| match seen.payment() {
        None => price(),
        Some(_) => plain(500, ""),
    })
    .await;
    let client = world.client();
    for path in ["/used", "/dead"] {
        client.execute(get(&server.url(path))).await.unwrap();
    }
    world.chain.settle(server.paid()[0].nonce());
    world.clock.set(UnixTime(NOW + 3_600));
    client.execute(get(&server.url("/live"))).await.unwrap();
    // The pass before the last payment saw the first two expired, and closed them.
    assert_eq!(world.books().await, (10_000, 10_000));
    let done = client.wallet().reconcile().await.unwrap();
    assert_eq!((done.posted, done.voided, done.live, done.unknown), (0, 0, 1, 0));
    world.chain.down.store(true, Ordering::SeqCst);
    let done = client.wallet().reconcile().await.unwrap();
    assert_eq!((done.live, done.unknown), (0, 1));
    assert_eq!(world.books().await, (10_000, 10_000));
}

#[tokio::test]
async fn another_purchase_does_not_close_one_whose_content_can_still_be_fetched() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, count| match (seen.payment(), count) {
        (None, _) => price(),
        (Some(_), 0..=3) => {
            chain.settle(seen.nonce());
            Reply::Hang
        }
        (Some(_), _) => sell(&chain, seen),
    })
    .await;
    let client = world.client();
    client.execute(get(&server.url("/lost"))).await.unwrap_err();
    client.execute(get(&server.url("/other"))).await.unwrap();
    assert_eq!(world.books().await, (10_000, 10_000));
    let paid = client.execute(get(&server.url("/lost"))).await.unwrap();
    assert!(paid.receipt.resumed);
    assert_eq!(world.scheme.nonces().len(), 2);
    assert_eq!(world.books().await, (20_000, 0));
}

#[tokio::test]
async fn a_call_dropped_at_any_moment_leaves_the_money_reserved() {
    let world = World::new();
    let server = Server::start(|seen, _| match seen.payment() {
        None => price(),
        Some(_) => plain(500, ""),
    })
    .await;
    // Dropped between the reservation and the signature, as a crash would.
    let required = required("", vec![offer("10000", USDC)]);
    let wallet = world.wallet();
    let mut dropped = 0;
    for step in 0..64 {
        let url = server.url(&format!("/{step}")).parse().unwrap();
        let purchase = Purchase::new(http::Method::GET, url, b"");
        let mut future = Box::pin(wallet.prepare(&purchase, &required));
        let polled = tokio::time::timeout(std::time::Duration::from_micros(step * 20), &mut future);
        let finished = polled.await.is_ok();
        drop(future);
        dropped += usize::from(!finished);
        // The ledger's thread may still be at work for a call that is gone.
        world.ledger.spent("", &offer("1", USDC).asset_id()).await.unwrap();
        let signed = world.scheme.signed().iter().map(|_| 10_000).sum::<u64>();
        let (posted, reserved) = world.books().await;
        assert!(posted + reserved >= signed, "{reserved} reserved, {signed} signed");
    }
    assert!(dropped > 0, "no call was dropped");
    assert!(world.clock.now() == UnixTime(NOW));
}

#[tokio::test]
async fn a_route_that_settles_first_is_booked_even_when_its_handler_fails() {
    let world = World::new();
    let chain = Arc::clone(&world.chain);
    let server = Server::start(move |seen, _| match (seen.payment(), seen.path.as_str()) {
        (None, _) => price(),
        (_, "/paid-402") => with_status(claim_paid(), 402),
        _ => with_status(sell(&chain, seen), 500),
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.response.status(), 500);
    assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
    assert_eq!(world.books().await, (10_000, 0));
    let error = world.client().execute(get(&server.url("/paid-402"))).await.unwrap_err();
    assert_eq!(error.code(), "payment_refused");
    assert_eq!(world.books().await, (10_000, 10_000));
}

fn with_status(reply: Reply, status: u16) -> Reply {
    match reply {
        Reply::Answer(_, headers, body) => {
            Reply::Answer(http::StatusCode::from_u16(status).expect("a status"), headers, body)
        }
        Reply::Hang => Reply::Hang,
    }
}

#[tokio::test]
async fn no_pause_that_a_server_asks_for_is_too_long_to_be_counted() {
    let world = World::new();
    let server = Server::start(|seen, _| match seen.payment() {
        None => price(),
        Some(_) => {
            // With a second gone by, the end of such a pause lies beyond the end of time.
            std::thread::sleep(std::time::Duration::from_millis(1_100));
            with_header(plain(503, "{}"), "retry-after", &u64::MAX.to_string())
        }
    })
    .await;
    let paid = world.client().execute(get(&server.url("/"))).await.unwrap();
    assert_eq!(paid.receipt.status, ReceiptStatus::Unsettled);
    assert_eq!((paid.response.status().as_u16(), world.books().await), (503, (0, 10_000)));
}

#[tokio::test]
async fn an_offer_too_large_to_be_sent_back_is_not_signed() {
    let world = World::new();
    let server = Server::start(|_, _| {
        let mut required = required("", vec![offer("10000", USDC)]);
        required.extensions.insert("filler".into(), "0".repeat(20 * 1024).into());
        plain(402, &pay402_core::wire::encode_payment_required(&required).to_string())
    })
    .await;
    let error = world.client().execute(get(&server.url("/"))).await.unwrap_err();
    assert_eq!(error.code(), "no_payable_offer", "{error}");
    assert!(world.scheme.signed().is_empty(), "signed, and called never signed");
    assert_eq!(world.books().await, (0, 0));
}
