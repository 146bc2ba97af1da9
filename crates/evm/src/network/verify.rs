//! Verification: every check of the protocol, in its order.
//!
//! What needs no chain comes first. Then everything that the chain has to say is asked in one
//! round trip: the head, the payer's code, its balance, the nonce, and a simulation of the very
//! call that will settle, sent as we will send it. A second round trip is made only for an account
//! that is not what its signature looks like.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall as _;
use pay402_core::error::Unavailable;
use pay402_core::network::{Backing, Identified, Prerequisite, Unverified, Verified};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Payment, Refusal, Refused};

use super::account::delegate_of;
use super::adoption::{self, Adoption, Brought};
use super::approval::{self, ApprovalView};
use super::plan::{Account, Plan};
use super::sight::{Sighting, Subject, find_recent_use};
use super::trial;
use super::{DEPLOYMENT_GAS_MAX, EvmNetwork};
use crate::account::Contract as AgentAccount;
use crate::contracts::{Eip1271, Eip3009, Erc20, Permit2};
use crate::mandate::{Delegation, Mandate};
use crate::permit2::nonce_position;
use crate::read::{AUTHORIZATION_LIFETIME_S_MAX, ReadPayment};
use crate::rpc::{Answer, Block, Call, Called};
use crate::signature::{Deployment, Judgement};
use crate::sponsor;
use crate::typed_data::PERMIT2;

/// Age of the newest block from which on it no longer tells the time, in seconds. An idle chain
/// makes no blocks; the next one will have the time of our clock.
pub const HEAD_STALE_S: u64 = 30;

/// What `isValidSignature` answers for yes.
const EIP1271_YES: [u8; 4] = Eip1271::isValidSignatureCall::SELECTOR;

pub(crate) fn identify(network: &EvmNetwork, payment: &Payment) -> Result<Identified, Refused> {
    let read = read(network, payment)?;
    let fingerprint = read.fingerprint(payment.terms());
    Ok(Identified { payer: read.payer(), key: read.key, fingerprint })
}

pub(crate) async fn verify(
    network: &EvmNetwork,
    payment: &Payment,
) -> Result<Verified, Unverified> {
    let read = read(network, payment)?;
    network.guard_charge(read.token, read.charge).map_err(|refused| refused.by(read.payer()))?;
    let view = View::judged(network, &read).await?;
    let time = view.chain_time(network);
    let first = view.prerequisite(network, &read);

    let short = view.is_allowance_short(&read);
    let (fingerprint, payer) = (read.fingerprint(payment.terms()), read.payer());
    let mandate = match read.mandate {
        Mandate::Delegation(delegation) if delegation.agent.is_none() => {
            let longest = payment.terms().max_timeout_seconds.min(AUTHORIZATION_LIFETIME_S_MAX);
            let until = U256::from(time.plus_s(longest).0);
            Mandate::Delegation(Delegation { until, ..delegation })
        }
        other => other,
    };
    let adoption = view.adoption(&read).cloned();
    let plan = Plan {
        token: read.token,
        mandate,
        charge: read.charge,
        account: view.account,
        // What we would not call now must not be called when the account's code is gone by then.
        deployment: deployment(network, &read).cloned(),
        signature: read.signature,
        // One that is not needed is not submitted: it would change the payer's allowance.
        token_permit: if short { read.token_permit } else { None },
        adoption,
    };
    if let Some(refused) = network.guard_cost(&plan, view.taken).await? {
        return Err(refused.by(payer).into());
    }
    let mut expires = UnixTime(mandate.ends().saturating_to());
    let registration = plan.adoption.is_some().then_some(read.adoption.as_ref()).flatten();
    if let Some(ends) = registration.and_then(Brought::ends) {
        expires = expires.min(ends);
    }
    let amount = Amount::new(read.charge);
    let backing = view.backing(&plan);
    let attested = Verified::attest(read.key, fingerprint, payer, amount, expires, plan.encode())
        .backed_by(backing);
    let verified = match plan.adoption {
        Some(_) => attested.taking_a_turn(network.settings.sponsoring.operations_per_account_max),
        None => attested,
    };
    Ok(match first {
        Some(first) => verified.after(first),
        None => verified,
    })
}

