//! Plain EIP-3009 payments of an account that adopted the code: the root's, which work as ever, and a session key's,
//! which are budgeted on chain together with its ERC-7710 payments.
#![allow(clippy::unwrap_used, reason = "this is test code, which the lint does not recognise here")]

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::Provider;
use alloy::signers::SignerSync;
use alloy::sol_types::{SolCall, SolError, SolEvent, SolStruct, SolValue};
use pay402_devchain::genesis::{AGENT_ACCOUNT_ADDRESS, USDC_ADDRESS};

use crate::signed::{
    Account, AgentAccount, INVALID, Payment, RevokeAll, Session, Slotted, TokenLimit,
    TransferWithAuthorization, USDC_DOMAIN, VALID, seconds, signer, token_domain,
};
use crate::support::permit2::twin;
use crate::support::{PAYEE, Usdc, authorization};
use crate::world::{BUDGET, CAP, CHAIN, FUNDS, PUPPET, START, WINDOW, World, designator, limit};

/// Authorizations of the session that these tests use, per window.
const SLOTS: u8 = 4;

fn slotted_limit() -> TokenLimit {
    TokenLimit { slots: SLOTS, ..limit(USDC_ADDRESS) }
}

/// Adopted, with a session whose budget of three caps may be spent on both roads.
async fn world() -> World {
    let world = World::new();
    let session = Session { tokens: vec![slotted_limit()], ..world.session() };
    assert!(world.adopt(Some(world.registration(vec![session]).abi_encode())).await.status());
    world
}

/// An authorization for the window of this moment.
fn slotted(world: &World, value: u64, slot: u8) -> Slotted {
    Slotted {
        account: world.account,
        token: USDC_ADDRESS,
        domain: USDC_DOMAIN,
        to: PAYEE,
        value: value.into(),
        valid_after: world.now() - 60,
        valid_before: world.now() + 60,
        epoch: 0,
        window: (world.now() - START) / WINDOW,
        slot,
    }
}

/// The token's call that carries it out.
fn transfer(world: &World, slotted: &Slotted) -> Usdc::transferWithAuthorization_1Call {
    transfer_signed(world, slotted, slotted.signature(&world.key))
}

fn transfer_signed(
    world: &World,
    slotted: &Slotted,
    signature: Bytes,
) -> Usdc::transferWithAuthorization_1Call {
    let message = slotted.message(world.key.address());
    Usdc::transferWithAuthorization_1Call {
        from: message.from,
        to: message.to,
        value: message.value,
        validAfter: message.validAfter,
        validBefore: message.validBefore,
        nonce: message.nonce,
        signature,
    }
}

impl World {
    async fn submits(&self, slotted: &Slotted) -> bool {
        let data = transfer(self, slotted).abi_encode();
        self.send_raw(USDC_ADDRESS, data, U256::ZERO).await.status()
    }

    /// The error for which the account says no; `None` where it says yes.
    async fn says_no(&self, digest: B256, signature: Bytes) -> Option<[u8; 4]> {
        let asked = AgentAccount::isValidSignatureCall { digest, signature: signature.clone() };
        let answer = self.ask(&asked).await.0;
        let why = self.ask(&AgentAccount::signatureRefusalCall { digest, signature }).await.0;
        assert_eq!(answer, if why == [0; 4] { VALID } else { INVALID });
        (why != [0; 4]).then_some(why)
    }

    /// Asserts that the account refuses `slotted` with exactly `E`, and the token carries nothing out.
    async fn refuses_slotted<E: SolError>(&self, slotted: &Slotted) {
        let digest = slotted.digest(self.key.address());
        let why = self.says_no(digest, slotted.signature(&self.key)).await;
        assert_eq!(why, Some(E::SELECTOR), "not {}", E::SIGNATURE);
        let before = self.balance().await;
        assert!(!self.submits(slotted).await);
        assert_eq!(self.balance().await, before);
    }

    async fn spent(&self) -> u64 {
        FUNDS - self.balance().await.to::<u64>()
    }
}

