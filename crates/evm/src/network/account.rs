//! What is sent for accounts at our cost: adopting code (EIP-7702), and operations of `AgentAccount`
//! that its root signed.
//!
//! **Invariant:** nothing is sent that the chain would skip or revert as far as can be seen before:
//! the authorization is this account's, for this chain alone and for the account's next nonce, the
//! delegate is one that the operator named, and the call is a root operation that works when it is
//! simulated. A skipped authorization still leaves a transaction with status 1, so "done" is read
//! from the account's code at the block and from the operation's own events.

use alloy::eips::eip7702::{Authorization, SignedAuthorization};
use alloy::primitives::{Address, B256, Bytes, Signature, U64, U256, keccak256};
use alloy::sol_types::{SolCall, SolEvent as _, SolStruct};
use pay402_core::error::{Malformed, Unavailable};
use pay402_core::network::{ChainStatus, Errand, Identified, SentAs, Unverified};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, PaymentKey, Refusal, Refused};
use serde_json::{Map, Value, json};

use super::errand::AccountErrand;
use super::sight::LOG_SPANS_BLOCKS;
use super::status::{Mined, is_past, mined, proven_by, time};
use super::submit::{NoGas, estimate, gas_limit_that_works};
use super::{EvmNetwork, errors};
use crate::account::Contract as AgentAccount;
use crate::address::canonical;
use crate::fields::Fields;
use crate::rpc::{Block, Call, Called, Log, Receipt};
use crate::signature::Ecdsa;

/// What the code of an account begins with that delegated itself (EIP-7702); the delegate follows.
pub(crate) const EIP7702_PREFIX: [u8; 3] = [0xef, 0x01, 0x00];
/// Longest call that is sent for an account, in bytes: eight sessions with every payee and token.
pub const CALL_BYTES_MAX: usize = 32 * 1024;
/// Longest that adopting may wait to be sent, in seconds. An authorization itself has no end.
const ADOPTION_PATIENCE_S: u64 = 24 * 60 * 60;
/// Longest that an operation may wait to be sent, in seconds, whatever deadline its root signed.
const OPERATION_PATIENCE_S: u64 = 60 * 60;
/// Fields of a request.
const FIELDS: [&str; 3] = ["account", "authorization", "call"];

/// A request as it was read.
#[derive(Clone, Debug)]
pub(crate) struct AccountRequest {
    pub(crate) account: Address,
    pub(crate) authorization: Option<SignedAuthorization>,
    pub(crate) call: Option<Bytes>,
}

