//! The resource server's side of `exact`: requirements to offer, and the checks on a payment that
//! need no chain.

use async_trait::async_trait;
use pay402_core::asset::AssetInfo;
use pay402_core::error::{Malformed, Misconfigured};
use pay402_core::scheme::{ServerScheme, Tariff};
use pay402_core::time::UnixTime;
use pay402_core::{
    Amount, NetworkId, Payment, PaymentKey, Presented, Refused, Requirements, Scheme,
};
use serde_json::Map;

use super::{ReadPayment, SETTLEMENT_MARGIN_S_MIN, check_form, check_terms_form};
use crate::address::{canonical, parse_address, parse_payee};
use crate::assets::{Asset, AssetTable, Peg};

/// Sells by `exact` on every EVM network of its asset table.
#[derive(Clone, Debug)]
pub struct ExactServer {
    assets: AssetTable,
    margin_s: u64,
}

impl ExactServer {
    /// A server side that is paid in the tokens of `assets`.
    pub const fn new(assets: AssetTable) -> Self {
        Self { assets, margin_s: SETTLEMENT_MARGIN_S_MIN }
    }

    /// Asks for `seconds` (at least [`SETTLEMENT_MARGIN_S_MIN`]) to remain before an authorization
    /// expires. Handlers that take long need more.
    #[must_use]
    pub fn with_margin_s(mut self, seconds: u64) -> Self {
        self.margin_s = seconds.max(SETTLEMENT_MARGIN_S_MIN);
        self
    }

    fn price(
        &self,
        network: &NetworkId,
        tariff: &Tariff,
    ) -> Result<(AssetInfo, Amount), Misconfigured> {
        let bad = |problem: String| Misconfigured::new("price", problem);
        let (info, amount) = match tariff {
            Tariff::Usd(price) => {
                let asset = self.assets.default_dollar(network).ok_or_else(|| {
                    Misconfigured::new(
                        "network",
                        format!("{network} has no default dollar token; name an asset and amount"),
                    )
                })?;
                let amount = price.to_amount(asset.info.decimals);
                (asset.info.clone(), amount.map_err(|error| bad(error.to_string()))?)
            }
            Tariff::Atomic { amount, asset } => (checked_asset(network, asset)?, *amount),
        };
        if amount.is_zero() {
            return Err(bad("must not be zero; leave a free route without a price".into()));
        }
        Ok((info, amount))
    }
}

/// The operator's own asset, in our spelling. It need not be in the table: it is the operator who
/// is paid in it.
fn checked_asset(network: &NetworkId, asset: &AssetInfo) -> Result<AssetInfo, Misconfigured> {
    let bad = |problem: String| Misconfigured::new("asset", problem);
    if asset.id.network != *network {
        return Err(bad(format!("is on {}, not on {network}", asset.id.network)));
    }
    if asset.domain_name.is_empty() || asset.domain_version.is_empty() {
        return Err(bad("needs the name and version of the token's EIP-712 domain".into()));
    }
    let address = parse_address(&asset.address).map_err(|error| bad(error.to_string()))?;
    if asset.id.address != canonical(&address) {
        return Err(bad("has two different addresses".into()));
    }
    Ok(AssetInfo { address: address.to_checksum(None), ..asset.clone() })
}

#[async_trait]
impl ServerScheme for ExactServer {
    fn scheme(&self) -> Scheme {
        Scheme::EXACT
    }

    fn serves(&self, network: &NetworkId) -> bool {
        network.evm_chain_id().is_some()
    }

    fn requirements(
        &self,
        network: &NetworkId,
        tariff: &Tariff,
        pay_to: &str,
        max_timeout_seconds: u64,
    ) -> Result<Requirements, Misconfigured> {
        if network.evm_chain_id().is_none() {
            return Err(Misconfigured::new("network", format!("{network} is not an EVM network")));
        }
        let pay_to =
            parse_payee(pay_to).map_err(|error| Misconfigured::new("pay_to", error.to_string()))?;
        if max_timeout_seconds <= self.margin_s {
            let problem = format!("must be more than the {} s that settling needs", self.margin_s);
            return Err(Misconfigured::new("max_timeout_seconds", problem));
        }
        let (info, amount) = self.price(network, tariff)?;
        Ok(Requirements {
            scheme: Scheme::EXACT,
            network: network.clone(),
            amount,
            asset: info.address,
            pay_to: pay_to.to_checksum(None),
            max_timeout_seconds,
            extra: Map::from_iter([
                ("name".to_owned(), info.domain_name.into()),
                ("version".to_owned(), info.domain_version.into()),
            ]),
            other: Map::new(),
        })
    }

    fn form(&self, presented: &Presented) -> Result<(), Malformed> {
        check_form(presented)
    }

    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed> {
        check_terms_form(terms)
    }

    fn identify(&self, payment: &Payment, now: UnixTime) -> Result<PaymentKey, Refused> {
        let read = ReadPayment::read(payment, &own_terms(payment.terms()))?;
        read.check_times(now, self.margin_s)?;
        // A signature that is not the payer's own may still be good: a contract decides, and only
        // the facilitator can ask it.
        read.refuse_malleated()?;
        Ok(read.key)
    }

    fn recall(&self, payment: &Payment) -> Result<PaymentKey, Refused> {
        let read = ReadPayment::read(payment, &own_terms(payment.terms()))?;
        read.refuse_malleated()?;
        Ok(read.key)
    }
}

/// Our own terms say what asset we are paid in; they are the table here, so that tokens that only
/// a route names are known too.
fn own_terms(terms: &Requirements) -> AssetTable {
    let domain = (
        terms.extra_str("name").unwrap_or_default(),
        terms.extra_str("version").unwrap_or_default(),
    );
    let asset = Asset::eip3009(&terms.network, &terms.asset, "", 0, domain, Peg::Other);
    asset.map_or_else(|_| AssetTable::empty(), |asset| AssetTable::empty().with(asset))
}
