//! What every [`Grants`] backend has to do. Run it with [`grants_conformance!`].
//!
//! [`grants_conformance!`]: crate::grants_conformance

use super::Subject;
use crate::grants::{Claim, Claimed, GrantState, Grants, Held};
use crate::time::UnixTime;
use crate::{Amount, Digest, NetworkId, PaymentKey};

/// Runs the suite of the grants port against the backend that the argument makes.
#[macro_export]
macro_rules! grants_conformance {
    ($make:expr) => {
        $crate::conformance_tests!(
            grants,
            $make,
            [
                one_of_200_claims_is_granted,
                payments_do_not_hold_one_another,
                a_held_claim_tells_request_and_proof_apart,
                a_claim_settles_and_delivers,
                a_charge_is_kept_with_its_claim,
                nothing_charged_is_delivered_without_a_transaction,
                a_delivery_without_a_response_stays_without,
                the_last_response_is_the_one_that_waits,
                a_released_claim_can_be_claimed_again,
                a_failed_settlement_frees_the_claim,
                a_delivered_claim_is_never_freed,
                a_delivered_claim_keeps_its_first_transaction,
                what_was_never_claimed_cannot_settle,
                claims_outlive_the_authorization,
                one_of_100_claims_wins_after_a_release,
            ]
        );
    };
}

type On<G> = Subject<G>;

fn key(name: &str) -> PaymentKey {
    PaymentKey::new(&NetworkId::eip155(84_532), "0xasset", "0xpayer", name)
}

fn digest(text: &str) -> Digest {
    Digest::of(&[text.as_bytes()])
}

fn claim(name: &str) -> Claim {
    Claim {
        key: key(name),
        request: digest("GET /weather"),
        proof: Some(digest("secret")),
        claimed_at: UnixTime(1_000),
        forget_at: UnixTime(2_000),
    }
}

async fn take(grants: &impl Grants, claim: Claim) -> Claimed {
    grants.claim(claim).await.expect("the store answers")
}

async fn granted(grants: &impl Grants, name: &str) {
    assert_eq!(take(grants, claim(name)).await, Claimed::Granted, "{name} was already held");
}

async fn state(grants: &impl Grants, name: &str) -> GrantState {
    let read = grants.state(&key(name)).await.expect("the store answers");
    match take(grants, claim(name)).await {
        Claimed::Held(held) => {
            assert_eq!(read.as_ref(), Some(&held.state), "two answers about {name} differ");
            held.state
        }
        Claimed::Granted => panic!("{name} was not held any more"),
    }
}

fn delivered(charged: Option<Amount>, sealed: Option<Vec<u8>>) -> GrantState {
    GrantState::Delivered { transaction: "0xabc".into(), charged, sealed }
}

/// One claim per payment.
pub async fn one_of_200_claims_is_granted<G: Grants + 'static>(on: On<G>) {
    let answers = on
        .at_once(200, |grants, number| async move {
            let request = digest(&format!("GET /route/{}", number % 4));
            take(&*grants, Claim { request, ..claim("one") }).await
        })
        .await;
    let granted = answers.iter().filter(|answer| **answer == Claimed::Granted).count();
    assert_eq!(granted, 1, "one payment was granted {granted} times");
}

/// Keys are told apart in full: neither another nonce nor another asset is held by a claim.
pub async fn payments_do_not_hold_one_another<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    granted(&*on.store, "ONE").await;
    granted(&*on.store, "one ").await;
    let other = PaymentKey::new(&NetworkId::eip155(84_532), "0xother", "0xpayer", "one");
    let answer = take(&*on.store, Claim { key: other, ..claim("one") }).await;
    assert_eq!(answer, Claimed::Granted);
}

/// A repeat is told apart by what it is for and by what it proves.
pub async fn a_held_claim_tells_request_and_proof_apart<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    let mut without = claim("bare");
    without.proof = None;
    assert_eq!(take(&*on.store, without.clone()).await, Claimed::Granted);

    let held = |same_request, same_proof| {
        Claimed::Held(Held { same_request, same_proof, state: GrantState::Claimed })
    };
    let other_request = Claim { request: digest("GET /gold"), ..claim("one") };
    let other_proof = Claim { proof: Some(digest("guess")), ..claim("one") };
    let no_proof = Claim { proof: None, ..claim("one") };
    assert_eq!(take(&*on.store, claim("one")).await, held(true, true));
    assert_eq!(take(&*on.store, other_request).await, held(false, true));
    assert_eq!(take(&*on.store, other_proof).await, held(true, false));
    assert_eq!(take(&*on.store, no_proof).await, held(true, false));
    // Two requests without a secret have not proven the same one.
    assert_eq!(take(&*on.store, without).await, held(true, false));
    assert_eq!(take(&*on.store, claim("bare")).await, held(true, false));
}

