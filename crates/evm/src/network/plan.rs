//! A settlement plan: everything that is needed to settle one payment, as the journal keeps it.
//!
//! It is a bearer capability (it holds the signature) and is handled sealed outside this crate.
//! The first byte says which form follows; forms that were ever written stay readable.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::{SolCall as _, SolValue};
use pay402_core::network::SecretBytes;

use super::adoption::Adoption;
use super::errand::{EncodedAdoption, decode_adoption, encode_adoption};
use super::glance::Question;
use super::{DEPLOYMENT_GAS_MAX, Settings};
use crate::contracts::{
    Call3, Eip3009, ExactProxy, ExactWitness, Multicall3, PermitTransferFrom,
    SignedTokenPermit as TokenPermitCall, TokenPermissions, UptoProxy, UptoWitness,
};
use crate::exact::erc7710::redemption;
use crate::mandate::{Delegation, Mandate};
use crate::rpc::Call;
use crate::signature::{Deployment, SignatureBytes};
use crate::sponsor::SignedTokenPermit;
use crate::typed_data::{Authorization, PermitTransfer, TokenPermit};

/// Where Multicall3 is on every network; it deploys and pays in one transaction.
pub(crate) const MULTICALL3: Address =
    alloy::primitives::address!("0xcA11bde05977b3631167028862bE2a173976CA11");

/// Forms of the encoding.
mod form {
    /// EIP-3009 without a deployment.
    pub(super) const AUTHORIZATION: u8 = 1;
    /// EIP-3009 with a deployment.
    pub(super) const AUTHORIZATION_DEPLOYING: u8 = 2;
    /// Permit2.
    pub(super) const PERMIT: u8 = 3;
    /// ERC-7710.
    pub(super) const DELEGATION: u8 = 4;
    /// ERC-7710 by an account that adopts its code first.
    pub(super) const DELEGATION_ADOPTING: u8 = 5;
}

type EncodedAuthorization = (Address, Address, Address, U256, U256, U256, B256, Bytes, bool);
type EncodedDeployment = (Address, Bytes);
type EncodedPermit = (
    (Address, Address, U256, U256, U256, Address, U256, Address),
    U256,
    Bytes,
    bool,
    EncodedDeployment,
    (U256, U256, U256, Bytes),
);
type EncodedDelegation = (Address, Address, Address, Address, U256, U256, Bytes);
type EncodedAdopting = (EncodedDelegation, EncodedAdoption, Bytes, bool);

/// What the payer's account is, which decides how its signature is presented.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Account {
    /// It has no code: ECDSA, by the `v, r, s` overload that every EIP-3009 token has.
    Plain,
    /// It has code, EIP-7702 delegations included: the account decides, by the `bytes` overload.
    Contract,
    /// It has no code yet: it is deployed and pays in one transaction.
    Undeployed,
    /// It does not run the code yet that its payment brings along: it adopts and pays in one
    /// transaction.
    Unadopted,
}

/// One payment to settle. `Debug` hides the signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    pub(crate) token: Address,
    pub(crate) mandate: Mandate,
    /// What is to move, in atomic units.
    pub(crate) charge: U256,
    /// The signature, or a delegation's context.
    pub(crate) signature: SignatureBytes,
    /// What the account was when the payment was verified.
    pub(crate) account: Account,
    pub(crate) deployment: Option<Deployment>,
    pub(crate) token_permit: Option<SignedTokenPermit>,
    /// What the account adopts, and whom it registers, before it pays.
    pub(crate) adoption: Option<Adoption>,
}

impl Plan {
    /// What the payment is taken from: the payer's tokens and, by a permit, what Permit2 may move of
    /// them.
    pub(crate) fn sources(&self) -> Vec<String> {
        let tokens = format!("{:#x}/{:#x}", self.token, self.mandate.payer());
        match self.mandate {
            Mandate::Permit(_) => {
                let allowance = format!("{tokens}/allowance");
                vec![tokens, allowance]
            }
            Mandate::Authorization(_) | Mandate::Delegation(_) => vec![tokens],
        }
    }

