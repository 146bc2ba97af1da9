//! Signing, sending, and the proof by logs: also when others interfere.

use alloy::primitives::{Address, B256, Bytes, U256, bytes};
use alloy::signers::local::PrivateKeySigner;
use pay402_core::network::{
    ChainStatus, Network as _, Part, SecretBytes, SendError, SentAs, Verified,
};
use pay402_core::refusal::Reason;
use pay402_core::{Amount, Refusal};
use pay402_devchain::ReorgTransactions;
use pay402_devchain::genesis::{USDC_ADDRESS, WALLET_1271, dev_signer, usdc_balance_slot};
use pay402_evm::network::sight::{CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S};
use pay402_evm::{Asset, AssetTable, Certainty, EvmNetwork, Peg, Rpc, Settings, Tier};

use crate::support::{
    House, PAY_TO, PAYER, START, authorization, authorization_of, network_id, payment, payment_by,
    sign_with, signed, terms, terms_in,
};

const OPEN: ChainStatus = ChainStatus::Open { expired: false, displaced: false };

async fn status(house: &House, verified: &Verified, sent: Option<&SentAs>) -> ChainStatus {
    house.network.status(&verified.plan, sent).await.unwrap()
}

fn is_proven_by(status: &ChainStatus, name: &str) -> bool {
    matches!(status, ChainStatus::Proven { transaction, .. } if transaction == name)
}

fn failed_as(status: &ChainStatus, refusal: Refusal) -> bool {
    matches!(status, ChainStatus::Failed { refused, .. }
        if refused.reason == Reason::Known(refusal))
}

async fn wei_of(house: &House, account: Address) -> U256 {
    use alloy::providers::Provider as _;
    house.chain.provider().get_balance(account).await.unwrap()
}

#[tokio::test]
async fn the_money_moves_and_is_proven_to_the_wei() {
    let house = House::new();
    let good = payment();
    let (payee, payer): (Address, _) = (PAY_TO.parse().unwrap(), dev_signer(PAYER).address());
    let (payee_had, payer_had) = (house.usdc_of(payee).await, house.usdc_of(payer).await);
    let gas_had = wei_of(&house, dev_signer(0).address()).await;
    let payer_wei = wei_of(&house, payer).await;
    let verified = house.verify(&good).await.unwrap();
    assert_eq!(status(&house, &verified, None).await, OPEN);
    let (sent, raw) = house.submit(&verified.plan).await;
    let ChainStatus::Proven { transaction, number, block, fee } =
        status(&house, &verified, Some(&sent)).await
    else {
        panic!("not proven")
    };
    assert_eq!((transaction, number), (sent.transaction.clone(), house.chain.block_number()));
    assert_eq!(block.number, number);
    let amount = U256::from(10_000);
    assert_eq!(house.usdc_of(payee).await, payee_had + amount);
    assert_eq!(house.usdc_of(payer).await, payer_had - amount);
    let gas_has = wei_of(&house, dev_signer(0).address()).await;
    assert_eq!(fee, Amount::new(gas_had - gas_has));
    assert_eq!(wei_of(&house, payer).await, payer_wei, "the payer needs no gas");
    // The authorization alone proves it too, without knowing how it was sent.
    let by_logs = status(&house, &verified, None).await;
    assert!(is_proven_by(&by_logs, &sent.transaction), "{by_logs:?}");
    assert!(matches!(by_logs, ChainStatus::Proven { fee: same, .. } if same == fee));
    assert_eq!(house.network.send(&raw).await, Err(SendError::NonceSpent));
}

#[tokio::test]
async fn signing_again_gives_the_same_bytes() {
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    let (first, raw) = sign_with(&house.network, &verified.plan).await;
    let (second, same) = sign_with(&house.network, &verified.plan).await;
    assert_eq!((first, raw), (second, same));
    assert_eq!(status(&house, &verified, None).await, OPEN, "signing sends nothing");
}

