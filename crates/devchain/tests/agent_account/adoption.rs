//! Adopting the code, and the operations of the root: who may do them, and that they cannot be done twice.
#![allow(clippy::unwrap_used, reason = "this is test code, which the lint does not recognise here")]

use alloy::eips::eip7702::Authorization as Delegation;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use alloy::signers::SignerSync;
use alloy::sol_types::{SolCall, SolError, SolEvent, SolStruct};
use pay402_devchain::genesis::{
    AGENT_ACCOUNT, AGENT_ACCOUNT_ADDRESS, CREATE2_DEPLOYER, USDC_ADDRESS, WALLET_1271,
};

use crate::signed::{
    Account, AgentAccount, AuthorizationNonce, INVALID, Payment, RegisterSessions, RevokeAll,
    RevokeSession, Session, TokenLimit, TransferWithAuthorization, context, execution, namespace,
    redeem, seconds, signer,
};
use crate::support::permit2::twin;
use crate::support::{PAYEE, Usdc};
use crate::world::{BUDGET, CAP, CHAIN, FUNDS, PUPPET, WINDOW, World, designator, limit};

/// `State` of a session, as the view gives it.
const UNKNOWN: u8 = 0;
const REGISTERED: u8 = 1;
const REVOKED: u8 = 2;

#[tokio::test]
async fn a_relayer_adopts_and_registers_for_an_account_without_ether() {
    let world = World::new();
    let root = world.root.address();
    assert_eq!(world.harness.provider.get_balance(root).await.unwrap(), U256::ZERO);
    let session = world.session();
    let policy = session.eip712_hash_struct();
    let call = world.registration(vec![session]);
    let receipt = world.adopt(Some(call.abi_encode())).await;
    assert!(receipt.status());
    assert_eq!(world.code().await, designator(AGENT_ACCOUNT_ADDRESS));
    let logs = receipt.inner.logs();
    assert_eq!(logs.len(), 1);
    let registered = AgentAccount::SessionRegistered::decode_log(&logs[0].inner).unwrap();
    assert_eq!((registered.address, registered.key), (root, world.key.address()));
    assert_eq!((registered.epoch, registered.policy), (0, policy));

    let receipt = world.pays(&world.payment(CAP, 0)).await;
    let logs = receipt.inner.logs();
    let paid = AgentAccount::Paid::decode_log(&logs[0].inner).unwrap();
    assert_eq!((paid.address, paid.key, paid.token), (root, world.key.address(), USDC_ADDRESS));
    assert_eq!((paid.to, paid.value, paid.nonce), (PAYEE, U256::from(CAP), U256::ZERO));
    let moved = Usdc::Transfer::decode_log(&logs[1].inner).unwrap();
    assert_eq!((moved.from, moved.to, moved.value), (root, PAYEE, U256::from(CAP)));
    assert_eq!(world.harness.usdc(PAYEE).await, U256::from(CAP));
    assert_eq!(world.harness.provider.get_balance(root).await.unwrap(), U256::ZERO);
}

#[tokio::test]
async fn the_views_tell_what_was_registered() {
    let world = World::new();
    let mut session = world.session();
    session.tokens.push(TokenLimit { cap: 7, budget: 9, window: 60, slots: 3, ..limit(PUPPET) });
    let key = world.key.address();
    let (start, expiry) = (session.validAfter, session.expiry);
    assert!(world.adopt(Some(world.registration(vec![session]).abi_encode())).await.status());
    let seen = world.ask(&AgentAccount::sessionCall { key }).await;
    assert_eq!((seen.state, seen.anyPayee), (REGISTERED, false));
    assert_eq!((seen.validAfter, seen.expiry), (start, expiry));
    let first = world.ask(&AgentAccount::tokenLimitCall { key, token: USDC_ADDRESS }).await;
    assert_eq!((first.cap, first.budget, first.slots), (CAP.into(), BUDGET.into(), 0));
    let second = world.ask(&AgentAccount::tokenLimitCall { key, token: PUPPET }).await;
    assert_eq!((second.cap, second.budget, second.window, second.slots), (7, 9, 60, 3));
    for (payee, allowed) in [(PAYEE, true), (Address::repeat_byte(1), false)] {
        let asked = AgentAccount::isPayeeAllowedCall { key, payee };
        assert_eq!(world.ask(&asked).await, allowed);
    }
    world.pays(&world.payment(40, 5)).await;
    let left = world.ask(&AgentAccount::remainingCall { key, token: USDC_ADDRESS }).await;
    assert_eq!(left.left, U256::from(BUDGET - 40));
    assert_eq!(left.windowEnd, U256::from(world.now() + WINDOW));
    for (nonce, used) in [(5, true), (4, false), (5 + 256, false)] {
        let asked = AgentAccount::isNonceUsedCall { key, nonce: U256::from(nonce) };
        assert_eq!(world.ask(&asked).await, used);
    }
    let other = Address::repeat_byte(1);
    let unknown = world.ask(&AgentAccount::sessionCall { key: other }).await;
    assert_eq!(unknown.state, UNKNOWN);
    let left = world.ask(&AgentAccount::remainingCall { key: other, token: USDC_ADDRESS }).await;
    assert_eq!((left.left, left.windowEnd), (U256::ZERO, U256::ZERO));
}

