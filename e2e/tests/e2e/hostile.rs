//! Tokens, wallets and factories that mean ill, allowed on purpose: what they cost is bounded, what
//! they get is nothing, and the books equal the chain.

use alloy::primitives::{Address, U256};
use alloy::sol_types::{SolCall as _, SolValue as _};
use pay402_core::facilitator::Facilitator as _;
use pay402_core::{Payment, Presented, Refusal};
use pay402_devchain::genesis::{DEV_ACCOUNTS, EXACT_PERMIT2_PROXY};
use pay402_devchain::{Config, Devchain, zoo};
use pay402_e2e::den::{
    ANYONE, Attempt, Den, GAS_LIMIT_MAX, Meddling, PAYEE, PAYER, PRICE, Payer, Token, When, abi,
    counterfactual,
};
use pay402_evm::TransferMethod;
use pay402_evm::contracts::{ExactProxy, ExactWitness, PermitTransferFrom, TokenPermissions};
use pay402_evm::exact::Permit2Payload;
use pay402_facilitator::Options;

/// Bounds of an attempt that must not get anything, by when somebody meddled.
#[track_caller]
fn gets_nothing(attempt: &Attempt, when: When) {
    assert!(!attempt.granted, "{when:?}: {attempt:?}");
    assert_ne!(attempt.status, 200, "{when:?}: {attempt:?}");
    match when {
        // Refused when it is verified, or when it is verified again to settle it.
        When::Before | When::InHandler => {
            assert_eq!((attempt.transactions, attempt.gas), (0, 0), "{when:?}: {attempt:?}");
            assert_eq!(attempt.ran, when == When::InHandler, "{when:?}: {attempt:?}");
        }
        When::InPool => {
            assert_eq!(attempt.transactions, 1, "{attempt:?}");
            assert!(attempt.gas > 0 && attempt.gas <= GAS_LIMIT_MAX, "{attempt:?}");
        }
    }
}

#[track_caller]
fn gets_it(attempt: &Attempt) {
    assert!(attempt.granted && attempt.status == 200, "{attempt:?}");
    assert_eq!(attempt.transactions, 1, "{attempt:?}");
}

fn key() -> Payer {
    Payer::Key(PAYER)
}

/// A den with a token of the zoo, and a payer who has some.
async fn with_token(artifact: &pay402_devchain::genesis::Artifact) -> Den {
    let den = Den::start(Token::Erc20(artifact.creation(&[])), Vec::new()).await;
    den.fund(&key()).await;
    den
}

