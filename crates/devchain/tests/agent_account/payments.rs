//! Payments by ERC-7710: what a session key may pay, and every way in which it may not.
#![allow(clippy::unwrap_used, reason = "this is test code, which the lint does not recognise here")]

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::{SolCall, SolError};
use pay402_devchain::genesis::{AGENT_ACCOUNT_ADDRESS, USDC_ADDRESS};

use crate::signed::{
    Account, AgentAccount, Payment, Session, TokenLimit, context, execution, packed_call, redeem,
    seconds, signer,
};
use crate::support::permit2::twin;
use crate::support::{PAYEE, Usdc};
use crate::world::{BUDGET, CAP, CHAIN, FUNDS, Mood, PUPPET, WINDOW, World, designator, limit};

#[tokio::test]
async fn the_fourth_payment_of_a_budget_of_three_is_refused() {
    let world = World::ready().await;
    for nonce in 0..3 {
        world.pays(&world.payment(CAP, nonce)).await;
    }
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(CAP, 3)).await;
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 3)).await;
    assert_eq!(world.balance().await, U256::from(FUNDS - BUDGET));
}

#[tokio::test]
async fn a_plain_erc_20_is_paid_without_gas() {
    let world = World::with_puppet(limit(PUPPET)).await;
    let payment = Payment { token: PUPPET, ..world.payment(CAP, 0) };
    world.pays(&payment).await;
    assert_eq!(world.puppets(PAYEE).await, U256::from(CAP));
    assert_eq!(world.puppets(world.root.address()).await, U256::from(FUNDS - CAP));
}

#[tokio::test]
async fn a_budget_comes_back_with_the_next_window_and_two_may_meet_at_the_boundary() {
    let world = World::ready().await;
    let boundary = world.now() + WINDOW;
    world.set_time(boundary - 1);
    for nonce in 0..3 {
        world.pays(&world.payment(CAP, nonce)).await;
    }
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 3)).await;
    world.set_time(boundary);
    for nonce in 3..6 {
        world.pays(&world.payment(CAP, nonce)).await;
    }
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 6)).await;
    // Two budgets in two seconds: that is the worst, and it takes a whole window before there is a third.
    world.set_time(boundary + WINDOW - 1);
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 6)).await;
    world.set_time(boundary + WINDOW);
    world.pays(&world.payment(1, 6)).await;
}

#[tokio::test]
async fn a_window_longer_than_the_session_is_a_budget_for_all_of_it() {
    let world = World::new();
    let window = u32::try_from(31 * WINDOW).unwrap();
    let session =
        Session { tokens: vec![TokenLimit { window, ..limit(USDC_ADDRESS) }], ..world.session() };
    let expiry = world.now() + 30 * WINDOW;
    assert!(world.adopt(Some(world.registration(vec![session]).abi_encode())).await.status());
    for nonce in 0..3 {
        world.pays(&world.payment(CAP, nonce)).await;
    }
    world.set_time(expiry - 1);
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 3)).await;
}

#[tokio::test]
async fn a_session_has_a_first_and_a_last_second() {
    let world = World::new();
    let (start, expiry) = (world.now() + 1_000, world.now() + 2_000);
    let session =
        Session { validAfter: seconds(start), expiry: seconds(expiry), ..world.session() };
    assert!(world.adopt(Some(world.registration(vec![session]).abi_encode())).await.status());
    world.set_time(start - 1);
    world.refuses_payment::<AgentAccount::SessionNotStarted>(&world.payment(1, 0)).await;
    world.set_time(start);
    world.pays(&world.payment(1, 0)).await;
    world.set_time(expiry - 1);
    world.pays(&world.payment(1, 1)).await;
    let waiting = world.payment(1, 2);
    world.set_time(expiry);
    // The payment itself would still be good.
    world.refuses_payment::<AgentAccount::SessionExpired>(&waiting).await;
}

