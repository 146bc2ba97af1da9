//! The owner's rules, as a pure judge.
//!
//! What is unknown is denied: an asset that is not worth a dollar by our own table needs a rule of
//! its own, in its own atomic units. The judge sees one quote and what was spent; the ledger
//! enforces the total again in the transaction that reserves.

use std::collections::BTreeMap;

use pay402_core::asset::{AssetId, canonical_address, same_address};
use pay402_core::host::is_loopback;
use pay402_core::spend::{Denied, Intent, Limits, Policy, Quote, Spent, Verdict, over_total};
use pay402_core::{Amount, NetworkId, Price};
use url::Url;

/// Longest lifetime of a signed authorization unless the owner says otherwise, in seconds.
pub const LIFETIME_S_DEFAULT: u64 = 300;
/// Longest lifetime that an owner can allow, in seconds: what is signed for longer is a standing
/// order.
pub const LIFETIME_S_CEILING: u64 = 3_600;

/// Whether a payment may go over unencrypted HTTP, where anybody on the way can change the payee.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PlainHttp {
    /// Only to this machine.
    #[default]
    LoopbackOnly,
    /// To anywhere. For closed networks.
    Anywhere,
}

/// Limits for one asset, in its atomic units.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AssetRule {
    /// Most for one payment.
    pub per_payment: Amount,
    /// Most in total, over the life of the ledger.
    pub total: Amount,
}

/// The owner's rules. The default allows $1 per payment and $10 in total, per payer and asset, in
/// any asset that our own table knows as a dollar; over TLS or on this machine; signed for at most
/// [`LIFETIME_S_DEFAULT`].
#[derive(Clone, Debug)]
pub struct OwnerPolicy {
    per_payment: Price,
    total: Price,
    asset_rules: BTreeMap<AssetId, AssetRule>,
    assets: Option<Vec<AssetId>>,
    networks: Option<Vec<NetworkId>>,
    hosts: Option<Vec<String>>,
    payees: Option<Vec<String>>,
    plain_http: PlainHttp,
    lifetime_s_max: u64,
}

impl Default for OwnerPolicy {
    fn default() -> Self {
        let dollars = |text| Price::parse(text).expect("a constant in the grammar of prices");
        Self {
            per_payment: dollars("$1"),
            total: dollars("$10"),
            asset_rules: BTreeMap::new(),
            assets: None,
            networks: None,
            hosts: None,
            payees: None,
            plain_http: PlainHttp::default(),
            lifetime_s_max: LIFETIME_S_DEFAULT,
        }
    }
}

impl OwnerPolicy {
    /// The default rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// Most for one payment in a dollar asset.
    #[must_use]
    pub const fn per_payment(mut self, price: Price) -> Self {
        self.per_payment = price;
        self
    }

    /// Most in total for each dollar asset and payer, over the life of the ledger.
    #[must_use]
    pub const fn total(mut self, price: Price) -> Self {
        self.total = price;
        self
    }

    /// Limits for one asset, instead of the dollar limits. Admits an asset that is no dollar.
    #[must_use]
    pub fn asset_rule(mut self, asset: AssetId, rule: AssetRule) -> Self {
        self.asset_rules.insert(asset, rule);
        self
    }

    /// Pay only in these assets.
    #[must_use]
    pub fn only_assets(mut self, assets: impl IntoIterator<Item = AssetId>) -> Self {
        self.assets = Some(assets.into_iter().collect());
        self
    }

    /// Pay only on these networks.
    #[must_use]
    pub fn only_networks(mut self, networks: impl IntoIterator<Item = NetworkId>) -> Self {
        self.networks = Some(networks.into_iter().collect());
        self
    }

    /// Pay only these hosts: `api.example.com` (any port), `127.0.0.1:4021` (that port), or
    /// `*.example.com` (any host below it).
    #[must_use]
    pub fn only_hosts<S: Into<String>>(mut self, hosts: impl IntoIterator<Item = S>) -> Self {
        self.hosts = Some(hosts.into_iter().map(|host| host.into().to_ascii_lowercase()).collect());
        self
    }

    /// Pay only these addresses.
    #[must_use]
    pub fn only_payees<S: AsRef<str>>(mut self, payees: impl IntoIterator<Item = S>) -> Self {
        self.payees = Some(payees.into_iter().map(|p| canonical_address(p.as_ref())).collect());
        self
    }

    /// Whether payments may go over unencrypted HTTP.
    #[must_use]
    pub const fn plain_http(mut self, plain_http: PlainHttp) -> Self {
        self.plain_http = plain_http;
        self
    }

    /// Longest lifetime of a signed authorization, in seconds; between 1 and
    /// [`LIFETIME_S_CEILING`], to which it is clamped.
    #[must_use]
    pub fn lifetime_s(mut self, seconds: u64) -> Self {
        self.lifetime_s_max = seconds.clamp(1, LIFETIME_S_CEILING);
        self
    }

