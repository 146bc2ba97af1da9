//! The token and contracts that genesis places, driven over the in-process transport.

mod support;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use pay402_devchain::genesis::{
    self, CREATE2_DEPLOYER, MULTICALL3, USDC_ADDRESS, USDC_BALANCE_MAX, USDC_OWNER_INDEX,
    WALLET_1271, dev_signer, usdc_balance_slot,
};
use support::{Authorization, Harness, Usdc, authorization, multicall};

#[tokio::test]
async fn a_payment_with_v_r_s_moves_the_money_once() {
    let harness = Harness::new();
    let (payer, payee) = (dev_signer(1), Address::repeat_byte(0xaa));
    let payment = authorization(&harness, &payer, payee, 10_000);
    let call = payment.vrs_call(&payer);
    let receipt = harness.send(0, USDC_ADDRESS, &call).await;
    assert!(receipt.status());
    let logs = receipt.inner.logs();
    let used = Usdc::AuthorizationUsed::decode_log(&logs[0].inner).unwrap();
    assert_eq!((used.authorizer, used.nonce), (payer.address(), payment.nonce));
    let moved = Usdc::Transfer::decode_log(&logs[1].inner).unwrap();
    assert_eq!((moved.from, moved.to, moved.value), (payer.address(), payee, U256::from(10_000)));
    assert_eq!(harness.usdc(payee).await, U256::from(10_000));
    assert_eq!(harness.usdc(payer.address()).await, U256::from(genesis::DEV_USDC - 10_000));
    harness.reverts(0, USDC_ADDRESS, &call, "FiatTokenV2: authorization is used or canceled").await;
    // The replay that is mined all the same fails, and moves nothing.
    let replay = harness.send_unchecked(0, USDC_ADDRESS, call.abi_encode()).await;
    assert!(!replay.status());
    assert!(replay.inner.logs().is_empty());
    assert_eq!(harness.usdc(payee).await, U256::from(10_000));
}

#[tokio::test]
async fn a_payment_with_bytes() {
    let harness = Harness::new();
    let (payer, payee) = (dev_signer(2), Address::repeat_byte(0xab));
    let payment = authorization(&harness, &payer, payee, 7);
    assert!(!harness.read(&payment.state_call()).await);
    assert!(
        harness.send(0, USDC_ADDRESS, &payment.bytes_call(payment.sign(&payer))).await.status()
    );
    assert_eq!(harness.usdc(payee).await, U256::from(7));
    assert!(harness.read(&payment.state_call()).await);
}

