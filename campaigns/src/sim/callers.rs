//! Who presents payments: resource servers that ask until they know, copies of them, mutated copies, and
//! callers that hang up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use pay402_core::facilitator::Settled;
use pay402_core::{
    Amount, Digest, Payment, PaymentKey, Presented, Refusal, Refused, Requirements, Scheme,
    WireVersion,
};
use serde_json::{Map, json};

use super::chain::{EPOCH, network};
use super::world::{Die, World};

/// What each payer has: enough for some of its payments, or for all.
const PAYERS: [(&str, u64); 3] = [("0xrich", 1 << 40), ("0xmiddling", 9_000), ("0xpoor", 2_500)];
/// When the last payment is over that expires, in seconds from the beginning.
pub(super) const EXPIRES_S_MAX: u64 = 180;
/// Longest that a caller asks, in seconds.
const ASK_MAX_S: u64 = 400;

/// A payment that may be presented by several.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) key: PaymentKey,
    pub(super) payment: Payment,
    /// What the first caller proves to be; the others prove nothing.
    pub(super) caller: Option<Digest>,
}

/// What callers were told of one payment.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Successes, by what the caller proved to be.
    pub(super) done: BTreeMap<Option<[u8; 32]>, u64>,
    /// Successes told to a mutated copy.
    pub(super) mutated: u64,
    /// Transactions that successes named.
    pub(super) transactions: Vec<String>,
    /// Refusals that name a transaction of the payment's own, other than as a duplicate.
    pub(super) failed: Vec<Refused>,
    /// Callers that left without an answer.
    pub(super) left: u64,
}

/// What everybody was told.
#[derive(Debug, Default)]
pub(super) struct Ears(Mutex<BTreeMap<PaymentKey, Told>>);

impl Ears {
    pub(super) fn of(&self, key: &PaymentKey) -> Told {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    fn hear(&self, key: &PaymentKey, what: impl FnOnce(&mut Told)) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        what(told.entry(key.clone()).or_default());
    }
}

/// Gives every payer its funds.
pub(super) fn fund(world: &World) {
    let mut state = world.state();
    state.funds = PAYERS.map(|(payer, has)| (payer.to_owned(), has)).into();
}

/// The payment with this number.
pub(super) fn plan(world: &World, number: u64) -> Plan {
    let mut die = world.sea.die("plan");
    let (payer, _) = PAYERS[die.one_of([0, 0, 0, 1, 2])];
    let expires = match world.shape.spike {
        None => EPOCH + 30 + die.below(EXPIRES_S_MAX - 30),
        Some((begin, _)) => EPOCH + begin + 15 + die.below(30),
    };
    let metered = die.below(8) == 0;
    let amount = 1_000 + die.below(1_000);
    let terms = Requirements {
        scheme: if metered { Scheme::UPTO } else { Scheme::EXACT },
        network: network(),
        amount: Amount::from(amount),
        asset: "0xasset".into(),
        pay_to: "0xpayee".into(),
        max_timeout_seconds: 60,
        extra: Map::new(),
        other: Map::new(),
    };
    let nonce = format!("n{number}");
    let payload = json!({
        "from": payer, "nonce": nonce, "expires": expires.to_string(), "signature": "good",
    });
    let payment = payment_on(terms, payload.as_object().expect("an object").clone());
    let payment = match metered {
        true => {
            let charge = {
                let part = die.below(amount);
                die.one_of([0, amount, part])
            };
            payment.charging(charge.into()).expect("at most the ceiling")
        }
        false => payment,
    };
    let keyed = die.below(4) == 0;
    let caller = keyed.then(|| Digest::of(&[b"caller", &number.to_be_bytes()]));
    Plan { key: PaymentKey::new(&network(), "0xasset", payer, &nonce), payment, caller }
}

fn payment_on(terms: Requirements, payload: Map<String, serde_json::Value>) -> Payment {
    let presented = Presented {
        version: WireVersion::V2,
        scheme: terms.scheme.clone(),
        network: terms.network.clone(),
        accepted: Some(terms.clone()),
        payload,
        resource: None,
        extensions: Map::new(),
        other: Map::new(),
    };
    Payment::pair(terms, presented).expect("a payment that fits its terms")
}

/// The same authorization with other terms.
fn mutated(plan: &Plan, how: u64) -> Payment {
    let mut terms = plan.payment.terms().clone();
    match how % 2 {
        0 => terms.pay_to = "0xsomebody".into(),
        _ => terms.amount = Amount::from(1),
    }
    payment_on(terms, plan.payment.presented().payload.clone())
}