#[tokio::test]
async fn a_contract_account_pays_by_the_bytes_overload() {
    let house = House::new();
    let terms = terms(10_000);
    let wallet = house.wallet(PAYER);
    let by_owner = signed(&terms, authorization(&terms, wallet), &dev_signer(PAYER));
    let verified = house.verify(&by_owner).await.unwrap();
    let (sent, _) = house.submit(&verified.plan).await;
    let proven = status(&house, &verified, Some(&sent)).await;
    assert!(is_proven_by(&proven, &sent.transaction), "{proven:?}");
    assert_eq!(house.usdc_of(wallet).await, U256::from(990_000));
}

#[tokio::test]
async fn code_is_looked_at_again_when_signing() {
    // Verified as a plain account, it has code by the time it settles: the other overload it is.
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    let payer = dev_signer(PAYER).address();
    house.chain.set_code(payer, WALLET_1271.runtime_code.clone());
    let (sent, _) = house.submit(&verified.plan).await;
    let proven = status(&house, &verified, Some(&sent)).await;
    assert!(is_proven_by(&proven, &sent.transaction), "{proven:?}");
}

#[tokio::test]
async fn a_contract_that_is_gone_cannot_pay_and_that_is_final() {
    let house = House::new();
    let terms = terms(10_000);
    let wallet = house.wallet(PAYER);
    house.chain.set_code(wallet, LENIENT);
    let accepted = crate::support::carrying(&terms, authorization(&terms, wallet), vec![1; 100]);
    let verified = house.verify(&accepted).await.unwrap();
    house.chain.set_code(wallet, Bytes::new());
    let (sent, _) = house.submit(&verified.plan).await;
    let failed = status(&house, &verified, Some(&sent)).await;
    assert!(failed_as(&failed, Refusal::TransactionReverted), "{failed:?}");
}

/// An account that accepts every signature.
const LENIENT: Bytes = bytes!("631626ba7e60e01b5f5260205ff3");

#[tokio::test]
async fn a_payers_contract_cannot_make_us_burn_gas() {
    use alloy::consensus::Transaction as _;
    use alloy::eips::Decodable2718 as _;
    // Once the payment is verified, the payer's account burns all it gets, or more than the cap:
    // a loop without end, and one of a million gas that then accepts.
    let endless = bytes!("5b5f56");
    let heavy = bytes!("619c405b6001900380600357" "631626ba7e60e01b5f5260205ff3");
    for wasteful in [endless, heavy] {
        for verified_as_contract in [true, false] {
            let house = House::new();
            let terms = terms(10_000);
            let (verified, payer) = if verified_as_contract {
                let wallet = house.wallet(PAYER);
                house.chain.set_code(wallet, LENIENT);
                let accepted = authorization(&terms, wallet);
                let accepted = crate::support::carrying(&terms, accepted, vec![1; 100]);
                (house.verify(&accepted).await.unwrap(), wallet)
            } else {
                (house.verify(&payment()).await.unwrap(), dev_signer(PAYER).address())
            };
            house.chain.set_code(payer, wasteful.clone());
            let (sent, raw) = house.submit(&verified.plan).await;
            let transaction = alloy::consensus::TxEnvelope::decode_2718(&mut raw.expose()).unwrap();
            assert!(transaction.gas_limit() <= 120_000, "{}", transaction.gas_limit());
            let failed = status(&house, &verified, Some(&sent)).await;
            assert!(failed_as(&failed, Refusal::TransactionReverted), "{failed:?}");
        }
    }
}