#[tokio::test]
async fn signatures_that_do_not_count() {
    let harness = Harness::new();
    let payer = dev_signer(1);
    let payment = authorization(&harness, &payer, Address::repeat_byte(1), 5);
    let by_another = payment.bytes_call(payment.sign(&dev_signer(2)));
    harness.reverts(0, USDC_ADDRESS, &by_another, "FiatTokenV2: invalid signature").await;

    let good = payment.sign(&payer);
    let short = payment.bytes_call(good.slice(..64));
    harness.reverts(0, USDC_ADDRESS, &short, "ECRecover: invalid signature length").await;

    let mut low_v = good.to_vec();
    low_v[64] -= 27;
    let low_v = payment.bytes_call(low_v.into());
    harness.reverts(0, USDC_ADDRESS, &low_v, "ECRecover: invalid signature 'v' value").await;

    let order = U256::from_str_radix(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        16,
    )
    .unwrap();
    let s = U256::from_be_slice(&good[32..64]);
    let mut twin = good.to_vec();
    twin[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
    twin[64] = 55 - twin[64];
    let twin = payment.bytes_call(twin.into());
    harness.reverts(0, USDC_ADDRESS, &twin, "ECRecover: invalid signature 's' value").await;
}

#[tokio::test]
async fn both_ends_of_the_window_are_exclusive() {
    let harness = Harness::new();
    let payer = dev_signer(1);
    let now = harness.chain.now() + 1_000;
    let window = |after: u64, before: u64| Authorization {
        valid_after: U256::from(after),
        valid_before: U256::from(before),
        ..authorization(&harness, &payer, Address::repeat_byte(1), 5)
    };
    for (after, before, message) in [
        (now, now + 10, "FiatTokenV2: authorization is not yet valid"),
        (now - 10, now, "FiatTokenV2: authorization is expired"),
    ] {
        let payment = window(after, before);
        assert!(harness.chain.set_next_block_timestamp(now));
        harness.reverts(0, USDC_ADDRESS, &payment.vrs_call(&payer), message).await;
    }
    let payment = window(now - 1, now + 1);
    assert!(harness.chain.set_next_block_timestamp(now));
    assert!(harness.send(0, USDC_ADDRESS, &payment.vrs_call(&payer)).await.status());
}

#[tokio::test]
async fn more_than_the_balance() {
    let harness = Harness::new();
    let poor = dev_signer(genesis::NO_USDC_INDEX);
    let payment = authorization(&harness, &poor, Address::repeat_byte(1), 1);
    harness
        .reverts(
            0,
            USDC_ADDRESS,
            &payment.vrs_call(&poor),
            "ERC20: transfer amount exceeds balance",
        )
        .await;
}

#[tokio::test]
async fn only_the_payee_receives() {
    let harness = Harness::new();
    let (payer, payee) = (dev_signer(1), dev_signer(3));
    let payment = authorization(&harness, &payer, payee.address(), 9);
    let call = payment.receive_call(&payer);
    harness.reverts(0, USDC_ADDRESS, &call, "FiatTokenV2: caller must be the payee").await;
    let before = harness.usdc(payee.address()).await;
    assert!(harness.send(3, USDC_ADDRESS, &call).await.status());
    assert_eq!(harness.usdc(payee.address()).await, before + U256::from(9));
    // A signature for `receive` is none for `transfer`.
    let other = authorization(&harness, &payer, payee.address(), 9);
    let crossed = other.bytes_call(other.sign_receive(&payer));
    harness.reverts(0, USDC_ADDRESS, &crossed, "FiatTokenV2: invalid signature").await;
}

#[tokio::test]
async fn a_canceled_authorization_is_dead() {
    let harness = Harness::new();
    let payer = dev_signer(1);
    let payment = authorization(&harness, &payer, Address::repeat_byte(1), 5);
    let receipt = harness.send(0, USDC_ADDRESS, &payment.cancel_call(&payer)).await;
    let canceled = Usdc::AuthorizationCanceled::decode_log(&receipt.inner.logs()[0].inner).unwrap();
    assert_eq!(canceled.nonce, payment.nonce);
    let message = "FiatTokenV2: authorization is used or canceled";
    harness.reverts(0, USDC_ADDRESS, &payment.vrs_call(&payer), message).await;
    harness.reverts(0, USDC_ADDRESS, &payment.cancel_call(&payer), message).await;
}

/// A permit that is good for a minute, of a holder who has signed none before.
async fn first_permit(
    harness: &Harness,
    holder: &PrivateKeySigner,
    spender: Address,
    value: U256,
) -> Usdc::permit_1Call {
    let (deadline, from) = (U256::from(harness.chain.now() + 60), holder.address());
    let domain = harness.read(&Usdc::DOMAIN_SEPARATORCall {}).await;
    let type_hash = harness.read(&Usdc::PERMIT_TYPEHASHCall {}).await;
    let fields = (type_hash, from, spender, value, U256::ZERO, deadline).abi_encode();
    let digest =
        keccak256([&[0x19, 0x01], domain.as_slice(), keccak256(fields).as_slice()].concat());
    let signature =
        holder.sign_hash_sync(&digest).expect("a key in memory signs").as_bytes().into();
    Usdc::permit_1Call { holder: from, spender, value, deadline, signature }
}

#[tokio::test]
async fn a_permit_allows_once() {
    let harness = Harness::new();
    let (holder, spender) = (dev_signer(1), dev_signer(4));
    let value = U256::from(1_234);
    let permit = first_permit(&harness, &holder, spender.address(), value).await;
    assert!(harness.send(0, USDC_ADDRESS, &permit).await.status());
    let allowance = Usdc::allowanceCall { holder: holder.address(), spender: spender.address() };
    assert_eq!(harness.read(&allowance).await, value);
    harness.reverts(0, USDC_ADDRESS, &permit, "EIP2612: invalid signature").await;
    let spend = Usdc::transferFromCall { from: holder.address(), to: spender.address(), value };
    assert!(harness.send(4, USDC_ADDRESS, &spend).await.status());
    harness.reverts(4, USDC_ADDRESS, &spend, "ERC20: transfer amount exceeds allowance").await;
    let late = Usdc::permit_1Call { deadline: U256::from(1), ..permit };
    harness.reverts(0, USDC_ADDRESS, &late, "FiatTokenV2: permit is expired").await;
}

#[tokio::test]
async fn the_owner_pauses_and_blacklists() {
    let harness = Harness::new();
    let payer = dev_signer(1);
    let payment = authorization(&harness, &payer, Address::repeat_byte(1), 5);
    let call = payment.vrs_call(&payer);
    harness.reverts(0, USDC_ADDRESS, &Usdc::pauseCall {}, "Ownable: caller is not the owner").await;
    assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &Usdc::pauseCall {}).await.status());
    harness.reverts(0, USDC_ADDRESS, &call, "Pausable: paused").await;
    assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &Usdc::unpauseCall {}).await.status());
    for account in [payer.address(), payment.to] {
        let list = Usdc::blacklistCall { account };
        assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &list).await.status());
        harness.reverts(0, USDC_ADDRESS, &call, "Blacklistable: account is blacklisted").await;
        let unlist = Usdc::unBlacklistCall { account };
        assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &unlist).await.status());
    }
    assert!(harness.send(0, USDC_ADDRESS, &call).await.status());
    let supply = harness.read(&Usdc::totalSupplyCall {}).await;
    let mint = Usdc::mintCall { to: Address::repeat_byte(2), amount: U256::from(3) };
    assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &mint).await.status());
    assert_eq!(harness.read(&Usdc::totalSupplyCall {}).await, supply + U256::from(3));
}

