//! What moved between whom, for the double entry.

use std::collections::HashMap;

use alloy::primitives::B256;
use pay402_core::books::Booked;
use pay402_core::journal::Outcome;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey};

use super::judge::{Judged, Mined, Proof, fee_of};
use super::{Standing, hash, is_payment};
use crate::address::checksummed;

/// What kind of movement it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Tokens, from a payer to a payee.
    Payment,
    /// What a transaction of ours cost.
    Gas,
    /// Coin that a signer sent to a payer, for the gas of its approval.
    Advance,
}

impl Kind {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Gas => "gas",
            Self::Advance => "advance",
        }
    }
}

/// One movement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Movement {
    /// The time of its block; of a payment whose block is not shown, when it was entered.
    pub at: UnixTime,
    /// The number of its block.
    pub block: u64,
    /// The transaction.
    pub transaction: String,
    /// What kind it is.
    pub kind: Kind,
    /// Who had it before: a payer or a signer.
    pub from: String,
    /// Who has it since; `None` of gas, and of a payment whose payee the chain does not show.
    pub to: Option<String>,
    /// The token's address; `None` for the network's own coin.
    pub token: Option<String>,
    /// How much, in atomic units or wei.
    pub amount: Amount,
    /// Of a payment, its key.
    pub payment: Option<PaymentKey>,
    /// Of a payment, its own fee as booked, in wei: it is within what transactions cost.
    pub fee: Option<Amount>,
    /// How it stands.
    pub standing: Standing,
}

/// All movements of what is not open, in the order of blocks.
pub(super) fn movements(
    books: &[Booked],
    mined: &HashMap<B256, Mined>,
    judged: &Judged,
    setups: &[Mined],
) -> Vec<Movement> {
    let mut movements = Vec::new();
    for (index, booked) in books.iter().enumerate() {
        let Some(standing) = judged.standings[index] else { continue };
        movements.extend(payment((index, booked), mined, standing));
    }
    for (hash, standing) in &judged.costs {
        let (Some(it), Some(standing)) = (mined.get(hash), standing) else { continue };
        movements.extend(cost(it, *standing));
    }
    for it in setups {
        movements.extend(cost(it, Standing::Proven));
    }
    movements.sort_by(|one, other| {
        let order = |it: &Movement| (it.block, it.kind);
        order(one).cmp(&order(other)).then_with(|| one.transaction.cmp(&other.transaction))
    });
    movements
}

fn payment(
    (index, booked): (usize, &Booked),
    mined: &HashMap<B256, Mined>,
    standing: Standing,
) -> Option<Movement> {
    let outcome = booked.outcome.as_ref()?;
    let Outcome::Settled { transaction, block, .. } = outcome else { return None };
    if !is_payment(&booked.key) || booked.amount.is_zero() {
        return None;
    }
    let it = hash(transaction).and_then(|hash| mined.get(&hash));
    let made = it.and_then(|it| {
        it.proofs.iter().find_map(|(of, proof)| match proof {
            Proof::Made { token, payee, .. } if *of == index => Some((*token, *payee)),
            _ => None,
        })
    });
    let token =
        made.map_or_else(|| booked.key.asset().to_owned(), |(token, _)| checksummed(&token));
    Some(Movement {
        at: it.map_or(booked.entered_at, |it| UnixTime(it.time)),
        block: *block,
        transaction: transaction.clone(),
        kind: Kind::Payment,
        from: booked.payer.clone(),
        to: made.map(|(_, payee)| checksummed(&payee)),
        token: Some(token),
        amount: booked.amount,
        payment: Some(booked.key.clone()),
        fee: Some(fee_of(outcome)),
        standing,
    })
}

/// What a transaction cost, and what it sent along.
fn cost(it: &Mined, standing: Standing) -> impl Iterator<Item = Movement> {
    let movement = |kind, to, wei| Movement {
        at: UnixTime(it.time),
        block: it.block,
        transaction: it.hash.to_string(),
        kind,
        from: checksummed(&it.from),
        to,
        token: None,
        amount: Amount::new(wei),
        payment: None,
        fee: None,
        standing,
    };
    let gas = movement(Kind::Gas, None, it.fee);
    let sent = (!it.moved.is_zero())
        .then(|| movement(Kind::Advance, it.to.as_ref().map(checksummed), it.moved));
    std::iter::once(gas).chain(sent)
}
