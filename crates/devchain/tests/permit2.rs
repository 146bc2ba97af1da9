//! Permit2, called by a spender: what it takes, what it refuses, and with which error.

mod support;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::Provider;
use alloy::sol_types::{SolCall, SolError, SolEvent, SolStruct};
use pay402_devchain::genesis::{DEV_USDC, PERMIT2, PERMIT2_CONTRACT, USDC_ADDRESS, dev_signer};
use support::permit2::abi::Permit2::{
    DOMAIN_SEPARATORCall, InvalidAmount, InvalidNonce, InvalidSignature, InvalidSignatureLength,
    InvalidSigner, LengthMismatch, SignatureExpired, UnorderedNonceInvalidation,
    invalidateUnorderedNoncesCall, nonceBitmapCall, permitTransferFrom_1Call,
    permitWitnessTransferFrom_0Call, permitWitnessTransferFrom_1Call,
};
use support::permit2::{Permit, abi, bitmap_slot, compact, order, sign, signed, twin, words};
use support::{Harness, PAYEE, Usdc};

/// The development account that spends: the facilitator's place, without a proxy.
const SPENDER: usize = 0;
/// The development account that pays.
const PAYER: usize = 1;

/// A chain on which the payer has let Permit2 at its USDC.
async fn approved() -> Harness {
    let harness = Harness::new();
    approve(&harness, PAYER).await;
    harness
}

async fn approve(harness: &Harness, holder: usize) {
    let call = Usdc::approveCall { spender: PERMIT2, value: U256::MAX };
    assert!(harness.send(holder, USDC_ADDRESS, &call).await.status());
}

fn permit(harness: &Harness, amount: u64) -> Permit {
    Permit::new(harness, dev_signer(SPENDER).address(), amount)
}

async fn spent(harness: &Harness, owner: Address, nonce: U256) -> bool {
    let call = nonceBitmapCall { owner, word: nonce >> 8 };
    harness.read_at(PERMIT2, &call).await.bit(nonce.byte(0).into())
}

#[tokio::test]
async fn a_signed_transfer_moves_the_money_once() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let permit = permit(&harness, 10_000);
    let call = permit.transfer(&payer, PAYEE, U256::from(10_000));
    let receipt = harness.send(SPENDER, PERMIT2, &call).await;
    assert!(receipt.status());
    let logs = receipt.inner.logs();
    let moved = logs.iter().find_map(|log| Usdc::Transfer::decode_log(&log.inner).ok()).unwrap();
    assert_eq!(moved.address, USDC_ADDRESS);
    assert_eq!((moved.from, moved.to, moved.value), (payer.address(), PAYEE, U256::from(10_000)));
    assert_eq!(harness.usdc(PAYEE).await, U256::from(10_000));
    assert_eq!(harness.usdc(payer.address()).await, U256::from(DEV_USDC - 10_000));
    assert!(spent(&harness, payer.address(), permit.nonce).await);

    harness.reverts_with(SPENDER, PERMIT2, &call, InvalidNonce {}.abi_encode()).await;
    let replay = harness.send_unchecked(SPENDER, PERMIT2, call.abi_encode()).await;
    assert!(!replay.status());
    assert!(replay.inner.logs().is_empty());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(10_000));
}

#[tokio::test]
async fn a_part_of_the_amount_spends_the_whole_permit() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let permit = permit(&harness, 100);
    let part = permit.transfer(&payer, PAYEE, U256::from(40));
    assert!(harness.send(SPENDER, PERMIT2, &part).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(40));
    let rest = permit.transfer(&payer, PAYEE, U256::from(60));
    harness.reverts_with(SPENDER, PERMIT2, &rest, InvalidNonce {}.abi_encode()).await;
    // Nothing at all is an amount too.
    let other = self::permit(&harness, 100);
    let nothing = other.transfer(&payer, PAYEE, U256::ZERO);
    assert!(harness.send(SPENDER, PERMIT2, &nothing).await.status());
    assert!(spent(&harness, payer.address(), other.nonce).await);
    assert_eq!(harness.usdc(PAYEE).await, U256::from(40));
}