#[tokio::test]
async fn a_payment_has_a_first_and_a_last_second_and_a_short_life() {
    let world = World::ready().await;
    let now = world.now();
    let times = |from: u64, to: u64| Payment {
        validAfter: seconds(from),
        deadline: seconds(to),
        ..world.payment(1, 0)
    };
    let early = times(now + 1, now + 60);
    world.refuses_payment::<AgentAccount::NotYetValid>(&early).await;
    let late = times(now - 60, now - 1);
    world.refuses_payment::<AgentAccount::DeadlinePassed>(&late).await;
    let long = times(now - 1, now + 3_600);
    world.refuses_payment::<AgentAccount::LifetimeTooLong>(&long).await;
    // Both ends are inclusive.
    world.pays(&times(now, now)).await;
    world.pays(&Payment { nonce: U256::from(1), ..times(now, now + 3_600) }).await;
    // The root may sign for as long as it likes, and what it signed ends all the same.
    let patient = times(0, now + 10_000_000);
    world.works(&world.account.redeem(&world.root, &patient)).await;
    let past = Payment { nonce: U256::from(1), ..times(0, now - 1) };
    world
        .refuses::<AgentAccount::DeadlinePassed, _>(&world.account.redeem(&world.root, &past))
        .await;
}

#[tokio::test]
async fn no_payment_is_above_the_cap() {
    let world = World::ready().await;
    world.refuses_payment::<AgentAccount::OverCap>(&world.payment(CAP + 1, 0)).await;
    for value in [U256::from(u128::MAX), U256::MAX] {
        let payment = Payment { value, ..world.payment(0, 0) };
        world.refuses_payment::<AgentAccount::OverCap>(&payment).await;
    }
    world.pays(&world.payment(CAP, 0)).await;
}

#[tokio::test]
async fn no_payee_but_the_listed_ones_unless_any() {
    let world = World::ready().await;
    let stranger = Address::repeat_byte(0x11);
    let payment = Payment { to: stranger, ..world.payment(1, 0) };
    world.refuses_payment::<AgentAccount::PayeeNotAllowed>(&payment).await;
    let free = signer("free");
    let session =
        Session { key: free.address(), anyPayee: true, payees: vec![], ..world.session() };
    world.works(&world.registration(vec![session])).await;
    world.works(&world.account.redeem(&free, &payment)).await;
    assert_eq!(world.harness.usdc(stranger).await, U256::from(1));
}

#[tokio::test]
async fn no_token_but_the_listed_ones() {
    let world = World::with_puppet(limit(USDC_ADDRESS)).await;
    let payment = Payment { token: PUPPET, ..world.payment(1, 0) };
    world.refuses_payment::<AgentAccount::TokenNotAllowed>(&payment).await;
    assert_eq!(world.puppets(world.root.address()).await, U256::from(FUNDS));
}

#[tokio::test]
async fn tokens_and_keys_have_budgets_of_their_own() {
    let world = World::new();
    world.mint_puppets().await;
    let second = signer("second");
    let tokens = vec![limit(USDC_ADDRESS), limit(PUPPET)];
    let sessions = vec![
        Session { tokens: tokens.clone(), ..world.session() },
        Session { key: second.address(), tokens, ..world.session() },
    ];
    assert!(world.adopt(Some(world.registration(sessions).abi_encode())).await.status());
    for key in [&world.key, &second] {
        for (token, first) in [(USDC_ADDRESS, 0), (PUPPET, 10)] {
            // The same nonces for both keys: each has its own.
            for nonce in first..first + 3 {
                let payment = Payment { token, ..world.payment(CAP, nonce) };
                world.works(&world.account.redeem(key, &payment)).await;
            }
            let payment = Payment { token, ..world.payment(CAP, first + 3) };
            let call = world.account.redeem(key, &payment);
            world.refuses::<AgentAccount::OverBudget, _>(&call).await;
        }
    }
}