    pub(crate) fn encode(&self) -> SecretBytes {
        let signature = Bytes::copy_from_slice(self.signature.expose());
        let contract = self.account == Account::Contract;
        let deployment = encode_deployment(self.deployment.as_ref());
        let (form, fields) = match &self.mandate {
            Mandate::Authorization(authorization) => {
                let Authorization { from, to, value, valid_after, valid_before, nonce } =
                    *authorization;
                let fields: EncodedAuthorization = (
                    self.token,
                    from,
                    to,
                    value,
                    valid_after,
                    valid_before,
                    nonce,
                    signature,
                    contract,
                );
                match self.deployment {
                    None => (form::AUTHORIZATION, fields.abi_encode_params()),
                    Some(_) => {
                        (form::AUTHORIZATION_DEPLOYING, (fields, deployment).abi_encode_params())
                    }
                }
            }
            Mandate::Permit(permit) => {
                let PermitTransfer { from, token, permitted, nonce, deadline, to, .. } = *permit;
                let (valid_after, facilitator) =
                    (permit.valid_after, permit.facilitator.unwrap_or_default());
                let fields: EncodedPermit = (
                    (from, token, permitted, nonce, deadline, to, valid_after, facilitator),
                    self.charge,
                    signature,
                    contract,
                    deployment,
                    encode_token_permit(self.token_permit.as_ref()),
                );
                (form::PERMIT, fields.abi_encode_params())
            }
            Mandate::Delegation(delegation) => {
                let Delegation { manager, delegator, to, value, until, .. } = *delegation;
                let fields: EncodedDelegation =
                    (self.token, manager, delegator, to, value, until, signature);
                match &self.adoption {
                    None => (form::DELEGATION, fields.abi_encode_params()),
                    Some(Adoption { authorization, call }) => {
                        let fields: EncodedAdopting =
                            (fields, encode_adoption(authorization), call.clone(), contract);
                        (form::DELEGATION_ADOPTING, fields.abi_encode_params())
                    }
                }
            }
        };
        SecretBytes::new([vec![form], fields].concat())
    }

