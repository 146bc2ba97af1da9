//! What one paid route costs and says of itself. Only configuration: it is checked when
//! [`crate::ResourceServer::gate`] makes a gate of it, at start.

use pay402_core::error::Misconfigured;
use pay402_core::scheme::Tariff;
use pay402_core::{Price, Scheme};

/// How long a payment may take from signing to settlement unless the route says otherwise, in
/// seconds.
pub const MAX_TIMEOUT_S_DEFAULT: u64 = 60;
/// Longest `max_timeout_seconds` a route may ask for, in seconds: nobody should sign a capability
/// that stays spendable for longer.
pub const MAX_TIMEOUT_S_LIMIT: u64 = 3600;
/// Largest answer of a handler that is held back until settlement, in bytes, unless the route says
/// otherwise.
pub const RESPONSE_BYTES_DEFAULT: usize = 8 * 1024 * 1024;

/// A paid route: price, payee, networks, and what clients are told about it.
#[derive(Clone, Debug)]
pub struct Route {
    pub(crate) price: Asked,
    pub(crate) scheme: Scheme,
    pub(crate) pay_to: String,
    pub(crate) networks: Vec<String>,
    pub(crate) description: Option<String>,
    pub(crate) mime_type: Option<String>,
    pub(crate) max_timeout_seconds: u64,
    pub(crate) response_bytes_max: usize,
    pub(crate) mounted_at: String,
}

impl Route {
    /// A route at `price` dollars, written `"$0.01"`, paid to `pay_to` in the default asset of
    /// each network. Add at least one network with [`Route::on`].
    pub fn new(price: impl Into<String>, pay_to: impl Into<String>) -> Self {
        Self::asking(Asked::Text(price.into()), pay_to.into())
    }

    /// A route at a price that is not text: atomic units of a named asset, for example.
    pub fn priced(tariff: Tariff, pay_to: impl Into<String>) -> Self {
        Self::asking(Asked::Tariff(tariff), pay_to.into())
    }

    fn asking(price: Asked, pay_to: String) -> Self {
        Self {
            price,
            scheme: Scheme::EXACT,
            pay_to,
            networks: Vec::new(),
            description: None,
            mime_type: None,
            max_timeout_seconds: MAX_TIMEOUT_S_DEFAULT,
            response_bytes_max: RESPONSE_BYTES_DEFAULT,
            mounted_at: String::new(),
        }
    }

    /// Sells by use: the price is the ceiling that the client signs, and the handler charges at most
    /// that, with a [`crate::Charge`]. Payments are made by the scheme `upto`, and by no other; a
    /// route that is not metered is paid by `exact`. A client that knows version 1 of the protocol
    /// alone cannot buy from a metered route.
    #[must_use]
    pub fn metered(mut self) -> Self {
        self.scheme = Scheme::UPTO;
        self
    }

    /// Also takes payments on `network`: a CAIP-2 id such as `eip155:8453`, or a v1 name. Offers
    /// are listed in the order of these calls.
    #[must_use]
    pub fn on(mut self, network: impl AsRef<str>) -> Self {
        self.networks.push(network.as_ref().to_owned());
        self
    }

    /// One sentence for people.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// The media type of the paid answer.
    #[must_use]
    pub fn mime_type(mut self, text: impl Into<String>) -> Self {
        self.mime_type = Some(text.into());
        self
    }

    /// Longest time from signing to settlement, in seconds: 1 to [`MAX_TIMEOUT_S_LIMIT`],
    /// [`MAX_TIMEOUT_S_DEFAULT`] unless set. The handler has to finish well within it.
    #[must_use]
    pub const fn max_timeout_seconds(mut self, seconds: u64) -> Self {
        self.max_timeout_seconds = seconds;
        self
    }

    /// Largest answer of the handler, in bytes; a larger one is not sent and not charged.
    /// [`RESPONSE_BYTES_DEFAULT`] unless set.
    #[must_use]
    pub const fn response_bytes_max(mut self, bytes: usize) -> Self {
        self.response_bytes_max = bytes;
        self
    }

    /// The path prefix that an outer router has taken off before the gate sees the request, such
    /// as `/v1` under axum's `nest("/v1", …)`. It belongs to the URL that is sold.
    #[must_use]
    pub fn mounted_at(mut self, prefix: impl Into<String>) -> Self {
        self.mounted_at = prefix.into();
        self
    }
}

/// A price as it was configured.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// Text, still to be read.
    Text(String),
    /// Already typed.
    Tariff(Tariff),
}

impl Asked {
    pub(crate) fn tariff(&self) -> Result<Tariff, Misconfigured> {
        let misconfigured = |problem: String| Misconfigured::new("price", problem);
        let tariff = match self {
            Self::Tariff(tariff) => tariff.clone(),
            Self::Text(text) => Price::parse(text)
                .map(Tariff::Usd)
                .map_err(|error| misconfigured(format!("{text:?}: {error}")))?,
        };
        let free = match &tariff {
            Tariff::Usd(price) => price.is_zero(),
            Tariff::Atomic { amount, .. } => amount.is_zero(),
        };
        if free {
            let problem = "is zero; serve a free route without a gate, or set a price";
            return Err(misconfigured(problem.into()));
        }
        Ok(tariff)
    }
}