#[tokio::test]
async fn more_than_was_permitted() {
    let harness = approved().await;
    let permit = permit(&harness, 100);
    let call = permit.transfer(&dev_signer(PAYER), PAYEE, U256::from(101));
    let error = InvalidAmount { maxAmount: U256::from(100) };
    harness.reverts_with(SPENDER, PERMIT2, &call, error.abi_encode()).await;
}

#[tokio::test]
async fn the_deadline_is_the_last_second() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let deadline = harness.chain.now() + 1_000;
    let permit = Permit { deadline: U256::from(deadline), ..permit(&harness, 5) };
    let call = permit.transfer(&payer, PAYEE, U256::from(5));
    let snapshot = harness.chain.snapshot();
    assert!(harness.chain.set_next_block_timestamp(deadline));
    assert!(harness.send(SPENDER, PERMIT2, &call).await.status());
    assert!(harness.chain.revert(snapshot));
    assert!(harness.chain.set_next_block_timestamp(deadline + 1));
    let error = SignatureExpired { signatureDeadline: U256::from(deadline) };
    harness.reverts_with(SPENDER, PERMIT2, &call, error.abi_encode()).await;
}

#[tokio::test]
async fn signatures_that_count() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let long = permit(&harness, 1);
    let short = permit(&harness, 2);
    let high = permit(&harness, 4);
    // The twin of a signature counts as well, which is why nothing may be told apart by signature bytes.
    for (permit, signature) in [
        (&long, sign(&payer, long.digest())),
        (&short, compact(&sign(&payer, short.digest()))),
        (&high, twin(&sign(&payer, high.digest()))),
    ] {
        let call = permit.transfer_with(payer.address(), PAYEE, permit.amount, signature);
        assert!(harness.send(SPENDER, PERMIT2, &call).await.status());
    }
    assert_eq!(harness.usdc(PAYEE).await, U256::from(7));
    // One nonce is one transfer, under whichever signature.
    for signature in [twin(&sign(&payer, long.digest())), compact(&sign(&payer, long.digest()))] {
        let call = long.transfer_with(payer.address(), PAYEE, long.amount, signature);
        harness.reverts_with(SPENDER, PERMIT2, &call, InvalidNonce {}.abi_encode()).await;
    }
}

#[tokio::test]
async fn signatures_that_do_not_count() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let permit = permit(&harness, 5);
    let good = sign(&payer, permit.digest());
    let with =
        |signature: Bytes| permit.transfer_with(payer.address(), PAYEE, permit.amount, signature);

    let by_another = with(sign(&dev_signer(2), permit.digest()));
    harness.reverts_with(SPENDER, PERMIT2, &by_another, InvalidSigner {}.abi_encode()).await;

    let long = Bytes::from([good.as_ref(), &[0]].concat());
    for odd in [Bytes::new(), good.slice(..32), good.slice(..63), long] {
        let error = InvalidSignatureLength {}.abi_encode();
        harness.reverts_with(SPENDER, PERMIT2, &with(odd), error).await;
    }

    let mut low_v = good.to_vec();
    low_v[64] -= 27;
    let no_point = [B256::repeat_byte(0xff).as_slice(), &good[32..]].concat();
    for broken in [low_v, vec![0; 65], vec![0; 64], no_point] {
        let error = InvalidSignature {}.abi_encode();
        harness.reverts_with(SPENDER, PERMIT2, &with(broken.into()), error).await;
    }
    // None of these spent the nonce.
    assert!(harness.send(SPENDER, PERMIT2, &with(good)).await.status());
}

#[tokio::test]
async fn only_the_spender_that_was_signed_for() {
    let harness = approved().await;
    let call = permit(&harness, 5).transfer(&dev_signer(PAYER), PAYEE, U256::from(5));
    harness.reverts_with(2, PERMIT2, &call, InvalidSigner {}.abi_encode()).await;
    assert!(harness.send(SPENDER, PERMIT2, &call).await.status());
}