    /// Reads what [`Plan::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &SecretBytes) -> Option<Self> {
        let (form, fields) = bytes.expose().split_first()?;
        match *form {
            form::AUTHORIZATION => {
                let fields = EncodedAuthorization::abi_decode_params_validate(fields).ok()?;
                Some(Self::of_authorization(fields, None))
            }
            form::AUTHORIZATION_DEPLOYING => {
                let (fields, deployment) =
                    <(EncodedAuthorization, EncodedDeployment)>::abi_decode_params_validate(fields)
                        .ok()?;
                Some(Self::of_authorization(fields, decode_deployment(deployment)))
            }
            form::PERMIT => {
                let fields = EncodedPermit::abi_decode_params_validate(fields).ok()?;
                Self::of_permit(fields)
            }
            form::DELEGATION => {
                let fields = EncodedDelegation::abi_decode_params_validate(fields).ok()?;
                Some(Self::of_delegation(fields))
            }
            form::DELEGATION_ADOPTING => {
                let (fields, authorization, call, contract) =
                    EncodedAdopting::abi_decode_params_validate(fields).ok()?;
                let authorization = decode_adoption(authorization);
                let adoption = Some(Adoption { authorization, call });
                let account = if contract { Account::Contract } else { Account::Unadopted };
                Some(Self { account, adoption, ..Self::of_delegation(fields) })
            }
            _ => None,
        }
    }

    fn of_authorization(fields: EncodedAuthorization, deployment: Option<Deployment>) -> Self {
        let (token, from, to, value, valid_after, valid_before, nonce, signature, contract) =
            fields;
        let authorization = Authorization { from, to, value, valid_after, valid_before, nonce };
        Self {
            token,
            mandate: Mandate::Authorization(authorization),
            charge: value,
            signature: SignatureBytes::new(signature.to_vec()),
            account: account_of(contract, deployment.as_ref()),
            deployment,
            token_permit: None,
            adoption: None,
        }
    }

    fn of_permit(fields: EncodedPermit) -> Option<Self> {
        let (permit, charge, signature, contract, deployment, token_permit) = fields;
        let (from, token, permitted, nonce, deadline, to, valid_after, facilitator) = permit;
        let facilitator = (facilitator != Address::ZERO).then_some(facilitator);
        let deployment = decode_deployment(deployment);
        let permit = PermitTransfer {
            from,
            token,
            permitted,
            nonce,
            deadline,
            to,
            valid_after,
            facilitator,
        };
        Some(Self {
            token,
            mandate: Mandate::Permit(permit),
            charge,
            signature: SignatureBytes::new(signature.to_vec()),
            account: account_of(contract, deployment.as_ref()),
            deployment,
            token_permit: decode_token_permit(from, token_permit)?,
            adoption: None,
        })
    }

    fn of_delegation(fields: EncodedDelegation) -> Self {
        let (token, manager, delegator, to, value, until, context) = fields;
        let delegation = Delegation::new((manager, delegator), (to, value), &context, until);
        Self {
            token,
            mandate: Mandate::Delegation(delegation),
            charge: value,
            signature: SignatureBytes::new(context.to_vec()),
            account: Account::Contract,
            deployment: None,
            token_permit: None,
            adoption: None,
        }
    }

    /// What the payer's account is when it has this code.
    pub(crate) fn account_with(&self, code: &[u8]) -> Account {
        match &self.adoption {
            Some(adoption) if !adoption.is_done(code) => Account::Unadopted,
            Some(_) | None => account_of(!code.is_empty(), self.deployment.as_ref()),
        }
    }

    /// Most gas that settling it may use when the payer's account is this.
    pub(crate) fn gas_max(&self, settings: &Settings, account: Account) -> u64 {
        let more = match (account, &self.adoption) {
            (Account::Undeployed, _) => DEPLOYMENT_GAS_MAX,
            // What the same operation may use when it is sent by itself.
            (Account::Unadopted, _) => settings.gas_limit_max,
            (_, Some(adoption)) if !adoption.call.is_empty() => settings.gas_limit_max,
            _ => 0,
        };
        settings.gas_limit_max.saturating_add(more)
    }

    /// What to ask together with others, of a payment by EIP-3009 of an account without code.
    pub(crate) fn question(&self) -> Option<Question> {
        let Mandate::Authorization(Authorization { from, nonce, .. }) = self.mandate else {
            return None;
        };
        let (token, transfer) = self.direct_call(Account::Plain);
        Some(Question { token, payer: from, nonce, transfer: transfer.into() })
    }

    /// A question about the payer's account as it will be.
    pub(crate) fn as_it_will_be(&self, account: Account, call: Call) -> Call {
        match (account, &self.adoption) {
            (Account::Unadopted, Some(adoption)) => {
                adoption.on_its_code(self.mandate.payer(), call)
            }
            _ => call,
        }
    }

    /// Whether the chain lets it be carried out once at most, whoever sends it and how often.
    pub(crate) const fn is_refused_twice(&self) -> bool {
        !self.mandate.is_foreign()
    }

    /// Who alone may send the transaction; `None` when anybody may.
    pub(crate) const fn sender(&self) -> Option<Address> {
        match self.mandate {
            Mandate::Permit(permit) => permit.facilitator,
            Mandate::Authorization(_) | Mandate::Delegation(_) => None,
        }
    }

    /// What is called to settle: the contract, and the call data.
    pub(crate) fn call(&self, account: Account) -> (Address, Vec<u8>) {
        let (target, calldata) = self.direct_call(account);
        if let Some(adoption) = &self.adoption {
            return adoption.before(target, calldata);
        }
        match (account, &self.deployment) {
            (Account::Undeployed, Some(deployment)) => {
                let call = |target: Address, allow_failure: bool, data: Bytes| Call3 {
                    target,
                    allowFailure: allow_failure,
                    callData: data,
                };
                // Many factories fail where the wallet is there already, and anybody may have had it
                // deployed. The transfer decides.
                let calls = vec![
                    call(deployment.factory, true, deployment.calldata.clone()),
                    call(target, false, calldata.into()),
                ];
                (MULTICALL3, Multicall3::aggregate3Call { calls }.abi_encode())
            }
            _ => (target, calldata),
        }
    }

    fn direct_call(&self, account: Account) -> (Address, Vec<u8>) {
        match &self.mandate {
            Mandate::Authorization(authorization) => {
                (self.token, self.transfer(authorization, account))
            }
            Mandate::Permit(permit) => (permit.spender(), self.spend(permit, account)),
            Mandate::Delegation(Delegation { manager, to, value, .. }) => {
                (*manager, redemption(&self.signature, self.token, *to, *value))
            }
        }
    }

    /// What the token is called with. A signature that is not ECDSA goes by the `bytes` overload
    /// even for a plain account: the token refuses it, and that is on chain then.
    fn transfer(&self, authorization: &Authorization, account: Account) -> Vec<u8> {
        let Authorization { from, to, value, valid_after, valid_before, nonce } = *authorization;
        match (account, self.signature.ecdsa()) {
            (Account::Plain, Some(ecdsa)) => {
                let call = Eip3009::transferWithAuthorization_0Call {
                    from,
                    to,
                    value,
                    validAfter: valid_after,
                    validBefore: valid_before,
                    nonce,
                    v: ecdsa.v(),
                    r: ecdsa.r(),
                    s: ecdsa.s(),
                };
                call.abi_encode()
            }
            _ => {
                let call = Eip3009::transferWithAuthorization_1Call {
                    from,
                    to,
                    value,
                    validAfter: valid_after,
                    validBefore: valid_before,
                    nonce,
                    signature: Bytes::copy_from_slice(self.signature.expose()),
                };
                call.abi_encode()
            }
        }
    }

    /// What the proxy is called with. Permit2 reads a plain account's signature in the canonical
    /// form only.
    fn spend(&self, transfer: &PermitTransfer, account: Account) -> Vec<u8> {
        let PermitTransfer { from: owner, token, permitted, nonce, deadline, to, .. } = *transfer;
        let signature = match (account, self.signature.ecdsa()) {
            (Account::Plain, Some(ecdsa)) => ecdsa.to_bytes(),
            _ => self.signature.clone(),
        };
        let signature = Bytes::copy_from_slice(signature.expose());
        let permitted = TokenPermissions { token, amount: permitted };
        let permit = PermitTransferFrom { permitted, nonce, deadline };
        let token_permit = self.token_permit.as_ref().map(token_permit_call);
        let (valid_after, amount) = (transfer.valid_after, self.charge);
        match (transfer.facilitator, token_permit) {
            (None, None) => {
                let witness = ExactWitness { to, validAfter: valid_after };
                ExactProxy::settleCall { permit, owner, witness, signature }.abi_encode()
            }
            (None, Some(token_permit)) => {
                let witness = ExactWitness { to, validAfter: valid_after };
                ExactProxy::settleWithPermitCall {
                    tokenPermit: token_permit,
                    permit,
                    owner,
                    witness,
                    signature,
                }
                .abi_encode()
            }
            (Some(facilitator), None) => {
                let witness = UptoWitness { to, facilitator, validAfter: valid_after };
                UptoProxy::settleCall { permit, amount, owner, witness, signature }.abi_encode()
            }
            (Some(facilitator), Some(token_permit)) => {
                let witness = UptoWitness { to, facilitator, validAfter: valid_after };
                let call = UptoProxy::settleWithPermitCall {
                    tokenPermit: token_permit,
                    permit,
                    amount,
                    owner,
                    witness,
                    signature,
                };
                call.abi_encode()
            }
        }
    }
}