/// All that needs no chain.
fn read(network: &EvmNetwork, payment: &Payment) -> Result<ReadPayment, Refused> {
    if payment.terms().network != network.id {
        return Err(Refusal::InvalidNetwork.into());
    }
    let mut read = ReadPayment::read(payment, &network.assets)?;
    read.refuse_malleated()?;
    read.approval = match (&read.mandate, &read.token_permit) {
        // A token permit is enough, and approves no more than is paid.
        (Mandate::Permit(permit), None) if network.settings.sponsoring.approvals => {
            sponsor::approval(payment.presented(), permit)?
        }
        _ => None,
    };
    if let Some(approval) = &read.approval {
        approval::check(network, &read, approval)?;
    }
    read.adoption = match &read.mandate {
        Mandate::Delegation(Delegation { delegator, agent: Some(agent), .. })
            if network.adopts_with_payments() =>
        {
            adoption::read(network, payment.presented(), *delegator, agent.key)?
        }
        _ => None,
    };
    let refuse = |refusal: Refusal| Err(Refused::from(refusal).by(read.payer()));
    if let Mandate::Delegation(Delegation { manager, delegator, .. }) = &read.mandate
        && manager != delegator
        && !network.settings.delegation_managers.contains(manager)
    {
        return refuse(Refusal::ManagerNotAllowed);
    }
    if let Mandate::Permit(permit) = &read.mandate {
        match permit.facilitator {
            Some(facilitator) if !network.sends_from(&facilitator) => {
                return refuse(Refusal::FacilitatorMismatch);
            }
            _ if !network.has_proxy(permit) => return refuse(Refusal::ProxyNotDeployed),
            _ => {}
        }
    }
    Ok(read)
}

/// How the payer's account is to be deployed, if we call what deploys it.
fn deployment<'a>(network: &EvmNetwork, read: &'a ReadPayment) -> Option<&'a Deployment> {
    read.deployment.as_ref().filter(|it| network.settings.factories.contains(&it.factory))
}

/// What the chain shows of a payment.
struct View {
    head: Block,
    account: Account,
    /// What the payer delegated itself to (EIP-7702).
    delegate: Option<Address>,
    signature_holds: bool,
    balance: Called,
    /// Whether the chain took the mandate before; `None` when the contract does not say.
    used: Option<bool>,
    /// What Permit2 may move; `None` where it is not asked.
    allowance: Option<U256>,
    /// What is known of the approval that the payer sent along.
    approval: Option<ApprovalView>,
    /// Why the chain would skip the adoption that the payer sent along.
    not_adoptable: Option<Refused>,
    /// Whether the payment settles only with the registration that it brings along.
    needs_registration: bool,
    simulation: Called,
    /// The gas that the transfer took when it was tried, where that was told.
    taken: Option<u64>,
}

impl View {
    /// What the chain shows of a payment that is good.
    ///
    /// The answers to one look may be of the states before and after a block, and that block may have
    /// the approval for which this very payment waits, or its gas: then a payment that is good before
    /// and after it looks bad, or its payer without gas. Neither is believed at first sight.
    async fn judged(network: &EvmNetwork, read: &ReadPayment) -> Result<Self, Unverified> {
        let view = Self::look(network, read).await?;
        read.check_times(view.chain_time(network), network.settings.margin_s())?;
        let verdict = view.judge(network, read).await;
        let is_refused = matches!(verdict, Err(Unverified::Invalid(_)));
        if read.approval.is_none() || !(is_refused || view.is_gas_missing(read)) {
            return verdict.map(|()| view);
        }
        let view = Self::look(network, read).await?;
        view.judge(network, read).await.map(|()| view)
    }

    async fn look(network: &EvmNetwork, read: &ReadPayment) -> Result<Self, Unavailable> {
        match Self::of_shared(network, read).await {
            Some(view) => Ok(view),
            None => Self::look_alone(network, read).await,
        }
    }

