//! Blocks, mempool, fees and state over time, and what tests can do to them.

mod support;

use std::time::Duration;

use alloy::consensus::{
    BlockHeader, SignableTransaction, Transaction, TxEip1559, TxEip2930, TxEip7702, TxEnvelope,
    TxLegacy,
};
use alloy::eips::eip7702::Authorization as Delegation;
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{BlockNumberOrTag as Tag, Filter, TransactionRequest};
use alloy::signers::SignerSync;
use alloy::sol_types::{SolCall, SolEvent};
use pay402_devchain::genesis::{DEV_ACCOUNTS, MULTICALL3, USDC_ADDRESS, WALLET_1271, dev_signer};
use pay402_devchain::{Mining, ReorgTransactions};
use support::{Harness, PAYEE, Usdc, authorization, multicall, transfer};

#[tokio::test]
async fn every_kind_of_transaction_is_mined() {
    let harness = Harness::new();
    let signer = dev_signer(0);
    let (to, value) = (TxKind::Call(PAYEE), U256::from(1));
    let gas_price = 3_000_000_000;
    let mut legacy = TxLegacy {
        chain_id: Some(84_532),
        nonce: 0,
        gas_price,
        gas_limit: 21_000,
        to,
        value,
        input: Bytes::new(),
    };
    let signature = signer.sign_transaction_sync(&mut legacy).unwrap();
    let legacy: TxEnvelope = legacy.into_signed(signature).into();
    let mut unprotected = TxLegacy {
        chain_id: None,
        nonce: 1,
        gas_price,
        gas_limit: 21_000,
        to,
        value,
        input: Bytes::new(),
    };
    let signature = signer.sign_transaction_sync(&mut unprotected).unwrap();
    let unprotected: TxEnvelope = unprotected.into_signed(signature).into();
    let mut listed = TxEip2930 {
        chain_id: 84_532,
        nonce: 2,
        gas_price,
        gas_limit: 30_000,
        to,
        value,
        ..TxEip2930::default()
    };
    let signature = signer.sign_transaction_sync(&mut listed).unwrap();
    let listed: TxEnvelope = listed.into_signed(signature).into();
    for tx in [legacy, unprotected, listed, harness.signed(0, transfer(3))] {
        let hash = harness.raw(&tx).await.unwrap();
        assert_eq!(hash, *tx.tx_hash());
        let receipt = harness.receipt(hash).await.unwrap();
        assert!(receipt.status());
        assert_eq!(receipt.inner.tx_type(), tx.tx_type());
        let found = harness.provider.get_transaction_by_hash(hash).await.unwrap().unwrap();
        assert_eq!(*found.inner.inner(), tx);
        assert_eq!(found.inner.signer(), signer.address());
    }
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::from(4));
}

#[tokio::test]
async fn a_type_4_transaction_delegates() {
    let harness = Harness::new();
    let (sponsor, account) = (dev_signer(0), dev_signer(6));
    let wallet = Address::repeat_byte(0x71);
    harness.chain.set_code(wallet, WALLET_1271.runtime_code.clone());
    let delegation = Delegation { chain_id: U256::from(84_532), address: wallet, nonce: 0 };
    let signature = account.sign_hash_sync(&delegation.signature_hash()).unwrap();
    let mut tx = TxEip7702 {
        chain_id: 84_532,
        nonce: 0,
        gas_limit: 100_000,
        max_fee_per_gas: 5_000_000_000,
        max_priority_fee_per_gas: 1,
        to: account.address(),
        authorization_list: vec![delegation.into_signed(signature)],
        ..TxEip7702::default()
    };
    let empty = TxEip7702 { authorization_list: Vec::new(), ..tx.clone() };
    let signature = sponsor.sign_transaction_sync(&mut tx).unwrap();
    let hash = harness.raw(&tx.into_signed(signature).into()).await.unwrap();
    assert!(harness.receipt(hash).await.unwrap().status());
    let code = harness.provider.get_code_at(account.address()).await.unwrap();
    assert_eq!(code, [&[0xef, 0x01, 0x00], wallet.as_slice()].concat());
    // A delegated account still sends, and pays by EIP-1271 with its own key.
    let payment = authorization(&harness, &account, PAYEE, 5);
    let call = payment.bytes_call(payment.sign(&account));
    assert!(harness.send(6, USDC_ADDRESS, &call).await.status());
    let mut empty = TxEip7702 { nonce: 1, ..empty };
    let signature = sponsor.sign_transaction_sync(&mut empty).unwrap();
    let refusal = harness.refused(&empty.into_signed(signature).into()).await;
    assert!(refusal.contains("at least one authorization"), "{refusal}");
}