#[tokio::test]
async fn whoever_relays_the_adoption_can_set_up_nothing() {
    let world = World::new();
    // The tuple is public: a thief relays it alone, with a registration of his own.
    let thief = signer("thief");
    let mine = Session { key: thief.address(), anyPayee: true, payees: vec![], ..world.session() };
    let call = world.account.register(&thief, vec![mine.clone()], 0, world.now() + 600);
    assert!(!world.adopt(Some(call.abi_encode())).await.status());
    // A revert does not undo the adoption.
    assert_eq!(world.code().await, designator(AGENT_ACCOUNT_ADDRESS));
    world.refuses::<AgentAccount::BadRootSignature, _>(&call).await;
    let unsigned = AgentAccount::registerSessionsCall { signature: Bytes::new(), ..call };
    world.refuses::<AgentAccount::BadRootSignature, _>(&unsigned).await;
    // The owner's own transaction comes second; its tuple is skipped, and what it registers stands.
    let call = world.registration(vec![world.session()]);
    let skipped =
        Delegation { chain_id: U256::from(CHAIN), address: AGENT_ACCOUNT_ADDRESS, nonce: 0 };
    assert!(world.delegate_with(skipped, Some(call.abi_encode())).await.status());
    world.pays(&world.payment(CAP, 0)).await;
}

#[tokio::test]
async fn a_session_key_changes_nothing() {
    let world = World::ready().await;
    let deadline = world.now() + 600;
    let another = Session { key: signer("another").address(), ..world.session() };
    let raised = Session {
        tokens: vec![TokenLimit { cap: 1 << 100, budget: 1 << 100, ..limit(USDC_ADDRESS) }],
        ..world.session()
    };
    for session in [another, raised] {
        let call = world.account.register(&world.key, vec![session], 0, deadline);
        world.refuses::<AgentAccount::BadRootSignature, _>(&call).await;
    }
    let key = world.key.address();
    let revoke = world.account.revoke(&world.key, key, 0, deadline);
    world.refuses::<AgentAccount::BadRootSignature, _>(&revoke).await;
    let revoke_all = world.account.revoke_all(&world.key, 0, deadline);
    world.refuses::<AgentAccount::BadRootSignature, _>(&revoke_all).await;
    // Being the sender makes it nothing more.
    let request = TransactionRequest::default()
        .from(key)
        .to(world.root.address())
        .input(revoke_all.abi_encode().into());
    assert!(world.harness.provider.call(request).await.is_err());
    world.pays(&world.payment(CAP, 0)).await;
}

#[tokio::test]
async fn a_registration_counts_once() {
    let world = World::ready().await;
    let call = world.registration(vec![world.session()]);
    world.refuses::<AgentAccount::SessionExists, _>(&call).await;
    // The budget that was spent stays spent, and nobody can have another policy put over it.
    let wider = Session { anyPayee: true, payees: vec![], ..world.session() };
    world.refuses::<AgentAccount::SessionExists, _>(&world.registration(vec![wider])).await;
    let key = world.key.address();
    world.works(&world.account.revoke(&world.root, key, 0, world.now() + 600)).await;
    world.refuses::<AgentAccount::SessionExists, _>(&call).await;
    world.works(&world.account.revoke_all(&world.root, 0, world.now() + 600)).await;
    world.refuses::<AgentAccount::WrongEpoch, _>(&call).await;
    // Nor does the old signature count with the new epoch written beside it.
    let moved = AgentAccount::registerSessionsCall { epoch: 1, ..call };
    world.refuses::<AgentAccount::BadRootSignature, _>(&moved).await;
}

