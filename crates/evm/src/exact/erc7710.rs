//! The payload of ERC-7710: `{delegationManager, permissionContext, delegator}`.
//!
//! The facilitator has the manager carry out an ERC-20 transfer of exactly the price to exactly the
//! payee. What the delegation allows is known to the manager alone, so a simulation judges it.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall as _;
use pay402_core::error::Malformed;
use serde_json::{Map, Value};

use crate::contracts::{DelegationManager, Erc20};
use crate::fields::{Fields, texts};
use crate::signature::SignatureBytes;

/// The mode of one plain call that reverts as a whole (ERC-7579).
const MODE_SINGLE_CALL: B256 = B256::ZERO;

/// The scheme's part of a payment. `Debug` hides the context, which whoever may redeem it can
/// spend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Erc7710Payload {
    /// The contract that carries out delegations of the payer.
    pub manager: Address,
    /// What the manager needs to know the delegation by.
    pub context: SignatureBytes,
    /// Who pays.
    pub delegator: Address,
}

impl Erc7710Payload {
    /// Reads `payload` strictly.
    ///
    /// # Errors
    /// The field that is wrong, relative to the payment message.
    pub fn parse(payload: &Map<String, Value>) -> Result<Self, Malformed> {
        let fields = Fields::new(payload, "payload");
        Ok(Self {
            manager: fields.address("delegationManager")?,
            context: fields.signature("permissionContext")?,
            delegator: fields.address("delegator")?,
        })
    }

    /// Writes the payload as it goes on the wire.
    pub fn to_json(&self) -> Map<String, Value> {
        texts([
            ("delegationManager", self.manager.to_checksum(None)),
            ("permissionContext", self.context.to_hex()),
            ("delegator", self.delegator.to_checksum(None)),
        ])
    }
}

/// The call that has the manager transfer `value` of `token` to `to`, and nothing else.
pub(crate) fn redemption(
    context: &SignatureBytes,
    token: Address,
    to: Address,
    value: U256,
) -> Vec<u8> {
    let transfer = Erc20::transferCall { to, value }.abi_encode();
    let execution = [token.as_slice(), &[0; 32], &transfer].concat();
    let call = DelegationManager::redeemDelegationsCall {
        permissionContexts: vec![Bytes::copy_from_slice(context.expose())],
        modes: vec![MODE_SINGLE_CALL],
        executionCallDatas: vec![execution.into()],
    };
    call.abi_encode()
}