#[tokio::test]
async fn a_nonce_is_used_once_in_any_order() {
    let world = World::ready().await;
    let first = world.payment(1, 300);
    world.pays(&first).await;
    world.refuses_payment::<AgentAccount::NonceUsed>(&first).await;
    let other_value = world.payment(2, 300);
    world.refuses_payment::<AgentAccount::NonceUsed>(&other_value).await;
    for nonce in [U256::MAX, U256::from(299), U256::from(301), U256::ZERO, U256::from(300 + 256)] {
        let payment = Payment { nonce, ..world.payment(1, 0) };
        world.pays(&payment).await;
        world.refuses_payment::<AgentAccount::NonceUsed>(&payment).await;
    }
    // A payment that was refused has used nothing.
    world.refuses_payment::<AgentAccount::OverCap>(&world.payment(CAP + 1, 7)).await;
    world.pays(&world.payment(1, 7)).await;
}

#[tokio::test]
async fn only_erc_7579_single_calls() {
    let world = World::ready().await;
    let good = world.account.redeem(&world.key, &world.payment(1, 0));
    for byte in [0, 1, 31] {
        let mut mode = B256::ZERO;
        mode[byte] = 1;
        let call = AgentAccount::redeemDelegationsCall { modes: vec![mode], ..good.clone() };
        world.refuses::<AgentAccount::UnsupportedMode, _>(&call).await;
    }
    world.works(&good).await;
}

#[tokio::test]
async fn only_a_transfer_of_erc_20_and_nothing_around_it() {
    let world = World::ready().await;
    let payment = world.payment(1, 0);
    let signed = world.account.context(&world.key, &payment);
    let (to, value) = (PAYEE, payment.value);
    let transfer = Usdc::transferCall { to, value }.abi_encode();
    let approve = approveCall { spender: to, value }.abi_encode();
    let from = world.root.address();
    let transfer_from = Usdc::transferFromCall { from, to, value }.abi_encode();
    let trailing = [&transfer[..], &[0]].concat();
    let dirty = [&transfer[..4], &[1], &transfer[5..]].concat();
    let zero = U256::ZERO;
    type Wrong = AgentAccount::NotATransfer;
    let call = |wei, data: &[u8]| redeem(signed.clone(), packed_call(USDC_ADDRESS, wei, data));
    world.refuses::<Wrong, _>(&call(zero, &approve)).await;
    world.refuses::<Wrong, _>(&call(zero, &dirty)).await;
    world.refuses::<Wrong, _>(&call(U256::from(1), &transfer)).await;
    type Malformed = AgentAccount::MalformedExecution;
    world.refuses::<Malformed, _>(&call(zero, &transfer_from)).await;
    world.refuses::<Malformed, _>(&call(zero, &trailing)).await;
    world.refuses::<Malformed, _>(&call(zero, &transfer[..67])).await;
    world.refuses::<Malformed, _>(&redeem(signed.clone(), Bytes::new())).await;
    // The account never calls itself, not even for the root.
    let inward = Payment { token: world.root.address(), ..payment.clone() };
    let call_inward = world.account.redeem(&world.root, &inward);
    world.refuses::<AgentAccount::BadToken, _>(&call_inward).await;
    let allowance = Usdc::allowanceCall { holder: from, spender: PAYEE };
    assert_eq!(world.harness.read(&allowance).await, U256::ZERO);
    world.works(&call(zero, &transfer)).await;
}