    /// What a look shows that other payments share; `None` when it does not tell all of it.
    async fn of_shared(network: &EvmNetwork, read: &ReadPayment) -> Option<Self> {
        if !matches!(read.judgement, Judgement::Payer(_)) {
            return None;
        }
        let seen = network.glances.look(plan_of(read, Account::Plain, false).question()?).await?;
        let (held, used) = (seen.held?, seen.used?);
        // Of what fails, or is an account's to decide, more has to be asked.
        if seen.has_code || !(seen.works.is_some() || used || held < needed(read)) {
            return None;
        }
        Some(Self {
            head: Block::told(seen.block, seen.time),
            account: Account::Plain,
            delegate: None,
            signature_holds: true,
            balance: Called::Returned(held.to_be_bytes::<32>().into()),
            used: Some(used),
            allowance: None,
            approval: None,
            not_adoptable: None,
            needs_registration: false,
            simulation: Called::Returned(Bytes::new()),
            taken: seen.works,
        })
    }

    async fn look_alone(network: &EvmNetwork, read: &ReadPayment) -> Result<Self, Unavailable> {
        let rpc = &network.rpc;
        let payer = read.mandate.payer();
        // A signature of the payer's own key is a plain account's, most likely.
        let deployment = deployment(network, read);
        let guess = match (&read.judgement, deployment) {
            _ if read.adoption.is_some() => Account::Unadopted,
            (Judgement::Payer(_), _) => Account::Plain,
            (_, Some(_)) => Account::Undeployed,
            (_, None) => Account::Contract,
        };
        let balance = Eip3009::balanceOfCall { account: payer };
        let mut calls = vec![
            Call::head(),
            Call::code(payer),
            Call::view(read.token, balance.abi_encode()),
            simulation(network, read, guess, "latest"),
        ];
        calls.extend(opinion(network, read).filter(|_| guess == Account::Contract));
        let state = state_calls(read);
        let states = state.len();
        calls.extend(state);
        let mut approval_calls = Vec::new();
        if let Some(approval) = &read.approval {
            let settle = simulation(network, read, Account::Plain, "latest");
            approval_calls = approval::calls(read, approval, settle);
        }
        let approvals = approval_calls.len();
        calls.extend(approval_calls);
        calls.extend(read.adoption.iter().map(|_| Call::mined_nonces(payer)));
        let mut answers = rpc.ask_many(calls).await?;
        let nonce = read.adoption.as_ref().and_then(|_| answers.pop());
        let approvals = answers.split_off(answers.len() - approvals);
        let states = answers.split_off(answers.len() - states);
        let mut answers = answers.into_iter();
        let mut next = || answers.next().expect("one answer per call");

        let head: Block = rpc.read(next())?;
        let code = rpc.read_bytes(next())?;
        let balance = rpc.read_call(next())?;
        let mut simulated = read_simulation(network, read, next())?;
        let mut thought = answers.next();
        let account = match (code.is_empty(), deployment) {
            _ if read.adoption.as_ref().is_some_and(|it| !it.adoption().is_done(&code)) => {
                Account::Unadopted
            }
            (false, _) => Account::Contract,
            (true, Some(_)) => Account::Undeployed,
            (true, None) => Account::Plain,
        };
        // The account is another than its signature looks like: what was asked does not count.
        if account != guess && (account, guess) != (Account::Plain, Account::Contract) {
            let mut calls = vec![simulation(network, read, account, "latest")];
            calls.extend(opinion(network, read).filter(|_| account == Account::Contract));
            let mut answers = rpc.ask_many(calls).await?.into_iter();
            simulated = rpc.read_call(answers.next().expect("one answer per call"))?;
            thought = answers.next();
        }
        let signature_holds = match (account, thought) {
            // Whatever the payer's account is, its manager decides.
            _ if matches!(read.mandate, Mandate::Delegation(_)) => true,
            (Account::Plain, _) => matches!(read.judgement, Judgement::Payer(_)),
            // Its account decides when it is there: the simulation tells.
            (Account::Undeployed | Account::Unadopted, _) | (Account::Contract, None) => true,
            (Account::Contract, Some(opinion)) => says_yes(&rpc.read_call(opinion)?),
        };
        let (used, allowance) = read_states(network, read, states)?;
        let approval = match &read.approval {
            Some(approval) => Some(ApprovalView::read(network, approval, approvals)?),
            None => None,
        };
        let not_adoptable = match (&read.adoption, nonce) {
            (Some(brought), Some(nonce)) if account == Account::Unadopted => {
                brought.check(&code, adoption::nonce(rpc, nonce)?).err()
            }
            _ => None,
        };
        let delegate = delegate_of(&code);
        let simulation = simulated;
        let mut view = Self {
            head,
            account,
            delegate,
            signature_holds,
            balance,
            used,
            allowance,
            approval,
            not_adoptable,
            needs_registration: false,
            simulation,
            taken: None,
        };
        view.allow_for_idle_chain(network, read).await?;
        view.allow_for_registration(network, read).await?;
        Ok(view)
    }

