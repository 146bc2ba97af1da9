//! Each contract of the zoo does what its name says, and behaves until it is told not to.

mod support;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{TransactionInput, TransactionReceipt, TransactionRequest};
use alloy::sol_types::{Revert, SolCall, SolError, SolEvent, SolStruct, SolValue, eip712_domain};
use pay402_devchain::genesis::{Artifact, WALLET_1271, dev_signer};
use pay402_devchain::zoo;
use support::permit2::sign;
use support::zoo::{Factory, Token, TransferWithAuthorization, Wallet};
use support::{Harness, PAYEE};

/// The development account that deploys, and spends others' allowances.
const OPERATOR: usize = 0;
/// The development account that holds the tokens.
const HOLDER: usize = 1;
/// How much it holds.
const HELD: u64 = 1_000_000;
const MAGIC: [u8; 4] = [0x16, 0x26, 0xba, 0x7e];

/// A token of the zoo on a chain of its own, with a funded holder.
struct Zoo {
    harness: Harness,
    token: Address,
}

impl Zoo {
    async fn new(artifact: &Artifact) -> Self {
        let harness = Harness::new();
        let token = harness.deploy(OPERATOR, artifact.creation(&[])).await;
        let zoo = Self { harness, token };
        // Anyone mints.
        let mint = Token::mintCall { to: holder(), amount: U256::from(HELD) };
        assert!(zoo.harness.send(5, token, &mint).await.status());
        assert_eq!(zoo.balance(holder()).await, U256::from(HELD));
        zoo
    }

    async fn balance(&self, account: Address) -> U256 {
        self.harness.read_at(self.token, &Token::balanceOfCall { account }).await
    }

    async fn call<C: SolCall>(&self, from: usize, call: &C) -> TransactionReceipt {
        self.harness.send(from, self.token, call).await
    }

    async fn transfer(&self, value: u64) -> TransactionReceipt {
        self.call(HOLDER, &Token::transferCall { to: PAYEE, value: U256::from(value) }).await
    }

    /// By the operator, out of an allowance of exactly this amount.
    async fn transfer_from(&self, value: u64) -> TransactionReceipt {
        let value = U256::from(value);
        let spender = dev_signer(OPERATOR).address();
        assert!(self.call(HOLDER, &Token::approveCall { spender, value }).await.status());
        self.call(OPERATOR, &Token::transferFromCall { from: holder(), to: PAYEE, value }).await
    }

    /// What a call answers, without sending it.
    async fn answer<C: SolCall>(&self, from: usize, call: &C) -> Result<Bytes, Bytes> {
        self.harness.answer(from, self.token, call).await
    }
}

fn holder() -> Address {
    dev_signer(HOLDER).address()
}

fn transfers(receipt: &TransactionReceipt) -> Vec<(Address, u64)> {
    let logs = receipt.inner.logs().iter();
    logs.filter_map(|log| Token::Transfer::decode_log(&log.inner).ok())
        .map(|moved| (moved.to, moved.value.to()))
        .collect()
}

#[tokio::test]
async fn every_token_moves_its_units_and_keeps_its_allowances() {
    for artifact in [
        &zoo::PLAIN_TOKEN,
        &zoo::REBASING_TOKEN,
        &zoo::RETURNS_FALSE_TOKEN,
        &zoo::SILENT_NONCE_TOKEN,
        &zoo::PAUSABLE_TOKEN,
        &zoo::GAS_BURNER_TOKEN,
        &zoo::RETURN_BOMB_TOKEN,
        &zoo::REENTRANT_TOKEN,
        &zoo::FAILING_PERMIT_TOKEN,
    ] {
        let zoo = Zoo::new(artifact).await;
        assert_eq!(transfers(&zoo.transfer(30).await), [(PAYEE, 30)]);
        assert_eq!(transfers(&zoo.transfer_from(12).await), [(PAYEE, 12)]);
        assert_eq!(zoo.balance(PAYEE).await, U256::from(42));
        assert_eq!(zoo.balance(holder()).await, U256::from(HELD - 42));
        let spender = dev_signer(OPERATOR).address();
        let left = Token::allowanceCall { holder: holder(), spender };
        assert_eq!(zoo.harness.read_at(zoo.token, &left).await, U256::ZERO);
        // Neither more than is allowed nor more than is held.
        let more = Token::transferFromCall { from: holder(), to: PAYEE, value: U256::from(1) };
        assert!(transfers(&zoo.call(OPERATOR, &more).await).is_empty());
        assert!(transfers(&zoo.transfer(HELD).await).is_empty());
        assert_eq!(zoo.balance(PAYEE).await, U256::from(42));
    }
}

