//! Every kind of account that may pay, and what each may try: contracts, wallets that are not
//! deployed yet (ERC-6492), keys that delegated themselves (EIP-7702).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::signers::SignerSync as _;
use alloy::sol_types::SolValue as _;
use pay402_core::network::{ChainStatus, Network as _, Unverified};
use pay402_core::refusal::Reason;
use pay402_core::{Payment, Refusal};
use pay402_devchain::genesis::{
    CREATE2_DEPLOYER, MULTICALL3, USDC_ADDRESS, WALLET_1271, dev_signer,
};
use pay402_devchain::zoo;
use pay402_evm::network::{DEPLOYMENT_GAS_MAX, GAS_LIMIT_MAX_DEFAULT};
use pay402_evm::signature::SIGNATURE_BYTES_MAX;
use pay402_evm::typed_data::token_domain;
use pay402_evm::{AssetTable, Settings};

use crate::accounts::{Undeployed, abi, first_contract, magic, wrap};
use crate::faults::{Meddling, over};
use crate::permit::{self, exact, upto};
use crate::support::{
    CHAIN_ID, House, PAY_TO, PAYER, STRANGER, authorization, carrying, payment, signed, terms, usdc,
};

/// How a payment is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    Eip3009,
    Permit2,
    Upto,
}

const ALL: [Method; 3] = [Method::Eip3009, Method::Permit2, Method::Upto];

impl Method {
    const fn bad_signature(self) -> Refusal {
        match self {
            Self::Eip3009 => Refusal::InvalidSignature,
            Self::Permit2 | Self::Upto => Refusal::PermitInvalidSignature,
        }
    }

    const fn simulation_failed(self) -> Refusal {
        match self {
            Self::Eip3009 => Refusal::SimulationFailed,
            Self::Permit2 | Self::Upto => Refusal::PermitSimulationFailed,
        }
    }

    /// A payment of `payer`, with whatever `encode` makes of what `signer` signed.
    pub(crate) fn pay(
        self,
        payer: Address,
        signer: usize,
        encode: impl Fn(Vec<u8>) -> Vec<u8>,
    ) -> Payment {
        let key = dev_signer(signer);
        match self {
            Self::Eip3009 => {
                let terms = terms(10_000);
                let authorization = authorization(&terms, payer);
                let domain = token_domain(&usdc().info, CHAIN_ID, USDC_ADDRESS);
                let signature = key.sign_hash_sync(&authorization.digest(&domain)).unwrap();
                carrying(&terms, authorization, encode(signature.as_bytes().to_vec()))
            }
            Self::Permit2 | Self::Upto => {
                let terms = if self == Self::Upto { upto(10_000) } else { exact(10_000) };
                let permit = permit::permit(&terms, payer);
                permit::carrying(&terms, permit, encode(permit::sign(&permit, &key)))
            }
        }
    }
}

fn plainly(signature: Vec<u8>) -> Vec<u8> {
    signature
}

/// A house whose network was checked; these factories may be called.
async fn house(factories: &[Address]) -> House {
    let settings = Settings { factories: factories.to_vec(), ..Settings::default() };
    let house = House::with(AssetTable::defaults(), settings);
    house.network.check().await.unwrap();
    house
}

fn payee() -> Address {
    PAY_TO.parse().unwrap()
}

fn failed_as(status: &ChainStatus, refusal: Refusal) -> bool {
    matches!(status, ChainStatus::Failed { refused, .. }
        if refused.reason == Reason::Known(refusal))
}