#[tokio::test]
async fn the_roots_plain_payments_work_as_before() {
    let world = world().await;
    let payment = authorization(&world.harness, &world.root, Address::repeat_byte(2), 5 * BUDGET);
    let digest = payment.digest("TransferWithAuthorization");
    let signature = payment.sign(&world.root);
    // EIP-2098's 64 bytes are the same signature; USDC hands on whatever it is given.
    let compact = world.root.sign_hash_sync(&digest).unwrap().as_erc2098();
    assert_eq!(world.says_no(digest, compact.into()).await, None);
    assert_eq!(world.says_no(digest, signature.clone()).await, None);
    let mut zero_v = signature.to_vec();
    zero_v[64] -= 27;
    for wrong in [twin(&signature), zero_v.into(), payment.sign(&world.key)] {
        let bad = Some(AgentAccount::BadSignature::SELECTOR);
        assert_eq!(world.says_no(digest, wrong).await, bad);
    }
    let long = payment.bytes_call(signature).abi_encode();
    assert!(world.send_raw(USDC_ADDRESS, long, U256::ZERO).await.status());
    // The nonce makes the two one payment.
    let short = payment.bytes_call(compact.into()).abi_encode();
    assert!(!world.send_raw(USDC_ADDRESS, short, U256::ZERO).await.status());
    assert_eq!(world.spent().await, 5 * BUDGET);
    let vrs = authorization(&world.harness, &world.root, PAYEE, 7).vrs_call(&world.root);
    assert!(world.send_raw(USDC_ADDRESS, vrs.abi_encode(), U256::ZERO).await.status());
    assert_eq!(world.spent().await, 5 * BUDGET + 7);
}

#[tokio::test]
async fn a_session_key_pays_by_plain_eip_3009() {
    let world = world().await;
    let payment = slotted(&world, 60, 0);
    let key = world.key.address();
    let asked = AgentAccount::authorizationNonceCall {
        key,
        token: USDC_ADDRESS,
        window: seconds(0),
        slot: 0,
    };
    assert_eq!(world.ask(&asked).await, payment.nonce(key));
    assert_eq!(payment.signature(&world.key).len(), 198);
    let data = transfer(&world, &payment).abi_encode();
    let receipt = world.send_raw(USDC_ADDRESS, data, U256::ZERO).await;
    assert!(receipt.status());
    let used = Usdc::AuthorizationUsed::decode_log(&receipt.inner.logs()[0].inner).unwrap();
    assert_eq!((used.authorizer, used.nonce), (world.root.address(), payment.nonce(key)));
    assert_eq!(world.spent().await, 60);
    assert!(!world.submits(&payment).await);
    // It counts as a whole cap.
    let left = world.ask(&AgentAccount::remainingCall { key, token: USDC_ADDRESS }).await;
    assert_eq!(left.left, U256::from(BUDGET - CAP));
    assert_eq!(world.harness.provider.get_balance(world.root.address()).await.unwrap(), U256::ZERO);
}

#[tokio::test]
async fn the_fourth_authorization_of_a_budget_of_three_is_refused() {
    let world = world().await;
    for slot in [3, 0, 2] {
        assert!(world.submits(&slotted(&world, CAP, slot)).await);
    }
    world.refuses_slotted::<AgentAccount::OverBudget>(&slotted(&world, 1, 1)).await;
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 0)).await;
    assert_eq!(world.spent().await, BUDGET);
}

/// Every order of up to five payments on the two roads.
#[tokio::test]
async fn both_roads_together_never_exceed_the_budget() {
    let world = world().await;
    for order in 0..1_u8 << 5 {
        let snapshot = world.harness.chain.snapshot();
        let (mut slot, mut nonce, mut paid) = (0, 0, 0);
        for step in 0..5 {
            let by_authorization = order >> step & 1 == 1;
            let worked = if by_authorization {
                let payment = slotted(&world, CAP, slot);
                slot = (slot + 1).min(SLOTS - 1);
                world.submits(&payment).await
            } else {
                nonce += 1;
                world
                    .send(&world.account.redeem(&world.key, &world.payment(CAP, nonce)))
                    .await
                    .status()
            };
            // Full caps leave no room for waste: exactly three work, whichever road they take.
            assert_eq!(worked, step < 3, "order {order:05b}, step {step}");
            paid += u64::from(worked);
        }
        assert_eq!(world.spent().await, paid * CAP);
        assert_eq!(paid * CAP, BUDGET);
        assert!(world.harness.chain.revert(snapshot));
    }
}

