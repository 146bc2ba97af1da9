//! What `pay402 serve` asks for: by which scheme, in which token, and what a request is charged.

use std::sync::Arc;

use alloy::primitives::U256;
use pay402_core::asset::AssetInfo;
use pay402_core::error::Misconfigured;
use pay402_core::scheme::{ServerScheme, Tariff};
use pay402_core::{Amount, NetworkId};
use pay402_evm::{Asset, AssetTable, ExactServer, Peg, TransferMethod, UptoServer};
use pay402_server::{Charge, Route};

/// The part of the command line that says what is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct SaleArgs {
    /// Price per request in dollars; with --asset, in whole tokens.
    #[arg(long, default_value = "$0.01")]
    pub(crate) price: String,
    /// Sell by use, by scheme upto: --price is the most that a request may cost, and this much of
    /// it is charged, N times for a request with ?units=N.
    #[arg(long, value_name = "CHARGE")]
    upto: Option<String>,
    /// How the token is moved: eip3009, permit2 or erc7710; what is usual for it when left out.
    #[arg(long, value_name = "METHOD", value_parser = method, conflicts_with = "upto")]
    method: Option<TransferMethod>,
    /// Token to be paid in, in place of the network's dollar.
    #[arg(long, value_name = "ADDRESS", requires = "decimals")]
    asset: Option<String>,
    /// Decimal places of the token.
    #[arg(long, value_name = "PLACES", requires = "asset")]
    decimals: Option<u8>,
    /// Name and version of the token's EIP-712 domain, as 'USDC/2'. A token without is moved by
    /// Permit2.
    #[arg(long, value_name = "NAME/VERSION", requires = "asset", value_parser = domain)]
    domain: Option<(String, String)>,
}

fn method(text: &str) -> Result<TransferMethod, String> {
    TransferMethod::from_name(text).ok_or_else(|| "is none of eip3009, permit2, erc7710".into())
}

/// The version has no slash in it; a name may.
fn domain(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('/') {
        Some((name, version)) if !name.is_empty() && !version.is_empty() => {
            Ok((name.to_owned(), version.to_owned()))
        }
        _ => Err("must be a name and a version: 'USDC/2'".into()),
    }
}

/// What all routes of the server ask for.
#[derive(Debug)]
pub(crate) struct Sale {
    tariff: Tariff,
    meter: Option<Meter>,
    method: Option<TransferMethod>,
}

/// What a request is charged where the price is a ceiling.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Meter {
    per_unit: Amount,
    ceiling: Amount,
}

impl Meter {
    /// What `units` of the product cost: never more than the ceiling.
    pub(crate) fn charge(&self, units: u32) -> Charge {
        let used = self.per_unit.to_u256().saturating_mul(U256::from(units));
        Charge::atomic(Amount::new(used).min(self.ceiling))
    }
}

impl SaleArgs {
    /// Reads the options for a sale on `network`, a CAIP-2 id or a name.
    pub(crate) fn sale(&self, network: &str) -> Result<Sale, Misconfigured> {
        let network = NetworkId::parse_any(network)
            .map_err(|error| Misconfigured::new("--network", error.to_string()))?;
        let table = AssetTable::defaults();
        let token = match &self.asset {
            Some(address) => self.token(&network, address)?,
            None => {
                let dollar = table.default_dollar(&network).ok_or_else(|| {
                    let problem = "has no default dollar token; name one with --asset";
                    Misconfigured::new("--network", format!("{network} {problem}"))
                })?;
                dollar.info.clone()
            }
        };
        let price = units("--price", &self.price, token.decimals)?;
        let meter = match &self.upto {
            Some(charge) => {
                let per_unit = units("--upto", charge, token.decimals)?;
                if per_unit > price {
                    let problem = format!("{charge} is more than the --price of {}", self.price);
                    return Err(Misconfigured::new("--upto", problem));
                }
                Some(Meter { per_unit, ceiling: price })
            }
            None => None,
        };
        let tariff = Tariff::Atomic { amount: price, asset: token };
        Ok(Sale { tariff, meter, method: self.method })
    }

    fn token(&self, network: &NetworkId, address: &str) -> Result<AssetInfo, Misconfigured> {
        let (peg, decimals) = (Peg::Other, self.decimals.unwrap_or_default());
        let asset = match &self.domain {
            Some((name, version)) => {
                Asset::eip3009(network, address, "", decimals, (name, version), peg)
            }
            None => Asset::erc20(network, address, "", decimals, peg),
        };
        let asset = asset.map_err(|error| Misconfigured::new("--asset", error.to_string()))?;
        Ok(asset.info)
    }
}

impl Sale {
    /// The scheme that the routes are sold by.
    pub(crate) fn scheme(&self) -> Arc<dyn ServerScheme> {
        let assets = AssetTable::defaults();
        if self.meter.is_some() {
            return Arc::new(UptoServer::new(assets));
        }
        let server = ExactServer::new(assets);
        Arc::new(match self.method {
            Some(method) => server.transferring_by(method),
            None => server,
        })
    }