impl House {
    /// Settles, and asserts that exactly the price moved from `payer` to the payee, by one
    /// transaction that proves it. Gives what that transaction calls, and with what.
    async fn settles(&self, payment: &Payment, payer: Address) -> (Address, Bytes) {
        let before = (self.usdc_of(payer).await, self.usdc_of(payee()).await);
        let verified = self.verify(payment).await.unwrap();
        let block = self.chain.block_number();
        let (sent, _) = self.submit(&verified.plan).await;
        let status = self.network.status(&verified.plan, Some(&sent)).await.unwrap();
        assert!(
            matches!(&status, ChainStatus::Proven { transaction, .. } if *transaction == sent.transaction),
            "{status:?}"
        );
        let after = (self.usdc_of(payer).await, self.usdc_of(payee()).await);
        let price = U256::from(10_000);
        assert_eq!((before.0 - after.0, after.1 - before.1), (price, price));
        assert_eq!(self.chain.block_number(), block + 1, "one block");
        self.only_call_in(block + 1).await
    }

    async fn only_call_in(&self, block: u64) -> (Address, Bytes) {
        let [call] = &self.calls_in(block).await[..] else { panic!("one transaction") };
        let Some(TxKind::Call(target)) = call.to else { panic!("a call") };
        (target, call.input.input().unwrap().clone())
    }

    /// Settles what was verified; asserts that it reverts, moves nothing and costs at most `gas`.
    async fn reverts_within(&self, payment: &Payment, gas: u64, meanwhile: impl AsyncFn(&Self)) {
        let verified = self.verify(payment).await.unwrap();
        meanwhile(self).await;
        let had = self.usdc_of(payee()).await;
        let (sent, _) = self.submit(&verified.plan).await;
        let status = self.network.status(&verified.plan, Some(&sent)).await.unwrap();
        assert!(failed_as(&status, Refusal::TransactionReverted), "{status:?}");
        assert_eq!(self.usdc_of(payee()).await, had);
        let used = self.gas_of(&sent.transaction).await;
        assert!(used <= gas, "{used} gas");
    }

    async fn gas_of(&self, transaction: &str) -> u64 {
        use alloy::providers::Provider as _;
        let hash = transaction.parse().unwrap();
        self.chain.provider().get_transaction_receipt(hash).await.unwrap().unwrap().gas_used
    }
}

// === Wallets that are not deployed (ERC-6492) ===

#[tokio::test]
async fn a_wallet_is_deployed_and_pays_in_one_transaction() {
    for method in [Method::Eip3009, Method::Permit2] {
        for by_factory in [true, false] {
            let house = house(&[first_contract(), CREATE2_DEPLOYER]).await;
            let wallet = match by_factory {
                true => Undeployed::by_factory(house.factory().await, PAYER),
                false => Undeployed::by_deployer(PAYER),
            };
            house.fund(wallet.address);
            let payment = method.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
            assert_eq!(house.code_of(wallet.address).await, Bytes::new());
            let (target, _) = house.settles(&payment, wallet.address).await;
            assert_eq!(target, MULTICALL3);
            assert_eq!(house.code_of(wallet.address).await, WALLET_1271.runtime_code);
            // It is the same payment again, whether it still says how it was deployed or not.
            let used = match method {
                Method::Eip3009 => Refusal::NonceAlreadyUsed,
                _ => Refusal::PermitNonceUsed,
            };
            house.refuses(&payment, used).await;
        }
    }
}