#[tokio::test]
async fn an_observer_who_submits_first_does_not_cost_the_payee() {
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    let (ours, raw) = sign_with(&house.network, &verified.plan).await;
    let (theirs, rival_raw) = sign_with(&house.rival(), &verified.plan).await;
    house.network.send(&rival_raw).await.unwrap();
    // Before ours is mined, theirs is proof already, and costs us nothing.
    let early = status(&house, &verified, Some(&ours)).await;
    assert!(is_proven_by(&early, &theirs.transaction), "{early:?}");
    let ChainStatus::Proven { number: theirs_in, block, fee, .. } = early else {
        panic!("{early:?}")
    };
    assert_eq!((block.number, fee), (theirs_in, Amount::ZERO));
    house.network.send(&raw).await.unwrap();
    let late = status(&house, &verified, Some(&ours)).await;
    assert!(is_proven_by(&late, &theirs.transaction), "{late:?}");
    let ChainStatus::Proven { number, block, fee, .. } = late else { panic!("{late:?}") };
    assert!(!fee.is_zero());
    // What ours cost rests on its own block: should that be undone, the cost is.
    assert_eq!((number, block.number), (theirs_in, house.chain.block_number()));
    assert!(block.number > number);
}

#[tokio::test]
async fn a_cancelled_nonce_lets_those_behind_it_be_mined() {
    let house = House::new();
    let network = &house.network;
    let signer = network.signers().remove(0);
    let sent_as = |nonce, transaction| SentAs {
        signer: signer.clone(),
        nonce,
        transaction,
        replaced: Vec::new(),
        part: Part::WHOLE,
    };
    let gas_had = wei_of(&house, dev_signer(0).address()).await;
    let first = network.consumed_nonces(&signer).await.unwrap();
    let (lost, behind) = (house.verify(&payment()).await.unwrap(), payment_by(PAYER + 1, 10_000));
    let behind = house.verify(&behind).await.unwrap();
    let (lost_as, lost_raw) = sign_with(network, &lost.plan).await;
    let second = network.sign(&signer, first + 1, &behind.plan, None).await.unwrap();
    network.send(&second.raw).await.unwrap();
    let behind_as = sent_as(first + 1, second.transaction);
    assert_eq!(status(&house, &behind, Some(&behind_as)).await, OPEN, "mined before its turn");

    let plan = network.cancellation(&signer, first).unwrap();
    assert_eq!(network.cancels(&plan), Some((signer.clone(), first)));
    assert_eq!(network.cancels(&lost.plan), None);
    assert!(network.sources(&plan).is_empty());
    assert!(!network.may_be_packed(&plan));
    let another = network.sign(&signer, first + 2, &plan, None).await;
    assert!(another.is_err(), "it consumes another nonce than its own");
    let stranger = dev_signer(PAYER).address().to_checksum(None);
    assert!(network.cancellation(&stranger, 0).is_none(), "of an account that is not ours");
    let cancelling = network.sign(&signer, first, &plan, None).await.unwrap();
    let cancelling_as = sent_as(first, cancelling.transaction);
    assert_eq!(network.status(&plan, None).await, Ok(OPEN));
    assert_eq!(network.status(&plan, Some(&cancelling_as)).await, Ok(OPEN));
    network.send(&cancelling.raw).await.unwrap();

    let cancelled = network.status(&plan, Some(&cancelling_as)).await.unwrap();
    let settled = status(&house, &behind, Some(&behind_as)).await;
    let (
        ChainStatus::Proven { transaction, fee: cancelled, .. },
        ChainStatus::Proven { fee: settled, .. },
    ) = (cancelled, settled)
    else {
        panic!("not mined")
    };
    assert_eq!(transaction, cancelling_as.transaction);
    let gas_has = wei_of(&house, dev_signer(0).address()).await;
    assert_eq!(cancelled.checked_add(settled), Some(Amount::new(gas_had - gas_has)));
    // What was lost comes back too late: it is displaced, and so is a cancellation in its place.
    assert_eq!(network.send(&lost_raw).await, Err(SendError::NonceSpent));
    let displaced = ChainStatus::Open { expired: false, displaced: true };
    assert_eq!(status(&house, &lost, Some(&lost_as)).await, displaced);
    // In the same block nothing is looked up twice.
    house.chain.mine(1);
    assert_eq!(network.status(&plan, Some(&lost_as)).await, Ok(displaced));
}

