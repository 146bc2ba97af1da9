//! The payer: a wallet that pays inside its owner's rules, and an HTTP client that uses it.
//!
//! - [`PayingClient`] sends a request, and pays when it is answered with 402.
//! - [`Wallet`] holds what pays: schemes (which sign), the owner's [`OwnerPolicy`] and the ledger.
//!   It knows no HTTP client, so that other transports can use it.
//! - [`PayError`] says who has to act, what became of the money, and whether to try again.
//!
//! What does not live here: signing and chain calls (a scheme's crate), SQL (the ledger's crate),
//! header names and versions (`pay402_core`). The client does not yet refuse requests to private
//! address ranges: an agent that takes URLs from strangers needs an egress filter.
//!
//! **Invariants:** nothing is signed without a clearance. One purchase has one authorization until
//! the chain proves it used or dead; a repeat presents the same bytes. A payment goes only to the
//! origin that was asked. Nothing spendable reaches a log, an error or a `Debug` print.

mod error;
mod http;
mod origin;
mod pay;
pub mod policy;
mod receipt;
mod router;
pub mod wallet;

pub use error::{PayError, PaymentStatus};
pub use http::{
    ANSWER_WAIT, Paid, PayingClient, PayingClientBuilder, REDIRECTS_MAX, REQUEST_BODY_BYTES_MAX,
    RetryRules,
};
pub use pay::{Answer, Ready};
pub use policy::{AssetRule, OwnerPolicy, PlainHttp};
pub use receipt::{Candidate, Preview, Priced, Receipt, ReceiptStatus, Terms};
pub use router::Declined;
pub use wallet::{Entropy, Purchase, Reconciled, SystemEntropy, Wallet, WalletBuilder};