#[tokio::test]
async fn signatures_for_another_chain_or_contract() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let good = permit(&harness, 5);
    for foreign in [
        Permit { chain_id: 8453, ..good.clone() },
        Permit { contract: Address::repeat_byte(0x22), ..good.clone() },
    ] {
        let call = foreign.transfer(&payer, PAYEE, U256::from(5));
        harness.reverts_with(SPENDER, PERMIT2, &call, InvalidSigner {}.abi_encode()).await;
    }
    let separator = harness.read_at(PERMIT2, &DOMAIN_SEPARATORCall {}).await;
    assert_eq!(separator, good.domain().hash_struct());
    // The same code elsewhere is another domain.
    let elsewhere = Address::repeat_byte(0x23);
    harness.chain.set_code(elsewhere, PERMIT2_CONTRACT.runtime_code.clone());
    let moved = Permit { contract: elsewhere, ..good };
    let separator = harness.read_at(elsewhere, &DOMAIN_SEPARATORCall {}).await;
    assert_eq!(separator, moved.domain().hash_struct());
}

#[tokio::test]
async fn a_transfer_that_the_token_refuses() {
    let harness = Harness::new();
    let payer = dev_signer(PAYER);
    let permit = permit(&harness, 5);
    let call = permit.transfer(&payer, PAYEE, U256::from(5));
    // Permit2 was not let at the money.
    harness.reverts_with(SPENDER, PERMIT2, &call, words("TRANSFER_FROM_FAILED")).await;
    approve(&harness, PAYER).await;
    harness.set_usdc(payer.address(), 4);
    harness.reverts_with(SPENDER, PERMIT2, &call, words("TRANSFER_FROM_FAILED")).await;
    assert!(!harness.send_unchecked(SPENDER, PERMIT2, call.abi_encode()).await.status());
    assert!(!spent(&harness, payer.address(), permit.nonce).await);
    harness.set_usdc(payer.address(), 5);
    assert!(harness.send(SPENDER, PERMIT2, &call).await.status());
}

#[tokio::test]
async fn what_a_token_may_answer() {
    let harness = Harness::new();
    let token = Address::repeat_byte(0x0c);
    let permit = Permit { token, ..permit(&harness, 5) };
    let call = permit.transfer(&dev_signer(PAYER), PAYEE, U256::from(5));
    // No answer, and a word of one.
    for code in ["00", "60015f5260205ff3"] {
        harness.chain.set_code(token, code.parse().unwrap());
        assert_eq!(harness.answer(SPENDER, PERMIT2, &call).await, Ok(Bytes::new()), "{code}");
    }
    // Words of zero, two and all bits; one byte; and a revert with a word of one.
    for code in
        ["60205ff3", "60025f5260205ff3", "5f195f5260205ff3", "60015f5360015ff3", "60015f5260205ffd"]
    {
        harness.chain.set_code(token, code.parse().unwrap());
        harness.reverts_with(SPENDER, PERMIT2, &call, words("TRANSFER_FROM_FAILED")).await;
    }
}

/// A trap for whoever takes a transaction's status for a payment.
#[tokio::test]
async fn a_token_without_code_transfers_nothing_successfully() {
    let harness = Harness::new();
    let nowhere = Address::repeat_byte(0x0c);
    let permit = Permit { token: nowhere, ..permit(&harness, 5) };
    let call = permit.transfer(&dev_signer(PAYER), PAYEE, U256::from(5));
    let receipt = harness.send(SPENDER, PERMIT2, &call).await;
    assert!(receipt.status());
    assert!(receipt.inner.logs().is_empty());
}

#[tokio::test]
async fn a_witness_binds_what_it_hashes() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let permit = permit(&harness, 5);
    let order = order::Order { id: U256::from(7) };
    let good = permitWitnessTransferFrom_0Call {
        permit: permit.call(),
        transferDetails: abi::SignatureTransferDetails {
            to: PAYEE,
            requestedAmount: permit.amount,
        },
        owner: payer.address(),
        witness: order.eip712_hash_struct(),
        witnessTypeString: order::TYPE_STRING.into(),
        signature: sign(&payer, permit.order_digest(7)),
    };
    let mut another = good.clone();
    another.witness = order::Order { id: U256::from(8) }.eip712_hash_struct();
    let mut misnamed = good.clone();
    misnamed.witnessTypeString = order::TYPE_STRING.replace("order)", "cart)");
    for call in [another, misnamed] {
        harness.reverts_with(SPENDER, PERMIT2, &call, InvalidSigner {}.abi_encode()).await;
    }
    // What was signed with a witness does not transfer without it.
    let bare = permit.transfer_with(payer.address(), PAYEE, permit.amount, good.signature.clone());
    harness.reverts_with(SPENDER, PERMIT2, &bare, InvalidSigner {}.abi_encode()).await;
    assert!(harness.send(SPENDER, PERMIT2, &good).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(5));
    harness.reverts_with(SPENDER, PERMIT2, &good, InvalidNonce {}.abi_encode()).await;
}

