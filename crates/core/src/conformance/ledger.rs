//! What every [`Ledger`] backend has to do. Run it with [`ledger_conformance!`].
//!
//! [`ledger_conformance!`]: crate::ledger_conformance

use serde_json::json;

use super::Subject;
use crate::asset::AssetId;
use crate::spend::{
    Intent, Ledger, Limits, Plan, Quote, Reservation, ReserveError, Spent, VoidProof,
};
use crate::time::UnixTime;
use crate::{Amount, Digest, NetworkId, Requirements, Scheme};

/// Runs the suite of the ledger port against the backend that the argument makes.
#[macro_export]
macro_rules! ledger_conformance {
    ($make:expr) => {
        $crate::conformance_tests!(
            ledger,
            $make,
            [
                nothing_is_spent_at_first,
                a_reservation_reads_back_as_written,
                reserved_counts_as_spent,
                ten_of_100_fit_the_limit,
                a_limit_is_exact,
                sums_do_not_wrap,
                books_are_kept_per_payer_and_asset,
                an_intent_has_one_open_payment,
                one_of_100_reserves_an_intent,
                a_plan_is_reserved_once,
                posting_books_what_was_charged,
                posting_again_changes_nothing,
                no_more_than_reserved_is_posted,
                voiding_frees_the_reservation,
                what_is_closed_stays_closed,
                a_plan_that_was_never_reserved_is_refused,
                a_post_and_a_void_do_not_both_happen,
                pending_reservations_come_oldest_first,
            ]
        );
    };
}

type On<L> = Subject<L>;

const AT: UnixTime = UnixTime(2_000);
const PAYER: &str = "0xpayer";

fn asset() -> AssetId {
    AssetId::new(NetworkId::eip155(84_532), "0xToken")
}

fn plan(number: u64) -> Plan {
    let nonce = Digest::of(&[b"nonce", &number.to_be_bytes()]).0;
    Plan { nonce, valid_after: UnixTime(940), valid_before: UnixTime(1_300) }
}

fn intent(number: u64) -> Digest {
    Digest::of(&[b"intent", &number.to_be_bytes()])
}

fn reservation(number: u64, amount: u64) -> Reservation {
    let amount = Amount::from(amount);
    let offer = Requirements {
        scheme: Scheme::EXACT,
        network: NetworkId::eip155(84_532),
        amount,
        asset: "0xToken".into(),
        pay_to: "0xPayee".into(),
        max_timeout_seconds: 300,
        extra: [("name".to_owned(), json!("USDC"))].into_iter().collect(),
        other: serde_json::Map::new(),
    };
    Reservation {
        intent: Intent {
            id: intent(number),
            origin: "https://api.example.com".into(),
            resource: "https://api.example.com/weather".into(),
        },
        payer: PAYER.into(),
        quote: Quote {
            offer,
            scheme: Scheme::EXACT,
            asset: asset(),
            symbol: "USDC".into(),
            decimals: 6,
            amount,
            pay_to: "0xpayee".into(),
            is_dollar: true,
        },
        plan: plan(number),
        reserved_at: UnixTime(1_000),
    }
}

fn limit(total: u64) -> Limits {
    Limits { total: Some(Amount::from(total)) }
}

fn sums(posted: u64, reserved: u64) -> Spent {
    Spent { posted: Amount::from(posted), reserved: Amount::from(reserved) }
}

async fn reserve(ledger: &impl Ledger, number: u64, amount: u64) {
    let reserved = ledger.reserve(&reservation(number, amount), &Limits::default()).await;
    reserved.expect("nothing limits it");
}

async fn spent(ledger: &impl Ledger) -> Spent {
    ledger.spent(PAYER, &asset()).await.expect("the store answers")
}

async fn open(ledger: &impl Ledger, number: u64) -> Option<Reservation> {
    ledger.open(&intent(number)).await.expect("the store answers")
}

/// An empty book is zero, not an error.
pub async fn nothing_is_spent_at_first<L: Ledger + 'static>(on: On<L>) {
    assert_eq!(spent(&*on.store).await, Spent::default());
    assert_eq!(open(&*on.store, 1).await, None);
    assert_eq!(on.store.pending(PAYER, 10).await, Ok(Vec::new()));
}

