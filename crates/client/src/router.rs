//! Which of the offers to take.
//!
//! Prices are compared only between assets that our own table knows as dollars, by its decimals.
//! Everything else keeps the server's order and comes after them.

use std::cmp::Ordering;
use std::sync::Arc;

use pay402_core::amount::U256;
use pay402_core::asset::same_address;
use pay402_core::scheme::ClientScheme;
use pay402_core::spend::Quote;
use pay402_core::{NetworkId, Requirements};
use serde::Serialize;
use url::Url;

use crate::origin::names_requested;

/// An offer that was not taken up, and why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Declined {
    /// The scheme of the offer.
    pub scheme: String,
    /// Its network.
    pub network: NetworkId,
    /// Why not, for people.
    pub reason: String,
}

impl Declined {
    pub(crate) fn new(offer: &Requirements, reason: impl Into<String>) -> Self {
        Self {
            scheme: printable(offer.scheme.as_str()),
            network: offer.network.clone(),
            reason: reason.into(),
        }
    }
}

/// An offer that can be paid, and by what.
#[derive(Clone)]
pub(crate) struct Rail {
    pub(crate) scheme: Arc<dyn ClientScheme>,
    pub(crate) quote: Quote,
}

/// Quotes every offer with every scheme: what can be paid, best first, and what cannot.
pub(crate) fn rank(
    schemes: &[Arc<dyn ClientScheme>],
    accepts: &[Requirements],
    requested: &Url,
) -> (Vec<Rail>, Vec<Declined>) {
    let mut rails = Vec::new();
    let mut declined = Vec::new();
    for offer in accepts {
        match quote_offer(schemes, offer, requested) {
            Ok(found) => rails.extend(found),
            Err(reasons) => declined.push(Declined::new(offer, reasons)),
        }
    }
    // Stable: equal prices, and all that cannot be compared, stay in the server's order.
    rails.sort_by(|one: &Rail, other: &Rail| compare(&one.quote, &other.quote));
    (rails, declined)
}

fn quote_offer(
    schemes: &[Arc<dyn ClientScheme>],
    offer: &Requirements,
    requested: &Url,
) -> Result<Vec<Rail>, String> {
    // Version 1 names the resource in every entry.
    let named = offer.other.get("resource").and_then(serde_json::Value::as_str);
    if named.is_some_and(|resource| !names_requested(requested, resource)) {
        return Err("it is for a resource of another origin".into());
    }
    let mut rails = Vec::new();
    let mut reasons: Vec<String> = Vec::new();
    for scheme in schemes {
        match scheme.quote(offer) {
            Ok(quote) if is_faithful(&quote, offer) => {
                rails.push(Rail { scheme: Arc::clone(scheme), quote });
            }
            Ok(_) => reasons.push("the quote is not for what was offered".into()),
            Err(decline) if !reasons.contains(&decline.0) => reasons.push(decline.0),
            Err(_) => {}
        }
    }
    match (rails.is_empty(), reasons.is_empty()) {
        (false, _) => Ok(rails),
        (true, false) => Err(printable(&reasons.join("; "))),
        (true, true) => Err("the wallet has no scheme to pay with".into()),
    }
}

/// What the policy judges must be what will be signed: the same payee, asset and amount.
fn is_faithful(quote: &Quote, offer: &Requirements) -> bool {
    quote.offer == *offer
        && quote.scheme == offer.scheme
        && quote.asset == offer.asset_id()
        && quote.amount == offer.amount
        && same_address(&quote.pay_to, &offer.pay_to)
}

fn compare(one: &Quote, other: &Quote) -> Ordering {
    match (one.is_dollar, other.is_dollar) {
        (true, true) => {
            let places = one.decimals.max(other.decimals);
            scaled(one, places).cmp(&scaled(other, places))
        }
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => Ordering::Equal,
    }
}

/// The amount as if the asset had `places` decimals. What does not fit counts as dearest.
fn scaled(quote: &Quote, places: u8) -> U256 {
    U256::from(10_u8)
        .checked_pow(U256::from(places - quote.decimals))
        .and_then(|scale| quote.amount.to_u256().checked_mul(scale))
        .unwrap_or(U256::MAX)
}

/// Longest text of a stranger that is repeated in a message, in characters.
const STRANGER_CHARS_MAX: usize = 256;

/// A stranger's text without control characters, which could repaint a terminal, and not too long.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(STRANGER_CHARS_MAX).collect()
}