fn account_of(has_code: bool, deployment: Option<&Deployment>) -> Account {
    match (has_code, deployment) {
        (true, _) => Account::Contract,
        (false, Some(_)) => Account::Undeployed,
        (false, None) => Account::Plain,
    }
}

fn token_permit_call(signed: &SignedTokenPermit) -> TokenPermitCall {
    let SignedTokenPermit { permit, signature } = signed;
    TokenPermitCall {
        value: permit.value,
        deadline: permit.deadline,
        r: signature.r(),
        s: signature.s(),
        v: signature.v(),
    }
}

/// No factory is the zero address.
fn encode_deployment(deployment: Option<&Deployment>) -> EncodedDeployment {
    let encode = |deployment: &Deployment| (deployment.factory, deployment.calldata.clone());
    deployment.map_or_else(|| (Address::ZERO, Bytes::new()), encode)
}

fn decode_deployment((factory, calldata): EncodedDeployment) -> Option<Deployment> {
    (factory != Address::ZERO).then_some(Deployment { factory, calldata })
}

/// No permit has an empty signature.
fn encode_token_permit(signed: Option<&SignedTokenPermit>) -> (U256, U256, U256, Bytes) {
    signed.map_or_else(Default::default, |SignedTokenPermit { permit, signature }| {
        let signature = Bytes::copy_from_slice(signature.to_bytes().expose());
        (permit.value, permit.nonce, permit.deadline, signature)
    })
}

/// The outer `None` is for bytes that are no signature.
#[expect(clippy::option_option, reason = "damaged and absent are two things")]
fn decode_token_permit(
    owner: Address,
    (value, nonce, deadline, signature): (U256, U256, U256, Bytes),
) -> Option<Option<SignedTokenPermit>> {
    if signature.is_empty() {
        return Some(None);
    }
    let signature = SignatureBytes::new(signature.to_vec()).ecdsa()?;
    let permit = TokenPermit { owner, value, nonce, deadline };
    Some(Some(SignedTokenPermit { permit, signature }))
}

