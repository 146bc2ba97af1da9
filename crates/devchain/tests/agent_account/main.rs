//! `AgentAccount`, from outside: what a relayer, an agent and a thief can do to an account that adopted it.
//!
//! `adoption` is about the root and its operations, `payments` about ERC-7710, `authorizations` about plain EIP-3009;
//! `gas` measures, and `fuzz` makes an adversary of random calls against a model.

mod adoption;
mod authorizations;
mod fuzz;
mod gas;
mod payments;
mod signed;
#[path = "../support/mod.rs"]
mod support;
mod world;