#[tokio::test]
async fn what_is_paid_is_what_was_signed() {
    let world = World::ready().await;
    let payment = world.payment(5, 0);
    let signed = world.account.context(&world.key, &payment);
    let other = Address::repeat_byte(0x12);
    for execution in [
        execution(USDC_ADDRESS, PAYEE, U256::from(6)),
        execution(USDC_ADDRESS, other, U256::from(5)),
        execution(PUPPET, PAYEE, U256::from(5)),
    ] {
        let call = redeem(signed.clone(), execution);
        world.refuses::<AgentAccount::BadSignature, _>(&call).await;
    }
    // Every byte of the context counts.
    let asked = execution(payment.token, payment.to, payment.value);
    for (at, error) in [
        (0, AgentAccount::BadSignature::SELECTOR),
        (27, AgentAccount::WrongEpoch::SELECTOR),
        (59, AgentAccount::BadSignature::SELECTOR),
        (65, AgentAccount::BadSignature::SELECTOR),
        (71, AgentAccount::BadSignature::SELECTOR),
        (72, AgentAccount::BadSignature::SELECTOR),
        (135, AgentAccount::BadSignature::SELECTOR),
        (136, AgentAccount::BadSignature::SELECTOR),
    ] {
        let mut bytes = signed.to_vec();
        bytes[at] ^= 1;
        let call = redeem(bytes.into(), asked.clone());
        assert_eq!(world.refusal_of(call.abi_encode()).await[..], error, "byte {at}");
    }
    for context in [signed.slice(..136), [&signed[..], &[0]].concat().into(), Bytes::new()] {
        let call = redeem(context, asked.clone());
        world.refuses::<AgentAccount::MalformedContext, _>(&call).await;
    }
    world.works(&redeem(signed, asked)).await;
}

#[tokio::test]
async fn only_the_keys_own_low_signature_counts() {
    let world = World::ready().await;
    let payment = world.payment(5, 0);
    let asked = execution(payment.token, payment.to, payment.value);
    let stranger = signer("stranger");
    let by_stranger = world.account.sign(&stranger, &payment);
    let own = world.account.sign(&world.key, &payment);
    type Bad = AgentAccount::BadSignature;
    let key = world.key.address();
    let mut zero_v = own.to_vec();
    zero_v[64] -= 27;
    for signature in [by_stranger.clone(), twin(&own), vec![0; 65].into(), zero_v.into()] {
        let call = redeem(context(key, &payment, &signature), asked.clone());
        world.refuses::<Bad, _>(&call).await;
    }
    // A signature of nobody is not the zero address's.
    let nobody = redeem(context(Address::ZERO, &payment, &[0; 65]), asked.clone());
    world.refuses::<Bad, _>(&nobody).await;
    let unknown = redeem(context(stranger.address(), &payment, &by_stranger), asked);
    world.refuses::<AgentAccount::SessionUnknown, _>(&unknown).await;
}

#[tokio::test]
async fn a_payment_belongs_to_one_account_and_one_chain() {
    let world = World::ready().await;
    // The same key is registered at two accounts, and on two chains.
    let root = signer("other root");
    let other = Account { address: root.address(), ..world.account };
    world.harness.chain.set_code(other.address, designator(AGENT_ACCOUNT_ADDRESS));
    world.harness.set_usdc(other.address, FUNDS);
    let call = other.register(&root, vec![world.session()], 0, world.now() + 600).abi_encode();
    assert!(world.send_raw(other.address, call, U256::ZERO).await.status());
    let payment = world.payment(CAP, 0);
    let at_home = world.account.redeem(&world.key, &payment).abi_encode();
    assert!(!world.send_raw(other.address, at_home.clone(), U256::ZERO).await.status());
    assert_eq!(world.harness.usdc(other.address).await, U256::from(FUNDS));

    let away = World::on(CHAIN + 1);
    let call = away.registration(vec![away.session()]).abi_encode();
    assert!(away.adopt(Some(call)).await.status());
    let refusal = away.refusal_of(at_home.clone()).await;
    assert_eq!(refusal[..], AgentAccount::BadSignature::SELECTOR);
    away.pays(&payment).await;

    assert!(world.send_raw(world.root.address(), at_home, U256::ZERO).await.status());
    let there = other.redeem(&world.key, &payment).abi_encode();
    assert!(world.send_raw(other.address, there, U256::ZERO).await.status());
}