#[tokio::test]
async fn a_factory_that_is_not_allowed_is_never_called() {
    let house = house(&[]).await;
    let factory = house.factory().await;
    let wallet = Undeployed::by_factory(factory, PAYER);
    house.fund(wallet.address);
    // Everything that the node is asked is searched for the factory.
    let (asked, named) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (asked.clone(), named.clone());
    let name = format!("{factory:x}");
    let network = over(&house, move |_, params| {
        counters.0.fetch_add(1, Ordering::SeqCst);
        if params.to_string().contains(&name) {
            counters.1.fetch_add(1, Ordering::SeqCst);
        }
        Meddling::Pass
    });
    network.check().await.unwrap();
    let before = asked.load(Ordering::SeqCst);
    for method in [Method::Eip3009, Method::Permit2] {
        let payment = method.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
        house.refuses(&payment, Refusal::FactoryNotAllowed).await;
        let Err(Unverified::Invalid(refused)) = network.verify(&payment).await else {
            panic!("{method:?} was verified")
        };
        assert!(refused.reason.is(Refusal::FactoryNotAllowed), "{refused}");
        assert_eq!(refused.payer, Some(wallet.address.to_checksum(None)));
        // The zero address is no factory either.
        let zero = method.pay(wallet.address, PAYER, |signature| {
            wrap(Address::ZERO, &wallet.calldata, signature)
        });
        house.refuses(&zero, Refusal::FactoryNotAllowed).await;
    }
    assert!(asked.load(Ordering::SeqCst) > before, "the line is not used");
    assert_eq!(named.load(Ordering::SeqCst), 0, "the node was asked about the factory");
    // Once the wallet stands, its factory is nobody's business.
    house.send_as(STRANGER, factory.into(), wallet.calldata.clone()).await;
    for method in ALL {
        let payment = method.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
        network.verify(&payment).await.unwrap();
        house.settles(&payment, wallet.address).await;
    }
    assert_eq!(named.load(Ordering::SeqCst), 0, "the node was asked about the factory");
}

#[tokio::test]
async fn a_factory_that_deploys_nothing_is_found_out_before_it_costs_anything() {
    for method in [Method::Eip3009, Method::Permit2] {
        let house = house(&[first_contract()]).await;
        let evil = house.deploy(zoo::EVIL_FACTORY.creation(&[])).await;
        let wallet = Undeployed { factory: evil, ..Undeployed::by_factory(evil, PAYER) };
        house.fund(wallet.address);
        let payment = method.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
        let refused = house.refuses(&payment, Refusal::DeploymentFailed).await;
        assert!(refused.payer.is_some(), "{refused}");
        // Nor when it burns gas, up to the cap or all there is.
        for amount in [U256::from(10_000_000), U256::MAX] {
            house.tell(evil, &abi::setGasToBurnCall { amount }).await;
            house.refuses(&payment, Refusal::DeploymentFailed).await;
        }
    }
}

#[tokio::test]
async fn a_deployed_wallet_pays_by_the_signature_inside() {
    for method in ALL {
        let house = house(&[first_contract()]).await;
        let factory = house.factory().await;
        let wallet = Undeployed::by_factory(factory, PAYER);
        house.fund(wallet.address);
        house.send_as(STRANGER, factory.into(), wallet.calldata.clone()).await;
        assert_eq!(house.code_of(wallet.address).await, WALLET_1271.runtime_code);
        let payment = method.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
        let (target, data) = house.settles(&payment, wallet.address).await;
        assert_ne!(target, MULTICALL3, "{method:?}: the factory is called again");
        let has = |part: &[u8]| data.windows(part.len()).any(|window| window == part);
        assert!(!has(&magic()), "{method:?}: the wrapper is passed on");
        assert!(!has(factory.as_slice()), "{method:?}");
    }
}

#[tokio::test]
async fn somebody_else_may_deploy_the_wallet_at_any_moment() {
    for method in [Method::Eip3009, Method::Permit2] {
        // Between verification and settlement: no factory is called then.
        let house = house(&[first_contract(), CREATE2_DEPLOYER]).await;
        let wallet = Undeployed::by_deployer(PAYER);
        house.fund(wallet.address);
        let payment = method.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
        let verified = house.verify(&payment).await.unwrap();
        let deploy = house.send_as(STRANGER, wallet.factory.into(), wallet.calldata.clone()).await;
        assert!(deploy.status());
        let (sent, _) = house.submit(&verified.plan).await;
        let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
        assert!(matches!(status, ChainStatus::Proven { .. }), "{method:?}: {status:?}");
        let (target, _) = house.only_call_in(house.chain.block_number()).await;
        assert_ne!(target, MULTICALL3);
    }
}