/// Everything that is needed to present the same authorization again, byte for byte.
pub async fn a_reservation_reads_back_as_written<L: Ledger + 'static>(on: On<L>) {
    let mut odd = reservation(1, 0);
    odd.quote.amount = Amount::MAX;
    odd.quote.offer.amount = Amount::MAX;
    odd.quote.offer.asset = "0xToKeN".into();
    odd.quote.offer.scheme = Scheme::new("later-scheme");
    odd.quote.offer.max_timeout_seconds = u64::MAX;
    odd.quote.offer.extra = [
        ("version".to_owned(), json!("2")),
        ("a".to_owned(), json!({"deep": [1, -2, 1.5, null, true, "ü'\"\n"]})),
    ]
    .into_iter()
    .collect();
    odd.quote.offer.other =
        [("later".to_owned(), json!([{"field": 18_446_744_073_709_551_615_u64}]))]
            .into_iter()
            .collect();
    odd.quote.scheme = Scheme::new("later-scheme");
    odd.quote.symbol = "€'\"".into();
    odd.quote.decimals = u8::MAX;
    odd.quote.is_dollar = false;
    odd.plan.valid_after = UnixTime(0);
    odd.plan.valid_before = UnixTime(u64::MAX);
    odd.reserved_at = UnixTime(u64::MAX);
    on.store.reserve(&odd, &Limits::default()).await.expect("nothing limits it");
    let read = open(&*on.store, 1).await.expect("it is open");
    assert_eq!(read, odd);
    let keys = |reservation: &Reservation| -> Vec<String> {
        reservation.quote.offer.extra.keys().cloned().collect()
    };
    assert_eq!(keys(&read), keys(&odd), "the order of the offer's fields changed");
    assert_eq!(on.store.pending(PAYER, 10).await, Ok(vec![odd]));
}

/// reserved + posted ≤ limit.
pub async fn reserved_counts_as_spent<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 60).await;
    assert_eq!(spent(&*on.store).await, sums(0, 60));
    let over = on.store.reserve(&reservation(2, 41), &limit(100)).await;
    let expected =
        ReserveError::OverLimit { spent_and_reserved: Amount::from(60), limit: Amount::from(100) };
    assert_eq!(over, Err(expected));
    assert_eq!(open(&*on.store, 2).await, None, "a refused reservation stands");
    on.store.post(&plan(1), Amount::from(60), "0xabc", AT).await.expect("it is reserved");
    assert_eq!(spent(&*on.store).await, sums(60, 0));
    assert!(on.store.reserve(&reservation(2, 41), &limit(100)).await.is_err());
    on.store.reserve(&reservation(2, 40), &limit(100)).await.expect("exactly what remains");
    assert_eq!(spent(&*on.store).await, sums(60, 40));
}

/// The limit holds in the same transaction as the reservation.
pub async fn ten_of_100_fit_the_limit<L: Ledger + 'static>(on: On<L>) {
    let answers = on
        .at_once(100, |ledger, number| async move {
            ledger.reserve(&reservation(number, 10), &limit(109)).await
        })
        .await;
    let reserved = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(reserved, 10);
    for refused in answers.into_iter().filter_map(Result::err) {
        let ReserveError::OverLimit { spent_and_reserved, limit } = refused else {
            panic!("refused for another reason: {refused}");
        };
        assert_eq!((spent_and_reserved, limit), (Amount::from(100), Amount::from(109)));
    }
    assert_eq!(spent(&*on.store).await, sums(0, 100));
}

/// One atomic unit decides; nothing is free under a limit of zero, except what costs nothing.
pub async fn a_limit_is_exact<L: Ledger + 'static>(on: On<L>) {
    assert!(on.store.reserve(&reservation(1, 1), &limit(0)).await.is_err());
    assert!(on.store.reserve(&reservation(1, 101), &limit(100)).await.is_err());
    on.store.reserve(&reservation(1, 100), &limit(100)).await.expect("exactly the limit");
    on.store.reserve(&reservation(2, 0), &limit(100)).await.expect("costs nothing");
    assert!(on.store.reserve(&reservation(3, 1), &limit(100)).await.is_err());
    // A limit that was lowered below what is spent refuses, and does not wrap.
    assert!(on.store.reserve(&reservation(3, 1), &limit(50)).await.is_err());
}

/// Sums above 2^256 − 1 are over any limit, also over none.
pub async fn sums_do_not_wrap<L: Ledger + 'static>(on: On<L>) {
    let mut all = reservation(1, 0);
    all.quote.amount = Amount::MAX;
    on.store.reserve(&all, &Limits::default()).await.expect("nothing limits it");
    for limits in [Limits::default(), Limits { total: Some(Amount::MAX) }] {
        let over = on.store.reserve(&reservation(2, 1), &limits).await;
        assert!(matches!(over, Err(ReserveError::OverLimit { .. })), "{over:?}");
    }
    on.store.post(&plan(1), Amount::MAX, "0xabc", AT).await.expect("it is reserved");
    let spent = spent(&*on.store).await;
    assert_eq!(spent, Spent { posted: Amount::MAX, reserved: Amount::ZERO });
}