#[tokio::test]
async fn a_revoked_key_pays_nothing_from_the_next_block_on() {
    let world = World::ready().await;
    world.pays(&world.payment(CAP, 0)).await;
    let key = world.key.address();
    let revoke = world.account.revoke(&world.root, key, 0, world.now() + 600);
    let receipt = world.works(&revoke).await;
    let revoked = AgentAccount::SessionRevoked::decode_log(&receipt.inner.logs()[0].inner).unwrap();
    assert_eq!((revoked.key, revoked.epoch), (key, 0));
    world.refuses_payment::<AgentAccount::SessionIsRevoked>(&world.payment(1, 1)).await;
    let left = world.ask(&AgentAccount::remainingCall { key, token: USDC_ADDRESS }).await;
    assert_eq!(left.left, U256::ZERO);
    // Again is harmless.
    world.works(&revoke).await;
    assert_eq!(world.ask(&AgentAccount::sessionCall { key }).await.state, REVOKED);
}

#[tokio::test]
async fn a_revocation_outruns_a_registration_that_was_signed_before() {
    let world = World::new();
    let call = world.registration(vec![world.session()]);
    assert!(world.adopt(None).await.status());
    let key = world.key.address();
    world.works(&world.account.revoke(&world.root, key, 0, world.now() + 600)).await;
    world.refuses::<AgentAccount::SessionExists, _>(&call).await;
    world.refuses_payment::<AgentAccount::SessionIsRevoked>(&world.payment(1, 0)).await;
}

#[tokio::test]
async fn revoking_all_ends_what_was_signed_before() {
    let world = World::ready().await;
    world.pays(&world.payment(CAP, 0)).await;
    let by_key = world.payment(1, 1);
    let by_root = world.account.redeem(&world.root, &world.payment(1, 1));
    let waiting = Session { key: signer("waiting").address(), ..world.session() };
    let waiting = world.registration(vec![waiting]);
    // It needs no nonce that a registration could take from it: here one goes first.
    let between = Session { key: signer("between").address(), ..world.session() };
    let panic = world.account.revoke_all(&world.root, 0, world.now() + 600);
    world.works(&world.registration(vec![between])).await;
    let receipt = world.works(&panic).await;
    let ended = AgentAccount::AllRevoked::decode_log(&receipt.inner.logs()[0].inner).unwrap();
    assert_eq!(ended.newEpoch, 1);
    assert_eq!(world.ask(&AgentAccount::epochCall {}).await, 1);
    world.refuses_payment::<AgentAccount::WrongEpoch>(&by_key).await;
    world.refuses::<AgentAccount::WrongEpoch, _>(&by_root).await;
    world.refuses::<AgentAccount::WrongEpoch, _>(&waiting).await;
    world.refuses::<AgentAccount::WrongEpoch, _>(&panic).await;
    let now_one = Payment { epoch: 1, ..world.payment(1, 1) };
    world.refuses_payment::<AgentAccount::SessionUnknown>(&now_one).await;

    // The same key may be given a policy of the new epoch, with a fresh budget and fresh nonces.
    let call = world.account.register(&world.root, vec![world.session()], 1, world.now() + 600);
    world.works(&call).await;
    for nonce in 0..3 {
        let payment = Payment { epoch: 1, ..world.payment(CAP, nonce) };
        world.pays(&payment).await;
    }
    // What was signed in the old one stays dead under any epoch that is written beside it.
    let signature = world.account.sign(&world.key, &by_key);
    let moved = Payment { epoch: 1, ..by_key };
    let signed = context(world.key.address(), &moved, &signature);
    let asked = execution(moved.token, moved.to, moved.value);
    let call = redeem(signed, asked);
    world.refuses::<AgentAccount::BadSignature, _>(&call).await;
}

