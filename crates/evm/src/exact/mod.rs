//! Scheme `exact`: a fixed amount, transferred as signed (spec `schemes/exact/scheme_exact_evm.md`),
//! by EIP-3009, Permit2 or ERC-7710.
//!
//! Here: the payloads' forms and the client's and resource server's sides. The facilitator's side is
//! [`crate::network`].

pub mod client;
pub(crate) mod eip3009;
pub(crate) mod erc7710;
pub mod server;

pub use eip3009::Eip3009Payload;
pub use erc7710::Erc7710Payload;

pub use crate::permit2::Permit2Payload;
pub use crate::read::{
    AUTHORIZATION_LIFETIME_S_MAX, SETTLEMENT_MARGIN_S_MIN, check_form, check_terms_form,
};
