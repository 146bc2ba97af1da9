//! Whose tokens a foreign delegation moves (ERC-7710).
//!
//! A payment says who its delegator is, and nothing in it that we can read proves it: a manager may
//! carry out anybody's context, and its parts may do anything besides. So the redemption is tried with
//! a look at the balances before and after it, from the very address that will send it: for the length
//! of the question that address runs the code of Multicall3 (a state override).
//!
//! **Invariant:** a foreign delegation is verified only if redeeming it takes exactly the amount from
//! the one who is said to pay and gives exactly that to the payee.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::{SolCall as _, decode_revert_reason};
use pay402_core::error::Unavailable;
use serde_json::json;

use super::{EvmNetwork, errors};
use crate::contracts::{Call3, Eip3009, Multicall3};
use crate::mandate::Delegation;
use crate::rpc::{Call, Called};

/// Gas of the looks at balances, beyond what the redemption may use.
const LOOKS_GAS: u64 = 400_000;
/// Where the redemption is among the calls.
const REDEMPTION: usize = 2;

/// Asks what redeeming `delegation` by `redemption` would move of `token`.
pub(super) fn call(
    network: &EvmNetwork,
    token: Address,
    delegation: &Delegation,
    redemption: Vec<u8>,
) -> Call {
    let made = |target: Address, data: Vec<u8>| Call3 {
        target,
        allowFailure: true,
        callData: data.into(),
    };
    let look = |account: Address| made(token, Eip3009::balanceOfCall { account }.abi_encode());
    let looks = || [look(delegation.delegator), look(delegation.to)];
    let calls =
        looks().into_iter().chain([made(delegation.manager, redemption)]).chain(looks()).collect();
    let data = Multicall3::aggregate3Call { calls }.abi_encode();
    let gas = network.settings.gas_limit_max.saturating_add(LOOKS_GAS);
    let sender = network.first_signer();
    let code = network.multicall_code();
    Call::simulate((Address::ZERO, sender), data, gas, "latest")
        .overriding(json!({ sender.to_string(): { "code": code } }))
}

/// Reads the answer to [`call`]: the redemption failed, or moved something else, or it works.
///
/// # Errors
/// When the node cannot show it.
pub(super) fn read(
    network: &EvmNetwork,
    delegation: &Delegation,
    called: Called,
) -> Result<Called, Unavailable> {
    let blind = || {
        network.rpc.unavailable(
            "the node cannot show whose tokens a delegation moves: it takes no state overrides",
        )
    };
    let bytes = match called {
        Called::Returned(bytes) => bytes,
        Called::Failed(why) => return Ok(Called::Failed(why)),
    };
    let results = Multicall3::aggregate3Call::abi_decode_returns(&bytes).map_err(|_| blind())?;
    let redeemed = results.get(REDEMPTION).ok_or_else(blind)?;
    if !redeemed.success {
        return Ok(Called::Failed(reason(&redeemed.returnData)));
    }
    let held = |index: usize| {
        let result = results.get(index).filter(|result| result.success)?;
        result.returnData.first_chunk::<32>().map(|word| U256::from_be_bytes(*word))
    };
    let moved = match (held(0), held(1), held(3), held(4)) {
        (Some(payer), Some(payee), Some(payer_then), Some(payee_then)) => {
            (payer.checked_sub(payer_then), payee_then.checked_sub(payee))
        }
        _ => (None, None),
    };
    let expected = match delegation.delegator == delegation.to {
        true => (Some(U256::ZERO), Some(U256::ZERO)),
        false => (Some(delegation.value), Some(delegation.value)),
    };
    Ok(match moved == expected {
        true => Called::Returned(Bytes::new()),
        false => Called::Failed(format!(
            "it does not move exactly {} from {} to {}",
            delegation.value, delegation.delegator, delegation.to
        )),
    })
}

fn reason(data: &Bytes) -> String {
    let words = crate::account::words(data).or_else(|| decode_revert_reason(data));
    errors::public_text(&words.unwrap_or_else(|| "it gives no reason".to_owned()))
}
