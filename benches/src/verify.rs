//! What `POST /verify` costs: beside an axum route that reads the same JSON and writes it back, and
//! beside the one thing it cannot do without, the recovery of a secp256k1 signature.

use std::hint::black_box;
use std::time::Instant;

use alloy::primitives::{B256, keccak256};
use alloy::signers::SignerSync as _;
use pay402_devchain::genesis;

use crate::load::{self, Shape, Target};
use crate::report::{Bench, Round, Unit};
use crate::stack::Stack;
use crate::{Extent, Result, bare};

pub(crate) const NAMES: &[&str] = &["verify_rate", "verify_latency"];

const CONNECTIONS: usize = 8;
/// Requests on each connection, per round.
const EACH: usize = 100;
/// Requests one after the other, and recoveries, per round.
const SEQUENTIAL: usize = 300;
/// Different payments, presented in turn, so that no answer can come from the last one.
const PAYMENTS: usize = 64;

/// Verifies signed payments against the embedded chain, over HTTP.
pub(crate) async fn run(extent: Extent) -> Result<Vec<Bench>> {
    let stack = Stack::start().await?;
    let bodies = stack.signed_payments(PAYMENTS).await?;
    let verify =
        Target::post(stack.facilitator()?, "/verify", &bodies).answering("\"isValid\":true");
    let echo = Target::post(bare::serve().await?, "/echo", &bodies).answering("authorization");
    let shape = Shape { connections: CONNECTIONS, each: extent.count(EACH) };
    let sequential = extent.count(SEQUENTIAL);
    load::per_second(&verify, shape).await?;
    load::per_second(&echo, shape).await?;
    recovery_us(sequential)?;

    let (mut rates, mut latencies) = (Vec::new(), Vec::new());
    for _ in 0..extent.rounds {
        let subject = load::per_second(&verify, shape).await?;
        let reference = load::per_second(&echo, shape).await?;
        rates.push(Round { subject, reference });
        let subject = load::microseconds(&verify, sequential).await?;
        let reference = recovery_us(sequential)?;
        latencies.push(Round { subject, reference });
    }
    Ok(vec![
        Bench {
            name: NAMES[0],
            against: "a bare axum route that echoes the same JSON",
            unit: Unit::PerSecond,
            rounds: rates,
        },
        Bench {
            name: NAMES[1],
            against: "one raw secp256k1 recovery",
            unit: Unit::Microseconds,
            rounds: latencies,
        },
    ])
}

/// How long one recovery of an address from a signature takes, in microseconds.
fn recovery_us(count: usize) -> Result<f64> {
    let signer = genesis::dev_signer(0);
    let prehashes: Vec<B256> = (0..PAYMENTS).map(|n| keccak256(n.to_be_bytes())).collect();
    let mut signed = Vec::with_capacity(PAYMENTS);
    for prehash in &prehashes {
        signed.push((signer.sign_hash_sync(prehash)?, prehash));
    }
    let began = Instant::now();
    for (signature, prehash) in signed.iter().cycle().take(count) {
        let address = black_box(signature).recover_address_from_prehash(black_box(prehash))?;
        if address != signer.address() {
            return Err("a recovery gave another address".into());
        }
    }
    Ok(began.elapsed().as_secs_f64() * 1_000_000.0 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recoveries_take_time() {
        assert!(recovery_us(4).unwrap() > 1.0);
    }
}