#[tokio::test]
async fn the_plain_token_has_no_permit() {
    let zoo = Zoo::new(&zoo::PLAIN_TOKEN).await;
    let permit = Token::permitCall {
        holder: holder(),
        spender: PAYEE,
        value: U256::from(1),
        deadline: U256::MAX,
        v: 27,
        r: B256::ZERO,
        s: B256::ZERO,
    };
    assert_eq!(zoo.answer(OPERATOR, &permit).await, Err(Bytes::new()));
}

#[tokio::test]
async fn the_fee_token_keeps_one_per_cent() {
    let zoo = Zoo::new(&zoo::FEE_TOKEN).await;
    for (sent, arrives) in [(1_000, 990), (100, 99), (101, 99), (1, 0)] {
        let before = zoo.balance(PAYEE).await;
        let kept = zoo.balance(zoo.token).await;
        let moved = transfers(&zoo.transfer(sent).await);
        assert_eq!(moved, [(PAYEE, arrives), (zoo.token, sent - arrives)]);
        assert_eq!(zoo.balance(PAYEE).await, before + U256::from(arrives));
        assert_eq!(zoo.balance(zoo.token).await, kept + U256::from(sent - arrives));
    }
    assert_eq!(transfers(&zoo.transfer_from(200).await)[0], (PAYEE, 198));
}

#[tokio::test]
async fn the_rebasing_token_changes_balances_without_a_transfer() {
    let zoo = Zoo::new(&zoo::REBASING_TOKEN).await;
    zoo.transfer(100).await;
    let half = Token::rebaseCall { newIndex: U256::from(500_000_000_000_000_000u64) };
    let receipt = zoo.call(3, &half).await;
    assert!(transfers(&receipt).is_empty());
    assert_eq!(zoo.balance(PAYEE).await, U256::from(50));
    assert_eq!(zoo.balance(holder()).await, U256::from((HELD - 100) / 2));
    // Rounding takes a unit that the event does not tell of.
    let third = Token::rebaseCall { newIndex: U256::from(3_000_000_000_000_000_000u64) };
    zoo.call(3, &third).await;
    let before = zoo.balance(PAYEE).await;
    assert_eq!(transfers(&zoo.transfer(10).await), [(PAYEE, 10)]);
    assert_eq!(zoo.balance(PAYEE).await, before + U256::from(9));
}

#[tokio::test]
async fn the_false_token_does_not_revert() {
    let zoo = Zoo::new(&zoo::RETURNS_FALSE_TOKEN).await;
    let spender = dev_signer(OPERATOR).address();
    zoo.call(HOLDER, &Token::approveCall { spender, value: U256::from(50) }).await;
    let transfer = |value: u64| Token::transferCall { to: PAYEE, value: U256::from(value) };
    let transfer_from = |value: u64| Token::transferFromCall {
        from: holder(),
        to: PAYEE,
        value: U256::from(value),
    };
    let said = |value: bool| Ok(Bytes::from(value.abi_encode()));
    assert_eq!(zoo.answer(HOLDER, &transfer(1)).await, said(true));
    assert_eq!(zoo.answer(OPERATOR, &transfer_from(50)).await, said(true));
    assert_eq!(zoo.answer(HOLDER, &transfer(HELD + 1)).await, said(false));
    assert_eq!(zoo.answer(OPERATOR, &transfer_from(51)).await, said(false));
    assert!(zoo.call(3, &Token::setRefusingCall { value: true }).await.status());
    assert_eq!(zoo.answer(HOLDER, &transfer(1)).await, said(false));
    assert_eq!(zoo.answer(OPERATOR, &transfer_from(50)).await, said(false));
    let receipt = zoo.call(OPERATOR, &transfer_from(50)).await;
    assert!(receipt.status() && receipt.inner.logs().is_empty());
    assert_eq!(zoo.balance(PAYEE).await, U256::ZERO);
}