    /// A node simulates with the newest block's time. On an idle chain that may lie before the
    /// authorization's start although the next block's will not: ask about the next block.
    async fn allow_for_idle_chain(
        &mut self,
        network: &EvmNetwork,
        read: &ReadPayment,
    ) -> Result<(), Unavailable> {
        let failed = matches!(self.simulation, Called::Failed(_));
        let early = read.mandate.begins_after(self.head.time());
        if failed && early && self.is_stale(network) && self.signature_holds {
            let call = simulation(network, read, self.account, "pending");
            self.simulation = network.rpc.read_call(network.rpc.ask(call).await?)?;
        }
        Ok(())
    }

    /// The account runs the code already that the payment would have it adopt. Its key may still have
    /// to be registered.
    async fn allow_for_registration(
        &mut self,
        network: &EvmNetwork,
        read: &ReadPayment,
    ) -> Result<(), Unavailable> {
        let brings = read.adoption.as_ref().is_some_and(Brought::registers);
        let failed = matches!(self.simulation, Called::Failed(_));
        if brings && failed && self.account == Account::Contract {
            let call = try_out(network, &plan_of(read, self.account, true), "latest");
            self.simulation = network.rpc.read_call(network.rpc.ask(call).await?)?;
            self.needs_registration = true;
        }
        Ok(())
    }

