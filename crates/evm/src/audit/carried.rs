//! What a transaction's call asks contracts to carry out: the payments in it, as they were signed.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall as _;
use pay402_core::{NetworkId, PaymentKey};

use crate::contracts::{
    DelegationManager, Eip3009, Erc20, ExactProxy, ExactWitness, Multicall3, PermitTransferFrom,
    UptoProxy, UptoWitness,
};
use crate::mandate::{Delegation, Mandate};
use crate::network::pack::{self, PACKER};
use crate::network::plan::{Account, MULTICALL3, Plan};
use crate::signature::SignatureBytes;
use crate::typed_data::{Authorization, EXACT_PROXY, PermitTransfer, UPTO_PROXY};

/// What follows the token in the call that a delegation is redeemed for: no value.
const VALUE_BYTES: usize = 32;

/// A payment that a transaction was to make.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    pub(super) key: PaymentKey,
    /// Without its signature.
    pub(super) plan: Plan,
}

/// Whose a delegation is that only its manager can read, by its key; `None` when the books do not say.
pub(super) type DelegatorOf<'a> = &'a dyn Fn(&PaymentKey) -> Option<Address>;

/// The payments in a transaction of `network` to `to` with this input.
pub(super) fn carried(
    network: &NetworkId,
    to: Address,
    input: &Bytes,
    delegator_of: DelegatorOf<'_>,
) -> Vec<Carried> {
    if to == MULTICALL3 {
        let calls = Multicall3::aggregate3Call::abi_decode(input).map(|call| call.calls);
        let calls = calls.unwrap_or_default().into_iter();
        return calls
            .filter(|call| call.target != MULTICALL3)
            .flat_map(|call| direct(network, call.target, &call.callData, delegator_of))
            .collect();
    }
    direct(network, to, input, delegator_of)
}

fn direct(
    network: &NetworkId,
    to: Address,
    input: &Bytes,
    delegator_of: DelegatorOf<'_>,
) -> Vec<Carried> {
    let of = |token: Address, mandate: Mandate, charge: U256| Carried {
        key: mandate.key(network, &token),
        plan: bare(token, mandate, charge),
    };
    if to == PACKER {
        let by =
            |(token, it): (Address, Authorization)| of(token, Mandate::Authorization(it), it.value);
        return pack::items_in(input).into_iter().map(by).collect();
    }
    if [EXACT_PROXY, UPTO_PROXY].contains(&to) {
        let permit = if to == EXACT_PROXY { exact_permit(input) } else { upto_permit(input) };
        let by = |(permit, charge): (PermitTransfer, U256)| {
            of(permit.token, Mandate::Permit(permit), charge)
        };
        return permit.map(by).into_iter().collect();
    }
    if let Some(it) = authorization(input) {
        return vec![of(to, Mandate::Authorization(it), it.value)];
    }
    redemptions(network, to, input, delegator_of)
}

/// A plan without what only the signing of it needs.
pub(super) fn bare(token: Address, mandate: Mandate, charge: U256) -> Plan {
    Plan {
        token,
        mandate,
        charge,
        signature: SignatureBytes::new(Vec::new()),
        account: Account::Plain,
        deployment: None,
        token_permit: None,
        adoption: None,
    }
}

fn authorization(input: &[u8]) -> Option<Authorization> {
    // The selectors differ: of any input one at most is read.
    if let Ok(call) = Eip3009::transferWithAuthorization_0Call::abi_decode(input) {
        return Some(Authorization {
            from: call.from,
            to: call.to,
            value: call.value,
            valid_after: call.validAfter,
            valid_before: call.validBefore,
            nonce: call.nonce,
        });
    }
    let call = Eip3009::transferWithAuthorization_1Call::abi_decode(input).ok()?;
    Some(Authorization {
        from: call.from,
        to: call.to,
        value: call.value,
        valid_after: call.validAfter,
        valid_before: call.validBefore,
        nonce: call.nonce,
    })
}

/// What a proxy is asked to move: to whom, from when on, and by whom if that is named.
fn transfer(
    permit: &PermitTransferFrom,
    from: Address,
    (to, valid_after, facilitator): (Address, U256, Option<Address>),
) -> PermitTransfer {
    PermitTransfer {
        from,
        token: permit.permitted.token,
        permitted: permit.permitted.amount,
        nonce: permit.nonce,
        deadline: permit.deadline,
        to,
        valid_after,
        facilitator,
    }
}

fn exact_permit(input: &[u8]) -> Option<(PermitTransfer, U256)> {
    let of = |permit: PermitTransferFrom, owner: Address, witness: ExactWitness| {
        let transfer = transfer(&permit, owner, (witness.to, witness.validAfter, None));
        (transfer, permit.permitted.amount)
    };
    if let Ok(call) = ExactProxy::settleCall::abi_decode(input) {
        return Some(of(call.permit, call.owner, call.witness));
    }
    let call = ExactProxy::settleWithPermitCall::abi_decode(input).ok()?;
    Some(of(call.permit, call.owner, call.witness))
}

fn upto_permit(input: &[u8]) -> Option<(PermitTransfer, U256)> {
    let of = |permit: PermitTransferFrom, owner: Address, witness: UptoWitness| {
        let facilitator = Some(witness.facilitator);
        transfer(&permit, owner, (witness.to, witness.validAfter, facilitator))
    };
    if let Ok(call) = UptoProxy::settleCall::abi_decode(input) {
        return Some((of(call.permit, call.owner, call.witness), call.amount));
    }
    let call = UptoProxy::settleWithPermitCall::abi_decode(input).ok()?;
    Some((of(call.permit, call.owner, call.witness), call.amount))
}