#[tokio::test]
async fn the_root_acts_by_its_own_transaction_too() {
    let world = World::new();
    assert!(world.adopt(None).await.status());
    let root = world.root.address();
    let deadline = seconds(world.now() + 600);
    let sessions = vec![world.session()];
    let call = AgentAccount::registerSessionsCall {
        sessions,
        epoch: 0,
        deadline,
        signature: Bytes::new(),
    };
    assert!(world.send_as_root(&call).await.status());
    world.pays(&world.payment(CAP, 0)).await;
    let key = world.key.address();
    let wrong = AgentAccount::revokeAllCall { epoch: 1, deadline, signature: Bytes::new() };
    assert!(!world.send_as_root(&wrong).await.status());
    let revoke =
        AgentAccount::revokeSessionCall { key, epoch: 0, deadline, signature: Bytes::new() };
    assert!(world.send_as_root(&revoke).await.status());
    world.refuses_payment::<AgentAccount::SessionIsRevoked>(&world.payment(1, 1)).await;
    let all = AgentAccount::revokeAllCall { epoch: 0, ..wrong };
    assert!(world.send_as_root(&all).await.status());
    assert_eq!(world.ask(&AgentAccount::epochCall {}).await, 1);
    assert_eq!(world.ask(&AgentAccount::sessionCall { key: root }).await.state, UNKNOWN);
}

#[tokio::test]
async fn storage_outlives_another_delegate() {
    let world = World::ready().await;
    world.pays(&world.payment(CAP, 0)).await;
    world.works(&world.account.revoke_all(&world.root, 0, world.now() + 600)).await;
    let call = world.account.register(&world.root, vec![world.session()], 1, world.now() + 600);
    world.works(&call).await;
    let first = Payment { epoch: 1, ..world.payment(CAP, 0) };
    world.pays(&first).await;

    let other = Address::repeat_byte(0x71);
    world.harness.chain.set_code(other, WALLET_1271.runtime_code.clone());
    for delegate in [other, Address::ZERO] {
        assert!(world.delegate(delegate, None).await.status());
        let code = world.code().await;
        assert_eq!(code.is_empty(), delegate.is_zero());
        let call = world.account.redeem(&world.key, &first);
        // Without our code nothing is paid: the call fails, or meets an account that runs nothing.
        let before = world.balance().await;
        assert_eq!(world.send(&call).await.status(), delegate.is_zero());
        assert_eq!(world.balance().await, before);
    }

    assert!(world.adopt(None).await.status());
    assert_eq!(world.ask(&AgentAccount::epochCall {}).await, 1);
    world.refuses_payment::<AgentAccount::NonceUsed>(&first).await;
    world.refuses_payment::<AgentAccount::WrongEpoch>(&world.payment(1, 7)).await;
    let key = world.key.address();
    let left = world.ask(&AgentAccount::remainingCall { key, token: USDC_ADDRESS }).await;
    assert_eq!(left.left, U256::from(BUDGET - CAP));
    world.pays(&Payment { epoch: 1, ..world.payment(CAP, 1) }).await;
    // The namespace is ERC-7201's, and the epoch is its first word.
    let slot = namespace("pay402.storage.AgentAccount");
    let stored = world.harness.provider.get_storage_at(world.root.address(), slot).await.unwrap();
    assert_eq!(stored, U256::from(1));
}

#[tokio::test]
async fn an_operation_belongs_to_one_account() {
    let world = World::ready().await;
    let other_root = signer("other root");
    let other = Account { address: other_root.address(), ..world.account };
    world.harness.chain.set_code(other.address, designator(AGENT_ACCOUNT_ADDRESS));
    world.harness.set_usdc(other.address, FUNDS);
    let deadline = world.now() + 600;
    let fresh = Session { key: signer("fresh").address(), ..world.session() };
    let registration = world.registration(vec![fresh]).abi_encode();
    let key = world.key.address();
    let revocation = world.account.revoke(&world.root, key, 0, deadline).abi_encode();
    let all = world.account.revoke_all(&world.root, 0, deadline).abi_encode();
    for call in [registration, revocation, all] {
        let receipt = world.send_raw(other.address, call.clone(), U256::ZERO).await;
        assert!(!receipt.status(), "replayed at another account");
        let receipt = world.send_raw(world.root.address(), call, U256::ZERO).await;
        assert!(receipt.status());
    }
}