impl AccountRequest {
    /// Reads `request` strictly.
    ///
    /// # Errors
    /// The field that is wrong.
    pub(crate) fn parse(request: &Map<String, Value>) -> Result<Self, Malformed> {
        let fields = Fields::new(request, "");
        if let Some(unknown) = request.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            let name: String = unknown.chars().take(32).collect();
            return Err(Malformed::new(
                name,
                "is not known; there is account, authorization, call",
            ));
        }
        let account = fields.address("account")?;
        let (authorization, call) = read_parts(request, &fields)?;
        if authorization.is_none() && call.is_none() {
            return Err(Malformed::new("call", "is missing, and so is authorization; send either"));
        }
        Ok(Self { account, authorization, call })
    }

    /// Reads what a payment from `account` brings along, found at `path` of its message.
    ///
    /// # Errors
    /// The field that is wrong.
    pub(super) fn brought(
        info: &Map<String, Value>,
        path: String,
        account: Address,
    ) -> Result<Self, Malformed> {
        let (authorization, call) = read_parts(info, &Fields::new(info, path))?;
        Ok(Self { account, authorization, call })
    }

    pub(super) fn refused(&self, refusal: Refusal, message: impl Into<String>) -> Refused {
        Refused::new(refusal, message).by(self.account.to_checksum(None))
    }

    /// All that needs no chain.
    pub(super) fn check(&self, network: &EvmNetwork) -> Result<Option<Operation>, Refused> {
        let by = |refusal: Refusal| Refused::from(refusal).by(self.account.to_checksum(None));
        if !network.settings.sponsoring.adoptions {
            return Err(by(Refusal::SponsoringNotOffered));
        }
        if network.sends_from(&self.account) {
            let message = "this account sends the facilitator's own transactions";
            return Err(self.refused(Refusal::AdoptionInvalid, message));
        }
        if let Some(authorization) = &self.authorization {
            self.check_authorization(network, authorization)?;
        }
        let operation = self.call.as_ref().map(Operation::decode);
        match operation {
            Some(None) => Err(by(Refusal::OperationNotAllowed)),
            Some(operation) => Ok(operation),
            None => Ok(None),
        }
    }

    fn check_authorization(
        &self,
        network: &EvmNetwork,
        authorization: &SignedAuthorization,
    ) -> Result<(), Refused> {
        let invalid = |message: &str| Err(self.refused(Refusal::AdoptionInvalid, message));
        // Zero would be good on every chain, and be taken there by anybody.
        if authorization.chain_id != U256::from(network.chain_id) {
            return invalid(&format!("the authorization's chainId must be {}", network.chain_id));
        }
        if !network.settings.delegates.contains(&authorization.address) {
            return Err(self.refused(
                Refusal::DelegateNotAllowed,
                format!("{} is not code that this facilitator sponsors", authorization.address),
            ));
        }
        let signature = Ecdsa::from(Signature::new(
            authorization.r(),
            authorization.s(),
            authorization.y_parity() == 1,
        ));
        if !signature.is_low() {
            return invalid("the authorization's s must be in the lower half of the curve's order");
        }
        if signature.recover(&authorization.signature_hash()) != Some(self.account) {
            return invalid("the authorization is signed by another key than the account's");
        }
        Ok(())
    }

    /// Which request it is. An authorization can be used once; a call is known by its bytes, since
    /// what its root signed is good once too.
    fn key(&self, network: &EvmNetwork) -> PaymentKey {
        let account = canonical(&self.account);
        let call = self.call.as_ref().map(keccak256);
        match (&self.authorization, call) {
            (Some(authorization), None) => {
                PaymentKey::new(&network.id, "adopt", &account, &authorization.nonce.to_string())
            }
            (Some(authorization), Some(call)) => {
                let name = format!("{}/{call}", authorization.nonce);
                PaymentKey::new(&network.id, "adopt", &account, &name)
            }
            (None, call) => {
                let name = call.unwrap_or_default().to_string();
                PaymentKey::new(&network.id, "operate", &account, &name)
            }
        }
    }

    fn fingerprint(&self) -> Digest {
        let authorization = self.authorization.as_ref();
        let hash = authorization.map(|signed| signed.signature_hash()).unwrap_or_default();
        let call = self.call.as_ref().map(keccak256).unwrap_or_default();
        Digest::of(&[b"account", self.account.as_slice(), hash.as_slice(), call.as_slice()])
    }
}

/// Reads what is to be adopted and done; either may be missing.
fn read_parts(
    request: &Map<String, Value>,
    fields: &Fields<'_>,
) -> Result<(Option<SignedAuthorization>, Option<Bytes>), Malformed> {
    let authorization = match request.get("authorization") {
        None | Some(Value::Null) => None,
        Some(_) => Some(read_authorization(&fields.object("authorization")?)?),
    };
    let call = match request.get("call") {
        None | Some(Value::Null) => None,
        Some(_) => Some(fields.bytes("call", CALL_BYTES_MAX)?).filter(|call| !call.is_empty()),
    };
    Ok((authorization, call))
}