#[tokio::test]
async fn the_silent_token_succeeds_on_a_used_nonce_and_moves_nothing() {
    let zoo = Zoo::new(&zoo::SILENT_NONCE_TOKEN).await;
    let signer = dev_signer(HOLDER);
    let domain = eip712_domain! {
        name: "SilentNonce",
        version: "1",
        chain_id: zoo.harness.chain.chain_id(),
        verifying_contract: zoo.token,
    };
    let message = TransferWithAuthorization {
        from: holder(),
        to: PAYEE,
        value: U256::from(40),
        validAfter: U256::ZERO,
        validBefore: U256::from(zoo.harness.chain.now() + 600),
        nonce: B256::repeat_byte(7),
    };
    let signature = sign(&signer, message.eip712_signing_hash(&domain));
    let call = |signature: Bytes| Token::transferWithAuthorization_1Call {
        from: message.from,
        to: message.to,
        value: message.value,
        validAfter: message.validAfter,
        validBefore: message.validBefore,
        nonce: message.nonce,
        signature,
    };
    let forged = call(sign(&dev_signer(2), message.eip712_signing_hash(&domain)));
    zoo.harness.reverts(OPERATOR, zoo.token, &forged, "SilentNonceToken: invalid signature").await;
    let first = zoo.call(OPERATOR, &call(signature.clone())).await;
    assert_eq!(transfers(&first), [(PAYEE, 40)]);
    let state = Token::authorizationStateCall { authorizer: holder(), nonce: message.nonce };
    assert!(zoo.harness.read_at(zoo.token, &state).await);
    // Again, and with a signature that is none, by bytes and by v, r and s.
    let vrs = Token::transferWithAuthorization_0Call {
        from: message.from,
        to: message.to,
        value: message.value,
        validAfter: message.validAfter,
        validBefore: message.validBefore,
        nonce: message.nonce,
        v: signature[64],
        r: B256::from_slice(&signature[..32]),
        s: B256::from_slice(&signature[32..64]),
    };
    for again in [call(signature).abi_encode(), call(Bytes::new()).abi_encode(), vrs.abi_encode()] {
        let receipt = zoo.harness.send_unchecked(OPERATOR, zoo.token, again).await;
        assert!(receipt.status());
        let [log] = receipt.inner.logs() else { panic!("one event") };
        let told = Token::AuthorizationAlreadyUsed::decode_log(&log.inner).unwrap();
        assert_eq!((told.authorizer, told.nonce), (holder(), message.nonce));
    }
    assert_eq!(zoo.balance(PAYEE).await, U256::from(40));
}

#[tokio::test]
async fn the_pausable_token_pauses_and_bars() {
    let zoo = Zoo::new(&zoo::PAUSABLE_TOKEN).await;
    let transfer = Token::transferCall { to: PAYEE, value: U256::from(1) };
    let refused = async |words| zoo.harness.reverts(HOLDER, zoo.token, &transfer, words).await;
    zoo.call(3, &Token::setPausedCall { value: true }).await;
    refused("Pausable: paused").await;
    zoo.call(3, &Token::setPausedCall { value: false }).await;
    for account in [holder(), PAYEE] {
        zoo.call(3, &Token::setBlacklistedCall { account, value: true }).await;
        refused("Blacklistable: account is blacklisted").await;
        zoo.call(3, &Token::setBlacklistedCall { account, value: false }).await;
    }
    assert_eq!(transfers(&zoo.transfer(1).await), [(PAYEE, 1)]);
}

#[tokio::test]
async fn the_gas_burner_burns_as_told() {
    let zoo = Zoo::new(&zoo::GAS_BURNER_TOKEN).await;
    zoo.transfer(1).await;
    let honest = zoo.transfer(1).await.gas_used;
    zoo.call(3, &Token::setGasToBurnCall { amount: U256::from(1_000_000) }).await;
    let receipt = zoo.transfer(1).await;
    assert_eq!(transfers(&receipt), [(PAYEE, 1)]);
    assert!((1_000_000..1_010_000).contains(&(receipt.gas_used - honest)), "{receipt:?}");
    // All of it: the harness gives each transaction two million.
    zoo.call(3, &Token::setGasToBurnCall { amount: U256::MAX }).await;
    let receipt = zoo.transfer(1).await;
    assert!(!receipt.status());
    assert_eq!(receipt.gas_used, 2_000_000);
    zoo.call(3, &Token::setGasToBurnCall { amount: U256::ZERO }).await;
    assert_eq!(zoo.transfer(1).await.gas_used, honest);
}