#[tokio::test]
async fn a_cancellation_before_settling_is_final() {
    let house = House::new();
    let good = payment();
    let verified = house.verify(&good).await.unwrap();
    let (sent, raw) = sign_with(&house.network, &verified.plan).await;
    house.cancel(PAYER, authorization_of(&good).nonce).await;
    // A cancellation near the head may yet be undone: nothing is over, nothing is sent again.
    house.chain.mine(CANCEL_DEPTH_BLOCKS - 1);
    assert_eq!(status(&house, &verified, None).await, OPEN);
    assert_eq!(status(&house, &verified, Some(&sent)).await, OPEN);
    house.chain.mine(1);
    let before = status(&house, &verified, None).await;
    assert!(failed_as(&before, Refusal::AuthorizationCanceled), "{before:?}");
    house.network.send(&raw).await.unwrap();
    let after = status(&house, &verified, Some(&sent)).await;
    assert!(failed_as(&after, Refusal::AuthorizationCanceled), "{after:?}");
    assert!(matches!(after, ChainStatus::Failed { fee, .. } if !fee.is_zero()));
}

#[tokio::test]
async fn a_nonce_used_for_another_transfer_proves_nothing() {
    let house = House::new();
    let good = payment();
    let verified = house.verify(&good).await.unwrap();
    // The payer signs a second authorization with the same nonce, and that one is settled.
    let other_terms = terms(1);
    let mut other = authorization_of(&good);
    other.value = U256::from(1);
    let other = signed(&other_terms, other, &dev_signer(PAYER));
    let other = house.verify(&other).await.unwrap();
    assert_eq!(other.key, verified.key);
    assert_ne!(other.fingerprint, verified.fingerprint);
    house.submit(&other.plan).await;
    let ours = status(&house, &verified, None).await;
    assert!(failed_as(&ours, Refusal::NonceAlreadyUsed), "{ours:?}");
}

#[tokio::test]
async fn one_transfer_settles_one_payment() {
    // The payer presents two payments of one price, and uses both authorizations in one
    // transaction before us: one as signed, the other for nothing, to itself.
    for real_first in [true, false] {
        let house = House::new();
        let (real, spent) = (payment(), payment());
        let (paid, unpaid) =
            (house.verify(&real).await.unwrap(), house.verify(&spent).await.unwrap());
        let payer = dev_signer(PAYER);
        let mut void = authorization_of(&spent);
        (void.to, void.value) = (payer.address(), U256::ZERO);
        let void = signed(&terms(10_000), void, &payer);
        let payee: Address = PAY_TO.parse().unwrap();
        let had = house.usdc_of(payee).await;
        house.use_together(&if real_first { [&real, &void] } else { [&void, &real] }).await;
        assert_eq!(house.usdc_of(payee).await, had + U256::from(10_000), "it is paid once");
        let proven = status(&house, &paid, None).await;
        assert!(matches!(proven, ChainStatus::Proven { .. }), "{proven:?}");
        let failed = status(&house, &unpaid, None).await;
        assert!(failed_as(&failed, Refusal::NonceAlreadyUsed), "{failed:?}");
        // The same when ours were sent, and came too late.
        for (verified, succeeds) in [(paid, true), (unpaid, false)] {
            let (sent, _) = house.submit(&verified.plan).await;
            let late = status(&house, &verified, Some(&sent)).await;
            assert_eq!(matches!(late, ChainStatus::Proven { .. }), succeeds, "{late:?}");
            assert!(succeeds || failed_as(&late, Refusal::NonceAlreadyUsed), "{late:?}");
        }
    }
}

#[tokio::test]
async fn payments_that_are_settled_together_are_all_proven() {
    let house = House::new();
    let (one, two) = (payment(), payment());
    let verified = [house.verify(&one).await.unwrap(), house.verify(&two).await.unwrap()];
    house.use_together(&[&one, &two]).await;
    for verified in verified {
        let proven = status(&house, &verified, None).await;
        assert!(matches!(proven, ChainStatus::Proven { .. }), "{proven:?}");
    }
}

