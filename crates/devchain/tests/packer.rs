//! `Packer`: many payments in one transaction, none of which harms another.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod support;

use alloy::consensus::TxEip1559;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolEvent as _};
use pay402_devchain::genesis::{
    CREATE2_DEPLOYER, PACKER, PACKER_ADDRESS, PERMIT2, USDC_ADDRESS, dev_signer,
};
use pay402_devchain::zoo;
use support::permit2::{ExactPayment, sign};
use support::{Authorization, Harness, PAYEE, Usdc, authorization};

alloy::sol! {
    function carryOut(uint256 itemGas, bytes items) returns (uint256 tried);
    function ITEM_BYTES() view returns (uint256);
    function RESERVE_GAS() view returns (uint256);
}

/// The development account that sends.
const SENDER: usize = 0;
/// Gas of an item, enough for any honest one here.
const ITEM_GAS: u64 = 90_000;
/// Payments of the packs that gas is measured of.
const MANY: u64 = 50;

/// An item of the list.
#[derive(Clone)]
struct Item(Vec<u8>);

fn item(
    kind: u8,
    accounts: [Address; 3],
    amount: u128,
    times: [u64; 2],
    nonce: B256,
    sig: &Bytes,
) -> Item {
    let mut bytes = vec![kind];
    for account in accounts {
        bytes.extend_from_slice(account.as_slice());
    }
    bytes.extend_from_slice(&amount.to_be_bytes());
    for time in times {
        bytes.extend_from_slice(&time.to_be_bytes()[3..]);
    }
    bytes.extend_from_slice(nonce.as_slice());
    bytes.extend_from_slice(sig);
    assert_eq!(bytes.len(), 184);
    Item(bytes)
}

fn transfer_in(token: Address, it: &Authorization, payer: &PrivateKeySigner) -> Item {
    let times = [it.valid_after.to::<u64>(), it.valid_before.to::<u64>()];
    item(1, [token, it.from, it.to], it.value.to(), times, it.nonce, &it.sign(payer))
}

fn transfer(it: &Authorization, payer: &PrivateKeySigner) -> Item {
    transfer_in(USDC_ADDRESS, it, payer)
}

fn permit(it: &ExactPayment, payer: &PrivateKeySigner) -> Item {
    let times = [it.valid_after.to::<u64>(), it.permit.deadline.to::<u64>()];
    let accounts = [it.permit.token, payer.address(), it.to];
    let signature = sign(payer, it.digest());
    item(2, accounts, it.permit.amount.to(), times, it.permit.nonce.into(), &signature)
}

fn call(item_gas: u64, items: &[Item]) -> carryOutCall {
    let items: Vec<u8> = items.iter().flat_map(|item| item.0.clone()).collect();
    carryOutCall { itemGas: U256::from(item_gas), items: items.into() }
}

async fn sent_with(harness: &Harness, gas_limit: u64, call: &carryOutCall) -> TransactionReceipt {
    let sender = dev_signer(SENDER).address();
    let nonce = harness.provider.get_transaction_count(sender).await.unwrap();
    let input = call.abi_encode().into();
    let to = TxKind::Call(PACKER_ADDRESS);
    let tx = TxEip1559 { nonce, gas_limit, to, input, ..TxEip1559::default() };
    let hash = harness.raw(&harness.signed(SENDER, tx)).await.unwrap();
    harness.receipt(hash).await.unwrap()
}

/// As a facilitator sends it: gas for each item, whatever the others do.
async fn sent(harness: &Harness, item_gas: u64, items: &[Item]) -> TransactionReceipt {
    let count = u64::try_from(items.len()).unwrap();
    let gas_limit = 41_000 + item_gas / 63 + count * (item_gas + 4_000 + 184 * 40);
    sent_with(harness, gas_limit, &call(item_gas, items)).await
}

/// The nonces of the authorizations that a transaction used.
fn used(receipt: &TransactionReceipt) -> Vec<B256> {
    let logs = receipt.inner.logs().iter().filter(|log| log.address() == USDC_ADDRESS);
    logs.filter_map(|log| Usdc::AuthorizationUsed::decode_log(&log.inner).ok())
        .map(|log| log.nonce)
        .collect()
}