#[tokio::test]
async fn small_authorizations_count_as_caps_and_small_payments_as_themselves() {
    let world = world().await;
    assert!(world.submits(&slotted(&world, 1, 0)).await);
    assert!(world.submits(&slotted(&world, 1, 1)).await);
    // Two caps are taken: a hundred are left, to the unit.
    world.refuses_payment::<AgentAccount::OverCap>(&world.payment(CAP + 1, 0)).await;
    world.pays(&world.payment(CAP - 1, 0)).await;
    world.refuses_slotted::<AgentAccount::OverBudget>(&slotted(&world, 2, 2)).await;
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(2, 1)).await;
    // A last authorization need only fit with its value, though it counts as a cap afterwards.
    assert!(world.submits(&slotted(&world, 1, 2)).await);
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 1)).await;
    let asked = AgentAccount::remainingCall { key: world.key.address(), token: USDC_ADDRESS };
    assert_eq!(world.ask(&asked).await.left, U256::ZERO);
    assert_eq!(world.spent().await, CAP + 2);
}

/// A key that is about to be lost signs as much as it can, for all windows and slots.
#[tokio::test]
async fn signed_in_advance_and_submitted_in_any_order_it_is_the_same_budget() {
    let world = world().await;
    let mut hoard = Vec::new();
    for window in 0..3 {
        for slot in 0..16 {
            // Good for the hour around the start of its window, and around its middle.
            for from in [0, WINDOW / 2] {
                let valid_after = START + window * WINDOW + from - 1_800;
                let valid_before = valid_after + 3_600;
                let payment = slotted(&world, CAP, slot);
                hoard.push(Slotted { window, valid_after, valid_before, ..payment });
            }
        }
    }
    // Orders that have nothing to do with the order of signing.
    let mut spent = Vec::new();
    for (turn, time) in [0, WINDOW / 2, WINDOW, WINDOW * 3 / 2, 2 * WINDOW + 5].iter().enumerate() {
        world.set_time(START + time);
        for step in 0..hoard.len() {
            let at = (step * 37 + turn * 11) % hoard.len();
            world.submits(&hoard[at]).await;
        }
        spent.push(world.spent().await);
    }
    assert_eq!(spent, [BUDGET, BUDGET, 2 * BUDGET, 2 * BUDGET, 3 * BUDGET]);
}

#[tokio::test]
async fn at_the_boundary_two_budgets_may_meet_and_no_authorization_crosses_it() {
    let world = world().await;
    let boundary = START + WINDOW;
    world.set_time(boundary - 1);
    let crossing: Vec<_> = (0..SLOTS).map(|slot| slotted(&world, CAP, slot)).collect();
    assert!(world.submits(&crossing[0]).await);
    world.pays(&world.payment(CAP, 0)).await;
    // The next window's authorizations do not count before it.
    let next: Vec<_> = crossing.iter().map(|now| Slotted { window: 1, ..now.clone() }).collect();
    world.refuses_slotted::<AgentAccount::WrongDigest>(&next[0]).await;
    assert!(world.submits(&crossing[1]).await);
    world.refuses_slotted::<AgentAccount::OverBudget>(&crossing[2]).await;

    world.set_time(boundary);
    // Their times are good still, and their window is over.
    for late in &crossing[2..] {
        world.refuses_slotted::<AgentAccount::WrongDigest>(late).await;
    }
    assert!(world.submits(&next[0]).await);
    world.pays(&world.payment(CAP, 1)).await;
    assert!(world.submits(&next[1]).await);
    world.refuses_slotted::<AgentAccount::OverBudget>(&next[2]).await;
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 2)).await;
    assert_eq!(world.spent().await, 2 * BUDGET);
    world.set_time(boundary + WINDOW - 1);
    let last = Slotted { window: 1, ..slotted(&world, 1, 3) };
    world.refuses_slotted::<AgentAccount::OverBudget>(&last).await;
}