#[tokio::test]
async fn the_return_bomb_answers_at_length() {
    let zoo = Zoo::new(&zoo::RETURN_BOMB_TOKEN).await;
    let transfer = Token::transferCall { to: PAYEE, value: U256::from(1) };
    zoo.call(3, &Token::setAnswerBytesCall { length: U256::from(100_000) }).await;
    let answer = zoo.answer(HOLDER, &transfer).await.unwrap();
    assert_eq!(answer.len(), 100_000);
    assert_eq!(answer[..32], true.abi_encode());
    let permit = Token::permitCall {
        holder: holder(),
        spender: PAYEE,
        value: U256::from(1),
        deadline: U256::MAX,
        v: 27,
        r: B256::ZERO,
        s: B256::ZERO,
    };
    assert_eq!(zoo.answer(OPERATOR, &permit).await.unwrap_err().len(), 100_000);
    assert_eq!(transfers(&zoo.transfer_from(1).await), [(PAYEE, 1)]);
}

#[tokio::test]
async fn the_reentrant_token_calls_back() {
    let zoo = Zoo::new(&zoo::REENTRANT_TOKEN).await;
    let other = zoo.harness.deploy(OPERATOR, zoo::PAUSABLE_TOKEN.creation(&[])).await;
    let mint = Token::mintCall { to: PAYEE, amount: U256::from(9) };
    let callback =
        |target, call: Vec<u8>| Token::setCallbackCall { newTarget: target, newData: call.into() };
    zoo.call(3, &callback(other, mint.abi_encode())).await;
    let receipt = zoo.transfer(1).await;
    let logs = receipt.inner.logs();
    assert_eq!((logs[0].address(), logs[1].address()), (other, zoo.token));
    assert!(zoo.harness.read_at(zoo.token, &Token::lastSuccessCall {}).await);
    // A callback that fails does not fail the transfer.
    let refused = Token::transferCall { to: PAYEE, value: U256::from(1) };
    zoo.call(3, &callback(other, refused.abi_encode())).await;
    assert_eq!(transfers(&zoo.transfer(1).await), [(PAYEE, 1)]);
    assert!(!zoo.harness.read_at(zoo.token, &Token::lastSuccessCall {}).await);
    let answer = zoo.harness.read_at(zoo.token, &Token::lastAnswerCall {}).await;
    let words = Revert::from("ERC20: transfer amount exceeds balance");
    assert_eq!(answer, words.abi_encode());
}

#[tokio::test]
async fn the_failing_permit_fails_as_told() {
    let zoo = Zoo::new(&zoo::FAILING_PERMIT_TOKEN).await;
    let permit = Token::permitCall {
        holder: holder(),
        spender: PAYEE,
        value: U256::from(1),
        deadline: U256::MAX,
        v: 27,
        r: B256::ZERO,
        s: B256::ZERO,
    };
    for refusal in [Bytes::new(), Bytes::from(vec![0xab; 70])] {
        zoo.call(3, &Token::setRefusalCall { newRefusal: refusal.clone() }).await;
        assert_eq!(zoo.answer(OPERATOR, &permit).await, Err(refusal));
    }
}

fn question() -> Wallet::isValidSignatureCall {
    Wallet::isValidSignatureCall { digest: B256::repeat_byte(1), signature: Bytes::new() }
}

#[tokio::test]
async fn the_flip_wallet_changes_its_mind() {
    let harness = Harness::new();
    let arguments = U256::from(4).abi_encode();
    let wallet = harness.deploy(OPERATOR, zoo::FLIP_WALLET.creation(&arguments)).await;
    let says = async || harness.read_at(wallet, &question()).await;
    // A call at the head sees the number of the block at the head.
    assert_eq!(harness.chain.block_number(), 1);
    assert_eq!(says().await, MAGIC);
    harness.chain.mine(2);
    assert_eq!(says().await, MAGIC);
    harness.chain.mine(1);
    assert_eq!(says().await, [0xff; 4]);
    harness.send(3, wallet, &Wallet::setFlipsAtCall { firstRefusingBlock: U256::from(6) }).await;
    assert_eq!(says().await, MAGIC);
    harness.chain.mine(1);
    assert_eq!(says().await, [0xff; 4]);
}