#[tokio::test]
async fn a_blacklisted_account_keeps_what_it_holds_and_can_do_nothing_with_it() {
    let harness = Harness::new();
    let (listed, other) = (dev_signer(1), dev_signer(2));
    let (account, third) = (listed.address(), genesis::DEV_ACCOUNTS[3]);
    let word = || async {
        let slot = usdc_balance_slot(account);
        harness.provider.get_storage_at(USDC_ADDRESS, slot).await.unwrap()
    };
    let (held, flag) = (U256::from(genesis::DEV_USDC), U256::ONE << 255);
    let supply = harness.read(&Usdc::totalSupplyCall {}).await;
    let value = U256::from(5);
    let approve = Usdc::approveCall { spender: other.address(), value };
    let approve_third = Usdc::approveCall { spender: third, value };
    let approve_listed = Usdc::approveCall { spender: account, value };
    assert!(harness.send(1, USDC_ADDRESS, &approve).await.status());
    for allowed in [&approve_third, &approve_listed] {
        assert!(harness.send(2, USDC_ADDRESS, allowed).await.status());
    }
    assert!(!harness.read(&Usdc::isBlacklistedCall { account }).await);
    // Listed twice, it is listed once.
    for _ in 0..2 {
        let list = Usdc::blacklistCall { account };
        assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &list).await.status());
        assert!(harness.read(&Usdc::isBlacklistedCall { account }).await);
        assert_eq!((word().await, harness.usdc(account).await), (held | flag, held));
        assert_eq!(harness.read(&Usdc::totalSupplyCall {}).await, supply);
    }
    let refused = "Blacklistable: account is blacklisted";
    let pays = authorization(&harness, &listed, other.address(), 5);
    let is_paid = authorization(&harness, &other, account, 5);
    for (payment, payer) in [(&pays, &listed), (&is_paid, &other)] {
        harness.reverts(0, USDC_ADDRESS, &payment.vrs_call(payer), refused).await;
        let by_bytes = payment.bytes_call(payment.sign(payer));
        harness.reverts(0, USDC_ADDRESS, &by_bytes, refused).await;
    }
    harness.reverts(2, USDC_ADDRESS, &pays.receive_call(&listed), refused).await;
    harness.reverts(1, USDC_ADDRESS, &is_paid.receive_call(&other), refused).await;
    for (from, to) in [(1, other.address()), (2, account)] {
        let transfer = Usdc::transferCall { to, value };
        harness.reverts(from, USDC_ADDRESS, &transfer, refused).await;
    }
    let spend = Usdc::transferFromCall { from: account, to: other.address(), value };
    harness.reverts(2, USDC_ADDRESS, &spend, refused).await;
    for (spender, to) in [(1, third), (3, account)] {
        let spend = Usdc::transferFromCall { from: other.address(), to, value };
        harness.reverts(spender, USDC_ADDRESS, &spend, refused).await;
    }
    let mint = Usdc::mintCall { to: account, amount: value };
    harness.reverts(USDC_OWNER_INDEX, USDC_ADDRESS, &mint, refused).await;
    // Allowing moves nothing, and v2.2 lets it, whoever of the two is listed.
    for (from, spender) in [(1, other.address()), (2, account)] {
        let more = Usdc::increaseAllowanceCall { spender, increment: value };
        let less = Usdc::decreaseAllowanceCall { spender, decrement: value };
        let approve = Usdc::approveCall { spender, value };
        assert!(harness.send(from, USDC_ADDRESS, &more).await.status());
        assert!(harness.send(from, USDC_ADDRESS, &less).await.status());
        assert!(harness.send(from, USDC_ADDRESS, &approve).await.status());
    }
    for (holder, spender) in [(&listed, other.address()), (&other, account)] {
        let permit = first_permit(&harness, holder, spender, value).await;
        assert!(harness.send(0, USDC_ADDRESS, &permit).await.status());
    }
    // Taken off the list twice, it is as before.
    for _ in 0..2 {
        let unlist = Usdc::unBlacklistCall { account };
        assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &unlist).await.status());
        assert!(!harness.read(&Usdc::isBlacklistedCall { account }).await);
        assert_eq!((word().await, harness.usdc(account).await), (held, held));
    }
    assert!(harness.send(0, USDC_ADDRESS, &pays.vrs_call(&listed)).await.status());
    assert!(harness.send(0, USDC_ADDRESS, &is_paid.vrs_call(&other)).await.status());
    assert!(harness.send(2, USDC_ADDRESS, &spend).await.status());
    assert_eq!(word().await, held - value);
}