#[tokio::test]
async fn each_rule_refuses_an_authorization_by_name() {
    let world = world().await;
    let good = slotted(&world, 1, 0);
    let over_cap = Slotted { value: u128::from(CAP) + 1, ..good.clone() };
    world.refuses_slotted::<AgentAccount::OverCap>(&over_cap).await;
    let stranger = Slotted { to: Address::repeat_byte(3), ..good.clone() };
    world.refuses_slotted::<AgentAccount::PayeeNotAllowed>(&stranger).await;
    let no_slot = Slotted { slot: SLOTS, ..good.clone() };
    world.refuses_slotted::<AgentAccount::SlotNotAllowed>(&no_slot).await;
    let long = Slotted { valid_before: good.valid_after + 3_601, ..good.clone() };
    world.refuses_slotted::<AgentAccount::LifetimeTooLong>(&long).await;
    let backwards = Slotted { valid_before: good.valid_after - 1, ..good.clone() };
    world.refuses_slotted::<AgentAccount::BadTimes>(&backwards).await;
    let other_window = Slotted { window: 1, ..good.clone() };
    world.refuses_slotted::<AgentAccount::WrongDigest>(&other_window).await;
    let other_epoch = Slotted { epoch: 1, ..good.clone() };
    world.refuses_slotted::<AgentAccount::WrongDigest>(&other_epoch).await;
    let other_token = Slotted { token: PUPPET, ..good.clone() };
    world.refuses_slotted::<AgentAccount::TokenNotAllowed>(&other_token).await;

    let key = world.key.address();
    let snapshot = world.harness.chain.snapshot();
    world.works(&world.account.revoke(&world.root, key, 0, world.now() + 60)).await;
    world.refuses_slotted::<AgentAccount::SessionIsRevoked>(&good).await;
    assert!(world.harness.chain.revert(snapshot));
    let snapshot = world.harness.chain.snapshot();
    world.works(&world.account.revoke_all(&world.root, 0, world.now() + 60)).await;
    world.refuses_slotted::<AgentAccount::SessionUnknown>(&good).await;
    assert!(world.harness.chain.revert(snapshot));
    assert!(world.submits(&good).await);
    world.set_time(START + 30 * WINDOW);
    let late = slotted(&world, 1, 1);
    world.refuses_slotted::<AgentAccount::SessionExpired>(&late).await;
}

#[tokio::test]
async fn without_slots_a_session_key_has_no_say_in_eip_3009() {
    let world = World::ready().await;
    world.refuses_slotted::<AgentAccount::SlotNotAllowed>(&slotted(&world, 1, 0)).await;
}

#[tokio::test]
async fn what_is_embedded_must_be_what_the_token_means() {
    let world = world().await;
    let good = slotted(&world, 50, 0);
    let key = world.key.address();
    let digest = good.digest(key);
    let signed = world.key.sign_hash_sync(&digest).unwrap().as_bytes();
    let wrong = Some(AgentAccount::WrongDigest::SELECTOR);
    // The token asks about a digest; each of these tells the account another story about it.
    for story in [
        Slotted { value: 49, ..good.clone() },
        Slotted { valid_after: good.valid_after + 1, ..good.clone() },
        Slotted { valid_before: good.valid_before - 1, ..good.clone() },
        Slotted { slot: 1, ..good.clone() },
        Slotted { domain: ("USDC", "1"), ..good.clone() },
        Slotted { domain: ("USD Coin", "2"), ..good.clone() },
    ] {
        assert_eq!(world.says_no(digest, story.packed(&signed)).await, wrong);
    }
    let packed = good.packed(&signed);
    let malformed = Some(AgentAccount::MalformedSignature::SELECTOR);
    for signature in
        [packed.slice(..197), [&packed[..], &[0]].concat().into(), Bytes::new(), packed.slice(..63)]
    {
        assert_eq!(world.says_no(digest, signature).await, malformed);
    }
    // The high twin recovers to nobody, whatever it stands beside.
    let bad = Some(AgentAccount::BadSignature::SELECTOR);
    assert_eq!(world.says_no(digest, good.packed(&twin(&signed.into()))).await, bad);
    assert_eq!(world.says_no(digest, good.packed(&[0; 65])).await, bad);
    // The key's signature alone is no signature of the account.
    assert_eq!(world.says_no(digest, signed.into()).await, bad);
    assert_eq!(world.says_no(digest, packed).await, None);
}