fn payer(number: u64) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&keccak256(number.to_be_bytes())).unwrap()
}

/// Payments of so many payers, who have what it takes; each to whom `to` says.
fn payments(
    harness: &Harness,
    count: u64,
    to: impl Fn(u64) -> Address,
) -> (Vec<Authorization>, Vec<Item>) {
    let one = |number| {
        let payer = payer(number);
        harness.set_usdc(payer.address(), 1_000_000);
        let it = Authorization {
            nonce: keccak256(number.to_be_bytes()),
            ..authorization(harness, &payer, to(number), 10_000)
        };
        let item = transfer(&it, &payer);
        (it, item)
    };
    (0..count).map(one).unzip()
}

#[tokio::test]
async fn transfers_and_permits_of_one_list_are_carried_out() {
    let harness = Harness::new();
    let approve = Usdc::approveCall { spender: PERMIT2, value: U256::MAX };
    assert!(harness.send(1, USDC_ADDRESS, &approve).await.status());
    let (payments, mut items) = payments(&harness, 3, |_| PAYEE);
    let (rich, small) = (dev_signer(1), ExactPayment::new(&harness, PAYEE, 7));
    items.insert(1, permit(&small, &rich));
    items.push(permit(&ExactPayment::new(&harness, PAYEE, 9), &rich));
    let receipt = sent(&harness, ITEM_GAS * 2, &items).await;
    assert!(receipt.status());
    assert_eq!(used(&receipt), payments.iter().map(|it| it.nonce).collect::<Vec<_>>());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(30_000 + 7 + 9));
    // What was carried out is refused the second time, and that is all.
    let again = sent(&harness, ITEM_GAS * 2, &items).await;
    assert!(again.status());
    assert!(again.inner.logs().is_empty());
}

#[tokio::test]
async fn one_that_fails_harms_no_other() {
    let harness = Harness::new();
    let (payments, good) = payments(&harness, 12, |_| PAYEE);
    let mut items = good.clone();
    // Too little, cancelled, signed by another, expired, of a token that is none, of no kind known.
    harness.set_usdc(payments[0].from, 9_999);
    assert!(harness.send(3, USDC_ADDRESS, &payments[2].cancel_call(&payer(2))).await.status());
    items[4] = transfer(&payments[4], &payer(5));
    let late = Authorization { valid_before: U256::from(1), ..payments[6].clone() };
    items[6] = transfer(&late, &payer(6));
    items[8] = transfer_in(Address::repeat_byte(9), &payments[8], &payer(8));
    items[10].0[0] = 3;
    let receipt = sent(&harness, ITEM_GAS, &items).await;
    assert!(receipt.status());
    let odd: Vec<B256> = payments.iter().skip(1).step_by(2).map(|it| it.nonce).collect();
    assert_eq!(used(&receipt), odd);
    assert_eq!(harness.usdc(PAYEE).await, U256::from(60_000));
}

/// Three payers turn into contracts that waste all the gas that they are given, just before.
#[tokio::test]
async fn burners_waste_their_own_share_and_no_more() {
    let harness = Harness::new();
    let wallet = harness.deploy(5, zoo::GAS_WALLET.creation(&[])).await;
    let (payments, items) = payments(&harness, 10, |_| PAYEE);
    let code: Bytes = [&[0xef, 0x01, 0x00], wallet.as_slice()].concat().into();
    for burner in [0, 4, 9] {
        harness.chain.set_code(payments[burner].from, code.clone());
        // What the wallet is told lies in its own storage: everything it can.
        harness.chain.set_storage(payments[burner].from, U256::ZERO, U256::MAX);
        let slot_one = U256::from(1);
        harness.chain.set_storage(payments[burner].from, slot_one, U256::MAX);
    }
    let honest = sent(&Harness::new(), ITEM_GAS, &items).await.gas_used;
    let receipt = sent(&harness, ITEM_GAS, &items).await;
    assert!(receipt.status());
    let wanted: Vec<B256> =
        (0..10).filter(|index| ![0, 4, 9].contains(index)).map(|i| payments[i].nonce).collect();
    assert_eq!(used(&receipt), wanted);
    assert!(receipt.gas_used > honest + 3 * (ITEM_GAS / 2), "nothing was wasted: no test");
    assert!(receipt.gas_used < 700_000 + 3 * (ITEM_GAS + 12_000), "{}", receipt.gas_used);
}