/// Budgets and books are kept per asset and payer, never across.
pub async fn books_are_kept_per_payer_and_asset<L: Ledger + 'static>(on: On<L>) {
    let mut other_payer = reservation(2, 10);
    other_payer.payer = "0xother".into();
    let mut other_asset = reservation(3, 10);
    other_asset.quote.asset = AssetId::new(NetworkId::eip155(84_532), "0xother");
    let mut other_network = reservation(4, 10);
    other_network.quote.asset = AssetId::new(NetworkId::eip155(8_453), "0xToken");
    for one in [&reservation(1, 10), &other_payer, &other_asset, &other_network] {
        on.store.reserve(one, &limit(10)).await.expect("each has its own budget");
        let spent = on.store.spent(&one.payer, &one.quote.asset).await;
        assert_eq!(spent, Ok(sums(0, 10)));
    }
    let pending = on.store.pending("0xother", 10).await;
    assert_eq!(pending, Ok(vec![other_payer]));
}

/// One purchase, one authorization: the open one is found, and comes before the limits.
pub async fn an_intent_has_one_open_payment<L: Ledger + 'static>(on: On<L>) {
    let first = reservation(1, 10);
    on.store.reserve(&first, &Limits::default()).await.expect("nothing limits it");
    let again = Reservation { plan: plan(2), ..reservation(1, 20) };
    for limits in [Limits::default(), limit(10)] {
        let refused = on.store.reserve(&again, &limits).await;
        assert_eq!(refused, Err(ReserveError::Open(Box::new(first.clone()))));
    }
    assert_eq!(spent(&*on.store).await, sums(0, 10), "the second one was counted");
    on.store.post(&plan(1), Amount::from(10), "0xabc", AT).await.expect("it is reserved");
    assert_eq!(open(&*on.store, 1).await, None);
    on.store.reserve(&again, &Limits::default()).await.expect("the old one is closed");
    assert_eq!(open(&*on.store, 1).await, Some(again));
}

/// Many retries of one request at once clear one authorization.
pub async fn one_of_100_reserves_an_intent<L: Ledger + 'static>(on: On<L>) {
    let answers = on
        .at_once(100, |ledger, number| async move {
            let one = Reservation { plan: plan(number), ..reservation(0, 10) };
            ledger.reserve(&one, &Limits::default()).await
        })
        .await;
    let reserved = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(reserved, 1, "one purchase got {reserved} authorizations");
    let standing = open(&*on.store, 0).await.expect("one is open");
    for refused in answers.into_iter().filter_map(Result::err) {
        assert_eq!(refused, ReserveError::Open(Box::new(standing.clone())));
    }
    assert_eq!(spent(&*on.store).await, sums(0, 10));
}

/// Two purchases never share a nonce, not even after the first is closed.
pub async fn a_plan_is_reserved_once<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 10).await;
    let same_nonce = Reservation { plan: plan(1), ..reservation(2, 10) };
    let refused = on.store.reserve(&same_nonce, &Limits::default()).await;
    assert!(matches!(refused, Err(ReserveError::Unavailable(_))), "{refused:?}");
    on.store.void(&plan(1), VoidProof::NeverSigned, AT).await.expect("it is reserved");
    let refused = on.store.reserve(&same_nonce, &Limits::default()).await;
    assert!(matches!(refused, Err(ReserveError::Unavailable(_))), "{refused:?}");
    assert_eq!(spent(&*on.store).await, Spent::default());
}

/// Less than reserved may be charged; the rest is free again.
pub async fn posting_books_what_was_charged<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 100).await;
    reserve(&*on.store, 2, 5).await;
    on.store.post(&plan(1), Amount::from(30), "0xabc", AT).await.expect("it is reserved");
    assert_eq!(spent(&*on.store).await, sums(30, 5));
    assert_eq!(open(&*on.store, 1).await, None);
    on.store.post(&plan(2), Amount::ZERO, "", AT).await.expect("nothing was charged");
    assert_eq!(spent(&*on.store).await, sums(30, 0));
}

/// Idempotent, also when many do it at once.
pub async fn posting_again_changes_nothing<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 100).await;
    let answers = on
        .at_once(50, |ledger, _| async move {
            ledger.post(&plan(1), Amount::from(100), "0xabc", AT).await
        })
        .await;
    assert!(answers.iter().all(Result::is_ok), "posting the same again failed");
    assert_eq!(spent(&*on.store).await, sums(100, 0));
    for (charged, transaction) in [(99, "0xabc"), (100, "0xdef")] {
        let other = on.store.post(&plan(1), Amount::from(charged), transaction, AT).await;
        assert!(other.is_err(), "a second posting of {charged} by {transaction} passed");
    }
    assert_eq!(spent(&*on.store).await, sums(100, 0));
}

