//! What a caller is told: what was paid, what it would cost.

use pay402_core::spend::{Quote, Reservation, Spent, Verdict};
use pay402_core::{Amount, NetworkId, Scheme};
use serde::Serialize;

use crate::router::Declined;

/// What a payment is, without anything that could be spent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Terms {
    /// The scheme.
    pub scheme: String,
    /// The network.
    pub network: NetworkId,
    /// The asset's canonical address.
    pub asset: String,
    /// The asset's short name, from our own table.
    pub symbol: String,
    /// The asset's decimal places, from our own table.
    pub decimals: u8,
    /// How much, in atomic units: of a metered payment the ceiling.
    pub amount: Amount,
    /// Who is paid, canonical.
    pub pay_to: String,
    /// Who pays, canonical.
    pub payer: String,
}

impl Terms {
    /// The terms of a quote that `payer` would pay.
    pub fn of_quote(quote: &Quote, payer: &str) -> Self {
        Self {
            scheme: quote.scheme.as_str().to_owned(),
            network: quote.asset.network.clone(),
            asset: quote.asset.address.clone(),
            symbol: quote.symbol.clone(),
            decimals: quote.decimals,
            amount: quote.amount,
            pay_to: quote.pay_to.clone(),
            payer: payer.to_owned(),
        }
    }

    /// The terms of a reservation.
    pub fn of_reservation(reservation: &Reservation) -> Self {
        Self::of_quote(&reservation.quote, &reservation.payer)
    }

    /// Whether the amount is a ceiling, of which less may be charged.
    pub fn is_metered(&self) -> bool {
        Scheme::new(&self.scheme).has_ceiling()
    }

    /// The amount for people, such as `0.01 USDC`, or `up to 0.01 USDC` of a metered payment.
    pub fn units(&self) -> String {
        let most = self.units_of(self.amount);
        if self.is_metered() { format!("up to {most}") } else { most }
    }

    /// An amount of the same asset for people, such as `0.01 USDC`.
    pub fn units_of(&self, amount: Amount) -> String {
        format!("{} {}", amount.to_units(self.decimals), self.symbol)
    }

    /// For people, what was charged, as far as it is known: `0.0031 USDC of up to 0.01 USDC`.
    pub fn charged_units(&self, charged: Option<Amount>) -> String {
        match charged.filter(|_| self.is_metered()) {
            Some(charged) => format!("{} of {}", self.units_of(charged), self.units()),
            None => self.units(),
        }
    }
}

/// What is known about the payment behind a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptStatus {
    /// Nothing was asked and nothing was paid.
    Free,
    /// Paid; the chain shows the authorization used. Booked as spent.
    Settled,
    /// Paid, by the server's word alone: the chain could not be asked. Booked as spent, whatever
    /// the server says that it charged: the whole amount, which it could have taken.
    Claimed,
    /// Sent, and what became of it is not known. Stays reserved, which counts as spent.
    Unknown,
    /// Sent, and by what the server says not charged, or charged nothing. Stays reserved until the
    /// chain proves it, and the same authorization is presented by the next attempt.
    Unsettled,
}

/// What a response cost.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Receipt {
    /// What is known.
    pub status: ReceiptStatus,
    /// What was paid, or may have been; `None` when free.
    pub terms: Option<Terms>,
    /// The most that can be charged of a metered payment, in atomic units; `None` of any other.
    pub ceiling: Option<Amount>,
    /// How much was charged, in atomic units, as far as it is known: by the chain's word when
    /// `settled`, otherwise by the server's.
    pub charged: Option<Amount>,
    /// The transaction that paid, when it is known.
    pub transaction: Option<String>,
    /// Whether an earlier authorization for the same purchase was presented again.
    pub resumed: bool,
    /// What else the payer should know, for people.
    pub note: Option<String>,
}

impl Receipt {
    /// The receipt of what cost nothing.
    pub const fn free() -> Self {
        Self {
            status: ReceiptStatus::Free,
            terms: None,
            ceiling: None,
            charged: None,
            transaction: None,
            resumed: false,
            note: None,
        }
    }
}

/// What a request would cost. Nothing was signed or reserved to find out.
#[derive(Clone, Debug)]
pub enum Preview {
    /// The server answered without asking for payment.
    Free {
        /// The HTTP status it answered with.
        status: u16,
    },
    /// The server asks for payment.
    Priced(Box<Priced>),
}

/// The offers of a 402, quoted and judged.
#[derive(Clone, Debug)]
pub struct Priced {
    /// What the server says it sells. A stranger's text.
    pub description: Option<String>,
    /// The offers that can be paid, best first.
    pub candidates: Vec<Candidate>,
    /// The offers that cannot.
    pub declined: Vec<Declined>,
    /// The index in `candidates` of what would be paid; `None` when the rules allow none.
    pub chosen: Option<usize>,
    /// An earlier payment for the same purchase that is still open. It would be presented again
    /// instead of a new one.
    pub open: Option<Terms>,
}

/// One offer that can be paid.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What would be paid.
    pub terms: Terms,
    /// What the owner's rules say.
    pub verdict: Verdict,
    /// What was spent of the asset so far.
    pub spent: Spent,
    /// What remains of the total before this payment, in atomic units, when there is a total.
    pub remaining: Option<Amount>,
}
