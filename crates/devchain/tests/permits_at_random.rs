//! Permit2 against a model, with seeded random input: nonces are spent once whatever their order, and a permit that
//! differs in anything from what was signed moves nothing.

mod support;

use std::collections::{HashMap, HashSet};

use alloy::primitives::{Address, U256, keccak256};
use alloy::sol_types::{SolCall, SolError};
use pay402_devchain::genesis::{
    EXACT_PERMIT2_PROXY, PERMIT2, UPTO_PERMIT2_PROXY, USDC_ADDRESS, dev_signer,
};
use support::permit2::abi::Permit2::{
    InvalidNonce, invalidateUnorderedNoncesCall, nonceBitmapCall,
};
use support::permit2::{ExactPayment, Permit, UptoPayment};
use support::{Harness, PAYEE, Usdc};

/// The development account that spends.
const SPENDER: usize = 0;
/// The development accounts that pay.
const PAYERS: [usize; 2] = [1, 2];
const STEPS: usize = 300;
const MUTATIONS: usize = 400;

/// A sequence that is the same in every run: the hashes of a counter.
struct Seeded {
    seed: u64,
    drawn: u64,
}

impl Seeded {
    const fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    fn word(&mut self) -> U256 {
        self.drawn += 1;
        let input = [self.seed.to_be_bytes(), self.drawn.to_be_bytes()].concat();
        U256::from_be_bytes(keccak256(input).0)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.word() % U256::from(end)).to()
    }
}

async fn approved() -> Harness {
    let harness = Harness::new();
    for payer in PAYERS {
        let call = Usdc::approveCall { spender: PERMIT2, value: U256::MAX };
        assert!(harness.send(payer, USDC_ADDRESS, &call).await.status());
    }
    harness
}

/// Nonces at the edges of the bitmap's words, and some in between; few enough that they meet again.
fn some_nonce(random: &mut Seeded) -> U256 {
    let words = [U256::ZERO, U256::from(1), U256::MAX >> 8, random.word() >> 8];
    let word = words[random.below(words.len())];
    let bit = [0, 1, 127, 128, 254, 255][random.below(6)];
    (word << 8) | U256::from(bit)
}

#[tokio::test]
async fn each_nonce_of_each_owner_is_spent_at_most_once() {
    let harness = approved().await;
    let random = &mut Seeded::new(1);
    let mut spent: HashMap<usize, HashSet<U256>> = HashMap::new();
    let (mut moved, mut refused, mut taken_back) = (0u64, 0, 0);
    for step in 0..STEPS {
        let payer = PAYERS[random.below(2)];
        let signer = dev_signer(payer);
        let nonce = some_nonce(random);
        let of_payer = spent.entry(payer).or_default();
        if random.below(6) == 0 {
            let mask = (random.word() & random.word()) | (U256::from(1) << nonce.byte(0));
            let call = invalidateUnorderedNoncesCall { wordPos: nonce >> 8, mask };
            assert!(harness.send(payer, PERMIT2, &call).await.status());
            let bits = (0..256).filter(|bit| mask.bit(*bit));
            of_payer.extend(bits.map(|bit| ((nonce >> 8) << 8) | U256::from(bit)));
            taken_back += 1;
        } else {
            let base = Permit::new(&harness, dev_signer(SPENDER).address(), 1);
            let call = Permit { nonce, ..base }.transfer(&signer, PAYEE, U256::from(1));
            if of_payer.insert(nonce) {
                let receipt = harness.send_unchecked(SPENDER, PERMIT2, call.abi_encode()).await;
                assert!(receipt.status(), "step {step}: a fresh nonce {nonce} is refused");
                moved += 1;
            } else {
                let error = InvalidNonce {}.abi_encode();
                harness.reverts_with(SPENDER, PERMIT2, &call, error).await;
                refused += 1;
            }
        }
    }
    // Each kind of step was taken often enough to mean something.
    assert!(moved > 50 && refused > 50 && taken_back > 20, "{moved} {refused} {taken_back}");
    assert_eq!(harness.usdc(PAYEE).await, U256::from(moved));
    for payer in PAYERS {
        let owner = dev_signer(payer).address();
        let words: HashSet<U256> = spent[&payer].iter().map(|nonce| *nonce >> 8).collect();
        for word in words {
            let bitmap = harness.read_at(PERMIT2, &nonceBitmapCall { owner, word }).await;
            let expected = (0..256)
                .filter(|bit| spent[&payer].contains(&((word << 8) | U256::from(*bit))))
                .fold(U256::ZERO, |bits, bit| bits | (U256::from(1) << bit));
            assert_eq!(bitmap, expected);
        }
    }
}

/// Sends `good` with one bit changed in one of the given words of its arguments, many times, and then as it is.
async fn only_as_signed(harness: &Harness, to: Address, good: Vec<u8>, words: &[usize]) {
    let random = &mut Seeded::new(2);
    for _ in 0..MUTATIONS {
        let (word, bit) = (words[random.below(words.len())], random.below(256));
        let mut data = good.clone();
        data[4 + 32 * word + bit / 8] ^= 0x80 >> (bit % 8);
        let answer = harness.answer_to(SPENDER, to, data).await;
        assert!(answer.is_err(), "bit {bit} of word {word} does not matter to {to}");
    }
    let before = harness.usdc(PAYEE).await;
    assert!(harness.send_unchecked(SPENDER, to, good).await.status());
    assert_eq!(harness.usdc(PAYEE).await, before + U256::from(5));
}

#[tokio::test]
async fn a_permit_that_differs_in_one_bit_moves_nothing() {
    let harness = approved().await;
    let (payer, spender) = (dev_signer(PAYERS[0]), dev_signer(SPENDER).address());
    // The words are: token, amount, nonce, deadline; then what the call has of its own; and r and s of the signature.
    // The spender itself chooses where to and how much.
    let permit = Permit::new(&harness, spender, 5);
    let call = permit.transfer(&payer, PAYEE, U256::from(5));
    only_as_signed(&harness, PERMIT2, call.abi_encode(), &[0, 1, 2, 3, 6, 9, 10]).await;
    let call = ExactPayment::new(&harness, PAYEE, 5).settle(&payer);
    only_as_signed(&harness, EXACT_PERMIT2_PROXY, call.abi_encode(), &[0, 1, 2, 3, 4, 5, 6, 9, 10])
        .await;
    // The facilitator chooses how much.
    let call = UptoPayment::new(&harness, spender, PAYEE, 5).settle(&payer, 5);
    let words = [0, 1, 2, 3, 5, 6, 7, 8, 11, 12];
    only_as_signed(&harness, UPTO_PERMIT2_PROXY, call.abi_encode(), &words).await;
}