#[tokio::test]
async fn headers_are_ethereums() {
    let harness = Harness::new();
    let payment = authorization(&harness, &dev_signer(1), PAYEE, 5);
    let receipt = harness.send(0, USDC_ADDRESS, &payment.vrs_call(&dev_signer(1))).await;
    let block = harness.provider.get_block_by_number(Tag::Latest).full().await.unwrap().unwrap();
    assert_eq!(receipt.block_hash, Some(block.header.hash));
    assert_eq!(block.header.hash, block.header.inner.hash_slow());
    let envelopes: Vec<TxEnvelope> =
        block.transactions.txns().map(|tx| tx.inner.inner().clone()).collect();
    let root = alloy::consensus::proofs::calculate_transaction_root(&envelopes);
    assert_eq!(block.header.transactions_root(), root);
    assert_eq!(block.header.gas_used(), receipt.gas_used);
    assert_eq!(block.header.logs_bloom(), *receipt.inner.logs_bloom());
    let parent = harness.provider.get_block_by_number(0.into()).await.unwrap().unwrap();
    assert_eq!(block.header.parent_hash(), parent.header.hash);
    let receipts = harness.provider.get_block_receipts(BlockId::latest()).await.unwrap().unwrap();
    let consensus: Vec<_> =
        receipts.iter().map(|receipt| receipt.inner.clone().into_primitives_receipt()).collect();
    let root = alloy::consensus::proofs::calculate_receipt_root(&consensus);
    assert_eq!(block.header.receipts_root(), root);
    let by_hash = harness.provider.get_block_by_hash(block.header.hash).await.unwrap().unwrap();
    assert_eq!(by_hash.header, block.header);
}

#[tokio::test]
async fn the_past_can_be_read() {
    let harness = Harness::new();
    let account = PAYEE;
    for value in [5, 6, 7] {
        let payment = authorization(&harness, &dev_signer(1), account, value);
        assert!(harness.send(0, USDC_ADDRESS, &payment.vrs_call(&dev_signer(1))).await.status());
    }
    let balance = Usdc::balanceOfCall { account };
    for (block, held) in [(0, 0), (1, 5), (2, 11), (3, 18)] {
        let at = BlockId::number(block);
        assert_eq!(harness.read_in(USDC_ADDRESS, &balance, at).await, U256::from(held));
        let hash = harness.provider.get_block(at).await.unwrap().unwrap().header.hash;
        let by_hash = harness.read_in(USDC_ADDRESS, &balance, BlockId::from(hash)).await;
        assert_eq!(by_hash, U256::from(held));
        let nonce = harness.provider.get_transaction_count(dev_signer(0).address());
        assert_eq!(nonce.block_id(at).await.unwrap(), block);
    }
    assert_eq!(harness.read_in(USDC_ADDRESS, &balance, BlockId::earliest()).await, U256::ZERO);
    let unknown = harness.provider.get_balance(account).number(9).await.unwrap_err();
    assert!(unknown.to_string().contains("header not found"), "{unknown}");
}