/// At each moment somebody has the token misbehave, and then behave again. Gives the attempts.
async fn at_every_moment(den: &Den, bad: &[Meddling], good: &[Meddling]) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for when in When::ALL {
        let payment = den.payment("/exact", &key()).await;
        let attempt = den.present(&payment, when, bad).await;
        gets_nothing(&attempt, when);
        attempts.push(attempt);
        // Behaving again, it is as good as any.
        let payment = den.payment("/exact", &key()).await;
        gets_it(&den.present(&payment, When::Before, good).await);
    }
    let audit = den.audit().await;
    assert_eq!(audit.granted, 3);
    assert_eq!(audit.received, U256::from(3 * PRICE));
    attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_token_is_paid_with() {
    let den = with_token(&zoo::PLAIN_TOKEN).await;
    gets_it(&den.present(&den.payment("/exact", &key()).await, When::Before, &[]).await);
    den.charge(400);
    gets_it(&den.present(&den.payment("/upto", &key()).await, When::Before, &[]).await);
    assert_eq!(den.audit().await.received, U256::from(PRICE + 400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_keeps_a_fee_pays_for_nothing() {
    let den = with_token(&zoo::FEE_TOKEN).await;
    let had = den.tokens_of(DEV_ACCOUNTS[PAYEE]).await;
    let attempt = den.present(&den.payment("/exact", &key()).await, When::Before, &[]).await;
    // It verifies, and its own log gives it away.
    assert!(!attempt.granted, "{attempt:?}");
    assert!(attempt.transactions <= 1 && attempt.gas <= GAS_LIMIT_MAX, "{attempt:?}");
    assert_eq!(attempt.reason.as_deref(), Some(Refusal::TransferEventMismatch.code()));
    // What did arrive was not what was asked for, and no more than that arrived.
    assert_eq!(den.tokens_of(DEV_ACCOUNTS[PAYEE]).await - had, U256::from(PRICE - PRICE / 100));
    den.assert_fees().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_shrinks_is_found_out_or_pays_whole() {
    let den = with_token(&zoo::REBASING_TOKEN).await;
    let token = den.asset.token();
    let index = |index: u64| Meddling::new(token, &abi::rebaseCall { newIndex: U256::from(index) });
    // So little that the balance does not suffice.
    let (tiny, whole) = (index(100_000_000_000_000), index(1_000_000_000_000_000_000));
    at_every_moment(&den, &[tiny], &[whole]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_answers_false_pays_for_nothing() {
    let den = with_token(&zoo::RETURNS_FALSE_TOKEN).await;
    let says = |value| [Meddling::new(den.asset.token(), &abi::setRefusingCall { value })];
    at_every_moment(&den, &says(true), &says(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_paused_or_bars_somebody_pays_for_nothing() {
    let den = with_token(&zoo::PAUSABLE_TOKEN).await;
    let token = den.asset.token();
    let paused = |value| Meddling::new(token, &abi::setPausedCall { value });
    at_every_moment(&den, &[paused(true)], &[paused(false)]).await;
    for account in [DEV_ACCOUNTS[PAYER], DEV_ACCOUNTS[PAYEE]] {
        let den = with_token(&zoo::PAUSABLE_TOKEN).await;
        let token = den.asset.token();
        let bars = |value| Meddling::new(token, &abi::setBlacklistedCall { account, value });
        at_every_moment(&den, &[bars(true)], &[bars(false)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_burns_gas_costs_no_more_than_its_estimate() {
    for amount in [U256::from(10_000_000), U256::MAX] {
        let den = with_token(&zoo::GAS_BURNER_TOKEN).await;
        let burns = |amount| [Meddling::new(den.asset.token(), &abi::setGasToBurnCall { amount })];
        at_every_moment(&den, &burns(amount), &burns(U256::ZERO)).await;
        // What is wasted within the cap is the operator's to allow, and is paid for.
        den.tell(den.asset.token(), &abi::setGasToBurnCall { amount: U256::from(200_000) }).await;
        let attempt = den.present(&den.payment("/exact", &key()).await, When::Before, &[]).await;
        gets_it(&attempt);
        assert!(attempt.gas > 200_000 && attempt.gas <= GAS_LIMIT_MAX, "{attempt:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_endless_answers_costs_no_more_than_its_estimate() {
    let den = with_token(&zoo::RETURN_BOMB_TOKEN).await;
    let says = |length: u64| {
        let length = U256::from(length);
        [Meddling::new(den.asset.token(), &abi::setAnswerBytesCall { length })]
    };
    at_every_moment(&den, &says(1_000_000), &says(32)).await;
}

/// The call that settles an exact payment by Permit2.
fn settle_call(presented: &Presented) -> ExactProxy::settleCall {
    let payload = Permit2Payload::parse(&presented.payload, &presented.scheme).unwrap();
    let permit = payload.permit;
    ExactProxy::settleCall {
        permit: PermitTransferFrom {
            permitted: TokenPermissions { token: permit.token, amount: permit.permitted },
            nonce: permit.nonce,
            deadline: permit.deadline,
        },
        owner: permit.from,
        witness: ExactWitness { to: permit.to, validAfter: permit.valid_after },
        signature: payload.signature.expose().to_vec().into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_calls_back_gets_nothing_twice() {
    let den = with_token(&zoo::REENTRANT_TOKEN).await;
    let token = den.asset.token();
    let calls = |target: Address, data: Vec<u8>| {
        [Meddling::new(token, &abi::setCallbackCall { newTarget: target, newData: data.into() })]
    };
    // The very settlement again, from within it: Permit2 knows the nonce.
    for when in When::ALL {
        let payment = den.payment("/exact", &key()).await;
        let again = calls(EXACT_PERMIT2_PROXY, settle_call(&payment).abi_encode());
        let attempt = den.present(&payment, when, &again).await;
        gets_it(&attempt);
        assert!(attempt.gas <= GAS_LIMIT_MAX, "{attempt:?}");
        // Presented again it is used.
        let repeated = den.present(&payment, When::Before, &[]).await;
        assert!(!repeated.granted && repeated.transactions == 0, "{repeated:?}");
    }
    let audit = den.audit().await;
    assert_eq!((audit.granted, audit.received), (3, U256::from(3 * PRICE)));
    // Another payment, from within this one: the proxy lets nobody in twice, so that it is a
    // payment like any other afterwards.
    let (outer, inner) = (den.payment("/exact", &key()).await, den.payment("/exact", &key()).await);
    let within = calls(EXACT_PERMIT2_PROXY, settle_call(&inner).abi_encode());
    gets_it(&den.present(&outer, When::InPool, &within).await);
    gets_it(&den.present(&inner, When::Before, &[]).await);
    let late = den.present(&inner, When::Before, &[]).await;
    assert!(!late.granted && late.transactions == 0, "{late:?}");
    let audit = den.audit().await;
    assert_eq!((audit.granted, audit.received), (5, U256::from(5 * PRICE)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_silent_on_a_used_nonce_grants_once() {
    let token = Token::Eip3009(zoo::SILENT_NONCE_TOKEN.creation(&[]), "SilentNonce", "1");
    let den = Den::start(token, Vec::new()).await;
    den.fund(&key()).await;
    let payment = den.payment("/exact", &key()).await;
    gets_it(&den.present(&payment, When::Before, &[]).await);
    let head = den.chain.block_number();
    // A hundred replays at the gate, and as many by somebody who goes to the facilitator.
    for _ in 0..100 {
        let again = den.present(&payment, When::Before, &[]).await;
        assert!(!again.granted && again.transactions == 0, "{again:?}");
    }
    let terms = payment.accepted.clone().unwrap();
    let paired = Payment::pair(terms, payment).unwrap();
    for _ in 0..100 {
        let settled = den.engine.settle(&paired).await.unwrap();
        assert!(matches!(settled, pay402_core::facilitator::Settled::Refused(_)), "{settled:?}");
    }
    assert_eq!(den.chain.block_number(), head, "a transaction was sent");
    assert_eq!(den.audit().await.granted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_transaction_is_no_payment() {
    // While ours waits, the payer uses the nonce to pay itself: ours succeeds, and moves nothing.
    let token = Token::Eip3009(zoo::SILENT_NONCE_TOKEN.creation(&[]), "SilentNonce", "1");
    let den = Den::start(token, Vec::new()).await;
    den.fund(&key()).await;
    let payment = den.payment("/exact", &key()).await;
    let own = own_use(&den, &payment);
    let attempt = den.present(&payment, When::InPool, &[own]).await;
    gets_nothing(&attempt, When::InPool);
    assert_eq!(den.audit().await.received, U256::ZERO);
}

/// The payer pays itself with the nonce of `payment`.
fn own_use(den: &Den, payment: &Presented) -> Meddling {
    use alloy::signers::SignerSync as _;
    use pay402_evm::contracts::Eip3009;
    use pay402_evm::exact::Eip3009Payload;
    use pay402_evm::typed_data::{Authorization, token_domain};
    let mut own: Authorization = Eip3009Payload::parse(&payment.payload).unwrap().authorization;
    own.to = own.from;
    let domain = token_domain(&den.asset.info, den.chain.chain_id(), den.asset.token());
    let digest = own.digest(&domain);
    let signature = pay402_devchain::genesis::dev_signer(PAYER).sign_hash_sync(&digest).unwrap();
    let call = Eip3009::transferWithAuthorization_1Call {
        from: own.from,
        to: own.to,
        value: own.value,
        validAfter: own.valid_after,
        validBefore: own.valid_before,
        nonce: own.nonce,
        signature: signature.as_bytes().to_vec().into(),
    };
    Meddling::new(den.asset.token(), &call)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_permit_fails_at_length_is_refused() {
    let den = with_token(&zoo::FAILING_PERMIT_TOKEN).await;
    let long = abi::setRefusalCall { newRefusal: vec![0xab; 4_096].into() };
    den.tell(den.asset.token(), &long).await;
    let without =
        abi::approveCall { spender: pay402_devchain::genesis::PERMIT2, value: U256::ZERO };
    den.send(PAYER, den.asset.token().into(), without.abi_encode().into()).await;
    let mut payment = den.payment("/exact", &key()).await;
    let info = serde_json::json!({
        "from": DEV_ACCOUNTS[PAYER].to_checksum(None),
        "asset": den.asset.token().to_checksum(None),
        "spender": pay402_devchain::genesis::PERMIT2.to_checksum(None),
        "amount": PRICE.to_string(),
        "nonce": "0",
        "deadline": (den.chain.now() + 60).to_string(),
        "signature": format!("0x{}1b", "11".repeat(64)),
        "version": "1",
    });
    payment.extensions.insert("eip2612GasSponsoring".into(), serde_json::json!({ "info": info }));
    let attempt = den.present(&payment, When::Before, &[]).await;
    gets_nothing(&attempt, When::Before);
    assert_eq!(attempt.reason.as_deref(), Some(Refusal::PermitSimulationFailed.code()));
    den.audit().await;
}

// === Wallets and factories, with a token that is honest ===

async fn with_usdc(method: TransferMethod) -> Den {
    Den::start(Token::Usdc(method), Vec::new()).await
}

const METHODS: [TransferMethod; 2] = [TransferMethod::Eip3009, TransferMethod::Permit2];

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_changes_its_mind_gets_nothing() {
    for method in METHODS {
        let den = with_usdc(method).await;
        let wallet = den.deploy(zoo::FLIP_WALLET.creation(&U256::MAX.abi_encode())).await;
        let payer = Payer::Contract(wallet, ANYONE);
        den.fund(&payer).await;
        let flips = |block: U256| {
            [Meddling::new(wallet, &abi::setFlipsAtCall { firstRefusingBlock: block })]
        };
        for when in When::ALL {
            let payment = den.payment("/exact", &payer).await;
            gets_nothing(&den.present(&payment, when, &flips(U256::ZERO)).await, when);
            let payment = den.payment("/exact", &payer).await;
            gets_it(&den.present(&payment, When::Before, &flips(U256::MAX)).await);
        }
        assert_eq!(den.audit().await.granted, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_burns_gas_gets_nothing_and_costs_its_estimate() {
    for method in METHODS {
        let den = with_usdc(method).await;
        let wallet = den.deploy(zoo::GAS_WALLET.creation(&[])).await;
        let payer = Payer::Contract(wallet, ANYONE);
        den.fund(&payer).await;
        let burns = |amount| [Meddling::new(wallet, &abi::setGasToBurnCall { amount })];
        for amount in [U256::from(10_000_000), U256::MAX] {
            for when in When::ALL {
                let payment = den.payment("/exact", &payer).await;
                gets_nothing(&den.present(&payment, when, &burns(amount)).await, when);
                den.tell(wallet, &abi::setGasToBurnCall { amount: U256::ZERO }).await;
            }
        }
        gets_it(&den.present(&den.payment("/exact", &payer).await, When::Before, &[]).await);
        assert_eq!(den.audit().await.granted, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_factory_that_deploys_nothing_costs_nothing() {
    for method in METHODS {
        let chain = Devchain::start(Config { chain_id: 84_532, ..Config::default() });
        let evil = pay402_e2e::den::deploy(&chain, zoo::EVIL_FACTORY.creation(&[])).await;
        let options = Options { strikes_max: 1_000, ..Options::default() };
        let den = Den::on(chain, Token::Usdc(method), vec![evil], options).await;
        let payer = counterfactual(evil, PAYER);
        den.fund(&payer).await;
        for amount in [U256::ZERO, U256::from(10_000_000), U256::MAX] {
            let burns = [Meddling::new(evil, &abi::setGasToBurnCall { amount })];
            let payment = den.payment("/exact", &payer).await;
            let attempt = den.present(&payment, When::Before, &burns).await;
            gets_nothing(&attempt, When::Before);
            assert_eq!(attempt.reason.as_deref(), Some(Refusal::DeploymentFailed.code()));
        }
        den.audit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_who_keeps_costing_us_gas_is_refused() {
    let chain = Devchain::start(Config { chain_id: 84_532, ..Config::default() });
    let token = Token::Usdc(TransferMethod::Eip3009);
    let den = Den::on(chain, token, Vec::new(), Options::default()).await;
    let wallet = den.deploy(zoo::GAS_WALLET.creation(&[])).await;
    let payer = Payer::Contract(wallet, ANYONE);
    den.fund(&payer).await;
    let burns = [Meddling::new(wallet, &abi::setGasToBurnCall { amount: U256::MAX })];
    let mut gas = 0;
    for count in 0..20 {
        den.tell(wallet, &abi::setGasToBurnCall { amount: U256::ZERO }).await;
        let payment = den.payment("/exact", &payer).await;
        let attempt = den.present(&payment, When::InPool, &burns).await;
        assert!(!attempt.granted);
        gas += attempt.gas;
        if count < 3 {
            gets_nothing(&attempt, When::InPool);
        } else {
            assert_eq!(attempt.status, 429, "{attempt:?}");
            assert_eq!(attempt.reason.as_deref(), Some(Refusal::PayerSuspended.code()));
            assert!(!attempt.ran && attempt.transactions == 0, "{attempt:?}");
        }
    }
    assert!(gas <= 3 * GAS_LIMIT_MAX, "{gas}");
    // Nobody else is meant.
    let other = Payer::Key(PAYER);
    gets_it(&den.present(&den.payment("/exact", &other).await, When::Before, &[]).await);
    assert_eq!(den.audit().await.granted, 1);
}