#[tokio::test]
async fn a_blacklisted_owner_neither_mints_nor_burns() {
    let harness = Harness::new();
    let account = genesis::DEV_ACCOUNTS[USDC_OWNER_INDEX];
    let (burn, mint) = (
        Usdc::burnCall { amount: U256::from(3) },
        Usdc::mintCall { to: Address::repeat_byte(2), amount: U256::from(3) },
    );
    let list = Usdc::blacklistCall { account };
    assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &list).await.status());
    let refused = "Blacklistable: account is blacklisted";
    harness.reverts(USDC_OWNER_INDEX, USDC_ADDRESS, &burn, refused).await;
    harness.reverts(USDC_OWNER_INDEX, USDC_ADDRESS, &mint, refused).await;
    let unlist = Usdc::unBlacklistCall { account };
    assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &unlist).await.status());
    let (held, supply) = (harness.usdc(account).await, Usdc::totalSupplyCall {});
    let before = harness.read(&supply).await;
    let all = Usdc::burnCall { amount: held + U256::ONE };
    let too_much = "FiatToken: burn amount exceeds balance";
    harness.reverts(USDC_OWNER_INDEX, USDC_ADDRESS, &all, too_much).await;
    assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &burn).await.status());
    assert_eq!(harness.usdc(account).await, held - U256::from(3));
    assert_eq!(harness.read(&supply).await, before - U256::from(3));
}

#[tokio::test]
async fn a_balance_never_reaches_the_bit_of_the_blacklist() {
    let harness = Harness::new();
    let (payer, account) = (dev_signer(1), Address::repeat_byte(3));
    let refused = "FiatTokenV2_2: Balance exceeds (2^255 - 1)";
    let mint = |amount| Usdc::mintCall { to: account, amount };
    let over = mint(USDC_BALANCE_MAX + U256::ONE);
    harness.reverts(USDC_OWNER_INDEX, USDC_ADDRESS, &over, refused).await;
    assert!(harness.send(USDC_OWNER_INDEX, USDC_ADDRESS, &mint(USDC_BALANCE_MAX)).await.status());
    let payment = authorization(&harness, &payer, account, 1);
    harness.reverts(0, USDC_ADDRESS, &payment.vrs_call(&payer), refused).await;
    let transfer = Usdc::transferCall { to: account, value: U256::ONE };
    harness.reverts(1, USDC_ADDRESS, &transfer, refused).await;
    harness.reverts(USDC_OWNER_INDEX, USDC_ADDRESS, &mint(U256::ONE), refused).await;
    assert_eq!(harness.usdc(account).await, USDC_BALANCE_MAX);
    assert!(!harness.read(&Usdc::isBlacklistedCall { account }).await);
}

#[tokio::test]
async fn an_account_may_pay_itself() {
    let harness = Harness::new();
    let payer = dev_signer(1);
    let payment = authorization(&harness, &payer, payer.address(), genesis::DEV_USDC);
    assert!(harness.send(0, USDC_ADDRESS, &payment.vrs_call(&payer)).await.status());
    assert_eq!(harness.usdc(payer.address()).await, U256::from(genesis::DEV_USDC));
}