#[tokio::test]
async fn old_states_go_and_safe_blocks_lag() {
    let harness = Harness::new();
    let sent = harness.signed(0, transfer(0));
    let payer = DEV_ACCOUNTS[0];
    let at_first = harness.provider.get_balance(payer).await.unwrap();
    harness.raw(&sent).await.unwrap();
    harness.chain.mine(1_029);
    // Where everything began is known for good.
    assert!(harness.provider.get_balance(payer).await.unwrap() < at_first);
    assert_eq!(harness.provider.get_balance(payer).number(0).await.unwrap(), at_first);
    let old = harness.provider.get_balance(PAYEE).number(5).await.unwrap_err();
    assert!(old.to_string().contains("missing trie node"), "{old}");
    assert_eq!(harness.provider.get_balance(PAYEE).number(7).await.unwrap(), U256::from(1));
    for (tag, number) in [(Tag::Safe, 998), (Tag::Finalized, 966), (Tag::Earliest, 0)] {
        let block = harness.provider.get_block_by_number(tag).await.unwrap().unwrap();
        assert_eq!(block.header.number(), number);
    }
    // Base fees fall on empty blocks, and never below what EIP-1559 lets them.
    let head = harness.provider.get_block(BlockId::latest()).await.unwrap().unwrap();
    assert_eq!(head.header.base_fee_per_gas(), Some(7));
}

#[tokio::test]
async fn refusals_in_geths_words() {
    let harness = Harness::new();
    harness.raw(&harness.signed(0, transfer(0))).await.unwrap();
    let rich = U256::from(10).pow(U256::from(30));
    let cases = [
        (transfer(0), "nonce too low: next nonce 1, tx nonce 0"),
        (TxEip1559 { value: rich, ..transfer(1) }, "insufficient funds for gas * price + value"),
        (TxEip1559 { gas_limit: 20_999, ..transfer(1) }, "intrinsic gas too low"),
        (TxEip1559 { gas_limit: 17_000_000, ..transfer(1) }, "transaction gas limit too high"),
        (
            TxEip1559 { max_fee_per_gas: 5, ..transfer(1) },
            "max fee per gas less than block base fee",
        ),
        (
            TxEip1559 {
                max_fee_per_gas: 1_000_000_000,
                max_priority_fee_per_gas: 1_000_000_001,
                ..transfer(1)
            },
            "max priority fee per gas higher than max fee per gas",
        ),
    ];
    for (tx, words) in cases {
        let refusal = harness.refused(&harness.signed(0, tx)).await;
        assert!(refusal.starts_with(words), "{refusal}");
    }
    let mut foreign = TxEip1559 { chain_id: 1, max_fee_per_gas: 2_000_000_000, ..transfer(1) };
    let signature = dev_signer(0).sign_transaction_sync(&mut foreign).unwrap();
    let refusal = harness.refused(&foreign.into_signed(signature).into()).await;
    assert_eq!(refusal, "invalid chain id for signer: have 1 want 84532");
    let garbage = harness
        .provider
        .raw_request::<_, B256>("eth_sendRawTransaction".into(), ("0x02c0",))
        .await
        .unwrap_err();
    assert!(garbage.to_string().contains("could not be decoded"), "{garbage}");
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::from(1));
}

#[tokio::test]
async fn a_nonce_gap_waits_until_it_is_filled() {
    let harness = Harness::new();
    let later = harness.raw(&harness.signed(0, transfer(1))).await.unwrap();
    assert!(harness.receipt(later).await.is_none());
    let pending = harness.provider.get_transaction_by_hash(later).await.unwrap().unwrap();
    assert_eq!(pending.block_hash, None);
    let account = dev_signer(0).address();
    assert_eq!(harness.provider.get_transaction_count(account).pending().await.unwrap(), 0);
    let first = harness.raw(&harness.signed(0, transfer(0))).await.unwrap();
    assert!(harness.receipt(first).await.unwrap().status());
    assert!(harness.receipt(later).await.unwrap().status());
    assert_eq!(harness.provider.get_transaction_count(account).await.unwrap(), 2);
}