fn read_authorization(fields: &Fields<'_>) -> Result<SignedAuthorization, Malformed> {
    let inner = Authorization {
        chain_id: fields.quantity("chainId")?,
        address: fields.address("address")?,
        nonce: fields.quantity_u64("nonce")?,
    };
    let parity = fields.quantity_u64("yParity")?;
    let parity = u8::try_from(parity).ok().filter(|parity| *parity <= 1);
    let parity = parity.ok_or_else(|| fields.bad("yParity", "must be 0 or 1"))?;
    let (r, s) = (fields.word("r")?, fields.word("s")?);
    Ok(SignedAuthorization::new_unchecked(inner, parity, r.into(), s.into()))
}

/// An operation of the account's root: what is asked of the account, and what shows that it was done.
pub(crate) enum Operation {
    Register { keys: Vec<Address>, policies: Vec<B256>, epoch: u64, deadline: u64 },
    Revoke { key: Address, epoch: u64, deadline: u64 },
    RevokeAll { epoch: u64, deadline: u64 },
}

impl Operation {
    /// Reads a call; `None` for one that is no operation of the root, or says more than one.
    pub(crate) fn decode(call: &Bytes) -> Option<Self> {
        match *call.first_chunk::<4>()? {
            AgentAccount::registerSessionsCall::SELECTOR => {
                let read = whole::<AgentAccount::registerSessionsCall>(call)?;
                let keys = read.sessions.iter().map(|session| session.key).collect();
                let policies = read.sessions.iter().map(SolStruct::eip712_hash_struct).collect();
                let (epoch, deadline) = (read.epoch, read.deadline.to());
                Some(Self::Register { keys, policies, epoch, deadline })
            }
            AgentAccount::revokeSessionCall::SELECTOR => {
                let read = whole::<AgentAccount::revokeSessionCall>(call)?;
                let deadline = read.deadline.to();
                Some(Self::Revoke { key: read.key, epoch: read.epoch, deadline })
            }
            AgentAccount::revokeAllCall::SELECTOR => {
                let read = whole::<AgentAccount::revokeAllCall>(call)?;
                Some(Self::RevokeAll { epoch: read.epoch, deadline: read.deadline.to() })
            }
            _ => None,
        }
    }

    const fn deadline(&self) -> u64 {
        match self {
            Self::Register { deadline, .. }
            | Self::Revoke { deadline, .. }
            | Self::RevokeAll { deadline, .. } => *deadline,
        }
    }

    /// The topics of the events by which `AgentAccount` says that it was done.
    fn topics(&self) -> Vec<Vec<B256>> {
        let word = |epoch: u64| B256::from(U256::from(epoch));
        match self {
            Self::Register { keys, epoch, .. } => {
                let registered = AgentAccount::SessionRegistered::SIGNATURE_HASH;
                keys.iter().map(|key| vec![registered, key.into_word(), word(*epoch)]).collect()
            }
            Self::Revoke { key, epoch, .. } => {
                let revoked = AgentAccount::SessionRevoked::SIGNATURE_HASH;
                vec![vec![revoked, key.into_word(), word(*epoch)]]
            }
            Self::RevokeAll { epoch, .. } => {
                let all = AgentAccount::AllRevoked::SIGNATURE_HASH;
                vec![vec![all, word(epoch.saturating_add(1))]]
            }
        }
    }

    /// Looks for where somebody else had the account do it, shortly before the end of `block`: whoever
    /// sees what the root signed can send it first. Gives the transaction and its block.
    async fn done_by_another(
        &self,
        network: &EvmNetwork,
        account: Address,
        block: u64,
    ) -> Result<Option<(B256, u64)>, Unavailable> {
        let rpc = &network.rpc;
        let queries = self.topics().into_iter().map(|topics| {
            let filter = json!({
                "address": account,
                "fromBlock": U64::from(block.saturating_sub(LOG_SPANS_BLOCKS[1])),
                "toBlock": U64::from(block),
                "topics": topics,
            });
            Call::new("eth_getLogs", json!([filter]))
        });
        let mut found = None;
        for (index, answer) in rpc.ask_many(queries.collect()).await?.into_iter().enumerate() {
            let logs: Vec<Log> = rpc.read(answer)?;
            // A key has one policy in an epoch: the log says which.
            let is_it = |log: &&Log| match self {
                Self::Register { policies, .. } => log.data.as_ref() == policies[index].as_slice(),
                Self::Revoke { .. } | Self::RevokeAll { .. } => true,
            };
            let Some(log) = logs.iter().rev().find(is_it) else { return Ok(None) };
            found = log.transaction_hash.zip(log.block());
        }
        Ok(found)
    }