/// A "token" whose answer, or whose failure, is a hundred thousand bytes of memory.
#[tokio::test]
async fn what_is_returned_is_not_copied() {
    const REVERT: u8 = 0xfd;
    const RETURN: u8 = 0xf3;
    let (quiet, bombs) = (Harness::new(), Harness::new());
    let bomb = Address::repeat_byte(0xb0);
    for end in [RETURN, REVERT] {
        // PUSH3 100,000; PUSH0; RETURN or REVERT
        let code = Bytes::from(vec![0x62, 0x01, 0x86, 0xa0, 0x5f, end]);
        bombs.chain.set_code(bomb, code);
        let at = |harness: &Harness| {
            let (_, mut items) = payments(harness, 2, |_| PAYEE);
            items[0].0[1..21].copy_from_slice(bomb.as_slice());
            items[1].0[1..21].copy_from_slice(bomb.as_slice());
            items
        };
        let without = sent(&quiet, ITEM_GAS, &at(&quiet)).await.gas_used;
        let with = sent(&bombs, ITEM_GAS, &at(&bombs)).await.gas_used;
        // Each pays for its own memory: 3 gas a word, and the square of it by 512.
        let memory = 3 * 3_125 + 3_125 * 3_125 / 512;
        assert!(with < without + 2 * (memory + 200), "{with} against {without}");
    }
}