#[tokio::test]
async fn a_held_mempool_holds_drops_and_replaces() {
    let harness = Harness::new();
    harness.chain.hold_mempool();
    let account = dev_signer(0).address();
    let (first, second) = (harness.signed(0, transfer(0)), harness.signed(0, transfer(1)));
    let first = harness.raw(&first).await.map(|hash| (hash, first)).unwrap();
    let second = harness.raw(&second).await.unwrap();
    assert_eq!(harness.refused(&first.1).await, "already known");
    assert_eq!(harness.provider.get_transaction_count(account).pending().await.unwrap(), 2);
    assert_eq!(harness.provider.get_transaction_count(account).await.unwrap(), 0);
    harness.chain.mine(1);
    assert!(harness.receipt(first.0).await.is_none());

    let bid = |percent: u128| TxEip1559 {
        max_fee_per_gas: 200_000_000 * percent,
        max_priority_fee_per_gas: 10_000_000 * percent,
        ..transfer(0)
    };
    let low = harness.refused(&harness.signed(0, bid(109))).await;
    assert_eq!(low, "replacement transaction underpriced");
    let replacement = harness.raw(&harness.signed(0, bid(110))).await.unwrap();
    assert!(harness.provider.get_transaction_by_hash(first.0).await.unwrap().is_none());
    assert!(harness.chain.drop_transaction(second));
    assert!(!harness.chain.drop_transaction(second));
    assert_eq!(harness.chain.pending_transactions(), vec![replacement]);

    harness.chain.release_mempool();
    assert!(harness.receipt(replacement).await.unwrap().status());
    assert!(harness.receipt(second).await.is_none());
    assert_eq!(harness.provider.get_transaction_count(account).await.unwrap(), 1);
}

#[tokio::test]
async fn a_low_fee_waits_for_the_base_fee_to_fall() {
    let harness = Harness::with(Mining::Manual);
    harness.chain.set_next_base_fee(3_000_000_000);
    let cheap = TxEip1559 { max_fee_per_gas: 2_900_000_000, ..transfer(0) };
    let hash = harness.raw(&harness.signed(0, cheap)).await.unwrap();
    harness.chain.mine(1);
    assert!(harness.receipt(hash).await.is_none());
    harness.chain.mine(1);
    let receipt = harness.receipt(hash).await.unwrap();
    assert_eq!(receipt.effective_gas_price, 2_625_000_000);
}

#[tokio::test]
async fn the_best_tip_goes_first() {
    let harness = Harness::with(Mining::Manual);
    let bid = |tip| TxEip1559 {
        max_fee_per_gas: 20_000_000_000,
        max_priority_fee_per_gas: tip,
        ..transfer(0)
    };
    let mut hashes = Vec::new();
    for (account, tip) in [(0, 1), (1, 3), (2, 2), (3, 3)] {
        hashes.push(harness.raw(&harness.signed(account, bid(tip))).await.unwrap());
    }
    harness.chain.mine(1);
    let block = harness.provider.get_block(BlockId::latest()).await.unwrap().unwrap();
    let order: Vec<B256> = block.transactions.hashes().collect();
    assert_eq!(order, [hashes[1], hashes[3], hashes[2], hashes[0]]);
    let last = harness.receipt(hashes[0]).await.unwrap();
    assert_eq!((last.gas_used, last.inner.cumulative_gas_used()), (21_000, 84_000));
}

#[tokio::test]
async fn a_reorg_drops_or_keeps() {
    let harness = Harness::new();
    let kept = harness.raw(&harness.signed(0, transfer(0))).await.unwrap();
    let before = harness.receipt(kept).await.unwrap();
    assert_eq!(harness.chain.reorg(1, ReorgTransactions::Keep), 1);
    let after = harness.receipt(kept).await.unwrap();
    assert_eq!(after.block_number, before.block_number);
    assert_ne!(after.block_hash, before.block_hash);
    let gone = harness.provider.get_block_by_hash(before.block_hash.unwrap()).await.unwrap();
    assert!(gone.is_none());

    harness.chain.hold_mempool();
    harness.chain.reorg(1, ReorgTransactions::Keep);
    assert!(harness.receipt(kept).await.is_none());
    assert_eq!(harness.chain.pending_transactions(), vec![kept]);
    harness.chain.release_mempool();
    assert_eq!(harness.receipt(kept).await.unwrap().block_number, Some(2));

    assert_eq!(harness.chain.reorg(2, ReorgTransactions::Drop), 2);
    assert!(harness.provider.get_transaction_by_hash(kept).await.unwrap().is_none());
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::ZERO);
    assert_eq!(harness.chain.block_number(), 2);
    assert_eq!(harness.chain.reorg(50, ReorgTransactions::Drop), 2);
}

