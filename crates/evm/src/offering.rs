//! What a resource server offers and checks itself, for `exact` and `upto` alike.

use pay402_core::asset::AssetInfo;
use pay402_core::error::Misconfigured;
use pay402_core::scheme::Tariff;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, NetworkId, Payment, PaymentKey, Refused, Requirements, Scheme};
use serde_json::{Map, Value};

use crate::address::{canonical, parse_address, parse_payee};
use crate::assets::{Asset, AssetTable, Peg, TransferMethod};
use crate::read::{ReadPayment, SETTLEMENT_MARGIN_S_MIN};
use crate::sponsor::{
    ACCOUNT_ADOPTION, EIP2612_GAS_SPONSORING, ERC20_APPROVAL_GAS_SPONSORING, adoption_offer,
    approval_offer, token_permit_offer,
};

/// A resource server's side of one scheme.
#[derive(Clone, Debug)]
pub(crate) struct Offering {
    scheme: Scheme,
    assets: AssetTable,
    method: Option<TransferMethod>,
    margin_s: u64,
}

/// What an offer asks for.
struct Asked {
    info: AssetInfo,
    amount: Amount,
    method: TransferMethod,
}

impl Offering {
    pub(crate) const fn new(scheme: Scheme, assets: AssetTable) -> Self {
        Self { scheme, assets, method: None, margin_s: SETTLEMENT_MARGIN_S_MIN }
    }

    pub(crate) fn set_margin_s(&mut self, seconds: u64) {
        self.margin_s = seconds.max(SETTLEMENT_MARGIN_S_MIN);
    }

    pub(crate) const fn set_method(&mut self, method: TransferMethod) {
        self.method = Some(method);
    }

    pub(crate) fn requirements(
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
        let Asked { info, amount, method } = self.price(network, tariff)?;
        let mut extra: Map<String, Value> = Map::new();
        // Of a token without a domain nobody asks for a signature.
        if !info.domain_name.is_empty() {
            extra.insert("name".to_owned(), info.domain_name.into());
            extra.insert("version".to_owned(), info.domain_version.into());
        }
        if method != TransferMethod::Eip3009 {
            extra.insert("assetTransferMethod".to_owned(), method.name().into());
        }
        Ok(Requirements {
            scheme: self.scheme.clone(),
            network: network.clone(),
            amount,
            asset: info.address,
            pay_to: pay_to.to_checksum(None),
            max_timeout_seconds,
            extra,
            other: Map::new(),
        })
    }

    fn price(&self, network: &NetworkId, tariff: &Tariff) -> Result<Asked, Misconfigured> {
        let bad = |problem: String| Misconfigured::new("price", problem);
        let (info, amount, usual) = match tariff {
            Tariff::Usd(price) => {
                let asset = self.assets.default_dollar(network).ok_or_else(|| {
                    Misconfigured::new(
                        "network",
                        format!("{network} has no default dollar token; name an asset and amount"),
                    )
                })?;
                let amount = price.to_amount(asset.info.decimals);
                let amount = amount.map_err(|error| bad(error.to_string()))?;
                (asset.info.clone(), amount, asset.method)
            }
            Tariff::Atomic { amount, asset } => {
                let known = self.assets.find(&asset.id).map(|asset| asset.method);
                let usual = known.unwrap_or(match asset.domain_name.is_empty() {
                    true => TransferMethod::Permit2,
                    false => TransferMethod::Eip3009,
                });
                (checked_asset(network, asset)?, *amount, usual)
            }
        };
        if amount.is_zero() {
            return Err(bad("must not be zero; leave a free route without a price".into()));
        }
        let method = match self.scheme == Scheme::UPTO {
            true => TransferMethod::Permit2,
            false => self.method.unwrap_or(usual),
        };
        let domain = !info.domain_name.is_empty() && !info.domain_version.is_empty();
        if method == TransferMethod::Eip3009 && !domain {
            let problem = "needs the name and version of the token's EIP-712 domain";
            return Err(Misconfigured::new("asset", problem));
        }
        Ok(Asked { info, amount, method })
    }

    /// The extensions that a 402 with these terms advertises, as far as the facilitator serves them.
    pub(crate) fn extensions(
        &self,
        terms: &Requirements,
        supported: &[String],
    ) -> Map<String, Value> {
        let serves = |name: &str| supported.iter().any(|supported| supported == name);
        let method = TransferMethod::of(terms);
        let permit2 = method == Some(TransferMethod::Permit2);
        let has_domain = terms.extra_str("name").is_some();
        let mut extensions = Map::new();
        if permit2 && has_domain && serves(EIP2612_GAS_SPONSORING) {
            extensions.insert(EIP2612_GAS_SPONSORING.to_owned(), token_permit_offer());
        }
        if permit2 && serves(ERC20_APPROVAL_GAS_SPONSORING) {
            extensions.insert(ERC20_APPROVAL_GAS_SPONSORING.to_owned(), approval_offer());
        }
        if method == Some(TransferMethod::Erc7710) && serves(ACCOUNT_ADOPTION) {
            extensions.insert(ACCOUNT_ADOPTION.to_owned(), adoption_offer());
        }
        extensions
    }

    pub(crate) fn identify(&self, payment: &Payment, now: UnixTime) -> Result<PaymentKey, Refused> {
        let read = ReadPayment::read(payment, &own_terms(payment.terms()))?;
        read.check_times(now, self.margin_s)?;
        // A signature that is not the payer's own may still be good: a contract decides, and only
        // the facilitator can ask it.
        read.refuse_malleated()?;
        Ok(read.key)
    }

    pub(crate) fn recall(payment: &Payment) -> Result<PaymentKey, Refused> {
        let read = ReadPayment::read(payment, &own_terms(payment.terms()))?;
        read.refuse_malleated()?;
        Ok(read.key)
    }
}

/// The operator's own asset, in our spelling. It need not be in the table: it is the operator who
/// is paid in it.
fn checked_asset(network: &NetworkId, asset: &AssetInfo) -> Result<AssetInfo, Misconfigured> {
    let bad = |problem: String| Misconfigured::new("asset", problem);
    if asset.id.network != *network {
        return Err(bad(format!("is on {}, not on {network}", asset.id.network)));
    }
    let address = parse_address(&asset.address).map_err(|error| bad(error.to_string()))?;
    if asset.id.address != canonical(&address) {
        return Err(bad("has two different addresses".into()));
    }
    Ok(AssetInfo { address: address.to_checksum(None), ..asset.clone() })
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