#[tokio::test]
async fn the_domain_is_usdc_version_2_on_this_chain() {
    let harness = Harness::new();
    let type_hash = keccak256(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
    );
    let fields = (type_hash, keccak256("USDC"), keccak256("2"), U256::from(84_532), USDC_ADDRESS);
    let domain = harness.read(&Usdc::DOMAIN_SEPARATORCall {}).await;
    assert_eq!(domain, keccak256(fields.abi_encode()));
    assert_eq!(harness.read(&Usdc::nameCall {}).await, genesis::USDC_NAME);
    assert_eq!(harness.read(&Usdc::versionCall {}).await, genesis::USDC_VERSION);
    assert_eq!(harness.read(&Usdc::decimalsCall {}).await, 6);
}

#[tokio::test]
async fn a_contract_wallet_pays_by_eip_1271() {
    let harness = Harness::new();
    let owner = dev_signer(5);
    // Deployed the way counterfactual wallets are: salt and creation code to the CREATE2 deployer.
    let creation = [&WALLET_1271.creation_code[..], &owner.address().abi_encode()].concat();
    let salt = B256::with_last_byte(7);
    let wallet = CREATE2_DEPLOYER.create2_from_code(salt, &creation);
    let data = [salt.as_slice(), &creation].concat();
    assert!(harness.send_unchecked(0, CREATE2_DEPLOYER, data).await.status());
    harness.set_usdc(wallet, 100);
    let payment = Authorization {
        from: wallet,
        ..authorization(&harness, &owner, Address::repeat_byte(1), 60)
    };
    let forged = payment.bytes_call(payment.sign(&dev_signer(1)));
    harness.reverts(0, USDC_ADDRESS, &forged, "FiatTokenV2: invalid signature").await;
    let call = payment.bytes_call(payment.sign(&owner));
    assert!(harness.send(0, USDC_ADDRESS, &call).await.status());
    assert_eq!(harness.usdc(wallet).await, U256::from(40));
}

#[tokio::test]
async fn code_means_1271_even_for_an_eoa() {
    let harness = Harness::new();
    let payer = dev_signer(1);
    let payment = authorization(&harness, &payer, Address::repeat_byte(1), 5);
    let call = payment.bytes_call(payment.sign(&payer));
    // Code that answers nothing: the same key's signature no longer counts.
    harness.chain.set_code(payer.address(), Bytes::from_static(&[0x00]));
    harness.reverts(0, USDC_ADDRESS, &call, "FiatTokenV2: invalid signature").await;
    // Delegated to a wallet that asks the account itself, it does.
    let wallet = Address::repeat_byte(0x77);
    harness.chain.set_code(wallet, WALLET_1271.runtime_code.clone());
    let delegation = [&[0xef, 0x01, 0x00], wallet.as_slice()].concat();
    harness.chain.set_code(payer.address(), delegation.into());
    assert!(harness.send(0, USDC_ADDRESS, &call).await.status());
}

#[tokio::test]
async fn multicall_reads_many_at_once() {
    let harness = Harness::new();
    let call = multicall::aggregate3Call {
        calls: vec![
            multicall::Call3 {
                target: USDC_ADDRESS,
                allowFailure: false,
                callData: Usdc::balanceOfCall { account: dev_signer(0).address() }
                    .abi_encode()
                    .into(),
            },
            multicall::Call3 {
                target: USDC_ADDRESS,
                allowFailure: true,
                callData: Usdc::pauseCall {}.abi_encode().into(),
            },
            multicall::Call3 {
                target: MULTICALL3,
                allowFailure: false,
                callData: multicall::getChainIdCall {}.abi_encode().into(),
            },
        ],
    };
    let results = harness.read_at(MULTICALL3, &call).await;
    assert_eq!(results.len(), 3);
    assert_eq!(U256::from_be_slice(&results[0].returnData), U256::from(genesis::DEV_USDC));
    assert!(!results[1].success);
    assert_eq!(U256::from_be_slice(&results[2].returnData), U256::from(84_532));
    let strict = multicall::aggregateCall {
        calls: vec![multicall::Call {
            target: USDC_ADDRESS,
            callData: Usdc::pauseCall {}.abi_encode().into(),
        }],
    };
    harness.reverts(0, MULTICALL3, &strict, "Multicall3: call failed").await;
}
