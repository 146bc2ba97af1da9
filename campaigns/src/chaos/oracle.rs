//! What must hold after a round: what callers were told and what the journal says, beside what the chain
//! shows from block 0. Nothing that the facilitator remembers is taken for true.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use alloy::providers::{DynProvider, Provider as _};
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent as _;
use pay402_core::journal::{Journal, Outcome, Stage};
use pay402_core::{NetworkId, PaymentKey, Refusal};
use pay402_devchain::genesis::USDC_ADDRESS;
use pay402_evm::contracts::Eip3009;

use super::load::{Order, Told, Worth};
use crate::Result;

/// The figures of a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) payments: usize,
    pub(crate) high: usize,
    /// Payments that the chain shows made.
    pub(crate) charged: usize,
    /// Told as a success and not charged, below the tier: the risk that an operator takes there.
    pub(crate) lost_below: usize,
    /// Of these, those that the journal says are lost.
    pub(crate) booked_below: usize,
    /// Told as failed and charged, below the tier.
    pub(crate) denied_below: usize,
    /// Refused, and not charged.
    pub(crate) refused: usize,
    pub(crate) slowest: Duration,
    /// What must not be.
    pub(crate) violations: Vec<String>,
}

impl Figures {
    /// Takes the figures of another round.
    pub(crate) fn add(&mut self, other: Self) {
        self.payments += other.payments;
        self.high += other.high;
        self.charged += other.charged;
        self.lost_below += other.lost_below;
        self.booked_below += other.booked_below;
        self.denied_below += other.denied_below;
        self.refused += other.refused;
        self.slowest = self.slowest.max(other.slowest);
        self.violations.extend(other.violations);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "payments={} high={} charged={} refused={} success_not_charged_below={} \
             of_these_booked={} failure_charged_below={} slowest_s={} violations={}",
            self.payments,
            self.high,
            self.charged,
            self.refused,
            self.lost_below,
            self.booked_below,
            self.denied_below,
            self.slowest.as_secs(),
            self.violations.len(),
        )
    }
}

/// What the chain shows of a payment: what moved right after its nonce was used.
#[derive(Clone, Debug, Default)]
struct Shown {
    uses: usize,
    moved: U256,
    transactions: Vec<String>,
}

/// Compares all of it.
pub(crate) async fn compare(
    chain: &DynProvider,
    journal: &dyn Journal,
    network: &NetworkId,
    payee: Address,
    presented: &[(Order, Told)],
) -> Result<Figures> {
    let shown = shown(chain, payee).await?;
    let mut figures = Figures { payments: presented.len(), ..Figures::default() };
    for (order, told) in presented {
        figures.slowest = figures.slowest.max(told.took);
        let key = PaymentKey::new(
            network,
            &format!("{USDC_ADDRESS:#x}"),
            &format!("{:#x}", order.payer),
            &format!("{:#x}", order.nonce),
        );
        let entry = journal.find(&key).await?;
        let stage = entry.map(|entry| entry.stage);
        let shown = shown.get(&(order.payer, order.nonce)).cloned().unwrap_or_default();
        judge(&mut figures, order, told, stage.as_ref(), &shown);
    }
    let expected: U256 = presented
        .iter()
        .filter_map(|(order, _)| shown.get(&(order.payer, order.nonce)))
        .map(|it| it.moved)
        .sum();
    let paid: U256 = shown.values().map(|it| it.moved).sum();
    if figures.charged * 2 < figures.payments {
        // A facilitator that settles nothing loses nothing either.
        let Figures { charged, payments, .. } = figures;
        figures.violations.push(format!("{charged} of {payments} payments were made"));
    }
    if paid != expected {
        figures.violations.push(format!("{paid} moved, of which {expected} was presented"));
    }
    Ok(figures)
}

fn judge(figures: &mut Figures, order: &Order, told: &Told, stage: Option<&Stage>, shown: &Shown) {
    let mut violation = |what: &str| {
        let (nonce, worth, stands) = (order.nonce, order.worth, stage.map(standing));
        let text = format!("{what}: nonce {nonce} {worth:?} {told:?} {stands:?} {shown:?}");
        figures.violations.push(text);
    };
    if shown.uses > 1 || (shown.uses == 1 && shown.moved != order.value) {
        violation("charged twice, or another amount");
    }
    if told.successes.len() > 1 {
        violation("a success was told twice");
    }
    if told.given_up > 0 {
        violation("not final in time");
    }
    let is_open = stage.is_some_and(|stage| !matches!(stage, Stage::Final(_)));
    if is_open {
        violation("open in the journal");
    }
    let is_settled = matches!(stage, Some(Stage::Final(Outcome::Settled { .. })));
    let (charged, high) = (shown.uses > 0, order.worth == Worth::High);
    let told_success = !told.successes.is_empty();
    let duplicate = Refusal::DuplicateSettlement.code();
    let told_failure = !told_success && told.refusals.iter().any(|code| code != duplicate);
    let success_not_charged = (told_success || is_settled) && !charged;
    let failure_charged = charged && !is_open && (!is_settled || told_failure);
    match (high, success_not_charged, failure_charged) {
        (true, true, _) => violation("a success above the tier that the chain does not show"),
        (true, _, true) => violation("a failure above the tier that was charged"),
        (false, true, _) => {
            let is_booked = matches!(stage, Some(Stage::Final(Outcome::Reverted { .. })));
            if !is_booked {
                violation("a loss below the tier that is not booked");
            }
            figures.lost_below += 1;
            figures.booked_below += usize::from(is_booked);
        }
        (false, _, true) => figures.denied_below += 1,
        (_, false, false) => {}
    }
    figures.high += usize::from(high);
    figures.charged += usize::from(charged);
    figures.refused += usize::from(told_failure && !charged);
}