#[tokio::test]
async fn a_deployment_right_before_ours_costs_at_most_one_bounded_revert() {
    // Ours is signed; somebody else's deployment comes first. A factory that leaves alone what
    // stands does no harm; where CREATE2 meets a contract it takes the gas with it.
    for method in [Method::Eip3009, Method::Permit2] {
        for by_factory in [true, false] {
            let house = house(&[first_contract(), CREATE2_DEPLOYER]).await;
            let wallet = match by_factory {
                true => Undeployed::by_factory(house.factory().await, PAYER),
                false => Undeployed::by_deployer(PAYER),
            };
            house.fund(wallet.address);
            let payment = method.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
            let verified = house.verify(&payment).await.unwrap();
            let (sent, raw) = crate::support::sign_with(&house.network, &verified.plan).await;
            let had = house.usdc_of(payee()).await;
            let deploy =
                house.send_as(STRANGER, wallet.factory.into(), wallet.calldata.clone()).await;
            assert!(deploy.status());
            house.network.send(&raw).await.unwrap();
            let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
            let moved = house.usdc_of(payee()).await - had;
            if by_factory {
                assert!(matches!(status, ChainStatus::Proven { .. }), "{method:?}: {status:?}");
                assert_eq!(moved, U256::from(10_000));
            } else {
                assert!(failed_as(&status, Refusal::TransactionReverted), "{method:?}: {status:?}");
                assert_eq!(moved, U256::ZERO);
                let cap = GAS_LIMIT_MAX_DEFAULT + DEPLOYMENT_GAS_MAX;
                assert!(house.gas_of(&sent.transaction).await <= cap);
                // The authorization is unused, and the wallet stands: the next try pays.
                house.settles(&payment, wallet.address).await;
            }
        }
    }
}

#[tokio::test]
async fn a_factory_that_refuses_what_stands_does_not_stop_the_payment() {
    for method in [Method::Eip3009, Method::Permit2] {
        let house = house(&[first_contract()]).await;
        let wallet = Undeployed::by_factory(house.factory().await, PAYER);
        house.fund(wallet.address);
        let payment = method.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
        let verified = house.verify(&payment).await.unwrap();
        let (sent, raw) = crate::support::sign_with(&house.network, &verified.plan).await;
        // The first of two payments deployed it; for the second the factory reverts.
        let deploy = house.send_as(STRANGER, wallet.factory.into(), wallet.calldata.clone()).await;
        assert!(deploy.status());
        house.chain.set_code(wallet.factory, vec![0x60, 0x00, 0x80, 0xfd].into());
        house.network.send(&raw).await.unwrap();
        let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
        assert!(matches!(status, ChainStatus::Proven { .. }), "{method:?}: {status:?}");
    }
}

#[tokio::test]
async fn a_wallet_that_is_not_deployed_does_not_pay_by_upto() {
    let house = house(&[first_contract()]).await;
    let wallet = Undeployed::by_factory(house.factory().await, PAYER);
    house.fund(wallet.address);
    let payment = Method::Upto.pay(wallet.address, PAYER, |signature| wallet.wrap(signature));
    let refused = house.refuses(&payment, Refusal::DeploymentFailed).await;
    assert!(refused.message.contains("upto"), "{refused}");
}

#[tokio::test]
async fn a_deployed_wallet_decides_by_itself_who_signs() {
    for method in [Method::Eip3009, Method::Permit2] {
        let house = house(&[first_contract()]).await;
        let wallet = Undeployed::by_factory(house.factory().await, PAYER);
        house.fund(wallet.address);
        // Undeployed: it is deployed in the simulation, and says no.
        let strange = method.pay(wallet.address, STRANGER, |signature| wallet.wrap(signature));
        house.refuses(&strange, method.simulation_failed()).await;
        // Another owner's wallet is another address; the payer gets no code.
        let other = Undeployed::by_factory(wallet.factory, STRANGER);
        let elsewhere = method.pay(wallet.address, PAYER, |signature| other.wrap(signature));
        house.refuses(&elsewhere, Refusal::DeploymentFailed).await;
        house.send_as(STRANGER, wallet.factory.into(), wallet.calldata.clone()).await;
        house.refuses(&strange, method.bad_signature()).await;
    }
}