#[tokio::test]
async fn a_reverted_settlement_has_failed_and_costs() {
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    let payer = dev_signer(PAYER).address();
    house.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(payer), U256::ZERO);
    let (sent, _) = house.submit(&verified.plan).await;
    let failed = status(&house, &verified, Some(&sent)).await;
    assert!(failed_as(&failed, Refusal::TransactionReverted), "{failed:?}");
    assert!(matches!(failed, ChainStatus::Failed { fee, .. } if !fee.is_zero()));
}

/// A token whose transfers succeed and do nothing: `balanceOf` is endless, all else answers
/// storage slot 0.
const SILENT_TOKEN: Bytes =
    bytes!("5f3560e01c6370a0823114601657" "5f545f5260205ff3" "5b5f195f5260205ff3");

#[tokio::test]
async fn success_without_the_transfer_is_no_settlement() {
    let address = Address::repeat_byte(0x66);
    let asset = Asset::eip3009(
        &network_id(),
        &address.to_checksum(None),
        "SILENT",
        6,
        ("Silent", "1"),
        Peg::Other,
    )
    .unwrap();
    let house = House::with(AssetTable::defaults().with(asset.clone()), Settings::default());
    house.chain.set_code(address, SILENT_TOKEN);
    let terms = terms_in(asset, 5);
    let payer = dev_signer(PAYER);
    let silent = signed(&terms, authorization(&terms, payer.address()), &payer);
    let verified = house.verify(&silent).await.unwrap();
    let (sent, _) = house.submit(&verified.plan).await;
    let failed = status(&house, &verified, Some(&sent)).await;
    assert!(failed_as(&failed, Refusal::TransferEventMismatch), "{failed:?}");

    // Where the token calls the nonce used and shows no log of it, nothing is known, and that is
    // what is said: neither success nor failure.
    house.chain.set_storage(address, U256::ZERO, U256::from(1));
    assert!(house.network.status(&verified.plan, Some(&sent)).await.is_err());
    house.refuses(&silent, Refusal::NonceAlreadyUsed).await;
}

#[tokio::test]
async fn a_waiting_transaction_is_open_and_known() {
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    house.chain.hold_mempool();
    let (sent, raw) = house.submit(&verified.plan).await;
    assert_eq!(status(&house, &verified, Some(&sent)).await, OPEN);
    assert_eq!(house.network.send(&raw).await, Ok(()), "already known counts as sent");
    house.chain.release_mempool();
    let proven = status(&house, &verified, Some(&sent)).await;
    assert!(is_proven_by(&proven, &sent.transaction), "{proven:?}");
}

#[tokio::test]
async fn a_transaction_whose_nonce_another_took_is_displaced() {
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    let other = house.verify(&payment_by(3, 20)).await.unwrap();
    let (lost, _) = sign_with(&house.network, &verified.plan).await;
    let (taken, _) = house.submit(&other.plan).await;
    assert_eq!(lost.nonce, taken.nonce);
    let displaced = ChainStatus::Open { expired: false, displaced: true };
    for look in ["first", "of the same block"] {
        assert_eq!(status(&house, &verified, Some(&lost)).await, displaced, "{look}");
    }
    let (again, _) = house.submit(&verified.plan).await;
    let proven = status(&house, &verified, Some(&again)).await;
    assert!(is_proven_by(&proven, &again.transaction), "{proven:?}");
}

#[tokio::test]
async fn an_authorization_ends_by_block_time() {
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    let (sent, _) = sign_with(&house.network, &verified.plan).await;
    house.advance_to(START + 59);
    assert_eq!(status(&house, &verified, Some(&sent)).await, OPEN);
    house.time.set(pay402_core::time::UnixTime(START + 1_000));
    assert_eq!(status(&house, &verified, None).await, OPEN, "our clock proves nothing");
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    house.advance_to(START + 60 + FINALITY_MARGIN_S - 1);
    assert_eq!(status(&house, &verified, None).await, OPEN, "a reorganization may reach back");
    house.advance_to(START + 60 + FINALITY_MARGIN_S);
    let expired = ChainStatus::Open { expired: true, displaced: false };
    assert_eq!(status(&house, &verified, None).await, expired);
}

