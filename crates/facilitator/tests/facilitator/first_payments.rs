//! Payments that bring their account's adoption along, through the engine: one transaction for all of
//! it, across crashes, and no more of them in a day than the operator allows.

use alloy::eips::eip7702::Authorization;
use alloy::primitives::{Address, Bytes, U256};
use alloy::signers::SignerSync as _;
use alloy::sol_types::SolCall as _;
use pay402_core::facilitator::Settled;
use pay402_core::{Payment, Refusal};
use pay402_devchain::genesis::USDC_ADDRESS;
use pay402_evm::account::AGENT_ACCOUNT;
use pay402_evm::exact::Erc7710Payload;
use pay402_evm::signature::SignatureBytes;
use pay402_facilitator::Options;
use pay402_facilitator::failpoint::{Failpoint, Failpoints};
use serde_json::{Value, json};

use crate::agent::{self as account, Session, TokenLimit, seconds};
use crate::bed::{LONG, done, options, refused, settle};
use crate::delegations::{PRICE, payee, presented, terms};
use crate::errands::{CHAIN_ID, DAILY_MAX, House, START, account_of};

/// How long what is signed here is good.
const END: u64 = START + 300;

fn session(key: Address) -> Session {
    Session {
        key,
        validAfter: seconds(START - 60),
        expiry: seconds(START + 30 * 24 * 60 * 60),
        anyPayee: true,
        payees: Vec::new(),
        tokens: vec![TokenLimit {
            token: USDC_ADDRESS,
            cap: u128::from(PRICE),
            budget: 100 * u128::from(PRICE),
            window: 86_400,
            slots: 0,
        }],
    }
}

/// What makes `key` a session key of the root's account, and the account one.
fn adoption_with(key: Address) -> Value {
    let (root, owner) = (account::signer("root"), account_of("root"));
    let tuple = Authorization { chain_id: U256::from(CHAIN_ID), address: AGENT_ACCOUNT, nonce: 0 };
    let signed = tuple.clone().into_signed(root.sign_hash_sync(&tuple.signature_hash()).unwrap());
    let call = owner.register(&root, vec![session(key)], 0, END).abi_encode();
    json!({
        "authorization": {
            "chainId": CHAIN_ID,
            "address": AGENT_ACCOUNT,
            "nonce": 0,
            "yParity": signed.y_parity(),
            "r": format!("{:#066x}", signed.r()),
            "s": format!("{:#066x}", signed.s()),
        },
        "call": Bytes::from(call),
    })
}

/// A payment by the session key of this name, which it brings along if `adopts`.
fn payment(name: &str, nonce: u64, adopts: bool) -> Payment {
    let (key, owner) = (account::signer(name), account_of("root"));
    let agreed = account::Payment {
        token: USDC_ADDRESS,
        to: payee(),
        value: U256::from(PRICE),
        nonce: U256::from(nonce),
        validAfter: seconds(START - 60),
        deadline: seconds(END),
        epoch: 0,
    };
    let context = SignatureBytes::new(owner.context(&key, &agreed).to_vec());
    let (manager, delegator) = (owner.address, owner.address);
    let mut presented = presented(Erc7710Payload { manager, delegator, context }.to_json());
    if adopts {
        let info = adoption_with(key.address());
        presented.extensions.insert("accountAdoption".into(), json!({ "info": info }));
    }
    Payment::pair(terms(), presented).unwrap()
}

#[tokio::test]
async fn a_crash_at_any_point_adopts_and_pays_exactly_once() {
    // The turn of the day is an entry too, and the first to be closed.
    for (passes, point) in [
        (0, Failpoint::AfterTurnBeforeEnter),
        (0, Failpoint::AfterEnter),
        (0, Failpoint::AfterSignBeforeJournal),
        (0, Failpoint::AfterJournalBeforeSend),
        (0, Failpoint::AfterSendBeforeSent),
        (0, Failpoint::AfterProofBeforeClose),
        (1, Failpoint::AfterProofBeforeClose),
        (0, Failpoint::AfterCloseBeforeAnswer),
        (1, Failpoint::AfterCloseBeforeAnswer),
    ] {
        let house = House::new();
        house.fund(account_of("root").address);
        let (failpoints, reached) = Failpoints::hold_after(passes, point);
        let engine = house.start(Options { failpoints, ..options() }).await;
        let asked = tokio::spawn({
            let engine = engine.clone();
            async move { settle(&engine, payment("agent", 1, true), LONG).await }
        });
        let waited = tokio::time::timeout(LONG, reached.notified()).await;
        assert!(waited.is_ok(), "no scenario reaches {point} after {passes}");
        let engine = house.restart(engine).await;
        let told = asked.await.unwrap();
        assert!(!matches!(told, Settled::Done(_)), "{point}: told by a crashed process");
        let again = settle(&engine, payment("agent", 1, true), LONG).await;
        // Of the payment itself, whose answer is lost: the turn was closed before it.
        if (passes, point) == (1, Failpoint::AfterCloseBeforeAnswer) {
            refused(again, Refusal::DuplicateSettlement);
        } else {
            done(&again);
        }
        assert!(house.is_adopted("root").await, "{point}");
        assert_eq!(house.payee_has().await, U256::from(PRICE), "{point} after {passes}");
        assert_eq!(house.sent().await, 1, "{point} after {passes}: sent twice");
        house.proven().await;
    }
}

#[tokio::test]
async fn what_we_pay_beside_payments_is_so_much_a_day() {
    let house = House::new();
    house.fund(account_of("root").address);
    let engine = house.start(options()).await;
    // The first adopts; each has us register one more key.
    for turn in 0..DAILY_MAX {
        let name = format!("agent {turn}");
        done(&settle(&engine, payment(&name, 1, true), LONG).await);
    }
    let engine = house.restart(engine).await;
    let told = settle(&engine, payment("one more", 1, true), LONG).await;
    refused(told, Refusal::SponsoringLimit);
    // Payments of keys that are registered are not sponsored, whatever they bring along.
    done(&settle(&engine, payment("agent 0", 2, true), LONG).await);
    done(&settle(&engine, payment("agent 1", 2, false), LONG).await);
    assert_eq!(house.sent().await, u64::from(DAILY_MAX) + 2);
    house.proven().await;
}