#[tokio::test]
async fn a_key_that_signs_by_itself_deploys_nothing() {
    // A plain account's own signature in a wrapper: the deployment is not needed, and not made.
    let house = house(&[]).await;
    let payer = dev_signer(PAYER).address();
    house.fund(payer);
    for method in ALL {
        let factory = Address::repeat_byte(0xfa);
        let payment = method.pay(payer, PAYER, |signature| wrap(factory, &Bytes::new(), signature));
        let (target, _) = house.settles(&payment, payer).await;
        assert_ne!(target, MULTICALL3);
    }
}

#[tokio::test]
async fn malformed_wrappers_are_signatures_like_any_other() {
    let house = house(&[first_contract()]).await;
    let wallet = Undeployed::by_factory(house.factory().await, PAYER);
    house.fund(wallet.address);
    let ends = magic();
    for method in ALL {
        let cut = |keep: usize| {
            let ends = ends.clone();
            let wallet = wallet.clone();
            move |signature: Vec<u8>| {
                let whole = wallet.wrap(signature);
                [&whole[..keep.min(whole.len() - 32)], &ends].concat()
            }
        };
        for keep in [0, 1, 31, 32, 64, 95, 96, 128, 160, 191] {
            let payment = method.pay(wallet.address, PAYER, cut(keep));
            house.refuses(&payment, method.bad_signature()).await;
        }
        // Offsets that point anywhere, lengths that never end, an address with dirt above it.
        for (index, byte) in [(0, 0xff), (32, 0xff), (63, 0x21), (64, 0x80), (96, 0xff), (127, 0)] {
            let payment = method.pay(wallet.address, PAYER, |signature| {
                let mut whole = wallet.wrap(signature);
                whole[index] = byte;
                whole
            });
            let refused = house.verify(&payment).await.unwrap_err();
            assert!(!refused.message.is_empty(), "{index}");
        }
        // The magic alone, and in front instead of behind.
        house
            .refuses(&method.pay(wallet.address, PAYER, |_| magic()), method.bad_signature())
            .await;
        let reversed = method.pay(wallet.address, PAYER, |signature| {
            [magic(), wallet.wrap(signature)[..64].to_vec()].concat()
        });
        house.refuses(&reversed, method.bad_signature()).await;
    }
    // One in another: the wallet gets the inner one, and rejects it.
    for method in [Method::Eip3009, Method::Permit2] {
        let nested =
            method.pay(wallet.address, PAYER, |signature| wallet.wrap(wallet.wrap(signature)));
        house.refuses(&nested, method.simulation_failed()).await;
        let empty = method.pay(wallet.address, PAYER, |_| wallet.wrap(Vec::new()));
        house.refuses(&empty, method.simulation_failed()).await;
    }
    assert_eq!(house.code_of(wallet.address).await, Bytes::new());
}

// === Contracts that change their mind ===

#[tokio::test]
async fn a_wallet_that_says_yes_and_then_no_costs_one_bounded_revert() {
    for method in ALL {
        let house = house(&[]).await;
        let never = U256::MAX.abi_encode();
        let wallet = house.deploy(zoo::FLIP_WALLET.creation(&never)).await;
        house.fund(wallet);
        house.settles(&method.pay(wallet, STRANGER, plainly), wallet).await;
        // It says yes at the head, where it is asked, and no in the block after.
        let payment = method.pay(wallet, STRANGER, plainly);
        let cap = GAS_LIMIT_MAX_DEFAULT;
        house
            .reverts_within(&payment, cap, async |house| {
                let next = U256::from(house.chain.block_number() + 2);
                house.tell(wallet, &abi::setFlipsAtCall { firstRefusingBlock: next }).await;
            })
            .await;
        // And is refused as soon as it is asked again.
        let payment = method.pay(wallet, STRANGER, plainly);
        house.refuses(&payment, method.bad_signature()).await;
    }
}