#[tokio::test]
async fn the_gas_wallet_burns_as_told() {
    let harness = Harness::new();
    let wallet = harness.deploy(OPERATOR, zoo::GAS_WALLET.creation(&[])).await;
    let request = || {
        TransactionRequest::default()
            .to(wallet)
            .input(TransactionInput::new(question().abi_encode().into()))
    };
    let honest = harness.provider.estimate_gas(request()).await.unwrap();
    let burn = |amount: U256| Wallet::setGasToBurnCall { amount };
    harness.send(3, wallet, &burn(U256::from(3_000_000))).await;
    let dear = harness.provider.estimate_gas(request()).await.unwrap();
    assert!((2_900_000..3_300_000).contains(&(dear - honest)), "{honest} {dear}");
    assert_eq!(harness.read_at(wallet, &question()).await, MAGIC);
    harness.send(3, wallet, &burn(U256::MAX)).await;
    let error = harness.provider.call(request().gas_limit(1_000_000)).await.unwrap_err();
    assert!(error.as_error_resp().is_some(), "{error}");
    // It does what anyone says, and nothing but its switch is kept from anyone.
    let off = burn(U256::ZERO).abi_encode().into();
    let execute = Wallet::executeCall { target: wallet, value: U256::ZERO, data: off };
    assert!(harness.send(4, wallet, &execute).await.status());
    assert_eq!(harness.read_at(wallet, &question()).await, MAGIC);
}

#[tokio::test]
async fn the_factory_deploys_where_it_predicts() {
    let harness = Harness::new();
    let factory = harness.deploy(OPERATOR, zoo::WALLET_FACTORY.creation(&[])).await;
    let owner = dev_signer(HOLDER);
    let salt = B256::repeat_byte(5);
    let predict = Factory::predictCall { owner: owner.address(), salt };
    let wallet = harness.read_at(factory, &predict).await;
    assert!(harness.provider.get_code_at(wallet).await.unwrap().is_empty());
    let deploy = Factory::deployCall { owner: owner.address(), salt };
    assert!(harness.send(3, factory, &deploy).await.status());
    let code = harness.provider.get_code_at(wallet).await.unwrap();
    assert_eq!(code, WALLET_1271.runtime_code);
    let digest = B256::repeat_byte(9);
    let ask = |signer: usize| Wallet::isValidSignatureCall {
        digest,
        signature: sign(&dev_signer(signer), digest),
    };
    assert_eq!(harness.read_at(wallet, &ask(HOLDER)).await, MAGIC);
    assert_eq!(harness.read_at(wallet, &ask(2)).await, [0xff; 4]);
    // Again is well, and another owner or salt is another place.
    assert!(harness.send(3, factory, &deploy).await.status());
    assert_eq!(harness.read_at(factory, &deploy).await, wallet);
    for other in [
        Factory::predictCall { owner: PAYEE, salt },
        Factory::predictCall { owner: owner.address(), salt: B256::ZERO },
    ] {
        assert_ne!(harness.read_at(factory, &other).await, wallet);
    }
}

#[tokio::test]
async fn the_evil_factory_deploys_nothing_and_says_that_all_is_well() {
    let harness = Harness::new();
    let factory = harness.deploy(OPERATOR, zoo::EVIL_FACTORY.creation(&[])).await;
    let deploy = Factory::deployCall { owner: PAYEE, salt: B256::ZERO };
    let receipt = harness.send(OPERATOR, factory, &deploy).await;
    assert!(receipt.status() && receipt.inner.logs().is_empty());
    let honest = receipt.gas_used;
    let burn = |amount: U256| Factory::setGasToBurnCall { amount };
    harness.send(3, factory, &burn(U256::from(1_000_000))).await;
    let receipt = harness.send(OPERATOR, factory, &deploy).await;
    assert!(receipt.status());
    assert!(receipt.gas_used > honest + 1_000_000);
    harness.send(3, factory, &burn(U256::MAX)).await;
    let receipt = harness.send(OPERATOR, factory, &deploy).await;
    assert!(!receipt.status());
    assert_eq!(receipt.gas_used, 2_000_000);
}
