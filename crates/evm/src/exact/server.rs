//! The resource server's side of `exact`: requirements to offer, and the checks on a payment that
//! need no chain.

use async_trait::async_trait;
use pay402_core::error::{Malformed, Misconfigured};
use pay402_core::scheme::{ServerScheme, Tariff};
use pay402_core::time::UnixTime;
use pay402_core::{NetworkId, Payment, PaymentKey, Presented, Refused, Requirements, Scheme};
use serde_json::{Map, Value};

use crate::assets::{AssetTable, TransferMethod};
use crate::offering::Offering;
use crate::read::{check_form, check_terms_form};

/// Sells by `exact` on every EVM network of its asset table, in each token by its usual transfer
/// method.
#[derive(Clone, Debug)]
pub struct ExactServer(Offering);

impl ExactServer {
    /// A server side that is paid in the tokens of `assets`.
    pub const fn new(assets: AssetTable) -> Self {
        Self(Offering::new(Scheme::EXACT, assets))
    }

    /// Asks for `seconds` (at least [`SETTLEMENT_MARGIN_S_MIN`]) to remain before an authorization
    /// expires. Handlers that take long need more.
    ///
    /// [`SETTLEMENT_MARGIN_S_MIN`]: crate::exact::SETTLEMENT_MARGIN_S_MIN
    #[must_use]
    pub fn with_margin_s(mut self, seconds: u64) -> Self {
        self.0.set_margin_s(seconds);
        self
    }

    /// Offers `method` for every token, whatever is usual for it.
    #[must_use]
    pub fn transferring_by(mut self, method: TransferMethod) -> Self {
        self.0.set_method(method);
        self
    }
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
        self.0.requirements(network, tariff, pay_to, max_timeout_seconds)
    }

    fn extensions(&self, terms: &Requirements, supported: &[String]) -> Map<String, Value> {
        self.0.extensions(terms, supported)
    }

    fn form(&self, presented: &Presented) -> Result<(), Malformed> {
        check_form(presented)
    }

    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed> {
        check_terms_form(terms)
    }

    fn identify(&self, payment: &Payment, now: UnixTime) -> Result<PaymentKey, Refused> {
        self.0.identify(payment, now)
    }

    fn recall(&self, payment: &Payment) -> Result<PaymentKey, Refused> {
        Offering::recall(payment)
    }
}