/// A batch of two amounts of USDC, signed by the payer, and where each goes.
struct Batch {
    permitted: [u64; 2],
    nonce: U256,
    deadline: U256,
}

impl Batch {
    fn new(harness: &Harness, permitted: [u64; 2]) -> Self {
        let one = permit(harness, 0);
        Self { permitted, nonce: one.nonce, deadline: one.deadline }
    }

    fn call(&self) -> abi::PermitBatchTransferFrom {
        let permitted = self.permitted.map(|amount| abi::TokenPermissions {
            token: USDC_ADDRESS,
            amount: U256::from(amount),
        });
        abi::PermitBatchTransferFrom {
            permitted: permitted.to_vec(),
            nonce: self.nonce,
            deadline: self.deadline,
        }
    }

    fn digest(&self, harness: &Harness) -> B256 {
        let one = permit(harness, 0);
        let permitted = self.permitted.map(|amount| signed::TokenPermissions {
            token: USDC_ADDRESS,
            amount: U256::from(amount),
        });
        signed::PermitBatchTransferFrom {
            permitted: permitted.to_vec(),
            spender: one.spender,
            nonce: self.nonce,
            deadline: self.deadline,
        }
        .eip712_signing_hash(&one.domain())
    }

    fn transfer(
        &self,
        harness: &Harness,
        requested: &[(Address, u64)],
    ) -> permitTransferFrom_1Call {
        permitTransferFrom_1Call {
            permit: self.call(),
            transferDetails: details(requested),
            owner: dev_signer(PAYER).address(),
            signature: sign(&dev_signer(PAYER), self.digest(harness)),
        }
    }
}

fn details(requested: &[(Address, u64)]) -> Vec<abi::SignatureTransferDetails> {
    let detail = |(to, amount): &(Address, u64)| abi::SignatureTransferDetails {
        to: *to,
        requestedAmount: U256::from(*amount),
    };
    requested.iter().map(detail).collect()
}

#[tokio::test]
async fn a_batch_moves_each_amount_to_its_own_place() {
    let harness = approved().await;
    let batch = Batch::new(&harness, [30, 40]);
    let second = Address::repeat_byte(0xe2);
    let call = batch.transfer(&harness, &[(PAYEE, 30), (second, 39)]);
    assert!(harness.send(SPENDER, PERMIT2, &call).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(30));
    assert_eq!(harness.usdc(second).await, U256::from(39));
    harness.reverts_with(SPENDER, PERMIT2, &call, InvalidNonce {}.abi_encode()).await;
    harness.reverts_with(2, PERMIT2, &call, InvalidNonce {}.abi_encode()).await;
}

#[tokio::test]
async fn a_batch_leaves_out_what_is_not_requested() {
    let harness = approved().await;
    let call = Batch::new(&harness, [30, 40]).transfer(&harness, &[(PAYEE, 0), (PAYEE, 5)]);
    let receipt = harness.send(SPENDER, PERMIT2, &call).await;
    assert!(receipt.status());
    let moved = |log: &&alloy::rpc::types::Log| Usdc::Transfer::decode_log(&log.inner).is_ok();
    assert_eq!(receipt.inner.logs().iter().filter(moved).count(), 1);
    assert_eq!(harness.usdc(PAYEE).await, U256::from(5));
}

