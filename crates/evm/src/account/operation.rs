//! What the root signs: adoption, grants, revocations.

use std::fmt;

use alloy::eips::eip7702::{Authorization, SignedAuthorization};
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::Signer;
use alloy::sol_types::{SolCall as _, SolStruct as _};
use pay402_core::error::{Malformed, Unavailable};
use pay402_core::time::UnixTime;

use super::abi::{self, AgentAccount as Contract};
use super::session::{SESSIONS_MAX, Session, fits_u48, u48};
use super::{AGENT_ACCOUNT, AgentAccount};

/// The delegation of an account to [`AGENT_ACCOUNT`] (EIP-7702). Public once it is sent, and good
/// until the account's next transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Adoption {
    chain_id: u64,
    nonce: u64,
}

impl Adoption {
    /// The delegation on the chain `chain_id` by an account whose next transaction has `nonce`.
    /// Where the account itself sends the transaction that carries it, that one counts first.
    ///
    /// # Errors
    /// When `chain_id` is zero: that would adopt on every chain at once.
    pub fn new(chain_id: u64, nonce: u64) -> Result<Self, Malformed> {
        if chain_id == 0 {
            let problem = "must not be zero: the delegation would hold on every chain";
            return Err(Malformed::new("chainId", problem));
        }
        Ok(Self { chain_id, nonce })
    }

    /// Signs it with the root key.
    ///
    /// # Errors
    /// When the key does not sign.
    pub async fn sign(
        &self,
        root: &(impl Signer + Sync),
    ) -> Result<SignedAuthorization, Unavailable> {
        let tuple = Authorization {
            chain_id: U256::from(self.chain_id),
            address: AGENT_ACCOUNT,
            nonce: self.nonce,
        };
        let signature = root.sign_hash(&tuple.signature_hash()).await;
        let signature =
            signature.map_err(|_| Unavailable::new("signer", "the key did not sign"))?;
        Ok(tuple.into_signed(signature.normalized_s()))
    }
}

/// An operation of the root on its account, as it is signed. It waits for no other: registrations
/// and revocations need no nonce, since within an epoch a key has one policy for ever.
#[derive(Clone)]
pub struct RootOperation {
    account: AgentAccount,
    action: Action,
    epoch: u64,
    deadline: UnixTime,
}

#[derive(Clone)]
enum Action {
    Register(Vec<abi::Session>),
    Revoke(Address),
    RevokeAll,
}

impl RootOperation {
    /// Grants `sessions`, good until `deadline`.
    ///
    /// # Errors
    /// The field that the contract would refuse at `now`, such as `sessions[0].tokens[0].cap`.
    pub fn register(
        account: AgentAccount,
        sessions: &[Session],
        epoch: u64,
        deadline: UnixTime,
        now: UnixTime,
    ) -> Result<Self, Malformed> {
        if sessions.is_empty() || sessions.len() > SESSIONS_MAX {
            let problem = format!("must be 1 to {SESSIONS_MAX}");
            return Err(Malformed::new("sessions", problem));
        }
        for (index, session) in sessions.iter().enumerate() {
            let within = format!("sessions[{index}]");
            if sessions[..index].iter().any(|earlier| earlier.key == session.key) {
                let problem = "has a session already; give each key one";
                return Err(Malformed::new("key", problem).within(&within));
            }
            session.check(account.address, now).map_err(|error| error.within(&within))?;
        }
        let sessions = sessions.iter().map(Session::to_abi).collect();
        Self::new(account, Action::Register(sessions), epoch, deadline, now)
    }

    /// Ends the key for the rest of the epoch, whether it was registered or not.
    ///
    /// # Errors
    /// When `deadline` cannot be one.
    pub fn revoke(
        account: AgentAccount,
        key: Address,
        epoch: u64,
        deadline: UnixTime,
        now: UnixTime,
    ) -> Result<Self, Malformed> {
        Self::new(account, Action::Revoke(key), epoch, deadline, now)
    }

    /// Ends every key, and all that was signed and is not carried out yet.
    ///
    /// # Errors
    /// When `deadline` cannot be one.
    pub fn revoke_all(
        account: AgentAccount,
        epoch: u64,
        deadline: UnixTime,
        now: UnixTime,
    ) -> Result<Self, Malformed> {
        Self::new(account, Action::RevokeAll, epoch, deadline, now)
    }

    fn new(
        account: AgentAccount,
        action: Action,
        epoch: u64,
        deadline: UnixTime,
        now: UnixTime,
    ) -> Result<Self, Malformed> {
        if deadline < now || !fits_u48(deadline) {
            return Err(Malformed::new("deadline", "must be in the future, and have 48 bits"));
        }
        Ok(Self { account, action, epoch, deadline })
    }

    /// What the root signs.
    pub fn digest(&self) -> B256 {
        let (epoch, deadline) = (self.epoch, u48(self.deadline));
        let domain = self.account.domain();
        match &self.action {
            Action::Register(sessions) => {
                let sessions = sessions.clone();
                abi::RegisterSessions { sessions, epoch, deadline }.eip712_signing_hash(&domain)
            }
            Action::Revoke(key) => {
                abi::RevokeSession { key: *key, epoch, deadline }.eip712_signing_hash(&domain)
            }
            Action::RevokeAll => abi::RevokeAll { epoch, deadline }.eip712_signing_hash(&domain),
        }
    }

    /// The call of the account that carries it out, for anybody to send.
    ///
    /// # Errors
    /// When the key does not sign, or is not this account's root.
    pub async fn sign(&self, root: &(impl Signer + Sync)) -> Result<Bytes, Unavailable> {
        if root.address() != self.account.address {
            return Err(Unavailable::new("signer", "the key is not the account's root key"));
        }
        let signature = root.sign_hash(&self.digest()).await;
        let signature =
            signature.map_err(|_| Unavailable::new("signer", "the key did not sign"))?;
        Ok(self.call(signature.normalized_s().as_bytes().into()))
    }

    /// The same call for the root to send itself: the contract asks no signature of it.
    pub fn unsigned(&self) -> Bytes {
        self.call(Bytes::new())
    }

    fn call(&self, signature: Bytes) -> Bytes {
        let (epoch, deadline) = (self.epoch, u48(self.deadline));
        let call = match &self.action {
            Action::Register(sessions) => {
                let sessions = sessions.clone();
                Contract::registerSessionsCall { sessions, epoch, deadline, signature }.abi_encode()
            }
            Action::Revoke(key) => {
                Contract::revokeSessionCall { key: *key, epoch, deadline, signature }.abi_encode()
            }
            Action::RevokeAll => {
                Contract::revokeAllCall { epoch, deadline, signature }.abi_encode()
            }
        };
        call.into()
    }
}

impl fmt::Debug for RootOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match &self.action {
            Action::Register(_) => "register",
            Action::Revoke(_) => "revoke",
            Action::RevokeAll => "revoke all",
        };
        f.debug_struct("RootOperation").field("action", &action).finish_non_exhaustive()
    }
}