/// All that a session key could be made to sign besides: each is offered bare, and inside of a good embedding.
#[tokio::test]
async fn whatever_it_cannot_bound_it_refuses() {
    let world = world().await;
    let (key, from) = (world.key.address(), world.root.address());
    let good = slotted(&world, 1, 0);
    let usdc = token_domain(USDC_DOMAIN, CHAIN, USDC_ADDRESS).separator();
    let deadline = U256::from(world.now() + 600);
    let one = U256::from(1);
    let permit = keccak256(
        (
            world.harness.read(&Usdc::PERMIT_TYPEHASHCall {}).await,
            from,
            PAYEE,
            one,
            U256::ZERO,
            deadline,
        )
            .abi_encode(),
    );
    let receive = {
        let message = good.message(key);
        let type_hash = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)",
        );
        let fields = (
            message.from,
            message.to,
            message.value,
            message.validAfter,
            message.validBefore,
            message.nonce,
        );
        keccak256((type_hash, fields).abi_encode())
    };
    let cancel = {
        let type_hash = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");
        keccak256((type_hash, from, good.nonce(key)).abi_encode())
    };
    let permit2 = {
        let domain = domain_without_version("Permit2", CHAIN, PERMIT2);
        let permitted = keccak256(
            (keccak256("TokenPermissions(address token,uint256 amount)"), USDC_ADDRESS, one)
                .abi_encode(),
        );
        let witness = keccak256(
            (keccak256("Witness(address to,uint256 validAfter)"), PAYEE, U256::ZERO).abi_encode(),
        );
        let type_hash = keccak256(
            "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,uint256 validAfter)",
        );
        let message =
            (type_hash, permitted, Address::repeat_byte(4), U256::ZERO, deadline, witness);
        typed(domain, keccak256(message.abi_encode()))
    };
    let from_another =
        TransferWithAuthorization { from: Address::repeat_byte(5), ..good.message(key) };
    let free_nonce = TransferWithAuthorization { nonce: B256::repeat_byte(6), ..good.message(key) };
    let payment = world.payment(1, 0).eip712_signing_hash(&world.account.domain());
    let grant = RevokeAll { epoch: 0, deadline: seconds(world.now() + 60) }
        .eip712_signing_hash(&world.account.domain());
    let digests = [
        ("permit", typed(usdc, permit)),
        ("receiveWithAuthorization", typed(usdc, receive)),
        ("cancelAuthorization", typed(usdc, cancel)),
        ("Permit2 with the proxy's witness", permit2),
        ("another's transfer", typed(usdc, from_another.eip712_hash_struct())),
        ("a nonce of no slot", typed(usdc, free_nonce.eip712_hash_struct())),
        ("a payment by ERC-7710", payment),
        ("an operation of the root", grant),
        ("personal_sign", alloy::primitives::eip191_hash_message(b"log in")),
        ("anything", B256::repeat_byte(7)),
    ];
    for (what, digest) in digests {
        let signed = world.key.sign_hash_sync(&digest).unwrap().as_bytes();
        let bare = world.says_no(digest, signed.into()).await;
        assert_eq!(bare, Some(AgentAccount::BadSignature::SELECTOR), "{what}");
        let embedded = world.says_no(digest, good.packed(&signed)).await;
        assert_eq!(embedded, Some(AgentAccount::WrongDigest::SELECTOR), "{what}");
    }
    // The permit itself, at the token, both ways.
    let digest = typed(usdc, permit);
    let signed = world.key.sign_hash_sync(&digest).unwrap().as_bytes();
    for signature in [Bytes::from(signed), good.packed(&signed)] {
        let call =
            Usdc::permit_1Call { holder: from, spender: PAYEE, value: one, deadline, signature };
        let receipt = world.send_raw(USDC_ADDRESS, call.abi_encode(), U256::ZERO).await;
        assert!(!receipt.status());
    }
    let allowance = Usdc::allowanceCall { holder: from, spender: PAYEE };
    assert_eq!(world.harness.read(&allowance).await, U256::ZERO);
}

/// An allowed token cannot lend its name: the digest is bound to the token's address, whatever domain it claims.
#[tokio::test]
async fn an_allowed_token_cannot_stand_in_for_another() {
    let world = World::new();
    world.mint_puppets().await;
    // USDC is not allowed at all, and the puppet without bounds; it says that no nonce is ever used.
    let wide = TokenLimit { cap: 1 << 90, budget: 1 << 100, slots: 16, ..limit(PUPPET) };
    let session = Session { tokens: vec![wide], ..world.session() };
    assert!(world.adopt(Some(world.registration(vec![session]).abi_encode())).await.status());
    let key = world.key.address();
    let claimed = Slotted { token: PUPPET, value: FUNDS.into(), ..slotted(&world, 0, 0) };
    assert_eq!(world.says_no(claimed.digest(key), claimed.signature(&world.key)).await, None);
    // The same story, signed over USDC's digest and handed to USDC.
    let usdc = token_domain(USDC_DOMAIN, CHAIN, USDC_ADDRESS);
    let digest = claimed.message(key).eip712_signing_hash(&usdc);
    let signed = world.key.sign_hash_sync(&digest).unwrap().as_bytes();
    let signature = claimed.packed(&signed);
    let wrong = Some(AgentAccount::WrongDigest::SELECTOR);
    assert_eq!(world.says_no(digest, signature.clone()).await, wrong);
    let call = transfer_signed(&world, &claimed, signature);
    assert!(!world.send_raw(USDC_ADDRESS, call.abi_encode(), U256::ZERO).await.status());
    assert_eq!(world.spent().await, 0);
}

