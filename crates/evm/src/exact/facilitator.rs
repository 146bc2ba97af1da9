//! The facilitator's side of `exact`: every check of the protocol, in its order.
//!
//! What needs no chain comes first. Then everything that the chain has to say is asked in one
//! round trip: the head, the payer's code, its balance, the nonce, and a simulation of the very
//! call that will settle, sent as we will send it. A second round trip is made only for an account
//! with code whose signature looks like a plain account's.

use alloy::primitives::{Bytes, U256};
use alloy::sol_types::SolCall as _;
use pay402_core::error::Unavailable;
use pay402_core::network::{Identified, Unverified, Verified};
use pay402_core::time::UnixTime;
use pay402_core::{Payment, Refusal, Refused};

use super::ReadPayment;
use crate::contracts::{Eip1271, Eip3009};
use crate::network::EvmNetwork;
use crate::network::plan::{Account, Plan};
use crate::network::status::{Sighting, find_recent_use};
use crate::rpc::{Block, Call, Called};
use crate::signature::Judgement;

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
    let view = View::look(network, &read).await?;
    let refuse = |refusal: Refusal| Refused::from(refusal).by(read.payer());

    read.check_times(view.chain_time(network), network.settings.margin_s())?;
    if !view.signature_holds {
        return Err(refuse(Refusal::InvalidSignature).into());
    }
    if view.balance.is_void() {
        return Err(refuse(Refusal::AssetNotDeployed).into());
    }
    let balance = view.balance.word().ok_or_else(|| silent(network))?;
    if balance < read.payload.authorization.value {
        return Err(refuse(Refusal::InsufficientFunds).into());
    }
    if !view.used.word().ok_or_else(|| silent(network))?.is_zero() {
        let head = view.head.number();
        return Err(already_used(network, &read, head).await.by(read.payer()).into());
    }
    if let Called::Failed(why) = view.simulation {
        let message = format!("the transfer fails when it is simulated: {why}");
        return Err(Refused::new(Refusal::SimulationFailed, message).by(read.payer()).into());
    }

    let authorization = read.payload.authorization;
    let (fingerprint, payer) = (read.fingerprint(payment.terms()), read.payer());
    let plan = Plan {
        token: read.token,
        authorization,
        signature: read.payload.signature,
        account: view.account,
    };
    let expires = UnixTime(authorization.valid_before.saturating_to());
    let amount = payment.terms().amount;
    Ok(Verified::attest(read.key, fingerprint, payer, amount, expires, plan.encode()))
}

/// All that needs no chain.
fn read(network: &EvmNetwork, payment: &Payment) -> Result<ReadPayment, Refused> {
    if payment.terms().network != network.id {
        return Err(Refusal::InvalidNetwork.into());
    }
    let read = ReadPayment::read(payment, &network.assets)?;
    read.refuse_malleated()?;
    Ok(read)
}

fn silent(network: &EvmNetwork) -> Unavailable {
    network.rpc.unavailable("the token does not answer")
}

/// The nonce is used: by a cancellation, or by a transaction. Which one is told if it is easy to
/// find; to look further would let anybody who repeats an old payment have us ask a lot.
async fn already_used(network: &EvmNetwork, read: &ReadPayment, head: u64) -> Refused {
    let authorization = &read.payload.authorization;
    match find_recent_use(&network.rpc, read.token, authorization, head).await {
        Some(Sighting::Cancelled { .. }) => Refusal::AuthorizationCanceled.into(),
        Some(Sighting::Used { transaction, .. }) => {
            Refused::from(Refusal::NonceAlreadyUsed).with_transaction(transaction.to_string())
        }
        Some(Sighting::UsedUnseen | Sighting::Unused { .. }) | None => {
            Refusal::NonceAlreadyUsed.into()
        }
    }
}

/// What the chain shows of a payment.
struct View {
    head: Block,
    account: Account,
    signature_holds: bool,
    balance: Called,
    used: Called,
    simulation: Called,
}

impl View {
    async fn look(network: &EvmNetwork, read: &ReadPayment) -> Result<Self, Unavailable> {
        let rpc = &network.rpc;
        let authorization = &read.payload.authorization;
        let payer = authorization.from;
        // A signature of the payer's own key is a plain account's, most likely.
        let guess = match read.judgement {
            Judgement::Payer(_) => Account::Plain,
            Judgement::Malleated | Judgement::Undecided => Account::Contract,
        };
        let balance = Eip3009::balanceOfCall { account: payer };
        let state =
            Eip3009::authorizationStateCall { authorizer: payer, nonce: authorization.nonce };
        let mut calls = vec![
            Call::head(),
            Call::code(payer),
            Call::view(read.token, balance.abi_encode()),
            Call::view(read.token, state.abi_encode()),
            simulation(network, read, guess, "latest"),
        ];
        if guess == Account::Contract {
            calls.push(opinion(network, read));
        }
        let mut answers = rpc.ask_many(calls).await?.into_iter();
        let mut next = || answers.next().expect("one answer per call");

        let head: Block = rpc.read(next())?;
        let code = rpc.read_bytes(next())?;
        let account = if code.is_empty() { Account::Plain } else { Account::Contract };
        let (balance, used) = (rpc.read_call(next())?, rpc.read_call(next())?);
        let mut simulated = rpc.read_call(next())?;
        let signature_holds = match (account, guess) {
            (Account::Plain, guess) => guess == Account::Plain,
            (Account::Contract, Account::Contract) => says_yes(&rpc.read_call(next())?),
            // The account has code after all; its own key's signature no longer decides.
            (Account::Contract, Account::Plain) => {
                let again = simulation(network, read, Account::Contract, "latest");
                let [again, opinion] = rpc.ask_all([again, opinion(network, read)]).await?;
                simulated = rpc.read_call(again)?;
                says_yes(&rpc.read_call(opinion)?)
            }
        };
        let simulation = simulated;
        let mut view = Self { head, account, signature_holds, balance, used, simulation };
        view.allow_for_idle_chain(network, read).await?;
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
        let early = U256::from(self.head.time()) <= read.payload.authorization.valid_after;
        if failed && early && self.is_stale(network) && self.signature_holds {
            let call = simulation(network, read, self.account, "pending");
            self.simulation = network.rpc.read_call(network.rpc.ask(call).await?)?;
        }
        Ok(())
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
}

/// The call that will settle, as our signer will send it, with the gas that we are ready to spend.
fn simulation(network: &EvmNetwork, read: &ReadPayment, account: Account, block: &str) -> Call {
    let plan = Plan {
        token: read.token,
        authorization: read.payload.authorization,
        signature: read.payload.signature.clone(),
        account,
    };
    let route = (network.first_signer(), read.token);
    Call::simulate(route, plan.calldata(account), network.settings.gas_limit_max, block)
}

/// What the payer's account thinks of the signature (EIP-1271), within the gas cap.
fn opinion(network: &EvmNetwork, read: &ReadPayment) -> Call {
    let call = Eip1271::isValidSignatureCall {
        digest: read.digest,
        signature: Bytes::copy_from_slice(read.payload.signature.expose()),
    };
    let route = (network.first_signer(), read.payload.authorization.from);
    Call::simulate(route, call.abi_encode(), network.settings.gas_limit_max, "latest")
}

fn says_yes(opinion: &Called) -> bool {
    opinion.word().is_some_and(|word| word.to_be_bytes::<32>()[..4] == EIP1271_YES)
}