    /// Whom, where and in what may be paid, whatever the figures.
    fn check_scope(&self, quote: &Quote, intent: &Intent) -> Result<(), Box<Denied>> {
        let deny = |rule, message| Err(plain_denial(rule, message, quote));
        if quote.amount.is_zero() {
            return deny(
                "zero_amount",
                "the offer asks for nothing; a payment of 0 buys nothing".into(),
            );
        }
        if quote.offer.max_timeout_seconds == 0 {
            return deny(
                "no_lifetime",
                "the offer leaves no time to settle (maxTimeoutSeconds is 0)".into(),
            );
        }
        let url = Url::parse(&intent.origin).ok();
        let tls = url.as_ref().is_some_and(|url| url.scheme() == "https");
        let local = url.as_ref().is_some_and(is_loopback);
        if !tls && !local && self.plain_http == PlainHttp::LoopbackOnly {
            return deny(
                "plain_http",
                format!(
                    "{} is not encrypted, so anybody on the way could change who is paid; use \
                     https, or allow plain HTTP",
                    intent.origin
                ),
            );
        }
        if let Some(hosts) = &self.hosts
            && !url.as_ref().is_some_and(|url| hosts.iter().any(|rule| host_matches(rule, url)))
        {
            let message = format!("{} is not among the allowed hosts", intent.origin);
            return deny("allowed_hosts", message);
        }
        let network = &quote.asset.network;
        if self.networks.as_ref().is_some_and(|networks| !networks.contains(network)) {
            let message = format!("{network} is not among the allowed networks");
            return deny("allowed_networks", message);
        }
        if self.assets.as_ref().is_some_and(|assets| !assets.contains(&quote.asset)) {
            let message = format!("{} is not among the allowed assets", quote.asset);
            return deny("allowed_assets", message);
        }
        if let Some(payees) = &self.payees
            && !payees.iter().any(|payee| same_address(payee, &quote.pay_to))
        {
            let message = format!("{} is not among the allowed payees", quote.pay_to);
            return deny("allowed_payees", message);
        }
        Ok(())
    }

    /// The figures that apply to a quote, in atomic units of its asset.
    fn rule_for(&self, quote: &Quote) -> Result<AssetRule, Box<Denied>> {
        if let Some(rule) = self.asset_rules.get(&quote.asset) {
            return Ok(*rule);
        }
        if !quote.is_dollar {
            let message = format!(
                "{} ({}) is not known as a dollar, so the dollar limits say nothing about it; set \
                 limits for this asset to pay in it",
                quote.symbol, quote.asset
            );
            return Err(plain_denial("asset_without_rule", message, quote));
        }
        let atomic = |name, price: Price| {
            price.to_amount(quote.decimals).map_err(|error| {
                let message = format!(
                    "the limit {name} of {price} is no amount of {}: {error}",
                    quote.symbol
                );
                plain_denial("limit_unreadable", message, quote)
            })
        };
        Ok(AssetRule {
            per_payment: atomic("per payment", self.per_payment)?,
            total: atomic("in total", self.total)?,
        })
    }

    fn check_figures(&self, quote: &Quote, spent: &Spent) -> Result<Limits, Box<Denied>> {
        let rule = self.rule_for(quote)?;
        if quote.amount > rule.per_payment {
            return Err(Box::new(Denied {
                rule: "max_per_payment",
                message: format!(
                    "the payment of {asked} {symbol} exceeds the limit of {limit} {symbol} per \
                     payment; the owner can raise it",
                    asked = quote.amount.to_units(quote.decimals),
                    limit = rule.per_payment.to_units(quote.decimals),
                    symbol = quote.symbol,
                ),
                asked: quote.amount,
                limit: Some(rule.per_payment),
                remaining: Some(rule.per_payment),
            }));
        }
        let used = spent.posted.checked_add(spent.reserved).unwrap_or(Amount::MAX);
        if quote.amount > rule.total.saturating_sub(used) {
            return Err(Box::new(over_total(quote, used, rule.total)));
        }
        Ok(Limits { total: Some(rule.total) })
    }
}

impl Policy for OwnerPolicy {
    fn judge(&self, quote: &Quote, intent: &Intent, spent: &Spent) -> Verdict {
        match self.check_scope(quote, intent).and_then(|()| self.check_figures(quote, spent)) {
            Ok(limits) => Verdict::Allow(limits),
            Err(denied) => Verdict::Deny(*denied),
        }
    }

    fn lifetime_s_max(&self) -> u64 {
        self.lifetime_s_max
    }
}

fn plain_denial(rule: &'static str, message: String, quote: &Quote) -> Box<Denied> {
    Box::new(Denied { rule, message, asked: quote.amount, limit: None, remaining: None })
}

fn host_matches(rule: &str, url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    if let Some(parent) = rule.strip_prefix("*.") {
        return host.strip_suffix(parent).is_some_and(|below| below.ends_with('.') && below != ".");
    }
    let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
    rule == host || with_port.as_deref() == Some(rule)
}

#[cfg(test)]
mod tests;