#[tokio::test]
async fn an_authorization_belongs_to_one_account_and_one_chain() {
    let world = world().await;
    let root = signer("other root");
    let other = Account { address: root.address(), ..world.account };
    world.harness.chain.set_code(other.address, designator(AGENT_ACCOUNT_ADDRESS));
    world.harness.set_usdc(other.address, FUNDS);
    let session = || Session { tokens: vec![slotted_limit()], ..world.session() };
    let call = other.register(&root, vec![session()], 0, world.now() + 600).abi_encode();
    assert!(world.send_raw(other.address, call, U256::ZERO).await.status());
    let mine = slotted(&world, 50, 0);
    let mut stolen = transfer(&world, &mine);
    stolen.from = other.address;
    assert!(!world.send_raw(USDC_ADDRESS, stolen.abi_encode(), U256::ZERO).await.status());
    assert_eq!(world.harness.usdc(other.address).await, U256::from(FUNDS));

    let away = World::on(CHAIN + 1);
    let call = away.registration(vec![session()]).abi_encode();
    assert!(away.adopt(Some(call)).await.status());
    let replayed = transfer(&world, &mine).abi_encode();
    assert!(!away.send_raw(USDC_ADDRESS, replayed, U256::ZERO).await.status());
    assert_eq!(away.spent().await, 0);
    let own = Slotted { account: away.account, ..mine.clone() };
    assert!(away.submits(&own).await);
    assert!(world.submits(&mine).await);
}

/// A new epoch makes new nonces: what was used before takes nothing from the new policy, nor gives it anything.
#[tokio::test]
async fn a_new_epoch_has_slots_of_its_own() {
    let world = world().await;
    for slot in 0..3 {
        assert!(world.submits(&slotted(&world, CAP, slot)).await);
    }
    let unused = slotted(&world, CAP, 3);
    world.works(&world.account.revoke_all(&world.root, 0, world.now() + 60)).await;
    let session = Session { tokens: vec![slotted_limit()], ..world.session() };
    world.works(&world.account.register(&world.root, vec![session], 1, world.now() + 60)).await;
    world.refuses_slotted::<AgentAccount::WrongDigest>(&unused).await;
    for slot in 0..3 {
        assert!(world.submits(&Slotted { epoch: 1, ..slotted(&world, CAP, slot) }).await);
    }
    let fourth = Slotted { epoch: 1, ..unused };
    world.refuses_slotted::<AgentAccount::OverBudget>(&fourth).await;
    let payment = Payment { epoch: 1, ..world.payment(1, 0) };
    world.refuses_payment::<AgentAccount::OverBudget>(&payment).await;
}

/// The owner can close a slot that is out and unused: a cancelled authorization counts as a used one.
#[tokio::test]
async fn a_slot_that_the_root_cancels_is_taken() {
    let world = world().await;
    let payment = slotted(&world, CAP, 0);
    let nonce = payment.nonce(world.key.address());
    let mut cancelled = authorization(&world.harness, &world.root, PAYEE, 0);
    cancelled.nonce = nonce;
    let call = cancelled.cancel_call(&world.root).abi_encode();
    assert!(world.send_raw(USDC_ADDRESS, call, U256::ZERO).await.status());
    assert!(!world.submits(&payment).await);
    let asked = AgentAccount::remainingCall { key: world.key.address(), token: USDC_ADDRESS };
    assert_eq!(world.ask(&asked).await.left, U256::from(BUDGET - CAP));
}

const PERMIT2: Address = alloy::primitives::address!("0x000000000022D473030F116dDEE9F6B43aC78BA3");

/// A domain of name, chain and contract, as Permit2 has it.
fn domain_without_version(name: &str, chain_id: u64, contract: Address) -> B256 {
    let type_hash =
        keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)");
    keccak256((type_hash, keccak256(name), U256::from(chain_id), contract).abi_encode())
}

fn typed(domain: B256, message: B256) -> B256 {
    keccak256([&[0x19, 0x01], domain.as_slice(), message.as_slice()].concat())
}