#[tokio::test]
async fn the_root_signs_payments_without_limits() {
    let world = World::with_puppet(limit(USDC_ADDRESS)).await;
    let stranger = Address::repeat_byte(0x13);
    let payment = Payment { to: stranger, ..world.payment(10 * BUDGET, 0) };
    let call = world.account.redeem(&world.root, &payment);
    world.works(&call).await;
    world.refuses::<AgentAccount::NonceUsed, _>(&call).await;
    let other_token = Payment { token: PUPPET, ..world.payment(10 * BUDGET, 1) };
    world.works(&world.account.redeem(&world.root, &other_token)).await;
    assert_eq!(world.harness.usdc(stranger).await, U256::from(10 * BUDGET));
    // It took nothing from the session's budget, nor its nonces.
    for nonce in 0..3 {
        world.pays(&world.payment(CAP, nonce)).await;
    }
    // To call it the root's takes the root's key.
    let payment = world.payment(10 * BUDGET, 9);
    let signature = world.account.sign(&world.key, &payment);
    let signed = context(world.root.address(), &payment, &signature);
    let call = redeem(signed, execution(payment.token, payment.to, payment.value));
    world.refuses::<AgentAccount::BadSignature, _>(&call).await;
}

#[tokio::test]
async fn a_batch_is_bounded_and_all_or_nothing() {
    let world = World::ready().await;
    let batch = |payments: &[Payment]| AgentAccount::redeemDelegationsCall {
        permissionContexts: payments
            .iter()
            .map(|payment| world.account.context(&world.key, payment))
            .collect(),
        modes: vec![B256::ZERO; payments.len()],
        executionCallDatas: payments
            .iter()
            .map(|payment| execution(payment.token, payment.to, payment.value))
            .collect(),
    };
    let four: Vec<_> = (0..4).map(|nonce| world.payment(CAP, nonce)).collect();
    world.refuses::<AgentAccount::OverBudget, _>(&batch(&four)).await;
    let twice = [world.payment(1, 0), world.payment(1, 0)];
    world.refuses::<AgentAccount::NonceUsed, _>(&batch(&twice)).await;
    type BadBatch = AgentAccount::BadBatch;
    let many: Vec<_> = (0..17).map(|nonce| world.payment(1, nonce)).collect();
    let sixteen: Vec<_> = (2..18).map(|nonce| world.payment(1, nonce)).collect();
    world.refuses::<BadBatch, _>(&batch(&many)).await;
    world.refuses::<BadBatch, _>(&batch(&[])).await;
    let good = batch(&four[..2]);
    let short_modes =
        AgentAccount::redeemDelegationsCall { modes: vec![B256::ZERO], ..good.clone() };
    world.refuses::<BadBatch, _>(&short_modes).await;
    let mut short = good.clone();
    short.executionCallDatas.pop();
    world.refuses::<BadBatch, _>(&short).await;
    world.works(&good).await;
    assert_eq!(world.balance().await, U256::from(FUNDS - 2 * CAP));
    world.works(&batch(&sixteen)).await;
}

#[tokio::test]
async fn tokens_that_answer_oddly() {
    let world = World::with_puppet(limit(PUPPET)).await;
    let payment = |nonce| Payment { token: PUPPET, ..world.payment(10, nonce) };
    for (nonce, mood) in [(0, Mood::Plain), (1, Mood::Silent), (2, Mood::Bomb)] {
        world.tell(mood, Bytes::new()).await;
        let receipt = world.pays(&payment(nonce)).await;
        // A megabyte of answer costs the token's memory, and is not copied into ours.
        assert!(mood != Mood::Bomb || receipt.gas_used < 2_500_000, "{}", receipt.gas_used);
    }
    for mood in [Mood::False, Mood::Garbled] {
        world.tell(mood, Bytes::new()).await;
        world.refuses_payment::<AgentAccount::TransferRefused>(&payment(3)).await;
    }
    world.tell(Mood::Verbose, Bytes::new()).await;
    let call = world.account.redeem(&world.key, &payment(3));
    world.refuses::<AgentAccount::TransferFailed, _>(&call).await;
    let failure = world.refusal_of(call.abi_encode()).await;
    let failure = AgentAccount::TransferFailed::abi_decode(&failure).unwrap();
    assert_eq!((failure.token, failure.reason.len()), (PUPPET, 256));
    assert_eq!(world.puppets(PAYEE).await, U256::from(30));
    // What was refused is still good: neither its nonce nor the budget was taken.
    world.tell(Mood::Plain, Bytes::new()).await;
    world.works(&call).await;
}