    /// What goes before the payment in its transaction.
    fn adoption<'a>(&self, read: &'a ReadPayment) -> Option<&'a Adoption> {
        let is_needed = self.account == Account::Unadopted || self.needs_registration;
        read.adoption.as_ref().filter(|_| is_needed).map(Brought::adoption)
    }

    /// What the payer will be delegated to (EIP-7702) when it pays.
    fn delegate_when_paying(&self, read: &ReadPayment) -> Option<Address> {
        self.adoption(read).map(Adoption::delegate).or(self.delegate)
    }

    fn is_stale(&self, network: &EvmNetwork) -> bool {
        self.head.time().saturating_add(HEAD_STALE_S) < network.clock.now().0
    }

    /// The time by which the authorization is judged.
    fn chain_time(&self, network: &EvmNetwork) -> UnixTime {
        match self.is_stale(network) {
            true => network.clock.now(),
            false => UnixTime(self.head.time()),
        }
    }

    /// What the chain shows, held against the payment.
    async fn judge(&self, network: &EvmNetwork, read: &ReadPayment) -> Result<(), Unverified> {
        let refuse = |refusal: Refusal| Refused::from(refusal).by(read.payer());
        if let Mandate::Delegation(delegation) = &read.mandate
            && !network.carries_out(delegation, self.delegate_when_paying(read))
        {
            return Err(self.manager_not_allowed(delegation).by(read.payer()).into());
        }
        if let Some(refused) = &self.not_adoptable {
            return Err(refused.clone().into());
        }
        if let Some(brought) = read.adoption.as_ref().filter(|_| self.adoption(read).is_some()) {
            let now = self.chain_time(network);
            brought.check_deadline(now, network.settings.margin_s())?;
        }
        match (&read.deployment, self.account) {
            // Without code and without a deployment that we would carry out.
            (Some(_), Account::Plain) => return Err(refuse(Refusal::FactoryNotAllowed).into()),
            // The proxy would be called by Multicall3, which is nobody's facilitator.
            (Some(_), Account::Undeployed) if read.is_metered() => {
                let message = "a wallet must be deployed before it can pay by upto";
                let refused = Refused::new(Refusal::DeploymentFailed, message).by(read.payer());
                return Err(refused.into());
            }
            _ => {}
        }
        if !self.signature_holds {
            return Err(self.bad_signature(read).into());
        }
        if self.balance.is_void() {
            return Err(refuse(Refusal::AssetNotDeployed).into());
        }
        let balance = self.balance.word().ok_or_else(|| silent(network))?;
        // A metered payment is to cover its ceiling until it is known what it costs.
        if balance < needed(read) {
            return Err(refuse(Refusal::InsufficientFunds).into());
        }
        if self.used.ok_or_else(|| silent(network))? {
            let head = self.head.number();
            return Err(already_used(network, read, head).await.by(read.payer()).into());
        }
        if self.is_allowance_short(read) && read.token_permit.is_none() {
            let (Some(approval), Some(view)) = (&read.approval, &self.approval) else {
                return Err(refuse(Refusal::Permit2AllowanceRequired).into());
            };
            if self.account != Account::Plain {
                let message = "only an account without code can sign its approval as a transaction";
                let refused = Refused::new(Refusal::ApprovalNotAllowed, message);
                return Err(refused.by(read.payer()).into());
            }
            return view.judge(network, read, approval, &self.head).map_err(Unverified::from);
        }
        if let Called::Failed(why) = &self.simulation {
            return Err(self.explain(network, read, why).await?.into());
        }
        Ok(())
    }

    /// What the payment is taken from, and what there is of it.
    fn backing(&self, plan: &Plan) -> Vec<Backing> {
        let held = |index: usize| match index {
            0 => self.balance.word(),
            // One that a permit sets first is for this payment alone.
            _ => self.allowance.filter(|_| plan.token_permit.is_none()),
        };
        let sources = plan.sources().into_iter().enumerate();
        let known = |(index, source)| Some(Backing { source, held: Amount::new(held(index)?) });
        sources.filter_map(known).collect()
    }

    /// Whether Permit2 may move less than the payment needs.
    fn is_allowance_short(&self, read: &ReadPayment) -> bool {
        self.allowance.is_some_and(|allowance| allowance < needed(read))
    }

    /// Whether the payer is to be sent the gas for its approval.
    fn is_gas_missing(&self, read: &ReadPayment) -> bool {
        let approval = read.approval.as_ref().zip(self.approval.as_ref());
        self.is_allowance_short(read)
            && approval.is_some_and(|(approval, view)| !view.missing(approval).is_zero())
    }

    /// What has to be done before the payment can be settled. Of one of which nothing is charged
    /// nothing is settled.
    fn prerequisite(&self, network: &EvmNetwork, read: &ReadPayment) -> Option<Prerequisite> {
        let (approval, view) = read.approval.as_ref().zip(self.approval.as_ref())?;
        let is_needed = self.is_allowance_short(read) && !read.charge.is_zero();
        is_needed.then(|| view.prerequisite(network, read, approval))
    }

    fn manager_not_allowed(&self, delegation: &Delegation) -> Refused {
        match self.delegate.filter(|_| delegation.manager == delegation.delegator) {
            Some(delegate) => Refused::new(
                Refusal::ManagerNotAllowed,
                format!(
                    "the payer's account is delegated (EIP-7702) to {delegate}, which is not one that \
                     this facilitator calls"
                ),
            ),
            None => Refusal::ManagerNotAllowed.into(),
        }
    }

    fn bad_signature(&self, read: &ReadPayment) -> Refused {
        let refused = match self.delegate {
            Some(delegate) => Refused::new(
                read.bad_signature(),
                format!(
                    "the payer is delegated (EIP-7702) to {delegate}, which rejected the signature"
                ),
            ),
            None => read.bad_signature().into(),
        };
        refused.by(read.payer())
    }

    /// Why the simulation failed, as far as a second look can tell.
    async fn explain(
        &self,
        network: &EvmNetwork,
        read: &ReadPayment,
        why: &str,
    ) -> Result<Refused, Unavailable> {
        if self.account == Account::Undeployed && !deploys(network, read).await? {
            return Ok(Refused::from(Refusal::DeploymentFailed).by(read.payer()));
        }
        if let Some(brought) = read.adoption.as_ref().filter(|_| self.adoption(read).is_some())
            && let Some(refused) = brought.registration_problem(network).await?
        {
            return Ok(refused);
        }
        let refusal = match read.mandate {
            Mandate::Authorization(_) => Refusal::SimulationFailed,
            Mandate::Permit(_) => Refusal::PermitSimulationFailed,
            Mandate::Delegation(_) => Refusal::DelegationSimulationFailed,
        };
        let is_by_delegate = refusal == Refusal::DelegationSimulationFailed;
        let message = match self.delegate_when_paying(read).filter(|_| is_by_delegate) {
            Some(delegate) => format!(
                "the payer's account, delegated (EIP-7702) to {delegate}, does not let the payment \
                 through: {why}"
            ),
            None => format!("the transfer fails when it is simulated: {why}"),
        };
        Ok(Refused::new(refusal, message).by(read.payer()))
    }
}