#[tokio::test]
async fn an_operation_belongs_to_one_chain() {
    let home = World::ready().await;
    let away = World::on(CHAIN + 1);
    assert!(away.adopt(None).await.status());
    let deadline = home.now() + 600;
    let key = home.key.address();
    let calls = [
        home.registration(vec![home.session()]).abi_encode(),
        home.account.revoke(&home.root, key, 0, deadline).abi_encode(),
        home.account.revoke_all(&home.root, 0, deadline).abi_encode(),
    ];
    for call in calls {
        let refusal = away.refusal_of(call).await;
        assert_eq!(refusal[..], AgentAccount::BadRootSignature::SELECTOR);
    }
    // With its own chain's signature it works there.
    let call = away.registration(vec![away.session()]).abi_encode();
    assert!(away.adopt(Some(call)).await.status());
}

#[tokio::test]
async fn an_operation_has_a_last_second_and_one_signature() {
    let world = World::ready().await;
    let deadline = world.now() + 10;
    let call = world.account.revoke_all(&world.root, 0, deadline);
    let long = AgentAccount::revokeAllCall { deadline: seconds(deadline + 1), ..call.clone() };
    world.refuses::<AgentAccount::BadRootSignature, _>(&long).await;
    let signature = twin(&call.signature);
    let malleable = AgentAccount::revokeAllCall { signature, ..call.clone() };
    world.refuses::<AgentAccount::BadRootSignature, _>(&malleable).await;
    let signature = [&call.signature[..], &[0]].concat().into();
    let padded = AgentAccount::revokeAllCall { signature, ..call.clone() };
    world.refuses::<AgentAccount::BadRootSignature, _>(&padded).await;
    world.set_time(deadline + 1);
    world.refuses::<AgentAccount::OperationExpired, _>(&call).await;
    let last = world.account.revoke_all(&world.root, 0, world.now());
    world.works(&last).await;
}

#[tokio::test]
async fn what_a_registration_may_not_say() {
    let world = World::new();
    assert!(world.adopt(None).await.status());
    let good = world.session();
    let with_key = |key| Session { key, ..good.clone() };
    for key in [Address::ZERO, world.root.address()] {
        let call = world.registration(vec![with_key(key)]);
        world.refuses::<AgentAccount::BadKey, _>(&call).await;
    }
    let (start, now) = (good.validAfter, world.now());
    for (valid_after, expiry) in
        [(start, start), (seconds(now - 60), seconds(now)), (seconds(now + 9), seconds(now + 8))]
    {
        let session = Session { validAfter: valid_after, expiry, ..good.clone() };
        world.refuses::<AgentAccount::BadTimes, _>(&world.registration(vec![session])).await;
    }
    let many = (1..=33).map(Address::with_last_byte).collect();
    for (any_payee, payees) in [(false, vec![]), (true, vec![PAYEE]), (false, many)] {
        let session = Session { anyPayee: any_payee, payees, ..good.clone() };
        world.refuses::<AgentAccount::BadPayees, _>(&world.registration(vec![session])).await;
    }
    let many = (1..=9).map(|byte| limit(Address::repeat_byte(byte))).collect();
    for tokens in [
        vec![],
        vec![limit(USDC_ADDRESS), limit(USDC_ADDRESS)],
        vec![limit(Address::ZERO)],
        vec![limit(world.root.address())],
        many,
    ] {
        let session = Session { tokens, ..good.clone() };
        world.refuses::<AgentAccount::BadTokens, _>(&world.registration(vec![session])).await;
    }
    let plain = limit(USDC_ADDRESS);
    for wrong in [
        TokenLimit { cap: 0, ..plain.clone() },
        TokenLimit { cap: u128::from(BUDGET) + 1, ..plain.clone() },
        TokenLimit { window: 0, ..plain.clone() },
        TokenLimit { slots: 17, ..plain },
    ] {
        let session = Session { tokens: vec![wrong], ..good.clone() };
        world.refuses::<AgentAccount::BadLimit, _>(&world.registration(vec![session])).await;
    }
    let nine = (1..=9).map(|byte| with_key(Address::repeat_byte(byte))).collect();
    for sessions in [vec![], nine] {
        let call = world.registration(sessions);
        world.refuses::<AgentAccount::TooManySessions, _>(&call).await;
    }
    // All or nothing: one bad session takes the good one with it.
    let call = world.registration(vec![good.clone(), with_key(Address::ZERO)]);
    world.refuses::<AgentAccount::BadKey, _>(&call).await;
    assert_eq!(world.ask(&AgentAccount::sessionCall { key: good.key }).await.state, UNKNOWN);
}