/// Delegations that `manager` was to carry out, each for one transfer.
fn redemptions(
    network: &NetworkId,
    manager: Address,
    input: &[u8],
    delegator_of: DelegatorOf<'_>,
) -> Vec<Carried> {
    let Ok(call) = DelegationManager::redeemDelegationsCall::abi_decode(input) else {
        return Vec::new();
    };
    let each = call.permissionContexts.iter().zip(&call.executionCallDatas);
    each.filter_map(|(context, execution)| {
        let (token, rest) = execution.split_at_checked(Address::len_bytes())?;
        let (token, call) = (Address::from_slice(token), rest.get(VALUE_BYTES..)?);
        let call = Erc20::transferCall::abi_decode(call).ok()?;
        let of = |delegator: Address| {
            let route = ((manager, delegator), (call.to, call.value));
            let mandate =
                Mandate::Delegation(Delegation::new(route.0, route.1, context, U256::MAX));
            let key = mandate.key(network, &token);
            Carried { key, plan: bare(token, mandate, call.value) }
        };
        // An account that carries its own payments out says whose they are; of another manager's only the
        // books know.
        let own = of(manager);
        if delegator_of(&own.key).is_some_and(|delegator| delegator == manager) {
            return Some(own);
        }
        let foreign = of(Address::ZERO);
        Some(delegator_of(&foreign.key).map_or(own, of))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;
    use crate::contracts::Call3;

    fn network() -> NetworkId {
        NetworkId::eip155(84_532)
    }

    fn authorization_of(number: u8) -> Mandate {
        Mandate::Authorization(Authorization {
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(2),
            value: U256::from(1_000 + u64::from(number)),
            valid_after: U256::from(3),
            valid_before: U256::from(4_000_000_000_u64),
            nonce: B256::repeat_byte(number),
        })
    }

    fn permit_of(facilitator: Option<Address>) -> Mandate {
        Mandate::Permit(PermitTransfer {
            from: Address::repeat_byte(1),
            token: Address::repeat_byte(9),
            permitted: U256::from(70),
            nonce: U256::from(8),
            deadline: U256::from(9),
            to: Address::repeat_byte(2),
            valid_after: U256::from(10),
            facilitator,
        })
    }

    fn signed(token: Address, mandate: Mandate, charge: u64) -> Plan {
        let signature = SignatureBytes::new([&[7; 64][..], &[27]].concat());
        Plan { signature, ..bare(token, mandate, U256::from(charge)) }
    }

    fn read(to: Address, input: impl Into<Bytes>) -> Vec<Mandate> {
        let nobody: DelegatorOf<'_> = &|_| None;
        let carried = carried(&network(), to, &input.into(), nobody);
        for it in &carried {
            assert_eq!(it.key, it.plan.mandate.key(&network(), &it.plan.token));
        }
        carried.into_iter().map(|it| it.plan.mandate).collect()
    }

    #[test]
    fn what_we_send_is_read_back() {
        let token = Address::repeat_byte(9);
        let facilitator = Some(Address::repeat_byte(5));
        for mandate in [authorization_of(1), permit_of(None), permit_of(facilitator)] {
            for account in [Account::Plain, Account::Contract] {
                let (to, input) = signed(token, mandate, 60).call(account);
                assert_eq!(read(to, input.clone()), [mandate], "{account:?}");
                // After a wallet's deployment, for example.
                let call = |target, data: Vec<u8>| Call3 {
                    target,
                    allowFailure: true,
                    callData: data.into(),
                };
                let calls = vec![call(Address::repeat_byte(3), vec![1, 2, 3]), call(to, input)];
                let input = Multicall3::aggregate3Call { calls }.abi_encode();
                assert_eq!(read(MULTICALL3, input), [mandate], "{account:?}");
            }
        }
        let (to, input) = signed(token, permit_of(facilitator), 60).call(Account::Plain);
        let nobody: DelegatorOf<'_> = &|_| None;
        let metered = carried(&network(), to, &input.into(), nobody).remove(0);
        assert_eq!(metered.plan.charge, U256::from(60), "what is charged is not the ceiling");
    }

    #[test]
    fn a_pack_is_read_member_by_member() {
        let token = Address::repeat_byte(9);
        let members = [1, 2, 3].map(authorization_of);
        let plans = members.map(|mandate| signed(token, mandate, 0));
        let (to, input) = pack::call(&plans, 60_000).unwrap();
        assert_eq!(read(to, input), members);
    }

    #[test]
    fn a_delegation_is_read_with_the_books() {
        let (token, manager) = (Address::repeat_byte(9), Address::repeat_byte(4));
        let (payer, payee) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let context = [5; 90];
        let route = ((manager, payer), (payee, U256::from(6)));
        let mandate = Mandate::Delegation(Delegation::new(route.0, route.1, &context, U256::MAX));
        let plan = Plan {
            signature: SignatureBytes::new(context.to_vec()),
            ..bare(token, mandate, U256::from(6))
        };
        let (to, input) = plan.call(Account::Contract);
        let booked = mandate.key(&network(), &token);
        let known: DelegatorOf<'_> = &|key| (*key == booked).then_some(payer);
        let read = carried(&network(), to, &input.into(), known);
        assert_eq!(read.len(), 1);
        assert_eq!((&read[0].key, read[0].plan.mandate), (&booked, mandate));
    }

    #[test]
    fn other_calls_carry_nothing() {
        for input in [vec![], vec![1, 2, 3], vec![0xff; 200]] {
            for to in [Address::repeat_byte(9), MULTICALL3, PACKER, EXACT_PROXY, UPTO_PROXY] {
                assert_eq!(read(to, input.clone()), []);
            }
        }
    }
}