#[cfg(test)]
mod tests {
    use alloy::eips::eip7702::{Authorization as Authorization7702, SignedAuthorization};

    use super::*;
    use crate::network::adoption::calls_of;

    fn address(byte: u8) -> Address {
        Address::repeat_byte(byte)
    }

    fn authorization() -> Plan {
        let authorization = Authorization {
            from: address(2),
            to: address(3),
            value: U256::from(1000),
            valid_after: U256::ZERO,
            valid_before: U256::MAX,
            nonce: B256::repeat_byte(4),
        };
        Plan {
            token: address(1),
            mandate: Mandate::Authorization(authorization),
            charge: U256::from(1000),
            signature: SignatureBytes::new(vec![7; 64]),
            account: Account::Contract,
            deployment: None,
            token_permit: None,
            adoption: None,
        }
    }

    fn permit(facilitator: Option<Address>) -> Plan {
        let permit = PermitTransfer {
            from: address(2),
            token: address(1),
            permitted: U256::from(1000),
            nonce: U256::from(5),
            deadline: U256::from(6),
            to: address(3),
            valid_after: U256::from(1),
            facilitator,
        };
        Plan { mandate: Mandate::Permit(permit), charge: U256::from(999), ..authorization() }
    }

    fn delegation() -> Plan {
        let context = vec![9; 70];
        let (parties, paid) = ((address(4), address(2)), (address(3), U256::from(1000)));
        let delegation = Delegation::new(parties, paid, &context, U256::from(77));
        Plan {
            mandate: Mandate::Delegation(delegation),
            signature: SignatureBytes::new(context),
            ..authorization()
        }
    }

    fn agent_payment() -> Plan {
        let context = [vec![9; 66], vec![0, 0, 0, 0, 0, 77], vec![9; 65]].concat();
        let (parties, paid) = ((address(2), address(2)), (address(3), U256::from(1000)));
        let delegation = Delegation::new(parties, paid, &context, U256::MAX);
        assert_eq!(delegation.until, U256::from(78), "its own deadline");
        Plan {
            mandate: Mandate::Delegation(delegation),
            signature: SignatureBytes::new(context),
            ..authorization()
        }
    }

    /// A payment whose account adopts its code, and registers `call` if there is one, first.
    fn adopting(call: Vec<u8>) -> Plan {
        let inner =
            Authorization7702 { chain_id: U256::from(84_532), address: address(7), nonce: 3 };
        let (r, s) = (U256::from(4), U256::from(5));
        let authorization = SignedAuthorization::new_unchecked(inner, 1, r, s);
        let adoption = Some(Adoption { authorization, call: call.into() });
        Plan { account: Account::Unadopted, adoption, ..agent_payment() }
    }

    fn token_permit() -> SignedTokenPermit {
        let permit = TokenPermit {
            owner: address(2),
            value: U256::from(1000),
            nonce: U256::ZERO,
            deadline: U256::from(6),
        };
        let signature = SignatureBytes::new([vec![1; 64], vec![28]].concat()).ecdsa().unwrap();
        SignedTokenPermit { permit, signature }
    }

    fn plans() -> Vec<Plan> {
        let deployment = Deployment { factory: address(8), calldata: vec![1, 2].into() };
        let undeployed = |plan: Plan| Plan {
            account: Account::Undeployed,
            deployment: Some(deployment.clone()),
            ..plan
        };
        let sponsored = |plan: Plan| Plan { token_permit: Some(token_permit()), ..plan };
        vec![
            authorization(),
            Plan { account: Account::Plain, ..authorization() },
            undeployed(authorization()),
            Plan { account: Account::Contract, ..undeployed(authorization()) },
            permit(None),
            permit(Some(address(9))),
            undeployed(permit(None)),
            sponsored(permit(None)),
            sponsored(permit(Some(address(9)))),
            delegation(),
            agent_payment(),
            adopting(vec![1, 2, 3]),
            Plan { account: Account::Contract, ..adopting(vec![1, 2, 3]) },
            adopting(Vec::new()),
        ]
    }