    /// Whether the account said in this transaction that it was done.
    fn is_shown_by(&self, receipt: &Receipt, account: Address) -> bool {
        let said = |topics: &Vec<B256>| {
            receipt.logs.iter().any(|log| log.address == account && log.topics == *topics)
        };
        receipt.succeeded() && self.topics().iter().all(said)
    }
}

/// A call that its ABI encoding says in full: nothing else, and nothing behind it.
fn whole<C: SolCall>(call: &Bytes) -> Option<C> {
    C::abi_decode_validate(call).ok().filter(|read| read.abi_encode() == call.as_ref())
}

pub(super) fn identify(
    network: &EvmNetwork,
    request: &Map<String, Value>,
) -> Result<Identified, Refused> {
    let request = parse(request)?;
    request.check(network)?;
    Ok(Identified {
        key: request.key(network),
        fingerprint: request.fingerprint(),
        payer: request.account.to_checksum(None),
    })
}

fn parse(request: &Map<String, Value>) -> Result<AccountRequest, Refused> {
    AccountRequest::parse(request)
        .map_err(|error| Refused::new(Refusal::InvalidPayload, error.to_string()))
}

pub(super) async fn check(
    network: &EvmNetwork,
    request: &Map<String, Value>,
) -> Result<Option<Errand>, Unverified> {
    let request = parse(request)?;
    let operation = request.check(network)?;
    let (time, view) = View::look(network, &request).await?;
    let (delegate, authorization) = match &request.authorization {
        None => (view.delegate_that_runs(network, &request)?, None),
        Some(authorization) => match view.adoption(&request)? {
            Adopting::Done if request.call.is_none() => return Ok(None),
            Adopting::Done => (authorization.address, None),
            Adopting::Needed => (authorization.address, Some(authorization.clone())),
        },
    };
    let now = time.max(network.clock.now());
    let expires = match &operation {
        None => now.plus_s(ADOPTION_PATIENCE_S),
        Some(operation) if operation.deadline() <= now.0 => {
            return Err(request
                .refused(Refusal::OperationFailed, "its deadline has passed")
                .into());
        }
        Some(operation) => {
            UnixTime(operation.deadline().min(now.plus_s(OPERATION_PATIENCE_S).0).saturating_add(1))
        }
    };
    let errand = AccountErrand {
        account: request.account,
        delegate,
        authorization,
        call: request.call.clone().unwrap_or_default(),
        expires: expires.0,
    };
    simulate(network, &request, &errand).await?;
    Ok(Some(Errand {
        key: request.key(network),
        fingerprint: request.fingerprint(),
        account: request.account.to_checksum(None),
        expires,
        plan: errand.encode(),
        daily_max: Some(network.settings.sponsoring.operations_per_account_max),
    }))
}

/// What the chain shows of an account.
pub(super) struct View {
    nonce: u64,
    /// Whether it has code that is no delegation.
    is_contract: bool,
    delegate: Option<Address>,
}

/// Whether an account has yet to adopt what it authorized.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Adopting {
    /// It runs that code already.
    Done,
    /// It does not, and the authorization is good.
    Needed,
}

impl View {
    /// An account with this code and next nonce.
    pub(super) fn of(code: &[u8], nonce: u64) -> Self {
        let delegate = delegate_of(code);
        Self { nonce, is_contract: !code.is_empty() && delegate.is_none(), delegate }
    }

