//! Payments by ERC-7710 through the engine: one settlement for one delegation, whatever its manager
//! would do.

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::sol_types::SolCall as _;
use pay402_core::scheme::{ServerScheme as _, Tariff};
use pay402_core::{Payment, Presented, Refusal, Requirements, WireVersion};
use pay402_devchain::genesis::{DEV_ACCOUNTS, NO_USDC_INDEX, USDC_ADDRESS, usdc_balance_slot};
use pay402_evm::account::AGENT_ACCOUNT;
use pay402_evm::exact::Erc7710Payload;
use pay402_evm::signature::SignatureBytes;
use pay402_evm::{AssetTable, ExactServer, TransferMethod};
use pay402_facilitator::Options;
use serde_json::{Map, Value};

use crate::agent::{self as account, seconds};
use crate::bed::{LONG, done, options, refused, settle};
use crate::errands::{House, START, account_of, id};

/// A delegation manager that the facilitator calls.
pub(crate) const MANAGER: Address = Address::repeat_byte(0x3a);
/// What one payment costs, in atomic units.
pub(crate) const PRICE: u64 = 10_000;

pub(crate) fn payee() -> Address {
    DEV_ACCOUNTS[NO_USDC_INDEX]
}

pub(crate) fn terms() -> Requirements {
    let usdc = AssetTable::defaults().default_dollar(&id()).unwrap().clone();
    let tariff = Tariff::Atomic { amount: PRICE.into(), asset: usdc.info };
    ExactServer::new(AssetTable::defaults())
        .transferring_by(TransferMethod::Erc7710)
        .requirements(&id(), &tariff, &payee().to_string(), 60)
        .unwrap()
}

fn paid_by(manager: Address, delegator: Address, context: &[u8]) -> Payment {
    let context = SignatureBytes::new(context.to_vec());
    let payload = Erc7710Payload { manager, delegator, context }.to_json();
    Payment::pair(terms(), presented(payload)).unwrap()
}

pub(crate) fn presented(payload: Map<String, Value>) -> Presented {
    Presented {
        version: WireVersion::V2,
        scheme: terms().scheme,
        network: id(),
        accepted: Some(terms()),
        payload,
        resource: None,
        extensions: Map::new(),
        other: Map::new(),
    }
}

impl House {
    pub(crate) fn fund(&self, account: Address) {
        let held = U256::from(10 * PRICE);
        self.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(account), held);
    }

    pub(crate) async fn payee_has(&self) -> U256 {
        use alloy::rpc::types::TransactionRequest;
        let mut data = alloy::primitives::keccak256("balanceOf(address)")[..4].to_vec();
        data.extend_from_slice(payee().into_word().as_slice());
        let request = TransactionRequest::default().to(USDC_ADDRESS).input(data.into());
        U256::from_be_slice(&self.chain.provider().call(request).await.unwrap())
    }
}

/// Code that has USDC move [`PRICE`] to the payee out of what it is allowed, as often as it is called.
fn paying(from: Address) -> Bytes {
    alloy::sol! {
        function transferFrom(address from, address to, uint256 value) returns (bool);
    }
    let data = transferFromCall { from, to: payee(), value: U256::from(PRICE) }.abi_encode();
    let length = u8::try_from(data.len()).unwrap();
    let code = [
        // codecopy(0, 42, length): the call data stands behind the code.
        &[0x60, length, 0x60, 42, 0x60, 0x00, 0x39][..],
        // call(gas(), USDC, 0, 0, length, 0, 0), then stop
        &[0x60, 0x00, 0x60, 0x00, 0x60, length, 0x60, 0x00, 0x60, 0x00, 0x73],
        USDC_ADDRESS.as_slice(),
        &[0x5a, 0xf1, 0x50, 0x00],
    ]
    .concat();
    assert_eq!(code.len(), 42);
    [code, data].concat().into()
}

/// Lets the manager move what `owner` has: the slot that the token keeps that in.
fn allow(house: &House, owner: Address) {
    use alloy::primitives::keccak256;
    use alloy::sol_types::SolValue as _;
    let of_owner = keccak256((owner, U256::from(3)).abi_encode());
    let slot = keccak256((MANAGER, of_owner).abi_encode());
    house.chain.set_storage(USDC_ADDRESS, slot.into(), U256::MAX);
}