/// The books never show more than was reserved.
pub async fn no_more_than_reserved_is_posted<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 100).await;
    reserve(&*on.store, 2, 100).await;
    for charged in [Amount::from(101), Amount::MAX] {
        assert!(on.store.post(&plan(1), charged, "0xabc", AT).await.is_err());
    }
    assert_eq!(spent(&*on.store).await, sums(0, 200));
    assert!(open(&*on.store, 1).await.is_some(), "a refused posting closed the reservation");
}

/// With proof, and once.
pub async fn voiding_frees_the_reservation<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 60).await;
    reserve(&*on.store, 2, 40).await;
    assert!(on.store.reserve(&reservation(3, 60), &limit(100)).await.is_err());
    for _ in 0..2 {
        on.store.void(&plan(1), VoidProof::ChainDead, AT).await.expect("voiding again is fine");
        assert_eq!(spent(&*on.store).await, sums(0, 40));
    }
    assert_eq!(open(&*on.store, 1).await, None);
    on.store.reserve(&reservation(3, 60), &limit(100)).await.expect("what was freed");
    let again = Reservation { plan: plan(4), ..reservation(1, 1) };
    on.store.reserve(&again, &Limits::default()).await.expect("the old one is provably dead");
}

/// Posted money is not voided, and a void one is not posted: somebody has to look at it.
pub async fn what_is_closed_stays_closed<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 10).await;
    reserve(&*on.store, 2, 20).await;
    on.store.post(&plan(1), Amount::from(10), "0xabc", AT).await.expect("it is reserved");
    on.store.void(&plan(2), VoidProof::NeverSigned, AT).await.expect("it is reserved");
    assert!(on.store.void(&plan(1), VoidProof::ChainDead, AT).await.is_err());
    assert!(on.store.post(&plan(2), Amount::from(20), "0xabc", AT).await.is_err());
    assert_eq!(spent(&*on.store).await, sums(10, 0));
}

/// A plan is recognised in full; nothing is booked for one that does not stand.
pub async fn a_plan_that_was_never_reserved_is_refused<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 10).await;
    let altered = Plan { valid_before: UnixTime(9_999), ..plan(1) };
    for stranger in [plan(2), altered] {
        assert!(on.store.post(&stranger, Amount::from(1), "0xabc", AT).await.is_err());
        assert!(on.store.void(&stranger, VoidProof::ChainDead, AT).await.is_err());
    }
    assert_eq!(spent(&*on.store).await, sums(0, 10));
}

/// Whichever comes first wins.
pub async fn a_post_and_a_void_do_not_both_happen<L: Ledger + 'static>(on: On<L>) {
    reserve(&*on.store, 1, 10).await;
    let answers = on
        .at_once(40, |ledger, number| async move {
            if number % 2 == 0 {
                (true, ledger.post(&plan(1), Amount::from(10), "0xabc", AT).await.is_ok())
            } else {
                (false, ledger.void(&plan(1), VoidProof::ChainDead, AT).await.is_ok())
            }
        })
        .await;
    let posted = answers.iter().any(|(post, ok)| *post && *ok);
    let voided = answers.iter().any(|(post, ok)| !*post && *ok);
    assert_ne!(posted, voided, "posted: {posted}, voided: {voided}");
    assert_eq!(spent(&*on.store).await, sums(if posted { 10 } else { 0 }, 0));
}

/// Oldest first, bounded, without the closed ones.
pub async fn pending_reservations_come_oldest_first<L: Ledger + 'static>(on: On<L>) {
    for number in [4, 2, 3, 1, 5] {
        reserve(&*on.store, number, number).await;
    }
    on.store.post(&plan(2), Amount::from(2), "0xabc", AT).await.expect("it is reserved");
    on.store.void(&plan(1), VoidProof::NeverSigned, AT).await.expect("it is reserved");
    let standing = [4, 3, 5].map(|number| reservation(number, number));
    assert_eq!(on.store.pending(PAYER, 10).await, Ok(standing.to_vec()));
    assert_eq!(on.store.pending(PAYER, usize::MAX).await, Ok(standing.to_vec()));
    assert_eq!(on.store.pending(PAYER, 2).await, Ok(standing[..2].to_vec()));
    assert_eq!(on.store.pending(PAYER, 0).await, Ok(Vec::new()));
}