#[tokio::test]
async fn depth_is_waited_for_and_a_reorganization_undoes() {
    let settings = Settings { confirmations: 3, ..Settings::default() };
    let house = House::with(AssetTable::defaults(), settings);
    let verified = house.verify(&payment()).await.unwrap();
    let (sent, raw) = house.submit(&verified.plan).await;
    let shallow = ChainStatus::Shallow { transaction: sent.transaction.clone() };
    assert_eq!(status(&house, &verified, Some(&sent)).await, shallow);
    assert_eq!(status(&house, &verified, None).await, shallow);
    house.chain.mine(1);
    assert_eq!(status(&house, &verified, Some(&sent)).await, shallow);
    house.chain.reorg(2, ReorgTransactions::Drop);
    assert_eq!(status(&house, &verified, Some(&sent)).await, OPEN);
    house.network.send(&raw).await.unwrap();
    house.chain.mine(2);
    let proven = status(&house, &verified, Some(&sent)).await;
    assert!(is_proven_by(&proven, &sent.transaction), "{proven:?}");
}

#[tokio::test]
async fn a_charge_waits_for_the_depth_of_its_tier() {
    let tier = |from: u64, confirmations| Tier {
        token: USDC_ADDRESS,
        from: U256::from(from),
        certainty: Certainty { confirmations, nodes: 1 },
    };
    // The payment is one of 10,000 atomic units.
    for (tiers, depth) in [
        (vec![tier(10_001, 3)], 1),
        (vec![tier(10_000, 3)], 3),
        (vec![tier(9_999, 2), tier(10_000, 4), tier(10_001, 6)], 4),
    ] {
        let house = House::with(AssetTable::defaults(), Settings { tiers, ..Settings::default() });
        let verified = house.verify(&payment()).await.unwrap();
        let (sent, _) = house.submit(&verified.plan).await;
        for mined in 1..depth {
            let shallow = ChainStatus::Shallow { transaction: sent.transaction.clone() };
            assert_eq!(status(&house, &verified, Some(&sent)).await, shallow, "{mined} of {depth}");
            assert_eq!(status(&house, &verified, None).await, shallow, "{mined} of {depth}");
            house.chain.mine(1);
        }
        let proven = status(&house, &verified, Some(&sent)).await;
        assert!(is_proven_by(&proven, &sent.transaction), "{depth}: {proven:?}");
    }
}

#[tokio::test]
async fn a_signer_without_gas_is_refused_for_certain() {
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    // Not a development account: nobody funds it.
    let poor = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x42)).unwrap();
    let rpc = Rpc::over(&network_id(), &house.chain.rpc_client());
    let network = EvmNetwork::new(
        network_id(),
        rpc,
        vec![poor],
        AssetTable::defaults(),
        house.time.clone(),
        Settings::default(),
    )
    .unwrap();
    let (_, raw) = sign_with(&network, &verified.plan).await;
    let rejected = network.send(&raw).await;
    assert!(matches!(rejected, Err(SendError::Rejected(_))), "{rejected:?}");
}

#[tokio::test]
async fn gas_above_the_cap_is_not_paid() {
    let settings = Settings { fee_per_gas_max: 1, ..Settings::default() };
    let house = House::with(AssetTable::defaults(), settings);
    let verified = house.verify(&payment()).await.unwrap();
    let signer = house.network.signers().remove(0);
    let error = house.network.sign(&signer, 0, &verified.plan, None).await.unwrap_err();
    assert!(error.problem.contains("cap"), "{error}");
    let foreign = dev_signer(4).address().to_checksum(None);
    assert!(house.network.sign(&foreign, 0, &verified.plan, None).await.is_err());
    let damaged = SecretBytes::new(vec![9, 9]);
    assert!(house.network.sign(&signer, 0, &damaged, None).await.is_err());
    assert!(house.network.status(&damaged, None).await.is_err());
}