#[tokio::test]
async fn a_delegation_that_is_good_for_ever_settles_once() {
    let house = House::new();
    let payer = account_of("delegator").address;
    house.fund(payer);
    allow(&house, payer);
    house.chain.set_code(MANAGER, paying(payer));
    let engine = house.start(options()).await;
    let payment = || paid_by(MANAGER, payer, b"good for ever");
    let hash = done(&settle(&engine, payment(), LONG).await);
    assert_eq!(house.payee_has().await, U256::from(PRICE));
    let told = refused(settle(&engine, payment(), LONG).await, Refusal::DuplicateSettlement);
    assert_eq!(told.transaction.as_ref(), Some(&hash));
    let engine = house.restart(engine).await;
    let told = refused(settle(&engine, payment(), LONG).await, Refusal::DuplicateSettlement);
    assert_eq!(told.transaction, Some(hash));
    assert_eq!(house.payee_has().await, U256::from(PRICE), "redeemed twice");
    assert_eq!(house.sent().await, 1);
    assert_eq!(house.proven().await.settled, 1);
}

#[tokio::test]
async fn a_manager_that_moves_nothing_is_not_called() {
    let house = House::new();
    let payer = account_of("delegator").address;
    house.fund(payer);
    house.chain.set_code(MANAGER, vec![0x00].into());
    let engine = house.start(options()).await;
    for _ in 0..2 {
        let told = settle(&engine, paid_by(MANAGER, payer, b"nothing"), LONG).await;
        refused(told, Refusal::DelegationSimulationFailed);
    }
    assert_eq!((house.sent().await, house.payee_has().await), (0, U256::ZERO));
}

#[tokio::test]
async fn nobody_is_made_to_pay_or_blamed_for_a_delegation_of_somebody_else() {
    let house = House::new();
    let (payer, victim) = (account_of("delegator").address, account_of("victim").address);
    for account in [payer, victim] {
        house.fund(account);
    }
    allow(&house, payer);
    house.chain.set_code(MANAGER, paying(payer));
    let engine = house.start(Options { strikes_max: 1, ..options() }).await;
    let foisted = settle(&engine, paid_by(MANAGER, victim, b"mine"), LONG).await;
    refused(foisted, Refusal::DelegationSimulationFailed);
    assert_eq!(house.sent().await, 0);
    let hash = done(&settle(&engine, paid_by(MANAGER, payer, b"mine"), LONG).await);
    // Under another name it is the same delegation.
    let again = settle(&engine, paid_by(MANAGER, victim, b"mine"), LONG).await;
    assert_eq!(refused(again, Refusal::DuplicateSettlement).transaction, Some(hash));
    assert_eq!((house.sent().await, house.payee_has().await), (1, U256::from(PRICE)));
}

#[tokio::test]
async fn a_payment_of_an_account_settles_once_however_it_was_signed() {
    let house = House::new();
    let root = account::signer("root");
    let payer = account_of("root");
    house.fund(payer.address);
    let code = [&[0xef, 0x01, 0x00], AGENT_ACCOUNT.as_slice()].concat();
    house.chain.set_code(payer.address, code.into());
    let engine = house.start(options()).await;
    let agreed = account::Payment {
        token: USDC_ADDRESS,
        to: payee(),
        value: U256::from(PRICE),
        nonce: U256::from(5),
        validAfter: seconds(START - 60),
        deadline: seconds(START + 60),
        epoch: 0,
    };
    let context = payer.context(&root, &agreed).to_vec();
    let hash = done(&settle(&engine, paid_by(payer.address, payer.address, &context), LONG).await);
    // The same payment in another signature has the same key, and is known as settled.
    let mut again = context;
    again[100] ^= 1;
    let told = settle(&engine, paid_by(payer.address, payer.address, &again), LONG).await;
    assert_eq!(refused(told, Refusal::DuplicateSettlement).transaction, Some(hash));
    assert_eq!((house.sent().await, house.payee_has().await), (1, U256::from(PRICE)));
    assert_eq!(house.proven().await.settled, 1);
}