    /// A route of it, still without a network.
    pub(crate) fn route(&self, pay_to: &str) -> Route {
        let route = Route::priced(self.tariff.clone(), pay_to);
        if self.meter.is_some() { route.metered() } else { route }
    }

    /// What a request is charged; `None` where that is the price.
    pub(crate) const fn meter(&self) -> Option<Meter> {
        self.meter
    }
}

fn units(setting: &str, text: &str, decimals: u8) -> Result<Amount, Misconfigured> {
    let plain = text.strip_prefix('$').unwrap_or(text);
    Amount::parse_units(plain, decimals)
        .map_err(|error| Misconfigured::new(setting, format!("{text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: SaleArgs,
    }

    const TOKEN: &str = "0x00000000000000000000000000000000000000aa";

    fn read(args: &[&str]) -> Result<Sale, String> {
        let args = ["serve"].into_iter().chain(args.iter().copied());
        let cli = Cli::try_parse_from(args).map_err(|error| error.to_string())?;
        cli.args.sale("base-sepolia").map_err(|error| error.to_string())
    }

    fn terms(sale: &Sale) -> pay402_core::Requirements {
        let network = NetworkId::eip155(84_532);
        let payee = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
        sale.scheme().requirements(&network, &sale.tariff, payee, 60).unwrap()
    }

    #[test]
    fn the_price_is_in_dollars_of_the_network_or_in_whole_tokens_of_the_asset() {
        let usual = terms(&read(&["--price", "$0.001"]).unwrap());
        assert_eq!((usual.scheme.as_str(), usual.amount), ("exact", 1000.into()));
        assert_eq!(usual.extra_str("name"), Some("USDC"));
        assert_eq!(usual.extra_str("assetTransferMethod"), None);
        let own = ["--price", "1.5", "--asset", TOKEN, "--decimals", "2"];
        let own_terms = terms(&read(&own).unwrap());
        assert_eq!(own_terms.amount, 150.into());
        assert!(own_terms.asset.eq_ignore_ascii_case(TOKEN), "{}", own_terms.asset);
        assert_eq!(own_terms.extra_str("assetTransferMethod"), Some("permit2"));
        assert_eq!(own_terms.extra_str("name"), None);
        let named = [own.as_slice(), &["--domain", "A/B Dollar/1"]].concat();
        let named = terms(&read(&named).unwrap());
        assert_eq!(named.extra_str("assetTransferMethod"), None);
        let domain = (named.extra_str("name"), named.extra_str("version"));
        assert_eq!(domain, (Some("A/B Dollar"), Some("1")));
    }

    #[test]
    fn a_method_is_asked_for_by_its_name() {
        for name in ["permit2", "erc7710"] {
            let terms = terms(&read(&["--method", name]).unwrap());
            assert_eq!(terms.extra_str("assetTransferMethod"), Some(name));
        }
        assert_eq!(
            terms(&read(&["--method", "eip3009"]).unwrap()).extra_str("assetTransferMethod"),
            None
        );
    }

    #[test]
    fn a_metered_sale_charges_by_the_unit_and_never_above_its_ceiling() {
        let sale = read(&["--price", "$0.01", "--upto", "$0.0025"]).unwrap();
        let terms = terms(&sale);
        assert_eq!((terms.scheme.as_str(), terms.amount), ("upto", 10_000.into()));
        assert_eq!(terms.extra_str("assetTransferMethod"), Some("permit2"));
        let meter = sale.meter().unwrap();
        for (units, charge) in [(0, 0_u64), (1, 2500), (4, 10_000), (5, 10_000), (u32::MAX, 10_000)]
        {
            assert_eq!(meter.charge(units), Charge::atomic(charge.into()), "{units}");
        }
        assert_eq!(read(&[]).unwrap().meter(), None);
    }

    #[test]
    fn options_that_make_no_sense_are_refused_by_name() {
        for (args, named) in [
            (&["--price", "cheap"][..], "--price"),
            (&["--price", "$0.0000001"], "--price"),
            (&["--upto", "$0.02"], "--upto"),
            (&["--upto", "$0.005", "--method", "permit2"], "--method"),
            (&["--method", "cash"], "--method"),
            (&["--asset", TOKEN], "--decimals"),
            (&["--decimals", "6"], "--asset"),
            (&["--domain", "USDC/2"], "--asset"),
            (&["--asset", "0xaa", "--decimals", "6"], "--asset"),
            (&["--asset", TOKEN, "--decimals", "6", "--domain", "USDC"], "--domain"),
        ] {
            let error = read(args).unwrap_err();
            assert!(error.contains(named), "{args:?}: {error}");
        }
        let elsewhere = Cli::try_parse_from(["serve"]).unwrap().args.sale("eip155:1337");
        assert!(elsewhere.unwrap_err().to_string().contains("--asset"));
    }
}