    #[test]
    fn plans_are_read_back() {
        for plan in plans() {
            assert_eq!(Plan::decode(&plan.encode()), Some(plan));
        }
        for bad in [vec![], vec![1], vec![5, 0], vec![6, 0], vec![0; 400]] {
            assert_eq!(Plan::decode(&SecretBytes::new(bad)), None);
        }
        for plan in plans() {
            let mut later = plan.encode().expose().to_vec();
            later[0] += 5;
            assert_eq!(Plan::decode(&SecretBytes::new(later)), None);
        }
        assert!(!format!("{:?}", authorization()).contains("07070707"), "the signature is printed");
        assert!(!format!("{:?}", delegation()).contains("09090909"), "the context is printed");
    }

    #[test]
    fn the_first_form_stays_readable() {
        // As the first version wrote it.
        let fields: EncodedAuthorization = (
            address(1),
            address(2),
            address(3),
            U256::from(1000),
            U256::ZERO,
            U256::MAX,
            B256::repeat_byte(4),
            vec![7; 64].into(),
            true,
        );
        let bytes = [vec![1], fields.abi_encode_params()].concat();
        assert_eq!(Plan::decode(&SecretBytes::new(bytes)), Some(authorization()));
    }

    #[test]
    fn the_account_decides_the_call() {
        let selector = |plan: &Plan, account| {
            let (target, data) = plan.call(account);
            (target, alloy::hex::encode(&data[..4]))
        };
        let plan = authorization();
        assert_eq!(selector(&plan, Account::Plain), (address(1), "e3ee160e".into()));
        assert_eq!(selector(&plan, Account::Contract), (address(1), "cf092995".into()));
        let odd = Plan { signature: SignatureBytes::new(vec![7; 66]), ..plan };
        assert_eq!(odd.call(Account::Plain), odd.call(Account::Contract));
        let undeployed = &plans()[2];
        assert_eq!(selector(undeployed, Account::Undeployed), (MULTICALL3, "82ad56cb".into()));
        assert_eq!(selector(undeployed, Account::Contract), (address(1), "cf092995".into()));
    }

    #[test]
    fn an_account_adopts_once_and_pays_after_its_registration() {
        let plan = adopting(vec![1, 2, 3]);
        let code = |to: Address| [&[0xef, 0x01, 0x00], to.as_slice()].concat();
        for (code, account) in [
            (vec![], Account::Unadopted),
            (code(address(6)), Account::Unadopted),
            (code(address(7)), Account::Contract),
        ] {
            assert_eq!(plan.account_with(&code), account, "{code:?}");
        }
        let payment = agent_payment().call(Account::Contract);
        assert_eq!(payment.0, address(2));
        assert_eq!(adopting(Vec::new()).call(Account::Unadopted), payment);
        // Adopted by somebody else meanwhile: the registration still goes first.
        for account in [Account::Unadopted, Account::Contract] {
            let (to, input) = plan.call(account);
            assert_eq!(to, MULTICALL3);
            let input = Bytes::from(input);
            let calls = calls_of(address(2), Some(to), &input);
            let read: Vec<_> = calls.iter().map(|it| (it.allowFailure, &it.callData[..])).collect();
            assert_eq!(read, [(true, &[1, 2, 3][..]), (false, &payment.1[..])]);
            assert!(calls_of(address(3), Some(to), &input).is_empty());
        }
        let settings = Settings::default();
        let most = |plan: &Plan, account| plan.gas_max(&settings, account);
        assert_eq!(most(&plan, Account::Unadopted), 2 * settings.gas_limit_max);
        assert_eq!(most(&plan, Account::Contract), 2 * settings.gas_limit_max);
        assert_eq!(most(&agent_payment(), Account::Contract), settings.gas_limit_max);
    }

    #[test]
    fn permits_go_to_their_proxies() {
        let selector = |plan: &Plan| {
            let (target, data) = plan.call(Account::Contract);
            (target, alloy::hex::encode(&data[..4]))
        };
        use crate::typed_data::{EXACT_PROXY, UPTO_PROXY};
        assert_eq!(selector(&permit(None)), (EXACT_PROXY, "13cd3b53".into()));
        assert_eq!(selector(&permit(Some(address(9)))), (UPTO_PROXY, "ff11e7b4".into()));
        let sponsored = &plans()[7];
        assert_eq!(selector(sponsored), (EXACT_PROXY, "fa340378".into()));
        assert_eq!(permit(Some(address(9))).sender(), Some(address(9)));
        assert_eq!(permit(None).sender(), None);
    }
}