#[tokio::test]
async fn a_snapshot_is_gone_back_to_once() {
    let harness = Harness::new();
    let start = harness.chain.now();
    let snapshot = harness.chain.snapshot();
    let head = harness.provider.get_block(BlockId::latest()).await.unwrap().unwrap();
    let hash = harness.raw(&harness.signed(0, transfer(0))).await.unwrap();
    harness.chain.set_balance(PAYEE, U256::from(99));
    harness.chain.increase_time(10_000);
    let later = harness.chain.snapshot();
    assert!(harness.chain.revert(snapshot));
    assert!(harness.receipt(hash).await.is_none());
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::ZERO);
    let now = harness.provider.get_block(BlockId::latest()).await.unwrap().unwrap();
    assert_eq!(now.header.hash, head.header.hash);
    assert!(harness.chain.now() < start + 5_000);
    assert!(!harness.chain.revert(snapshot));
    assert!(!harness.chain.revert(later));
    // The same transaction can run again.
    assert_eq!(harness.raw(&harness.signed(0, transfer(0))).await.unwrap(), hash);
    assert!(harness.receipt(hash).await.unwrap().status());
}

#[tokio::test]
async fn time_travels_forward_only() {
    let harness = Harness::new();
    let start = harness.chain.now();
    harness.chain.increase_time(3_600);
    harness.chain.mine(1);
    let block = harness.provider.get_block(BlockId::latest()).await.unwrap().unwrap();
    assert!((3_600..3_660).contains(&(block.header.timestamp() - start)));
    assert!(!harness.chain.set_next_block_timestamp(start));
    let exact = start + 10_000;
    assert!(harness.chain.set_next_block_timestamp(exact));
    let seen = harness.read_at(MULTICALL3, &multicall::getCurrentBlockTimestampCall {}).await;
    assert_eq!(seen, U256::from(exact));
    harness.chain.mine(1);
    let block = harness.provider.get_block(BlockId::latest()).await.unwrap().unwrap();
    assert_eq!(block.header.timestamp(), exact);
    assert!((exact..exact + 60).contains(&harness.chain.now()));
}

#[tokio::test]
async fn many_blocks_do_not_outrun_the_clock() {
    let harness = Harness::new();
    harness.chain.mine(500);
    let genesis = harness.provider.get_block_by_number(0.into()).await.unwrap().unwrap();
    let head = harness.provider.get_block(BlockId::latest()).await.unwrap().unwrap();
    assert!(head.header.timestamp() - genesis.header.timestamp() < 60);
}