/// A stage without its bytes.
fn standing(stage: &Stage) -> String {
    match stage {
        Stage::Due => "due".into(),
        Stage::Signed(signed) => format!("signed {:?}", signed.sent),
        Stage::Sent(signed) => format!("sent {:?}", signed.sent),
        Stage::Final(outcome) => format!("{outcome:?}"),
    }
}

/// Every use of an authorization, and the transfer that the token logged right after it.
async fn shown(chain: &DynProvider, payee: Address) -> Result<HashMap<(Address, B256), Shown>> {
    let filter = Filter::new().address(USDC_ADDRESS).from_block(0);
    let logs = chain.get_logs(&filter).await?;
    let mut found: HashMap<(Address, B256), Shown> = HashMap::new();
    for (index, log) in logs.iter().enumerate() {
        let Ok(used) = Eip3009::AuthorizationUsed::decode_log(&log.inner) else { continue };
        let shown = found.entry((used.authorizer, used.nonce)).or_default();
        shown.uses += 1;
        shown.transactions.extend(log.transaction_hash.map(|hash| hash.to_string()));
        let next = logs.get(index + 1).filter(|next| next.transaction_hash == log.transaction_hash);
        let moved = next.and_then(|next| Eip3009::Transfer::decode_log(&next.inner).ok());
        if let Some(moved) = moved.filter(|it| (it.from, it.to) == (used.authorizer, payee)) {
            shown.moved += moved.value;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use pay402_core::Amount;

    use super::*;

    fn figures(worth: Worth, told: Told, stage: Option<Stage>, uses: usize) -> Figures {
        let order = Order::of(worth, U256::from(7));
        let shown = Shown { uses, moved: U256::from(7 * uses), transactions: Vec::new() };
        let mut figures = Figures::default();
        judge(&mut figures, &order, &told, stage.as_ref(), &shown);
        figures
    }

    fn settled() -> Option<Stage> {
        let (transaction, fee) = ("0x1".to_owned(), Amount::ZERO);
        Some(Stage::Final(Outcome::Settled { transaction, block: 1, fee }))
    }

    fn success(times: usize) -> Told {
        Told { successes: vec!["0x1".into(); times], ..Told::default() }
    }

    fn failure(code: &str) -> Told {
        Told { refusals: vec![code.to_owned()], ..Told::default() }
    }

    #[test]
    fn what_must_not_be_is_found() {
        for worth in [Worth::Low, Worth::High] {
            let is_good =
                |told, stage, uses| figures(worth, told, stage, uses).violations.is_empty();
            assert!(is_good(success(1), settled(), 1));
            assert!(is_good(failure("insufficient_funds"), None, 0));
            assert!(!is_good(success(1), settled(), 2), "charged twice");
            assert!(!is_good(success(2), settled(), 1), "told twice");
            assert!(!is_good(success(1), Some(Stage::Due), 1), "open");
            assert!(!is_good(Told { given_up: 1, ..Told::default() }, settled(), 1), "in time");
        }
        let of = |worth, told, stage, uses| {
            let figures = figures(worth, told, stage, uses);
            (figures.violations.len(), figures.lost_below, figures.denied_below)
        };
        assert_eq!(of(Worth::High, success(1), settled(), 0), (1, 0, 0));
        assert_eq!(of(Worth::Low, success(1), settled(), 0), (1, 1, 0), "not booked");
        let (reason, message) = ("invalid_exact_evm_payload_authorization_valid_before", "late");
        let (reason, message) = (reason.to_owned(), message.to_owned());
        let lost = Outcome::Reverted { reason, message, transaction: None, fee: Amount::ZERO };
        let booked = |worth| figures(worth, success(1), Some(Stage::Final(lost.clone())), 0);
        assert_eq!((booked(Worth::Low).lost_below, booked(Worth::Low).booked_below), (1, 1));
        assert_eq!(booked(Worth::High).violations.len(), 1, "a loss above the tier is no success");
        assert_eq!(figures(Worth::Low, success(1), settled(), 0).booked_below, 0);
        assert_eq!(of(Worth::High, failure("x"), settled(), 1), (1, 0, 0));
        assert_eq!(of(Worth::Low, failure("x"), None, 1), (0, 0, 1));
        assert_eq!(of(Worth::High, failure("x"), None, 0), (0, 0, 0));
    }
}