fn silent(network: &EvmNetwork) -> Unavailable {
    network.rpc.unavailable("the token does not answer")
}

/// What the payer must have: what is to move, or may still be asked for.
fn needed(read: &ReadPayment) -> U256 {
    if read.charge.is_zero() { read.mandate.ceiling() } else { read.charge }
}

/// The nonce is used: by a cancellation, or by a transaction. Which one is told if it is easy to
/// find; to look further would let anybody who repeats an old payment have us ask a lot.
async fn already_used(network: &EvmNetwork, read: &ReadPayment, head: u64) -> Refused {
    let used = match read.mandate {
        Mandate::Permit(_) => Refusal::PermitNonceUsed,
        Mandate::Authorization(_) | Mandate::Delegation(_) => Refusal::NonceAlreadyUsed,
    };
    let delegate = read.adoption.as_ref().map(|brought| brought.adoption().delegate());
    let subject = Subject { token: read.token, mandate: &read.mandate, delegate };
    match find_recent_use(&network.rpc, &subject, head).await {
        Some(Sighting::Cancelled { .. }) => Refusal::AuthorizationCanceled.into(),
        Some(Sighting::Used { transaction, .. }) => {
            Refused::from(used).with_transaction(transaction.to_string())
        }
        Some(Sighting::UsedUnseen { .. } | Sighting::Unused { .. }) | None => used.into(),
    }
}

/// The questions whether the chain took the mandate before, and whether Permit2 may move enough.
fn state_calls(read: &ReadPayment) -> Vec<Call> {
    match &read.mandate {
        Mandate::Authorization(authorization) => {
            let call = Eip3009::authorizationStateCall {
                authorizer: authorization.from,
                nonce: authorization.nonce,
            };
            vec![Call::view(read.token, call.abi_encode())]
        }
        Mandate::Permit(permit) => {
            let (word, _) = nonce_position(permit.nonce);
            let bitmap = Permit2::nonceBitmapCall { owner: permit.from, word };
            let allowance = Erc20::allowanceCall { owner: permit.from, spender: PERMIT2 };
            vec![
                Call::view(PERMIT2, bitmap.abi_encode()),
                Call::view(read.token, allowance.abi_encode()),
            ]
        }
        Mandate::Delegation(Delegation { delegator, agent: Some(agent), .. }) => {
            let call = AgentAccount::isNonceUsedCall { key: agent.key, nonce: agent.nonce };
            let call = Call::view(*delegator, call.abi_encode());
            vec![match &read.adoption {
                Some(brought) => brought.adoption().on_its_code(*delegator, call),
                None => call,
            }]
        }
        Mandate::Delegation(_) => Vec::new(),
    }
}

fn read_states(
    network: &EvmNetwork,
    read: &ReadPayment,
    answers: Vec<Answer>,
) -> Result<(Option<bool>, Option<U256>), Unavailable> {
    let mut words = Vec::with_capacity(answers.len());
    for answer in answers {
        words.push(network.rpc.read_call(answer)?.word());
    }
    Ok(match (&read.mandate, words.as_slice()) {
        (Mandate::Authorization(_), [state]) => (state.map(|state| !state.is_zero()), None),
        (Mandate::Permit(permit), [bitmap, allowance]) => {
            let (_, bit) = nonce_position(permit.nonce);
            // A token that does not tell allows nothing.
            (bitmap.map(|bitmap| bitmap.bit(bit)), Some(allowance.unwrap_or_default()))
        }
        // A node that does not take the code along would call an account without code, which works.
        (Mandate::Delegation(_), [None]) if read.adoption.is_some() => {
            let problem = "the node cannot simulate an account with code that it does not have yet";
            return Err(network.rpc.unavailable(problem));
        }
        // An account of another code does not answer; the simulation tells what it does instead.
        (Mandate::Delegation(_), [used]) => (Some(used.is_some_and(|used| !used.is_zero())), None),
        // Nothing on the chain tells; that it is settled once is by our own journal.
        _ => (Some(false), None),
    })
}

