//! Payments that bring their account's adoption along (`accountAdoption`): an account that runs no code
//! yet adopts a delegate, registers the key that pays, and pays, all in one transaction.
//!
//! **Invariant:** what [`super::account`] asks of an adoption is asked here too: this account's own
//! authorization, for this chain and its next nonce, of code that the operator named; a registration of
//! the key that pays, which the root signed, and nothing else. The registration may fail, since anybody
//! may send it first; the payment may not, and with it the transaction fails.

use alloy::eips::eip7702::SignedAuthorization;
use alloy::primitives::{Address, Bytes, U64};
use alloy::sol_types::SolCall as _;
use pay402_core::error::Unavailable;
use pay402_core::time::UnixTime;
use pay402_core::{Presented, Refusal, Refused};

use super::EvmNetwork;
use super::account::{self, AccountRequest, Operation, delegate_of};
use super::plan::MULTICALL3;
use crate::contracts::{Call3, Multicall3};
use crate::rpc::{Answer, Call, Called, Rpc};
use crate::sponsor;

/// What goes before a payment in its transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Adoption {
    /// The account's authorization of the code (EIP-7702).
    pub(crate) authorization: SignedAuthorization,
    /// A registration of sessions with its root's signature; empty where only the code is adopted.
    pub(crate) call: Bytes,
}

/// An adoption that a payment brings along, checked as far as that needs no chain.
#[derive(Clone, Debug)]
pub(crate) struct Brought {
    request: AccountRequest,
    adoption: Adoption,
    /// The last second at which the registration is good; none where there is none.
    deadline: Option<u64>,
}

/// Reads the adoption that a payment from `account`, signed by `key`, brings along; `None` when it
/// brings none.
///
/// # Errors
/// The refusal of one that is not sponsored.
pub(super) fn read(
    network: &EvmNetwork,
    presented: &Presented,
    account: Address,
    key: Address,
) -> Result<Option<Brought>, Refused> {
    let Some(info) = sponsor::info(presented, sponsor::ACCOUNT_ADOPTION) else { return Ok(None) };
    // What the server advertises has no authorization; a client that adds none asks for nothing.
    if !info.contains_key("authorization") {
        return Ok(None);
    }
    let path = format!("extensions.{}.info", sponsor::ACCOUNT_ADOPTION);
    let request = AccountRequest::brought(info, path, account).map_err(|error| {
        let payer = account.to_checksum(None);
        Refused::new(Refusal::AdoptionInvalid, error.to_string()).by(payer)
    })?;
    let deadline = match request.check(network)? {
        None => None,
        // What a payment does not need could be left out on the way, and nobody would notice.
        Some(Operation::Register { deadline, keys, .. }) if keys.contains(&key) => Some(deadline),
        Some(_) => {
            let message = "a payment brings the registration of the key that pays along, and no other \
                           operation";
            return Err(request.refused(Refusal::OperationNotAllowed, message));
        }
    };
    Ok(request.authorization.clone().map(|authorization| {
        let call = request.call.clone().unwrap_or_default();
        Brought { adoption: Adoption { authorization, call }, request, deadline }
    }))
}

impl Brought {
    /// What goes before the payment.
    pub(super) const fn adoption(&self) -> &Adoption {
        &self.adoption
    }

    pub(super) const fn registers(&self) -> bool {
        self.request.call.is_some()
    }

    /// The first second at which its payment cannot be made any more by way of the registration.
    pub(super) fn ends(&self) -> Option<UnixTime> {
        self.deadline.map(|deadline| UnixTime(deadline.saturating_add(1)))
    }

    /// Refuses what the chain would skip: an account that can adopt nothing, and another nonce.
    pub(super) fn check(&self, code: &[u8], nonce: u64) -> Result<(), Refused> {
        account::View::of(code, nonce).adoption(&self.request).map(drop)
    }

    /// Refuses a registration that could be too late when it is mined.
    pub(super) fn check_deadline(&self, now: UnixTime, margin_s: u64) -> Result<(), Refused> {
        match self.deadline {
            Some(deadline) if deadline < now.plus_s(margin_s).0 => {
                let message = "the registration's deadline has passed, or is too close";
                Err(self.request.refused(Refusal::OperationFailed, message))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Why the registration fails by itself; `None` when it does not.
    pub(super) async fn registration_problem(
        &self,
        network: &EvmNetwork,
    ) -> Result<Option<Refused>, Unavailable> {
        let (rpc, account) = (&network.rpc, self.request.account);
        let Some(call) = &self.request.call else { return Ok(None) };
        let gas = network.settings.gas_limit_max;
        let route = (network.first_signer(), account);
        let call = Call::simulate(route, call.to_vec(), gas, "latest");
        let call = self.adoption.on_its_code(account, call);
        Ok(match rpc.read_call(rpc.ask(call).await?)? {
            Called::Returned(_) => None,
            Called::Failed(why) => {
                let message = format!("the registration fails when it is simulated: {why}");
                Some(self.request.refused(Refusal::OperationFailed, message))
            }
        })
    }
}

impl Adoption {
    /// The code that the account is to run.
    pub(crate) fn delegate(&self) -> Address {
        *self.authorization.address()
    }

    /// Whether an account with this code runs it.
    pub(crate) fn is_done(&self, code: &[u8]) -> bool {
        delegate_of(code) == Some(self.delegate())
    }

    /// The same question about the account with the code that it is about to adopt.
    pub(super) fn on_its_code(&self, account: Address, call: Call) -> Call {
        account::on_code(account, self.delegate(), call)
    }

    /// The payment's own call, and before it the registration if there is one.
    pub(super) fn before(&self, account: Address, payment: Vec<u8>) -> (Address, Vec<u8>) {
        if self.call.is_empty() {
            return (account, payment);
        }
        let calls = vec![
            Call3 { target: account, allowFailure: true, callData: self.call.clone() },
            Call3 { target: account, allowFailure: false, callData: payment.into() },
        ];
        (MULTICALL3, Multicall3::aggregate3Call { calls }.abi_encode())
    }
}

/// Reads an account's next nonce.
pub(super) fn nonce(rpc: &Rpc, answer: Answer) -> Result<u64, Unavailable> {
    rpc.read::<U64>(answer).map(|nonce| nonce.to())
}

/// The calls of `account` that a transaction makes: its own, or those within a call of Multicall3. Each
/// says whether it may fail while the transaction succeeds.
pub(crate) fn calls_of(account: Address, to: Option<Address>, input: &Bytes) -> Vec<Call3> {
    if to == Some(account) {
        let call_data = input.clone();
        return vec![Call3 { target: account, allowFailure: false, callData: call_data }];
    }
    if to != Some(MULTICALL3) {
        return Vec::new();
    }
    let calls = Multicall3::aggregate3Call::abi_decode(input).map(|call| call.calls);
    calls.unwrap_or_default().into_iter().filter(|call| call.target == account).collect()
}