/// Presents a payment from all sides.
pub(super) async fn present(world: Arc<World>, ears: Arc<Ears>, plan: Plan) {
    let mut die = world.sea.die(plan.key.as_str());
    let within_s = world.shape.spike.map_or(world.shape.trouble_s, |(begin, _)| begin + 10);
    tokio::time::sleep(Duration::from_millis(die.below(within_s * 1_000))).await;
    let copies = die.one_of([0, 0, 1, 3]);
    let mut asking = Vec::new();
    for copy in 0..=copies {
        let (world, ears, plan) = (Arc::clone(&world), Arc::clone(&ears), plan.clone());
        asking.push(tokio::spawn(async move {
            let mut die = world.sea.die(&format!("{} {copy}", plan.key));
            if copy > 0 {
                // At once, or when the first may have an answer.
                let later = die.one_of([1, 50, 4_000, 30_000]);
                tokio::time::sleep(Duration::from_millis(die.below(later))).await;
                if die.below(4) == 0 {
                    let payment = mutated(&plan, die.below(2));
                    return ask_mutated(&world, &ears, &mut die, &plan.key, payment).await;
                }
            }
            // A copy proves to be the same request, or nothing.
            let caller = plan.caller.filter(|_| copy == 0 || die.below(2) == 0);
            ask(&world, &ears, &mut die, &plan, caller).await;
        }));
    }
    for one in asking {
        one.await.expect("callers do not panic");
    }
}

/// Presents a payment until its fate is known, or until the caller has had enough.
pub(super) async fn ask(
    world: &World,
    ears: &Ears,
    die: &mut Die,
    plan: &Plan,
    caller: Option<Digest>,
) -> bool {
    let sea = &world.sea;
    let begun = sea.seconds();
    while sea.seconds() - begun < ASK_MAX_S {
        let Some(running) = world.any_running(die) else {
            tokio::time::sleep(Duration::from_millis(300)).await;
            continue;
        };
        if die.below(4) == 0 {
            let judging = running.engine.verify_for(caller, &plan.payment);
            tokio::select! {
                biased;
                () = running.life.over() => continue,
                _ = judging => {}
            }
        }
        let wait = Duration::from_millis(die.one_of([50, 2_000, 75_000]));
        let patience = match world.in_trouble() && die.below(5) == 0 {
            true => Duration::from_millis(die.below(4_000)),
            false => Duration::from_secs(600),
        };
        let settling = running.engine.settle_for(caller, plan.payment.clone(), wait);
        let settling = fickle(world, sea.die(&format!("{} fickle", plan.key)), settling);
        let answer = tokio::select! {
            biased;
            () = running.life.over() => None,
            answer = settling => answer,
            () = tokio::time::sleep(patience) => None,
        };
        if answer.is_none() && !running.life.is_over() {
            ears.hear(&plan.key, |told| told.left += 1);
            sea.note(&format!("{} hangs up", plan.key));
            if world.in_trouble() && die.below(3) == 0 {
                return false;
            }
        }
        match answer {
            Some(Ok(Settled::Done(settlement))) => {
                sea.note(&format!("{} told done", plan.key));
                ears.hear(&plan.key, |told| {
                    *told.done.entry(caller.map(|caller| caller.0)).or_default() += 1;
                    told.transactions.push(settlement.transaction);
                });
                return true;
            }
            Some(Ok(Settled::Refused(refused))) => {
                sea.note(&format!("{} told {}", plan.key, refused.reason.code()));
                if !refused.reason.is(Refusal::DuplicateSettlement) && refused.transaction.is_some()
                {
                    ears.hear(&plan.key, |told| told.failed.push(refused));
                }
                return true;
            }
            Some(Ok(Settled::Pending { .. })) | Some(Err(_)) | None => {}
        }
        tokio::time::sleep(Duration::from_millis(100 + die.below(4_000))).await;
    }
    false
}

/// What `asked` gives; nothing when its caller hangs up just when there is an answer.
async fn fickle<T>(world: &World, mut die: Die, asked: impl Future<Output = T>) -> Option<T> {
    let mut asked = std::pin::pin!(asked);
    let mut is_begun = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut is_begun, true) && world.in_trouble() && die.below(12) == 0 {
            return Poll::Ready(None);
        }
        asked.as_mut().poll(context).map(Some)
    })
    .await
}

async fn ask_mutated(
    world: &World,
    ears: &Ears,
    die: &mut Die,
    key: &PaymentKey,
    payment: Payment,
) {
    let Some(running) = world.any_running(die) else { return };
    // With too low an amount, or another payee, it would not even be verified: nobody has signed that.
    let known = running.engine.status(key);
    let known = tokio::select! {
        biased;
        () = running.life.over() => return,
        known = known => known,
    };
    if !matches!(known, Ok(Some(_))) {
        return;
    }
    let settling = running.engine.settle_for(None, payment, Duration::from_secs(75));
    tokio::select! {
        biased;
        () = running.life.over() => {}
        answer = settling => {
            if matches!(answer, Ok(Settled::Done(_))) {
                ears.hear(key, |told| told.mutated += 1);
            }
        }
    }
}