#[tokio::test]
async fn interval_mining_mines_by_itself() {
    let harness = Harness::with(Mining::Interval(Duration::from_millis(20)));
    let hash = harness.raw(&harness.signed(0, transfer(0))).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while harness.receipt(hash).await.is_none() {
        assert!(std::time::Instant::now() < deadline, "no block came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    harness.chain.set_mining(Mining::Manual);
    let stopped = harness.chain.block_number();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(harness.chain.block_number(), stopped);
}

#[tokio::test]
async fn an_estimate_is_enough_and_not_far_off() {
    let harness = Harness::new();
    let payer = dev_signer(1);
    let plain = TransactionRequest::default().from(payer.address()).to(PAYEE).value(U256::from(1));
    assert_eq!(harness.provider.estimate_gas(plain.clone()).await.unwrap(), 21_000);
    // Clients that estimate with fees seldom name the chain.
    let priced = plain.clone().max_fee_per_gas(2_000_000_000).max_priority_fee_per_gas(1);
    assert_eq!(harness.provider.estimate_gas(priced.clone()).await.unwrap(), 21_000);
    let rich = priced.clone().value(U256::from(10).pow(U256::from(30)));
    let rich = harness.provider.estimate_gas(rich).await.unwrap_err();
    assert!(rich.to_string().contains("insufficient funds for gas * price + value"), "{rich}");
    let low = harness.provider.estimate_gas(priced.max_fee_per_gas(7)).await.unwrap_err();
    assert!(low.to_string().contains("max fee per gas less than block base fee"), "{low}");
    let payment = authorization(&harness, &payer, PAYEE, 5);
    let data = payment.vrs_call(&payer).abi_encode();
    let request = TransactionRequest::default()
        .from(payer.address())
        .to(USDC_ADDRESS)
        .input(Bytes::from(data.clone()).into());
    let estimate = harness.provider.estimate_gas(request.clone()).await.unwrap();
    let tx = |nonce, gas_limit| TxEip1559 {
        nonce,
        gas_limit,
        to: TxKind::Call(USDC_ADDRESS),
        input: data.clone().into(),
        ..TxEip1559::default()
    };
    let snapshot = harness.chain.snapshot();
    let hash = harness.raw(&harness.signed(1, tx(0, estimate))).await.unwrap();
    assert!(harness.receipt(hash).await.unwrap().status());
    harness.chain.revert(snapshot);
    let hash = harness.raw(&harness.signed(1, tx(0, estimate * 97 / 100))).await.unwrap();
    let starved = harness.receipt(hash).await.unwrap();
    assert!(!starved.status());
    assert_eq!(starved.gas_used, estimate * 97 / 100);
    let capped = harness.provider.estimate_gas(request.gas_limit(30_000)).await.unwrap_err();
    assert!(capped.to_string().contains("gas required exceeds allowance (30000)"), "{capped}");
}

#[tokio::test]
async fn calls_take_overrides() {
    let harness = Harness::new();
    let poor = Address::repeat_byte(0x99);
    let request = TransactionRequest::default().from(poor).to(PAYEE).value(U256::from(5));
    let refused = harness.provider.call(request.clone()).await.unwrap_err();
    assert!(
        refused.to_string().contains("insufficient funds for gas * price + value"),
        "{refused}"
    );
    let overrides = serde_json::json!([
        request, "latest", { poor.to_string(): { "balance": "0x5" } }
    ]);
    let output: Bytes = harness.provider.raw_request("eth_call".into(), overrides).await.unwrap();
    assert!(output.is_empty());
    let time = TransactionRequest::default()
        .to(MULTICALL3)
        .input(Bytes::from(multicall::getCurrentBlockTimestampCall {}.abi_encode()).into());
    let overrides = serde_json::json!([time, "latest", {}, { "time": "0x7b" }]);
    let output: U256 = harness.provider.raw_request("eth_call".into(), overrides).await.unwrap();
    assert_eq!(output, U256::from(123));
}

#[tokio::test]
async fn fees_rise_with_full_blocks_and_have_a_history() {
    let harness = Harness::new();
    let history =
        harness.provider.get_fee_history(1, BlockNumberOrTag::Latest, &[50.0]).await.unwrap();
    assert_eq!(history.base_fee_per_gas, [1_000_000_000, 875_000_000]);
    let hash = harness.raw(&harness.signed(0, transfer(0))).await.unwrap();
    let receipt = harness.receipt(hash).await.unwrap();
    assert_eq!(receipt.effective_gas_price, 875_000_000 + 1_000_000_000);
    let history = harness
        .provider
        .get_fee_history(9, BlockNumberOrTag::Latest, &[0.0, 50.0, 100.0])
        .await
        .unwrap();
    assert_eq!(history.oldest_block, 0);
    assert_eq!(history.base_fee_per_gas.len(), 3);
    assert_eq!(history.reward.unwrap()[1], [1_000_000_000; 3]);
    let fees = harness.provider.estimate_eip1559_fees().await.unwrap();
    assert!(fees.max_fee_per_gas > fees.max_priority_fee_per_gas);
    // Who pays what, to the wei: the payer loses value and gas at the effective price.
    let spent = U256::from(21_000 * receipt.effective_gas_price) + U256::from(1);
    let left = harness.provider.get_balance(dev_signer(0).address()).await.unwrap();
    assert_eq!(left + spent, pay402_devchain::genesis::DEV_WEI);
}

#[tokio::test]
async fn logs_and_filters() {
    let harness = Harness::new();
    let payer = dev_signer(1);
    let wanted = Filter::new()
        .address(USDC_ADDRESS)
        .event_signature(Usdc::Transfer::SIGNATURE_HASH)
        .topic2(PAYEE.into_word());
    let filter = harness.provider.new_filter(&wanted).await.unwrap();
    let blocks = harness.provider.new_block_filter().await.unwrap();
    let pending = harness.provider.new_pending_transactions_filter(false).await.unwrap();
    let pay = async |to| {
        let payment = authorization(&harness, &payer, to, 5);
        harness.send(0, USDC_ADDRESS, &payment.vrs_call(&payer)).await
    };
    let hit = pay(PAYEE).await;
    let miss = pay(Address::repeat_byte(1)).await;
    let changes =
        harness.provider.get_filter_changes::<alloy::rpc::types::Log>(filter).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].transaction_hash, Some(hit.transaction_hash));
    assert_eq!(changes[0].log_index, Some(1));
    assert!(
        harness
            .provider
            .get_filter_changes::<alloy::rpc::types::Log>(filter)
            .await
            .unwrap()
            .is_empty()
    );
    let heads: Vec<B256> = harness.provider.get_filter_changes(blocks).await.unwrap();
    assert_eq!(heads, [hit.block_hash.unwrap(), miss.block_hash.unwrap()]);
    let seen: Vec<B256> = harness.provider.get_filter_changes(pending).await.unwrap();
    assert_eq!(seen, [hit.transaction_hash, miss.transaction_hash]);
    let logs = harness.provider.get_logs(&wanted.clone().from_block(0)).await.unwrap();
    assert_eq!(logs, changes);
    let none = harness.provider.get_logs(&wanted.clone().from_block(2)).await.unwrap();
    assert!(none.is_empty());
    let at =
        harness.provider.get_logs(&wanted.clone().at_block_hash(hit.block_hash.unwrap())).await;
    assert_eq!(at.unwrap(), changes);
    harness.chain.reorg(2, ReorgTransactions::Drop);
    let undone =
        harness.provider.get_filter_changes::<alloy::rpc::types::Log>(filter).await.unwrap();
    assert_eq!((undone.len(), undone[0].removed), (1, true));
    assert!(harness.provider.uninstall_filter(filter).await.unwrap());
    let gone =
        harness.provider.get_filter_changes::<alloy::rpc::types::Log>(filter).await.unwrap_err();
    assert!(gone.to_string().contains("filter not found"), "{gone}");
}

