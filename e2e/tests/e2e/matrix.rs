//! Scheme × transfer method × kind of account, good and bad, through the gate; one oracle at the
//! end of each.

use alloy::primitives::{Address, U256};
use alloy::sol_types::SolValue as _;
use pay402_core::{Presented, Refusal};
use pay402_devchain::genesis::{DEV_ACCOUNTS, WALLET_1271, dev_signer};
use pay402_devchain::{Config, Devchain, zoo};
use pay402_e2e::den::{ANYONE, Den, PAYER, PRICE, Payer, Token, When, counterfactual, deploy};
use pay402_evm::TransferMethod;
use pay402_facilitator::Options;
use serde_json::Value;

/// The kinds of accounts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Account {
    Key,
    Deployed,
    Counterfactual,
    Delegated,
}

const ACCOUNTS: [Account; 4] =
    [Account::Key, Account::Deployed, Account::Counterfactual, Account::Delegated];

/// How it is paid: the transfer method, and the path of the scheme.
const WAYS: [(TransferMethod, &str); 3] = [
    (TransferMethod::Eip3009, "/exact"),
    (TransferMethod::Permit2, "/exact"),
    (TransferMethod::Permit2, "/upto"),
];

/// A den, and a payer of this kind with tokens.
async fn den(account: Account, method: TransferMethod) -> (Den, Payer) {
    let chain = Devchain::start(Config { chain_id: 84_532, ..Config::default() });
    let factory = deploy(&chain, zoo::WALLET_FACTORY.creation(&[])).await;
    let options = Options { strikes_max: 1_000, ..Options::default() };
    let den = Den::on(chain, Token::Usdc(method), vec![factory], options).await;
    let owned_by = |owner: Address| WALLET_1271.creation(&owner.abi_encode());
    let payer = match account {
        Account::Key => Payer::Key(PAYER),
        Account::Deployed => {
            Payer::Contract(den.deploy(owned_by(DEV_ACCOUNTS[PAYER])).await, PAYER)
        }
        Account::Counterfactual => counterfactual(factory, PAYER),
        Account::Delegated => {
            // Where nothing else is stored, this code's owner is the account itself.
            let code = den.deploy(owned_by(Address::ZERO)).await;
            den.delegate(PAYER, code).await;
            Payer::Key(PAYER)
        }
    };
    den.fund(&payer).await;
    (den, payer)
}

/// The same account, with somebody else signing for it.
fn forged(payer: &Payer) -> Payer {
    match payer {
        Payer::Key(index) => Payer::Contract(DEV_ACCOUNTS[*index], ANYONE),
        Payer::Contract(address, _) => Payer::Contract(*address, ANYONE),
        Payer::Undeployed { address, factory, calldata, .. } => Payer::Undeployed {
            address: *address,
            factory: *factory,
            calldata: calldata.clone(),
            owner: ANYONE,
        },
    }
}

/// The message with one of its signed texts changed.
fn tampered(presented: &Presented, pointer: &str, text: &str) -> Presented {
    let mut changed = presented.clone();
    let mut payload = Value::Object(changed.payload);
    *payload.pointer_mut(pointer).unwrap() = text.into();
    changed.payload = payload.as_object().unwrap().clone();
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_account_pays_in_every_way_and_is_refused_in_every_way() {
    let mut cells = 0;
    for account in ACCOUNTS {
        for (method, path) in WAYS {
            cell(account, method, path).await;
            cells += 1;
        }
    }
    assert_eq!(cells, 12);
}

async fn cell(account: Account, method: TransferMethod, path: &str) {
    let (den, payer) = den(account, method).await;
    let what = format!("{account:?} {method:?} {path}");
    let metered = path == "/upto";
    let charge = if metered { 300 } else { PRICE };
    den.charge(charge);
    // Bad ones first: none of them may cost or grant anything, or use up what is good.
    let good = den.payment(path, &payer).await;
    let (to, value) = match method {
        TransferMethod::Permit2 => {
            ("/permit2Authorization/witness/to", "/permit2Authorization/permitted/amount")
        }
        _ => ("/authorization/to", "/authorization/value"),
    };
    let stranger = dev_signer(ANYONE).address().to_checksum(None);
    let bad = [
        den.payment(path, &forged(&payer)).await,
        tampered(&good, to, &stranger),
        tampered(&good, value, &(PRICE - 1).to_string()),
        tampered(&good, value, &(PRICE + 1).to_string()),
        tampered(&good, "/signature", &format!("0x{}", "11".repeat(65))),
    ];
    for (index, payment) in bad.iter().enumerate() {
        let attempt = den.present(payment, When::Before, &[]).await;
        let refused = !attempt.granted && attempt.status == 402 && !attempt.ran;
        assert!(refused && attempt.transactions == 0, "{what}: bad {index}: {attempt:?}");
        assert!(attempt.reason.is_some(), "{what}: bad {index}: {attempt:?}");
    }
    // The good one, unless it is the one that cannot be: a wallet is deployed before it is metered.
    let attempt = den.present(&good, When::Before, &[]).await;
    if metered && account == Account::Counterfactual {
        assert!(!attempt.granted && attempt.transactions == 0, "{what}: {attempt:?}");
        assert_eq!(attempt.reason.as_deref(), Some(Refusal::DeploymentFailed.code()), "{what}");
        assert_eq!(den.audit().await.received, U256::ZERO, "{what}");
        return;
    }
    assert!(attempt.granted && attempt.status == 200, "{what}: {attempt:?}");
    assert_eq!(attempt.transactions, 1, "{what}: {attempt:?}");
    // Once, and then never again.
    let again = den.present(&good, When::Before, &[]).await;
    assert!(!again.granted && !again.ran && again.transactions == 0, "{what}: {again:?}");
    // A second one by the same payer, which is deployed by now if it was not.
    let second = den.payment(path, &payer).await;
    let attempt = den.present(&second, When::Before, &[]).await;
    assert!(attempt.granted && attempt.transactions == 1, "{what}: {attempt:?}");
    if metered {
        // And one of which nothing is charged.
        den.charge(0);
        let free = den.payment(path, &payer).await;
        let attempt = den.present(&free, When::Before, &[]).await;
        assert!(attempt.granted && attempt.transactions == 0, "{what}: {attempt:?}");
        // Nor anything later, whatever the route would like to charge then.
        den.charge(PRICE);
        let again = den.present(&free, When::Before, &[]).await;
        assert!(!again.granted && again.transactions == 0, "{what}: {again:?}");
    }
    let audit = den.audit().await;
    assert_eq!(audit.received, U256::from(2 * charge), "{what}");
    assert_eq!(audit.granted, if metered { 3 } else { 2 }, "{what}");
    assert!(audit.spent > U256::ZERO, "{what}");
}