/// Claimed → Settling → Delivered, the sealed response unchanged on the way.
pub async fn a_claim_settles_and_delivers<G: Grants + 'static>(on: On<G>) {
    let sealed: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    granted(&*on.store, "one").await;
    assert_eq!(state(&*on.store, "one").await, GrantState::Claimed);
    on.store.settling(&key("one"), None, Some(sealed.clone())).await.expect("it is claimed");
    let settling = GrantState::Settling { charge: None, sealed: Some(sealed.clone()) };
    assert_eq!(state(&*on.store, "one").await, settling);
    on.store.deliver(&key("one"), "0xabc").await.expect("it settles");
    let expected = delivered(None, Some(sealed));
    assert_eq!(state(&*on.store, "one").await, expected);
}

/// What is charged is kept from settling on, over the whole range of an amount, nothing included.
pub async fn a_charge_is_kept_with_its_claim<G: Grants + 'static>(on: On<G>) {
    for (name, charge) in [("all", Amount::MAX), ("part", 2_500.into()), ("none", Amount::ZERO)] {
        granted(&*on.store, name).await;
        let key = key(name);
        on.store.settling(&key, Some(charge), Some(vec![1])).await.expect("it is claimed");
        let expected = GrantState::Settling { charge: Some(charge), sealed: Some(vec![1]) };
        assert_eq!(state(&*on.store, name).await, expected);
        on.store.deliver(&key, "0xabc").await.expect("it settles");
        assert_eq!(state(&*on.store, name).await, delivered(Some(charge), Some(vec![1])));
    }
    // A claim that is made again after a release charges anew.
    granted(&*on.store, "again").await;
    let again = key("again");
    on.store.settling(&again, Some(Amount::MAX), None).await.expect("it is claimed");
    on.store.release(&again).await.expect("the store answers");
    granted(&*on.store, "again").await;
    on.store.settling(&again, None, None).await.expect("it is claimed");
    let expected = GrantState::Settling { charge: None, sealed: None };
    assert_eq!(state(&*on.store, "again").await, expected);
}

/// A delivery that has no transaction, because nothing was charged, is a delivery.
pub async fn nothing_charged_is_delivered_without_a_transaction<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    on.store.settling(&key("one"), Some(Amount::ZERO), None).await.expect("it is claimed");
    on.store.deliver(&key("one"), "").await.expect("it settles");
    on.store.release(&key("one")).await.expect("a delivered claim stays as it is");
    let charged = Some(Amount::ZERO);
    let expected = GrantState::Delivered { transaction: String::new(), charged, sealed: None };
    assert_eq!(state(&*on.store, "one").await, expected);
}

/// Without a secret nothing is kept, and nothing is made up.
pub async fn a_delivery_without_a_response_stays_without<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    on.store.settling(&key("one"), None, None).await.expect("it is claimed");
    assert_eq!(state(&*on.store, "one").await, GrantState::Settling { charge: None, sealed: None });
    on.store.deliver(&key("one"), "0xabc").await.expect("it settles");
    let expected = delivered(None, None);
    assert_eq!(state(&*on.store, "one").await, expected);
}

/// Until it is delivered, a response that is recorded again takes the earlier one's place.
pub async fn the_last_response_is_the_one_that_waits<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    on.store.settling(&key("one"), None, Some(vec![1])).await.expect("it is claimed");
    on.store.settling(&key("one"), None, Some(vec![2])).await.expect("it is not delivered");
    assert_eq!(
        state(&*on.store, "one").await,
        GrantState::Settling { charge: None, sealed: Some(vec![2]) }
    );
}