#[tokio::test]
async fn the_largest_registration_fits_a_transaction() {
    let world = World::new();
    let sessions = (1..=8).map(|number| Session {
        key: Address::repeat_byte(number),
        payees: (1..=32).map(Address::with_last_byte).collect(),
        tokens: (1..=8).map(|byte| limit(Address::repeat_byte(byte))).collect(),
        ..world.session()
    });
    let call = world.registration(sessions.collect());
    let receipt = world.adopt(Some(call.abi_encode())).await;
    assert!(receipt.status());
    for number in 1..=8 {
        let key = Address::repeat_byte(number);
        let asked = AgentAccount::isPayeeAllowedCall { key, payee: Address::with_last_byte(32) };
        assert!(world.ask(&asked).await);
    }
}

#[tokio::test]
async fn a_skipped_tuple_leaves_no_code_and_a_good_status() {
    let world = World::new();
    let root = world.root.address();
    let call = world.registration(vec![world.session()]).abi_encode();
    let tuple = |chain_id, nonce| Delegation {
        chain_id: U256::from(chain_id),
        address: AGENT_ACCOUNT_ADDRESS,
        nonce,
    };
    // A wrong nonce, and another chain's.
    for tuple in [tuple(CHAIN, 7), tuple(CHAIN + 1, 0)] {
        for data in [None, Some(call.clone())] {
            let receipt = world.delegate_with(tuple.clone(), data).await;
            assert!(receipt.status(), "the status says nothing about the adoption");
            assert!(receipt.inner.logs().is_empty());
            assert!(world.code().await.is_empty());
        }
    }
    assert_eq!(world.harness.provider.get_transaction_count(root).await.unwrap(), 0);
    assert!(world.delegate_with(tuple(CHAIN, 0), Some(call)).await.status());
    assert_eq!(world.code().await, designator(AGENT_ACCOUNT_ADDRESS));
}

#[tokio::test]
async fn it_receives_as_an_eoa_does() {
    let world = World::ready().await;
    let root = world.root.address();
    let five = U256::from(5);
    assert!(world.send_raw(root, Vec::new(), five).await.status());
    assert_eq!(world.harness.provider.get_balance(root).await.unwrap(), five);
    let none = Address::ZERO;
    let zero = U256::ZERO;
    let single = AgentAccount::onERC721ReceivedCall {
        operator: none,
        from: none,
        id: zero,
        data: Bytes::new(),
    };
    assert_eq!(world.ask(&single).await.0, AgentAccount::onERC721ReceivedCall::SELECTOR);
    let multi = AgentAccount::onERC1155ReceivedCall {
        operator: none,
        from: none,
        id: zero,
        value: zero,
        data: Bytes::new(),
    };
    assert_eq!(world.ask(&multi).await.0, AgentAccount::onERC1155ReceivedCall::SELECTOR);
    let batch = AgentAccount::onERC1155BatchReceivedCall {
        operator: none,
        from: none,
        ids: vec![zero],
        values: vec![zero],
        data: Bytes::new(),
    };
    assert_eq!(world.ask(&batch).await.0, AgentAccount::onERC1155BatchReceivedCall::SELECTOR);
    let known = [0x01ff_c9a7_u32, 0x150b_7a02, 0x4e23_12e0, 0x1626_ba7e];
    let manager = u32::from_be_bytes(AgentAccount::redeemDelegationsCall::SELECTOR);
    for (id, supported) in
        known.into_iter().chain([manager]).map(|id| (id, true)).chain([(u32::MAX, false)])
    {
        let asked = AgentAccount::supportsInterfaceCall { id: id.to_be_bytes().into() };
        assert_eq!(world.ask(&asked).await, supported, "{id:08x}");
    }
    // What it has no words for is refused rather than swallowed: a mistyped call must not look done.
    assert!(!world.send_raw(root, b"memo".to_vec(), five).await.status());
}

