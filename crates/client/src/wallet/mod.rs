//! What pays: schemes that sign, the owner's policy, the ledger, the clock and randomness.

mod books;
mod purchase;

use std::sync::Arc;

use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::scheme::ClientScheme;
use pay402_core::spend::{Ledger, Policy};
use pay402_core::time::{Clock, SystemClock};

use crate::policy::OwnerPolicy;

pub(crate) use books::within;
pub use books::{RECONCILE_MAX, Reconciled};
pub use purchase::Purchase;

/// Where fresh randomness comes from.
pub trait Entropy: Send + Sync {
    /// 32 bytes that nobody can guess and that never come again.
    ///
    /// # Errors
    /// When there is none: nothing may be signed.
    fn nonce(&self) -> Result<[u8; 32], Unavailable>;
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn nonce(&self) -> Result<[u8; 32], Unavailable> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|error| Unavailable::new("system randomness", error.to_string()))?;
        Ok(bytes)
    }
}

/// Pays inside the owner's rules. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Wallet {
    pub(crate) schemes: Arc<[Arc<dyn ClientScheme>]>,
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let payers: Vec<_> = self.schemes.iter().map(|scheme| scheme.payer()).collect();
        f.debug_struct("Wallet").field("payers", &payers).finish_non_exhaustive()
    }
}

impl Wallet {
    /// A wallet whose spending is recorded in `ledger`.
    pub fn builder(ledger: Arc<dyn Ledger>) -> WalletBuilder {
        WalletBuilder {
            schemes: Vec::new(),
            policy: Arc::new(OwnerPolicy::new()),
            ledger,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }

    /// The accounts that pay, without repeats, in the order of the schemes.
    pub fn payers(&self) -> Vec<String> {
        let mut payers: Vec<String> = Vec::new();
        for payer in self.schemes.iter().map(|scheme| scheme.payer()) {
            if !payers.contains(&payer) {
                payers.push(payer);
            }
        }
        payers
    }
}

/// Puts a [`Wallet`] together. Unless set: the default [`OwnerPolicy`], the system's clock and
/// randomness.
#[must_use]
pub struct WalletBuilder {
    schemes: Vec<Arc<dyn ClientScheme>>,
    policy: Arc<dyn Policy>,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl WalletBuilder {
    /// Adds a way to pay.
    pub fn scheme(mut self, scheme: Arc<dyn ClientScheme>) -> Self {
        self.schemes.push(scheme);
        self
    }

    /// Sets the owner's rules.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Sets the clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the source of randomness. A repeated nonce can be a repeated or a lost payment: for
    /// tests.
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// The wallet.
    ///
    /// # Errors
    /// When it has no scheme: it could not pay anything.
    pub fn build(self) -> Result<Wallet, Misconfigured> {
        if self.schemes.is_empty() {
            return Err(Misconfigured::new("schemes", "add at least one scheme to pay with"));
        }
        Ok(Wallet {
            schemes: self.schemes.into(),
            policy: self.policy,
            ledger: self.ledger,
            clock: self.clock,
            entropy: self.entropy,
        })
    }
}