/// Settlement was never asked for: the payment can be used.
pub async fn a_released_claim_can_be_claimed_again<G: Grants + 'static>(on: On<G>) {
    assert_eq!(on.store.state(&key("one")).await, Ok(None));
    granted(&*on.store, "one").await;
    on.store.release(&key("one")).await.expect("the store answers");
    assert_eq!(on.store.state(&key("one")).await, Ok(None));
    on.store.release(&key("never claimed")).await.expect("nothing to free");
    let other = Claim { request: digest("GET /gold"), proof: None, ..claim("one") };
    assert_eq!(take(&*on.store, other.clone()).await, Claimed::Granted);
    // The new claim is its own: nothing of the first is left in it.
    let held = Held { same_request: true, same_proof: false, state: GrantState::Claimed };
    assert_eq!(take(&*on.store, other).await, Claimed::Held(held));
}

/// Settlement has certainly failed: the payment can be used, the waiting response is gone.
pub async fn a_failed_settlement_frees_the_claim<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    on.store.settling(&key("one"), None, Some(vec![1])).await.expect("it is claimed");
    on.store.release(&key("one")).await.expect("the store answers");
    granted(&*on.store, "one").await;
    assert_eq!(state(&*on.store, "one").await, GrantState::Claimed);
}

/// Money that moved buys one answer: neither release nor settling undoes a delivery.
pub async fn a_delivered_claim_is_never_freed<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    on.store.settling(&key("one"), None, Some(vec![1])).await.expect("it is claimed");
    on.store.deliver(&key("one"), "0xabc").await.expect("it settles");
    on.store.release(&key("one")).await.expect("a delivered claim stays as it is");
    let again = on.store.settling(&key("one"), None, Some(vec![2])).await;
    assert!(again.is_err(), "a delivered claim went back to settling");
    let expected = delivered(None, Some(vec![1]));
    assert_eq!(state(&*on.store, "one").await, expected);
}

/// Delivering again changes nothing.
pub async fn a_delivered_claim_keeps_its_first_transaction<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    on.store.deliver(&key("one"), "0xabc").await.expect("settled before the handler ran");
    on.store.deliver(&key("one"), "0xdef").await.expect("delivering again changes nothing");
    let expected = delivered(None, None);
    assert_eq!(state(&*on.store, "one").await, expected);
}

/// A claim that is not there must not let a settlement be asked for.
pub async fn what_was_never_claimed_cannot_settle<G: Grants + 'static>(on: On<G>) {
    assert!(on.store.settling(&key("one"), None, Some(vec![1])).await.is_err());
    assert!(on.store.deliver(&key("one"), "0xabc").await.is_err());
    granted(&*on.store, "one").await;
}

/// Claims are kept until `forget_at` has passed, whatever their state, and no longer.
pub async fn claims_outlive_the_authorization<G: Grants + 'static>(on: On<G>) {
    for name in ["claimed", "settling", "delivered"] {
        granted(&*on.store, name).await;
    }
    on.store.settling(&key("settling"), None, Some(vec![1])).await.expect("it is claimed");
    on.store.deliver(&key("delivered"), "0xabc").await.expect("it settles");
    let late = Claim { forget_at: UnixTime(u64::MAX), ..claim("late") };
    assert_eq!(take(&*on.store, late).await, Claimed::Granted);

    let prune = |now| on.store.prune(UnixTime(now));
    assert_eq!(prune(1_999).await.expect("the store answers"), 0, "forgotten too early");
    for name in ["claimed", "settling", "delivered"] {
        state(&*on.store, name).await;
    }
    assert_eq!(prune(2_001).await.expect("the store answers"), 3);
    assert_eq!(prune(2_001).await.expect("the store answers"), 0);
    assert_eq!(state(&*on.store, "late").await, GrantState::Claimed);
    granted(&*on.store, "delivered").await;
}

/// A release hands the payment to one of those who want it, not to all.
pub async fn one_of_100_claims_wins_after_a_release<G: Grants + 'static>(on: On<G>) {
    granted(&*on.store, "one").await;
    let answers = on
        .at_once(101, |grants, number| async move {
            if number == 50 {
                grants.release(&key("one")).await.expect("the store answers");
                return false;
            }
            take(&*grants, claim("one")).await == Claimed::Granted
        })
        .await;
    let granted = answers.into_iter().filter(|granted| *granted).count();
    // Claims that came before the release were refused; when all did, the next one is granted.
    let next = usize::from(take(&*on.store, claim("one")).await == Claimed::Granted);
    assert_eq!(granted + next, 1, "one release let {granted} claims through, and then {next}");
}