    async fn look(
        network: &EvmNetwork,
        request: &AccountRequest,
    ) -> Result<(UnixTime, Self), Unavailable> {
        let rpc = &network.rpc;
        let account = request.account;
        let [head, code, nonce] =
            rpc.ask_all([Call::head(), Call::code(account), Call::mined_nonces(account)]).await?;
        let head: Block = rpc.read(head)?;
        let nonce: U64 = rpc.read(nonce)?;
        Ok((UnixTime(head.time()), Self::of(&rpc.read_bytes(code)?, nonce.to())))
    }

    /// The code that an account runs which adopts nothing.
    fn delegate_that_runs(
        &self,
        network: &EvmNetwork,
        request: &AccountRequest,
    ) -> Result<Address, Refused> {
        let delegate = self.delegate.ok_or_else(|| {
            Refused::from(Refusal::AccountNotAdopted).by(request.account.to_checksum(None))
        })?;
        if !network.settings.delegates.contains(&delegate) {
            return Err(request.refused(
                Refusal::DelegateNotAllowed,
                format!("the account runs {delegate}, which this facilitator does not sponsor"),
            ));
        }
        Ok(delegate)
    }

    /// Whether the request's authorization is still needed.
    ///
    /// # Errors
    /// The refusal of one that the chain would skip.
    pub(super) fn adoption(&self, request: &AccountRequest) -> Result<Adopting, Refused> {
        let Some(authorization) = &request.authorization else { return Ok(Adopting::Done) };
        if self.is_contract {
            let message = "the account is a contract, which can adopt nothing";
            return Err(request.refused(Refusal::AdoptionInvalid, message));
        }
        if self.delegate == Some(authorization.address) {
            return Ok(Adopting::Done);
        }
        if authorization.nonce != self.nonce {
            let message =
                format!("the authorization's nonce must be the account's next, {}", self.nonce);
            return Err(request.refused(Refusal::AdoptionInvalid, message));
        }
        Ok(Adopting::Needed)
    }
}

/// The same question about the account as if it had adopted `delegate`.
pub(super) fn on_code(account: Address, delegate: Address, call: Call) -> Call {
    let code = Bytes::from([&EIP7702_PREFIX[..], delegate.as_slice()].concat());
    let account = account.to_string();
    call.overriding(json!({ account: { "code": code } }))
}

/// What an account with this code delegated itself to.
pub(crate) fn delegate_of(code: &[u8]) -> Option<Address> {
    code.strip_prefix(&EIP7702_PREFIX).and_then(|rest| rest.try_into().ok())
}

/// Runs the call as it will be sent, on the account with its new code, within the gas cap.
async fn simulate(
    network: &EvmNetwork,
    request: &AccountRequest,
    errand: &AccountErrand,
) -> Result<(), Unverified> {
    let rpc = &network.rpc;
    let failed = |message: String| -> Unverified {
        request.refused(Refusal::OperationFailed, message).into()
    };
    let mut calls = vec![errand.estimate(network, network.first_signer())];
    if !errand.call.is_empty() {
        let gas = network.settings.gas_limit_max;
        let route = (network.first_signer(), errand.account);
        calls.push(errand.on_its_code(Call::simulate(route, errand.call.to_vec(), gas, "latest")));
        // A node that does not take the code along would simulate a call of nothing, which works.
        let epoch = AgentAccount::epochCall {}.abi_encode();
        calls.push(errand.on_its_code(Call::view(errand.account, epoch)));
    }
    let mut answers = rpc.ask_many(calls).await?.into_iter();
    let gas = answers.next().expect("one answer per call");
    if let (Some(simulated), Some(epoch)) = (answers.next(), answers.next()) {
        if rpc.read_call(epoch)?.word().is_none() {
            let problem = "the node cannot simulate an account with code that it does not have yet";
            return Err(rpc.unavailable(problem).into());
        }
        if let Called::Failed(why) = rpc.read_call(simulated)? {
            return Err(failed(format!("the operation fails when it is simulated: {why}")));
        }
    }
    let limits = (u64::from(errand.authorization.is_some()), network.settings.gas_limit_max);
    match gas_limit_that_works(network, gas, limits) {
        Ok(_) => Ok(()),
        Err(NoGas::Fails(why)) => Err(failed(format!("the transaction would fail: {why}"))),
        Err(NoGas::TooMuch) => Err(failed("it needs more gas than this facilitator pays".into())),
        Err(NoGas::Unknown(error)) => Err(error.into()),
    }
}