#[tokio::test]
async fn the_code_itself_is_nobodys_account() {
    let world = World::ready().await;
    let own = Account { chain_id: CHAIN, address: AGENT_ACCOUNT_ADDRESS };
    let call = own.register(&world.root, vec![world.session()], 0, world.now() + 600).abi_encode();
    assert!(!world.send_raw(own.address, call, U256::ZERO).await.status());
    let payment = world.payment(1, 0);
    for key in [Address::ZERO, own.address] {
        for signature in [Bytes::from(vec![0; 65]), own.sign(&world.key, &payment)] {
            let signed = context(key, &payment, &signature);
            let asked = execution(payment.token, PAYEE, payment.value);
            let call = redeem(signed, asked).abi_encode();
            assert!(!world.send_raw(own.address, call, U256::ZERO).await.status());
        }
    }
    let digest = B256::repeat_byte(1);
    let signature = world.root.sign_hash_sync(&digest).unwrap().as_bytes().into();
    let call = AgentAccount::isValidSignatureCall { digest, signature };
    assert_eq!(world.harness.read_at(own.address, &call).await.0, INVALID);
}

#[tokio::test]
async fn anyone_can_deploy_it_at_its_address() {
    let world = World::new();
    world.harness.chain.set_code(AGENT_ACCOUNT_ADDRESS, Bytes::new());
    world.harness.chain.set_nonce(AGENT_ACCOUNT_ADDRESS, 0);
    let data = [B256::ZERO.as_slice(), &AGENT_ACCOUNT.creation_code].concat();
    let receipt = world.send_raw(CREATE2_DEPLOYER, data, U256::ZERO).await;
    assert!(receipt.status());
    let code = world.harness.provider.get_code_at(AGENT_ACCOUNT_ADDRESS).await.unwrap();
    assert_eq!(code, AGENT_ACCOUNT.runtime_code);
}

#[tokio::test]
async fn the_typed_data_is_as_documented() {
    let world = World::ready().await;
    let domain = world.ask(&AgentAccount::eip712DomainCall {}).await;
    assert_eq!((domain.fields.0, domain.name.as_str()), ([0x0f], "pay402 AgentAccount"));
    assert_eq!((domain.version.as_str(), domain.chainId), ("1", U256::from(CHAIN)));
    assert_eq!(domain.verifyingContract, world.root.address());
    let page = include_str!("../../../../docs/agent-account.md");
    let (account, deployer) =
        (AGENT_ACCOUNT_ADDRESS.to_checksum(None), CREATE2_DEPLOYER.to_checksum(None));
    assert!(page.contains(&account) && page.contains(&deployer), "where it is");
    for text in [
        RegisterSessions::eip712_encode_type(),
        RevokeSession::eip712_encode_type(),
        RevokeAll::eip712_encode_type(),
        Payment::eip712_encode_type(),
        AuthorizationNonce::eip712_encode_type(),
        TransferWithAuthorization::eip712_encode_type(),
    ] {
        assert!(page.contains(text.as_ref()), "{text}");
    }
}

#[test]
fn no_instruction_runs_foreign_code_in_its_name_or_ends_it() {
    let code = &AGENT_ACCOUNT.runtime_code;
    for forbidden in [CREATE, CALLCODE, DELEGATECALL, CREATE2, SELFDESTRUCT] {
        assert!(opcodes(code).all(|opcode| opcode != forbidden), "{forbidden:02x}");
    }
    // One to the token's `transfer`, and none other that can change anything.
    assert_eq!(opcodes(code).filter(|opcode| *opcode == CALL).count(), 1);
}

const CALL: u8 = 0xf1;
const CREATE: u8 = 0xf0;
const CALLCODE: u8 = 0xf2;
const DELEGATECALL: u8 = 0xf4;
const CREATE2: u8 = 0xf5;
const SELFDESTRUCT: u8 = 0xff;

/// The instructions of `code`, without what PUSH instructions carry.
fn opcodes(code: &[u8]) -> impl Iterator<Item = u8> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let opcode = *code.get(at)?;
        // PUSH1 to PUSH32 carry 1 to 32 bytes.
        at += 1 + usize::from(opcode.saturating_sub(0x5f))
            * usize::from((0x60..=0x7f).contains(&opcode));
        Some(opcode)
    })
}