#[tokio::test]
async fn batches_that_are_refused() {
    let harness = approved().await;
    let batch = Batch::new(&harness, [30, 40]);
    let short = batch.transfer(&harness, &[(PAYEE, 30)]);
    harness.reverts_with(SPENDER, PERMIT2, &short, LengthMismatch {}.abi_encode()).await;
    let greedy = batch.transfer(&harness, &[(PAYEE, 30), (PAYEE, 41)]);
    let error = InvalidAmount { maxAmount: U256::from(40) };
    harness.reverts_with(SPENDER, PERMIT2, &greedy, error.abi_encode()).await;
    let good = batch.transfer(&harness, &[(PAYEE, 30), (PAYEE, 40)]);
    harness.reverts_with(2, PERMIT2, &good, InvalidSigner {}.abi_encode()).await;
    let mut other = good.clone();
    other.permit.permitted[1].amount = U256::from(41);
    harness.reverts_with(SPENDER, PERMIT2, &other, InvalidSigner {}.abi_encode()).await;
    let late = Batch { deadline: U256::from(1), ..Batch::new(&harness, [1, 1]) };
    let late = late.transfer(&harness, &[(PAYEE, 1), (PAYEE, 1)]);
    let error = SignatureExpired { signatureDeadline: U256::from(1) };
    harness.reverts_with(SPENDER, PERMIT2, &late, error.abi_encode()).await;
    // One of the two has no money behind it: neither moves.
    harness.set_usdc(dev_signer(PAYER).address(), 69);
    harness.reverts_with(SPENDER, PERMIT2, &good, words("TRANSFER_FROM_FAILED")).await;
    assert!(!harness.send_unchecked(SPENDER, PERMIT2, good.abi_encode()).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::ZERO);
    harness.set_usdc(dev_signer(PAYER).address(), 70);
    assert!(harness.send(SPENDER, PERMIT2, &good).await.status());
}

#[tokio::test]
async fn a_batch_with_a_witness() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let batch = Batch::new(&harness, [3, 4]);
    let one = permit(&harness, 0);
    let order = order::Order { id: U256::from(7) };
    let digest = order::PermitBatchWitnessTransferFrom {
        permitted: batch
            .permitted
            .map(|amount| order::TokenPermissions {
                token: USDC_ADDRESS,
                amount: U256::from(amount),
            })
            .to_vec(),
        spender: one.spender,
        nonce: batch.nonce,
        deadline: batch.deadline,
        order: order.clone(),
    }
    .eip712_signing_hash(&one.domain());
    let good = permitWitnessTransferFrom_1Call {
        permit: batch.call(),
        transferDetails: details(&[(PAYEE, 3), (PAYEE, 4)]),
        owner: payer.address(),
        witness: order.eip712_hash_struct(),
        witnessTypeString: order::TYPE_STRING.into(),
        signature: sign(&payer, digest),
    };
    let mut another = good.clone();
    another.witness = keccak256("another");
    harness.reverts_with(SPENDER, PERMIT2, &another, InvalidSigner {}.abi_encode()).await;
    assert!(harness.send(SPENDER, PERMIT2, &good).await.status());
    assert_eq!(harness.usdc(PAYEE).await, U256::from(7));
}

#[tokio::test]
async fn an_owner_takes_nonces_back() {
    let harness = approved().await;
    let payer = dev_signer(PAYER);
    let nonce = U256::from(3 * 256 + 17);
    let permit = Permit { nonce, ..permit(&harness, 5) };
    let call = permit.transfer(&payer, PAYEE, U256::from(5));
    let mask = U256::from(1) << 17;
    let invalidate = invalidateUnorderedNoncesCall { wordPos: U256::from(3), mask };
    // What others take back is their own.
    assert!(harness.send(2, PERMIT2, &invalidate).await.status());
    assert!(!spent(&harness, payer.address(), nonce).await);
    let receipt = harness.send(PAYER, PERMIT2, &invalidate).await;
    let told = UnorderedNonceInvalidation::decode_log(&receipt.inner.logs()[0].inner).unwrap();
    assert_eq!((told.owner, told.word, told.mask), (payer.address(), U256::from(3), mask));
    assert!(spent(&harness, payer.address(), nonce).await);
    harness.reverts_with(SPENDER, PERMIT2, &call, InvalidNonce {}.abi_encode()).await;
    // Its neighbour is not touched, and the slot is where others read it.
    let neighbour = Permit { nonce: nonce + U256::from(1), ..permit };
    let call = neighbour.transfer(&payer, PAYEE, U256::from(5));
    assert!(harness.send(SPENDER, PERMIT2, &call).await.status());
    let slot = bitmap_slot(payer.address(), U256::from(3));
    let word = harness.provider.get_storage_at(PERMIT2, slot).await.unwrap();
    assert_eq!(word, U256::from(0b11) << 17);
}
