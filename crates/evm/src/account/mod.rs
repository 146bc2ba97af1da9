//! The agent account: what an EOA delegates to (EIP-7702) so that the key of an agent can pay from
//! it within limits that the chain enforces. `docs/agent-account.md` has its formats.
//!
//! Here: what the root and session keys sign ([`Session`], [`RootOperation`], [`Adoption`],
//! [`SignedAdoption`], [`SessionPayment`]), what the chain shows of an account ([`state`]), the client that pays with a
//! session key ([`SessionClient`]), sending for roots that pay their own gas ([`relay`]), and an
//! account's refusals in words. Not here: what a facilitator
//! checks before it pays the gas of an adoption.
//!
//! **Invariants:** what the contract would refuse is refused before it is signed, with the field
//! named; an adoption is signed for one chain, and for [`AGENT_ACCOUNT`] alone.

mod abi;
mod adoption;
mod client;
mod context;
mod operation;
mod payment;
mod refusal;
pub mod relay;
mod session;
pub mod state;

use alloy::primitives::{Address, address};
use alloy::sol_types::{Eip712Domain, eip712_domain};

pub use abi::AgentAccount as Contract;
pub use adoption::SignedAdoption;
pub use client::SessionClient;
pub use context::PaymentContext;
pub use operation::{Adoption, RootOperation};
pub use payment::{CONTEXT_BYTES, LIFETIME_S_MAX, SessionPayment};
pub use refusal::{Refusals, words};
pub use session::{PAYEES_MAX, Payees, SESSIONS_MAX, SLOTS_MAX, Session, TOKENS_MAX, TokenLimit};

/// The delegate: the same on every chain where it was deployed. It changes with every change of the
/// contract's code, so it names the version.
pub const AGENT_ACCOUNT: Address = address!("0x8DA472a94aeEb4801807d4641696B654C93eb94b");

/// One account on one chain: what everything that is signed for it is bound to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AgentAccount {
    /// The chain.
    pub chain_id: u64,
    /// The account: the address of the root key.
    pub address: Address,
}

impl AgentAccount {
    /// The EIP-712 domain of what the root and session keys sign.
    pub fn domain(&self) -> Eip712Domain {
        eip712_domain! {
            name: "pay402 AgentAccount",
            version: "1",
            chain_id: self.chain_id,
            verifying_contract: self.address,
        }
    }
}