#[tokio::test]
async fn a_wallet_that_burns_gas_is_refused_within_the_cap() {
    for method in ALL {
        let house = house(&[]).await;
        let wallet = house.deploy(zoo::GAS_WALLET.creation(&[])).await;
        house.fund(wallet);
        for amount in [U256::from(GAS_LIMIT_MAX_DEFAULT), U256::from(3_000_000), U256::MAX] {
            house.tell(wallet, &abi::setGasToBurnCall { amount }).await;
            let payment = method.pay(wallet, STRANGER, plainly);
            house.refuses(&payment, method.bad_signature()).await;
        }
        // Some is wasted and it is within the cap: that is the payer's right.
        house.tell(wallet, &abi::setGasToBurnCall { amount: U256::from(100_000) }).await;
        house.settles(&method.pay(wallet, STRANGER, plainly), wallet).await;
    }
}

#[tokio::test]
async fn a_wallet_that_turns_dear_costs_at_most_what_was_estimated() {
    for method in ALL {
        let house = house(&[]).await;
        let wallet = house.deploy(zoo::GAS_WALLET.creation(&[])).await;
        house.fund(wallet);
        for amount in [U256::from(10_000_000), U256::MAX] {
            // Before it is signed: the estimate fails, and little is put at stake.
            let burn = abi::setGasToBurnCall { amount };
            let honest = abi::setGasToBurnCall { amount: U256::ZERO };
            let payment = method.pay(wallet, STRANGER, plainly);
            house
                .reverts_within(&payment, 120_000, async |house| house.tell(wallet, &burn).await)
                .await;
            house.tell(wallet, &honest).await;
            // After it is signed: what it was signed for.
            let payment = method.pay(wallet, STRANGER, plainly);
            let verified = house.verify(&payment).await.unwrap();
            let (sent, raw) = crate::support::sign_with(&house.network, &verified.plan).await;
            house.tell(wallet, &burn).await;
            house.network.send(&raw).await.unwrap();
            let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
            assert!(failed_as(&status, Refusal::TransactionReverted), "{method:?}: {status:?}");
            let used = house.gas_of(&sent.transaction).await;
            assert!(used <= GAS_LIMIT_MAX_DEFAULT / 2, "{method:?}: {used}");
            house.tell(wallet, &honest).await;
        }
    }
}

// === Signatures of any length ===

#[tokio::test]
async fn a_contract_gets_its_signature_as_it_is_of_any_length() {
    for method in ALL {
        let house = house(&[]).await;
        // It accepts everything.
        let wallet = house.deploy(zoo::GAS_WALLET.creation(&[])).await;
        house.fund(wallet);
        for length in [1, 32, 63, 64, 65, 66, 96, 130, 1_000, SIGNATURE_BYTES_MAX] {
            let bytes: Vec<u8> = (0..251).cycle().take(length).collect();
            let payment = method.pay(wallet, STRANGER, |_| bytes.clone());
            let (_, data) = house.settles(&payment, wallet).await;
            assert!(data.windows(length).any(|window| window == bytes), "{method:?}: {length}");
        }
        for length in [0, SIGNATURE_BYTES_MAX + 1] {
            let payment = method.pay(wallet, STRANGER, |_| vec![1; length]);
            house.refuses(&payment, Refusal::InvalidPayload).await;
        }
    }
}

// === Keys that delegated themselves (EIP-7702) ===