/// The call that will settle, as our signer will send it, with the gas that we are ready to spend.
fn simulation(network: &EvmNetwork, read: &ReadPayment, account: Account, block: &str) -> Call {
    try_out(network, &plan_of(read, account, account == Account::Unadopted), block)
}

/// What is tried: the payment as it will be settled, after what it brings along where it `adopts`.
fn plan_of(read: &ReadPayment, account: Account, adopts: bool) -> Plan {
    Plan {
        token: read.token,
        mandate: read.mandate,
        // Nothing is sent for a charge of zero, and the contracts refuse it: the ceiling is tried.
        charge: needed(read),
        signature: read.signature.clone(),
        account,
        deployment: read.deployment.clone(),
        token_permit: read.token_permit.clone(),
        adoption: read.adoption.as_ref().filter(|_| adopts).map(Brought::adoption).cloned(),
    }
}

/// What [`simulation`] did.
fn read_simulation(
    network: &EvmNetwork,
    read: &ReadPayment,
    answer: Answer,
) -> Result<Called, Unavailable> {
    let called = network.rpc.read_call(answer)?;
    match read.mandate {
        Mandate::Delegation(delegation) if read.mandate.is_foreign() => {
            trial::read(network, &delegation, called)
        }
        _ => Ok(called),
    }
}

fn try_out(network: &EvmNetwork, plan: &Plan, block: &str) -> Call {
    let account = plan.account;
    let (target, calldata) = plan.call(account);
    if let Mandate::Delegation(delegation) = &plan.mandate
        && plan.mandate.is_foreign()
    {
        return trial::call(network, plan.token, delegation, calldata);
    }
    let sender = plan.sender().unwrap_or_else(|| network.first_signer());
    let gas_max = plan.gas_max(&network.settings, account);
    plan.as_it_will_be(account, Call::simulate((sender, target), calldata, gas_max, block))
}

/// What the payer's account thinks of the signature (EIP-1271), within the gas cap. Of a delegation
/// its manager thinks, when it is simulated.
fn opinion(network: &EvmNetwork, read: &ReadPayment) -> Option<Call> {
    if matches!(read.mandate, Mandate::Delegation(_)) {
        return None;
    }
    let call = Eip1271::isValidSignatureCall {
        digest: read.digest,
        signature: Bytes::copy_from_slice(read.signature.expose()),
    };
    let route = (network.first_signer(), read.mandate.payer());
    Some(Call::simulate(route, call.abi_encode(), network.settings.gas_limit_max, "latest"))
}

/// Whether the deployment alone works, and makes an account at the payer's address.
async fn deploys(network: &EvmNetwork, read: &ReadPayment) -> Result<bool, Unavailable> {
    use crate::contracts::{Call3, Multicall3};
    let Some(deployment) = &read.deployment else { return Ok(false) };
    let probe = Eip1271::isValidSignatureCall {
        digest: read.digest,
        signature: Bytes::copy_from_slice(read.signature.expose()),
    };
    let calls = vec![
        Call3 {
            target: deployment.factory,
            allowFailure: false,
            callData: deployment.calldata.clone(),
        },
        // An account answers; an address without code returns nothing.
        Call3 {
            target: read.mandate.payer(),
            allowFailure: true,
            callData: probe.abi_encode().into(),
        },
    ];
    let data = Multicall3::aggregate3Call { calls }.abi_encode();
    let route = (network.first_signer(), super::plan::MULTICALL3);
    let gas = network.settings.gas_limit_max.saturating_add(DEPLOYMENT_GAS_MAX);
    let call = Call::simulate(route, data, gas, "latest");
    let Called::Returned(bytes) = network.rpc.read_call(network.rpc.ask(call).await?)? else {
        return Ok(false);
    };
    let results = Multicall3::aggregate3Call::abi_decode_returns(&bytes).unwrap_or_default();
    Ok(results.get(1).is_some_and(|probed| !probed.success || !probed.returnData.is_empty()))
}

fn says_yes(opinion: &Called) -> bool {
    opinion.word().is_some_and(|word| word.to_be_bytes::<32>()[..4] == EIP1271_YES)
}