#[tokio::test]
async fn limits_hold() {
    let harness = Harness::new();
    harness.chain.mine(pay402_devchain::LOG_RANGE_LIMIT);
    let wide = harness.provider.get_logs(&Filter::new().from_block(0)).await.unwrap_err();
    assert!(wide.to_string().contains("block range exceeds"), "{wide}");
    let first = harness.provider.new_block_filter().await.unwrap();
    for _ in 0..pay402_devchain::FILTER_LIMIT {
        harness.provider.new_block_filter().await.unwrap();
    }
    let evicted = harness.provider.get_filter_changes::<B256>(first).await.unwrap_err();
    assert!(evicted.to_string().contains("filter not found"), "{evicted}");
    let mine = harness.provider.raw_request::<_, ()>("anvil_mine".into(), ("0x2711",)).await;
    assert!(mine.unwrap_err().to_string().contains("more than 10000 blocks"));
}

#[tokio::test]
async fn failed_creations_and_calls_leave_receipts() {
    let harness = Harness::new();
    let create = |nonce, input| TxEip1559 {
        nonce,
        gas_limit: 100_000,
        to: TxKind::Create,
        input,
        ..TxEip1559::default()
    };
    // Returns one zero byte as code.
    let good = Bytes::from_static(&[0x60, 0x01, 0x60, 0x00, 0xf3]);
    let hash = harness.raw(&harness.signed(0, create(0, good))).await.unwrap();
    let receipt = harness.receipt(hash).await.unwrap();
    let created = receipt.contract_address.unwrap();
    assert_eq!(created, dev_signer(0).address().create(0));
    assert_eq!(harness.provider.get_code_at(created).await.unwrap(), Bytes::from_static(&[0]));
    let bad = Bytes::from_static(&[0xfe]);
    let hash = harness.raw(&harness.signed(0, create(1, bad))).await.unwrap();
    let receipt = harness.receipt(hash).await.unwrap();
    assert!(!receipt.status());
    assert_eq!(receipt.gas_used, 100_000);
    let found = harness.provider.get_transaction_by_hash(hash).await.unwrap().unwrap();
    assert_eq!(found.inner.gas_limit(), 100_000);
}