impl AccountErrand {
    /// What estimates its gas when `sender` sends it.
    pub(super) fn estimate(&self, network: &EvmNetwork, sender: Address) -> Call {
        let max = network.settings.gas_limit_max;
        self.on_its_code(estimate(sender, self.account, &self.call, max))
    }

    /// The same question about the account with the code that it is about to adopt.
    fn on_its_code(&self, call: Call) -> Call {
        match self.authorization {
            Some(_) => on_code(self.account, self.delegate, call),
            None => call,
        }
    }

    /// Where it stands.
    pub(super) async fn status(
        &self,
        network: &EvmNetwork,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        let (receipt, fee) = match mined(network, sent, network.settings.least()).await? {
            Mined::Deep(receipt) => {
                let fee = Amount::new(receipt.fee());
                (receipt, fee)
            }
            Mined::Shallow { transaction } => return Ok(ChainStatus::Shallow { transaction }),
            Mined::Reorganized => {
                return Ok(ChainStatus::Open { expired: false, displaced: false });
            }
            // Not even signed, so that it cost nothing. What was signed is seen through.
            Mined::No { head, .. } if sent.is_none() && is_past(self.expires, time(&head)) => {
                let (refusal, message) = match self.call.is_empty() {
                    true => (Refusal::AdoptionNotEffective, "the adoption was not sent in time"),
                    false => (Refusal::OperationFailed, "the operation was not sent in time"),
                };
                let refused = Refused::new(refusal, message);
                return Ok(ChainStatus::Failed { refused, block: head.id(), fee: Amount::ZERO });
            }
            Mined::No { head, displaced } => {
                let expired = is_past(self.expires, time(&head));
                return Ok(ChainStatus::Open { expired, displaced });
            }
        };
        let transaction = receipt.transaction_hash.to_string();
        let refused = |refusal: Refusal| ChainStatus::Failed {
            refused: Refused::from(refusal).with_transaction(transaction.clone()),
            block: receipt.block_id(),
            fee,
        };
        let code = code_at(network, self.account, receipt.block()).await?;
        if delegate_of(&code) != Some(self.delegate) {
            return Ok(refused(Refusal::AdoptionNotEffective));
        }
        let operation = Operation::decode(&self.call);
        let done = match &operation {
            Some(operation) => operation.is_shown_by(&receipt, self.account),
            // The code is there, by this authorization or by another one.
            None => self.call.is_empty(),
        };
        if !done {
            let another = match &operation {
                Some(operation) => {
                    operation.done_by_another(network, self.account, receipt.block()).await?
                }
                None => None,
            };
            return Ok(match another {
                // Ours was mined in vain, in that block or later.
                Some((transaction, number)) => ChainStatus::Proven {
                    transaction: transaction.to_string(),
                    number,
                    block: receipt.block_id(),
                    fee,
                },
                None => refused(Refusal::OperationFailed),
            });
        }
        Ok(proven_by(&receipt, None, fee))
    }
}

/// The code at the end of a block; of a node that keeps no old states, the newest.
pub(super) async fn code_at(
    network: &EvmNetwork,
    account: Address,
    block: u64,
) -> Result<Bytes, Unavailable> {
    let rpc = &network.rpc;
    match rpc.ask(Call::new("eth_getCode", json!([account, U64::from(block)]))).await? {
        Ok(code) => rpc.read_bytes(Ok(code)),
        Err(error) if errors::is_state_missing(&error) => {
            rpc.read_bytes(rpc.ask(Call::code(account)).await?)
        }
        Err(error) => Err(rpc.unavailable(&error.public_text())),
    }
}
