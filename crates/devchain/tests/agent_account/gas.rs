//! What everything costs, beside other ways to pay; docs/agent-account.md has the figures, and is held to them.
#![allow(clippy::unwrap_used, reason = "this is test code, which the lint does not recognise here")]

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolCall;
use pay402_devchain::genesis::{EXACT_PERMIT2_PROXY, MULTICALL3, PERMIT2, USDC_ADDRESS};

use crate::signed::{
    AgentAccount, Payment, Session, Slotted, TokenLimit, USDC_DOMAIN, execution, signer,
};
use crate::support::permit2::ExactPayment;
use crate::support::{PAYEE, Usdc, authorization};
use crate::world::{PUPPET, Puppet, START, WINDOW, World, limit};

alloy::sol! {
    interface Multicall3 {
        struct Call3 {
            address target;
            bool allowFailure;
            bytes callData;
        }

        function aggregate3(Call3[] calls) payable;
    }
}

/// How far a figure of the page may be off, in per cent, before it has to be taken again.
const TOLERANCE: u64 = 3;
/// Atomic units of every payment here.
const VALUE: u64 = 10;

/// What was measured: the row of the page, and gas.
type Rows = Vec<(&'static str, u64)>;

/// A world in which the payee holds every token already, so that no payment pays for its first slot.
async fn world() -> World {
    let world = World::new();
    world.harness.set_usdc(PAYEE, 1);
    world.mint_puppets().await;
    let mint = Puppet::mintCall { to: PAYEE, value: U256::from(1) };
    assert!(world.send_raw(PUPPET, mint.abi_encode(), U256::ZERO).await.status());
    world
}

async fn adopted(limits: Vec<TokenLimit>) -> World {
    let world = world().await;
    let session = Session { tokens: limits, ..world.session() };
    assert!(world.adopt(Some(world.registration(vec![session]).abi_encode())).await.status());
    world
}

async fn gas(world: &World, to: Address, data: Vec<u8>) -> u64 {
    let receipt = world.send_raw(to, data, U256::ZERO).await;
    assert!(receipt.status());
    receipt.gas_used
}

async fn redeem(world: &World, token: Address, nonce: u64) -> u64 {
    let payment = Payment { token, ..world.payment(VALUE, nonce) };
    let call = world.account.redeem(&world.key, &payment);
    gas(world, world.root.address(), call.abi_encode()).await
}

async fn authorize(world: &World, slot: u8) -> u64 {
    let slotted = Slotted {
        account: world.account,
        token: USDC_ADDRESS,
        domain: USDC_DOMAIN,
        to: PAYEE,
        value: VALUE.into(),
        valid_after: world.now() - 60,
        valid_before: world.now() + 60,
        epoch: 0,
        window: (world.now() - START) / WINDOW,
        slot,
    };
    let message = slotted.message(world.key.address());
    let call = Usdc::transferWithAuthorization_1Call {
        from: message.from,
        to: message.to,
        value: message.value,
        validAfter: message.validAfter,
        validBefore: message.validBefore,
        nonce: message.nonce,
        signature: slotted.signature(&world.key),
    };
    gas(world, USDC_ADDRESS, call.abi_encode()).await
}

/// EIP-3009 by a key of its own, with the nonces that clients make: random ones.
async fn by_owner(world: &World) -> u64 {
    let mut payment = authorization(&world.harness, &world.root, PAYEE, VALUE);
    payment.nonce = B256::repeat_byte(0x5a);
    gas(world, USDC_ADDRESS, payment.vrs_call(&world.root).abi_encode()).await
}

async fn other_ways() -> Rows {
    let plain = world().await;
    let transfer = Usdc::transferCall { to: PAYEE, value: U256::from(VALUE) };
    let by_hand = plain.send_as_root_to(USDC_ADDRESS, transfer.abi_encode()).await;
    let mut rows = vec![("`transfer` by an account with ETH", by_hand.gas_used)];
    rows.push(("EIP-3009, account without code", by_owner(&plain).await));
    let approve = Usdc::approveCall { spender: PERMIT2, value: U256::MAX };
    assert!(plain.send_as_root_to(USDC_ADDRESS, approve.abi_encode()).await.status());
    for (row, nonce) in [
        ("Permit2 with the x402 proxy, first nonce of a word", 1_u64),
        ("Permit2 with the x402 proxy, later nonce of a word", 2),
    ] {
        let mut payment = ExactPayment::new(&plain.harness, PAYEE, VALUE);
        payment.permit.nonce = U256::from(nonce);
        let data = payment.settle(&plain.root).abi_encode();
        rows.push((row, gas(&plain, EXACT_PERMIT2_PROXY, data).await));
    }
    rows
}

/// As a facilitator sends what a first payment brings along.
async fn in_one() -> u64 {
    let world = world().await;
    let session = Session {
        anyPayee: false,
        payees: vec![PAYEE],
        tokens: vec![limit(USDC_ADDRESS)],
        ..world.session()
    };
    let register = world.registration(vec![session]).abi_encode();
    let redeem = world.account.redeem(&world.key, &world.payment(VALUE, 0)).abi_encode();
    let call = |data: Vec<u8>, may_fail: bool| Multicall3::Call3 {
        target: world.root.address(),
        allowFailure: may_fail,
        callData: data.into(),
    };
    let calls = vec![call(register, true), call(redeem, false)];
    let data = Multicall3::aggregate3Call { calls }.abi_encode();
    let receipt = world.adopt_calling(MULTICALL3, data).await;
    assert!(receipt.status());
    receipt.gas_used
}

async fn operations() -> Rows {
    let mut rows = vec![("adoption alone", world().await.adopt(None).await.gas_used)];
    let one = |world: &World| Session { tokens: vec![limit(USDC_ADDRESS)], ..world.session() };
    for (row, any) in [
        ("adoption and registration: one token, one payee", false),
        ("adoption and registration: one token, any payee", true),
    ] {
        let world = world().await;
        let payees = if any { vec![] } else { vec![PAYEE] };
        let session = Session { anyPayee: any, payees, ..one(&world) };
        let call = world.registration(vec![session]).abi_encode();
        rows.push((row, world.adopt(Some(call)).await.gas_used));
    }
    rows.push(("adoption, registration and first payment in one", in_one().await));
    let world = adopted(vec![limit(USDC_ADDRESS)]).await;
    let second = Session { key: signer("second").address(), ..one(&world) };
    let call = world.registration(vec![second]).abi_encode();
    let root = world.root.address();
    rows.push(("another registration: one token, one payee", gas(&world, root, call).await));
    let deadline = world.now() + 60;
    let call = world.account.revoke(&world.root, world.key.address(), 0, deadline);
    rows.push(("`revokeSession`", gas(&world, root, call.abi_encode()).await));
    let call = world.account.revoke_all(&world.root, 0, deadline);
    rows.push(("`revokeAll`, the first", gas(&world, root, call.abi_encode()).await));
    rows
}

async fn by_erc_7710() -> Rows {
    let world = adopted(vec![limit(USDC_ADDRESS), limit(PUPPET)]).await;
    let mut rows = vec![("ERC-7710, USDC, first payment", redeem(&world, USDC_ADDRESS, 0).await)];
    rows.push(("ERC-7710, USDC, later payment", redeem(&world, USDC_ADDRESS, 1).await));
    rows.push(("ERC-7710, plain ERC-20, later payment", redeem(&world, PUPPET, 2).await));
    rows.push(("ERC-7710, USDC, random nonce", redeem(&world, USDC_ADDRESS, 1 << 40).await));
    world.set_time(START + WINDOW);
    rows.push(("ERC-7710, USDC, first of a later window", redeem(&world, USDC_ADDRESS, 3).await));
    let ten: Vec<Payment> = (10..20).map(|nonce| world.payment(VALUE, nonce)).collect();
    let call = AgentAccount::redeemDelegationsCall {
        permissionContexts: ten
            .iter()
            .map(|payment| world.account.context(&world.key, payment))
            .collect(),
        modes: vec![B256::ZERO; ten.len()],
        executionCallDatas: ten
            .iter()
            .map(|payment| execution(payment.token, payment.to, payment.value))
            .collect(),
    };
    let ten = gas(&world, world.root.address(), call.abi_encode()).await;
    rows.push(("ERC-7710, USDC, each of ten in one call", ten / 10));
    for (row, slots, budget) in [
        ("ERC-7710, USDC, beside 4 slots that fit", 4, 500),
        ("ERC-7710, USDC, beside 4 slots that have to be looked at", 4, 300),
        ("ERC-7710, USDC, beside 16 slots that have to be looked at", 16, 300),
    ] {
        let limit = TokenLimit { slots, budget, ..limit(USDC_ADDRESS) };
        let world = adopted(vec![limit]).await;
        redeem(&world, USDC_ADDRESS, 0).await;
        rows.push((row, redeem(&world, USDC_ADDRESS, 1).await));
    }
    rows
}

async fn by_eip_3009() -> Rows {
    let fits = || TokenLimit { slots: 4, budget: 400, ..limit(USDC_ADDRESS) };
    let world = adopted(vec![fits()]).await;
    let mut rows = vec![("EIP-3009, the root of an adopted account", by_owner(&world).await)];
    rows.push(("EIP-3009 by a session, 4 slots that fit", authorize(&world, 0).await));
    for (row, slots) in [
        ("EIP-3009 by a session, 4 slots that have to be looked at", 4),
        ("EIP-3009 by a session, 16 slots that have to be looked at", 16),
    ] {
        let limit = TokenLimit { slots, budget: 300, ..limit(USDC_ADDRESS) };
        rows.push((row, authorize(&adopted(vec![limit]).await, 1).await));
    }
    rows
}

#[tokio::test]
async fn the_page_has_the_figures() {
    let page = include_str!("../../../../docs/agent-account.md");
    let rows =
        [other_ways().await, by_eip_3009().await, by_erc_7710().await, operations().await].concat();
    let mut wrong = Vec::new();
    for (row, measured) in rows {
        let start = format!("| {row} | ");
        let figure = page.lines().find_map(|line| line.strip_prefix(start.as_str()));
        let figure = figure.and_then(|rest| rest.split(' ').next());
        let figure: u64 = figure.map_or(0, |text| text.replace(',', "").parse().unwrap());
        if figure.abs_diff(measured) * 100 > measured * TOLERANCE {
            wrong.push(format!("{start}{measured} |"));
        }
    }
    assert!(wrong.is_empty(), "these rows are missing or stale:\n{}", wrong.join("\n"));
}