#[tokio::test]
async fn a_delegated_key_pays_as_its_delegate_says() {
    for method in ALL {
        let house = house(&[]).await;
        let payer = dev_signer(PAYER);
        house.fund(payer.address());
        // The owner of this code is the account itself, where nothing else was stored.
        let good = house.deploy(WALLET_1271.creation(&Address::ZERO.abi_encode())).await;
        house.delegate(&payer, good).await;
        house.settles(&method.pay(payer.address(), PAYER, plainly), payer.address()).await;
        let strange = method.pay(payer.address(), STRANGER, plainly);
        let refused = house.refuses(&strange, method.bad_signature()).await;
        assert!(refused.message.contains(&good.to_string()), "{refused}");
        // The compact form is none of this delegate's, although the key's own.
        let compact = method.pay(payer.address(), PAYER, |mut signature| {
            let parity = signature.pop().unwrap() - 27;
            signature[32] |= parity << 7;
            signature
        });
        house.refuses(&compact, method.bad_signature()).await;
    }
}

#[tokio::test]
async fn a_delegate_that_knows_no_signatures_lets_nothing_pass() {
    for method in ALL {
        let house = house(&[]).await;
        let payer = dev_signer(PAYER);
        house.fund(payer.address());
        let plain = house.deploy(zoo::PLAIN_TOKEN.creation(&[])).await;
        // Code without the function, code that answers everything with nothing, no code at all.
        for delegate in [plain, MULTICALL3, Address::repeat_byte(0x77)] {
            house.delegate(&payer, delegate).await;
            let own = method.pay(payer.address(), PAYER, plainly);
            let refused = house.refuses(&own, method.bad_signature()).await;
            assert!(refused.message.contains(&delegate.to_string()), "{refused}");
        }
        house.delegate(&payer, Address::ZERO).await;
        house.settles(&method.pay(payer.address(), PAYER, plainly), payer.address()).await;
    }
}

#[tokio::test]
async fn a_delegation_that_changes_after_verification_is_looked_at_again() {
    for method in ALL {
        let house = house(&[]).await;
        let payer = dev_signer(PAYER);
        house.fund(payer.address());
        let good = house.deploy(WALLET_1271.creation(&Address::ZERO.abi_encode())).await;
        let bad = house.deploy(zoo::PLAIN_TOKEN.creation(&[])).await;
        // From → to, and whether the payment still settles.
        for (before, after, settles) in [
            (Address::ZERO, good, true),
            (good, Address::ZERO, true),
            (Address::ZERO, bad, false),
            (good, bad, false),
        ] {
            house.delegate(&payer, before).await;
            let payment = method.pay(payer.address(), PAYER, plainly);
            let verified = house.verify(&payment).await.unwrap();
            house.delegate(&payer, after).await;
            let had = house.usdc_of(payee()).await;
            let (sent, _) = house.submit(&verified.plan).await;
            let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
            let moved = house.usdc_of(payee()).await - had;
            if settles {
                assert!(matches!(status, ChainStatus::Proven { .. }), "{method:?}: {status:?}");
                assert_eq!(moved, U256::from(10_000));
            } else {
                assert!(failed_as(&status, Refusal::TransactionReverted), "{method:?}: {status:?}");
                assert_eq!(moved, U256::ZERO);
                assert!(house.gas_of(&sent.transaction).await <= 120_000);
                house.delegate(&payer, before).await;
                // Nothing was used, so the payment is good again.
                house.verify(&payment).await.unwrap();
            }
        }
        // Delegated at verification to what rejects, and given up since: good.
        house.delegate(&payer, bad).await;
        let payment = method.pay(payer.address(), PAYER, plainly);
        house.refuses(&payment, method.bad_signature()).await;
        house.delegate(&payer, Address::ZERO).await;
        house.settles(&payment, payer.address()).await;
    }
}

#[tokio::test]
async fn the_key_of_a_plain_account_pays_without_any_of_this() {
    let house = house(&[]).await;
    let payer = dev_signer(PAYER).address();
    let (target, _) = house.settles(&payment(), payer).await;
    assert_eq!(target, USDC_ADDRESS);
    let wrong = signed(&terms(10_000), authorization(&terms(10_000), payer), &dev_signer(STRANGER));
    house.refuses(&wrong, Refusal::InvalidSignature).await;
}