#[tokio::test]
async fn a_failing_transfer_tells_why_and_spends_nothing() {
    let world = World::ready().await;
    world.harness.set_usdc(world.root.address(), 1);
    let payment = world.payment(2, 0);
    let call = world.account.redeem(&world.key, &payment).abi_encode();
    let failure = AgentAccount::TransferFailed::abi_decode(&world.refusal_of(call).await).unwrap();
    let reason = alloy::sol_types::decode_revert_reason(&failure.reason).unwrap();
    assert!(reason.contains("ERC20: transfer amount exceeds balance"), "{reason}");
    world.harness.set_usdc(world.root.address(), FUNDS);
    world.pays(&payment).await;
}

#[tokio::test]
async fn a_token_without_code_is_not_paid() {
    let nowhere = Address::repeat_byte(0x33);
    let world = World::with_puppet(limit(nowhere)).await;
    let payment = Payment { token: nowhere, ..world.payment(1, 0) };
    world.refuses_payment::<AgentAccount::TransferRefused>(&payment).await;
}

#[tokio::test]
async fn a_token_that_calls_back_finds_the_money_spent() {
    let one = TokenLimit { budget: CAP.into(), ..limit(PUPPET) };
    let world = World::with_puppet(one).await;
    let payment = |nonce| Payment { token: PUPPET, ..world.payment(CAP, nonce) };
    // In the middle of the first payment, the token presents the second: of the budget nothing is left.
    let second = world.account.redeem(&world.key, &payment(1)).abi_encode();
    world.tell(Mood::Reenter, second.into()).await;
    world.pays(&payment(0)).await;
    assert_eq!(world.reentry().await, (0, AgentAccount::OverBudget::SELECTOR));
    assert_eq!(world.puppets(world.root.address()).await, U256::from(FUNDS - CAP));
}

#[tokio::test]
async fn a_token_that_calls_back_cannot_repeat_a_payment() {
    let world = World::with_puppet(limit(PUPPET)).await;
    let payment = |nonce| Payment { token: PUPPET, ..world.payment(CAP, nonce) };
    let same = world.account.redeem(&world.key, &payment(0)).abi_encode();
    world.tell(Mood::Reenter, same.clone().into()).await;
    let receipt = world.send_raw(world.root.address(), same, U256::ZERO).await;
    assert!(receipt.status());
    assert_eq!(world.reentry().await, (0, AgentAccount::NonceUsed::SELECTOR));
    assert_eq!(world.puppets(world.root.address()).await, U256::from(FUNDS - CAP));
    // What the budget does allow may come this way too; it is the same as coming after.
    let third = world.account.redeem(&world.key, &payment(2)).abi_encode();
    world.tell(Mood::Reenter, third.into()).await;
    world.pays(&payment(1)).await;
    assert_eq!(world.reentry().await.0, 1);
    assert_eq!(world.puppets(world.root.address()).await, U256::from(FUNDS - 3 * CAP));
    world.refuses_payment::<AgentAccount::OverBudget>(&payment(3)).await;
}

#[tokio::test]
async fn a_token_that_will_not_say_what_was_used_is_not_paid_near_the_budget() {
    let slotted = TokenLimit { slots: 2, ..limit(PUPPET) };
    let world = World::with_puppet(slotted).await;
    world.tell(Mood::Mute, Bytes::new()).await;
    let payment = |nonce| Payment { token: PUPPET, ..world.payment(CAP, nonce) };
    // Both slots used and this payment: they fit, so nobody needs to be asked.
    world.pays(&payment(0)).await;
    world.refuses_payment::<AgentAccount::AuthorizationStateUnknown>(&payment(1)).await;
    world.tell(Mood::Plain, Bytes::new()).await;
    world.pays(&payment(1)).await;
    world.pays(&payment(2)).await;
    world.refuses_payment::<AgentAccount::OverBudget>(&payment(3)).await;
}

alloy::sol! {
    function approve(address spender, uint256 value) returns (bool);
}