/// Fees of a signed transaction: its cap and its tip.
fn offer(raw: &SecretBytes) -> (u128, u128) {
    use alloy::consensus::{Transaction as _, TxEnvelope};
    use alloy::eips::eip2718::Decodable2718 as _;
    let transaction = TxEnvelope::decode_2718(&mut raw.expose()).unwrap();
    (transaction.max_fee_per_gas(), transaction.max_priority_fee_per_gas().unwrap())
}

#[tokio::test]
async fn what_expired_unmined_is_cancelled_on_a_node_that_never_saw_it() {
    let house = House::new();
    let verified = house.verify(&payment()).await.unwrap();
    assert!(house.network.lapses(&verified.plan));
    let signer = house.network.signers().remove(0);
    let gap = house.network.cancellation(&signer, 0).unwrap();
    assert!(!house.network.lapses(&gap), "an errand has no end on the chain");
    // Signed, recorded, and sent to nobody.
    let (sent, raw) = sign_with(&house.network, &verified.plan).await;
    house.advance_to(verified.expires.0 + FINALITY_MARGIN_S);
    house.chain.mine(1);
    let expired = ChainStatus::Open { expired: true, displaced: false };
    assert_eq!(status(&house, &verified, Some(&sent)).await, expired);
    let signed = house.network.cancel(&sent, &raw).await.unwrap().expect("it may be cancelled");
    let ((cap, tip), (offered, tip_offered)) = (offer(&raw), offer(&signed.raw));
    assert!(offered > cap + cap / 8 && tip_offered > tip + tip / 8, "less than nodes ask for");
    let replaced = vec![sent.transaction.clone()];
    let sent = SentAs { transaction: signed.transaction.clone(), replaced, ..sent };
    let again = house.network.cancel(&sent, &signed.raw).await.unwrap();
    assert!(again.is_none(), "its offer is good enough");
    let before = wei_of(&house, dev_signer(0).address()).await;
    house.network.send(&signed.raw).await.unwrap();
    let cost = before - wei_of(&house, dev_signer(0).address()).await;
    let seen = status(&house, &verified, Some(&sent)).await;
    let ChainStatus::LeftOut { expired: true, block, fee } = seen else { panic!("{seen:?}") };
    assert_eq!((block.number, fee), (house.chain.block_number(), Amount::new(cost)));
    assert_eq!(cost % U256::from(21_000), U256::ZERO);
    // Each bears its part, also where one was used by somebody else meanwhile.
    let part = Part { index: 1, of: 3 };
    let seen = status(&house, &verified, Some(&SentAs { part, ..sent })).await;
    assert!(
        matches!(seen, ChainStatus::LeftOut { fee, .. } if fee == part.share(Amount::new(cost)))
    );
}

/// A pack is open whatever others do with its authorizations, until its time is over; then it matters.
#[tokio::test]
async fn what_waits_in_a_pack_is_looked_at_when_its_time_is_over() {
    let house = House::new();
    let (one, two) = (payment_by(PAYER, 10_000), payment_by(PAYER + 1, 10_000));
    let (one, two) = (house.verify(&one).await.unwrap(), house.verify(&two).await.unwrap());
    let (sent, _) = sign_with(&house.network, &one.plan).await;
    let sents = [0, 1].map(|index| SentAs { part: Part { index, of: 2 }, ..sent.clone() });
    let look = async || {
        let members = [(&one.plan, &sents[0]), (&two.plan, &sents[1])];
        let statuses = house.network.statuses(&members).await;
        statuses.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let rival = house.rival();
    let (used, raw) = sign_with(&rival, &two.plan).await;
    rival.send(&raw).await.unwrap();
    assert_eq!(look().await, [OPEN, OPEN]);
    house.advance_to(one.expires.0.max(two.expires.0) + FINALITY_MARGIN_S);
    house.chain.mine(1);
    let seen = look().await;
    assert_eq!(seen[0], ChainStatus::Open { expired: true, displaced: false });
    assert!(is_proven_by(&seen[1], &used.transaction), "{:?}", seen[1]);
}