/// Whatever the gas limit: an item is begun with all its gas or not at all, so that what is left out is the
/// end of the list.
#[tokio::test]
async fn too_little_gas_leaves_out_the_end_of_the_list_and_starves_nobody() {
    let mut seen = std::collections::BTreeSet::new();
    for gas_limit in (65_000..640_000).step_by(13_337) {
        let harness = Harness::new();
        let (payments, items) = payments(&harness, 6, |_| PAYEE);
        let receipt = sent_with(&harness, gas_limit, &call(70_000, &items)).await;
        assert!(receipt.status(), "{gas_limit}");
        let done = used(&receipt);
        let first: Vec<B256> = payments.iter().take(done.len()).map(|it| it.nonce).collect();
        assert_eq!(done, first, "{gas_limit}: one was starved");
        seen.insert(done.len());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn torn_lists_and_senseless_caps_are_refused() {
    let harness = Harness::new();
    let (_, items) = payments(&harness, 2, |_| PAYEE);
    for cut in [1, 183, 185, 367] {
        let whole = call(ITEM_GAS, &items);
        let torn = carryOutCall { items: whole.items.slice(..cut), ..whole };
        assert!(harness.answer(SENDER, PACKER_ADDRESS, &torn).await.is_err(), "{cut}");
    }
    let most = carryOutCall { itemGas: U256::MAX, ..call(0, &items) };
    assert!(harness.answer(SENDER, PACKER_ADDRESS, &most).await.is_err());
    // With a cap that nobody has the gas for nothing is begun.
    let much = carryOutCall { itemGas: U256::from(u64::MAX), ..call(0, &items) };
    let tried = harness.answer(SENDER, PACKER_ADDRESS, &much).await.unwrap();
    assert_eq!(carryOutCall::abi_decode_returns(&tried).unwrap(), U256::ZERO);
    assert_eq!(harness.read_at(PACKER_ADDRESS, &ITEM_BYTESCall {}).await, U256::from(184));
    assert_eq!(harness.read_at(PACKER_ADDRESS, &RESERVE_GASCall {}).await, U256::from(10_000));
}

/// Lists of good payments, with bytes changed at random: good ones settle, and nothing else moves.
#[tokio::test]
async fn at_random_only_what_was_signed_moves() {
    let mut seed = U256::from(402);
    let mut random = |below: usize| {
        seed = keccak256(seed.to_be_bytes::<32>()).into();
        usize::try_from(seed % U256::from(below)).unwrap()
    };
    for round in 0..40 {
        let harness = Harness::new();
        let (payments, mut items) = payments(&harness, 8, |_| PAYEE);
        let mut damaged = [false; 8];
        for _ in 0..random(8) {
            let (index, at) = (random(8), random(184));
            let change = 1 << random(8);
            items[index].0[at] ^= change;
            damaged[index] = true;
        }
        let receipt = sent(&harness, ITEM_GAS, &items).await;
        assert!(receipt.status(), "round {round}");
        let good: Vec<B256> = payments
            .iter()
            .zip(damaged)
            .filter(|(_, damaged)| !damaged)
            .map(|(it, _)| it.nonce)
            .collect();
        // A change may be undone by another one, or fall on what says nothing.
        let done = used(&receipt);
        assert!(good.iter().all(|nonce| done.contains(nonce)), "round {round}");
        let moved = U256::from(10_000 * done.len());
        assert_eq!(harness.usdc(PAYEE).await, moved, "round {round}");
    }
}

#[tokio::test]
async fn anyone_can_deploy_it_at_its_address() {
    let harness = Harness::new();
    harness.chain.set_code(PACKER_ADDRESS, Bytes::new());
    harness.chain.set_nonce(PACKER_ADDRESS, 0);
    let data = [B256::ZERO.as_slice(), &PACKER.creation_code].concat();
    assert!(harness.send_unchecked(4, CREATE2_DEPLOYER, data).await.status());
    let code = harness.provider.get_code_at(PACKER_ADDRESS).await.unwrap();
    assert_eq!(code, PACKER.runtime_code);
}

#[test]
fn it_keeps_nothing_and_runs_no_foreign_code_in_its_name() {
    let mut at = 0;
    let mut calls = 0;
    let code = &PACKER.runtime_code;
    while let Some(opcode) = code.get(at).copied() {
        // SSTORE, TSTORE, CREATE, CALLCODE, DELEGATECALL, CREATE2, SELFDESTRUCT
        let forbidden = [0x55, 0x5d, 0xf0, 0xf2, 0xf4, 0xf5, 0xff];
        assert!(!forbidden.contains(&opcode), "{opcode:02x} at {at}");
        calls += usize::from(opcode == 0xf1);
        at += 1 + usize::from(opcode.saturating_sub(0x5f))
            * usize::from((0x60..=0x7f).contains(&opcode));
    }
    assert_eq!(calls, 2, "one to a token, one to the proxy");
}

/// Gas of one transaction for each payment that the bounds of a packed one are shares of: a fixed figure, so that a dearer
/// token does not loosen them.
const ONE_TRANSACTION_GAS: u64 = 65_500;

/// Gas of a payment among [`MANY`], and that of one by itself; accounts were used before.
async fn gas_of_a_payment(to: impl Fn(u64) -> Address) -> (u64, u64) {
    let harness = Harness::new();
    for number in 0..MANY {
        harness.set_usdc(to(number), 1);
    }
    let (_, items) = payments(&harness, MANY, &to);
    let payer = dev_signer(1);
    let one = authorization(&harness, &payer, to(0), 10_000);
    let single = harness.send(SENDER, USDC_ADDRESS, &one.vrs_call(&payer)).await.gas_used;
    let receipt = sent(&harness, ITEM_GAS, &items).await;
    assert_eq!(used(&receipt).len(), 50);
    (receipt.gas_used.div_ceil(MANY), single)
}

#[tokio::test]
async fn a_packed_payment_takes_much_less_gas() {
    let payee = |number: u64| Address::from_word(keccak256((number + 1_000).to_be_bytes()));
    let (one_payee, single) = gas_of_a_payment(|_| PAYEE).await;
    let (distinct, _) = gas_of_a_payment(payee).await;
    println!("alone {single}, packed to one payee {one_payee}, to distinct payees {distinct}");
    for (packed, percent, percent_of_ours) in [(one_payee, 70, 64), (distinct, 78, 71)] {
        assert!(packed * 100 <= ONE_TRANSACTION_GAS * percent, "{packed}");
        assert!(packed * 100 <= single * percent_of_ours, "{packed} of {single}");
    }
}
