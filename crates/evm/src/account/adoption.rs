//! An adoption that a root signed for others to send: with a payment, or by `POST /account`.

use std::fmt;

use alloy::eips::eip7702::SignedAuthorization;
use alloy::primitives::{Address, Bytes};
use alloy::signers::Signer;
use alloy::sol_types::SolCall as _;
use pay402_core::NetworkId;
use pay402_core::error::{Malformed, Unavailable};
use pay402_core::time::UnixTime;
use serde_json::{Map, Value, json};

use super::abi::AgentAccount as Contract;
use super::{Adoption, AgentAccount, RootOperation, Session};
use crate::network::account::AccountRequest;
use crate::sponsor::{adoption_info, authorization_json};

/// The name of its network in what is written.
const NETWORK: &str = "network";

/// What a root signed so that its account adopts [`AGENT_ACCOUNT`](super::AGENT_ACCOUNT), and grants
/// sessions. Whoever has it can have it sent, once, and nothing else: it is no secret once it is sent,
/// and spends nothing.
#[derive(Clone)]
pub struct SignedAdoption {
    network: NetworkId,
    account: Address,
    authorization: SignedAuthorization,
    call: Bytes,
    granted: Option<Granted>,
}

/// What its registration grants.
#[derive(Clone)]
struct Granted {
    sessions: Vec<Session>,
    epoch: u64,
    deadline: UnixTime,
}

impl SignedAdoption {
    /// Signs it with the root key: for an account whose next transaction has `nonce`, and with the
    /// registration `grants` if there is one.
    ///
    /// # Errors
    /// When the network is not an EVM one, the key does not sign, or is not the account's.
    pub async fn sign(
        root: &(impl Signer + Sync),
        network: &NetworkId,
        nonce: u64,
        grants: Option<&RootOperation>,
    ) -> Result<Self, Unavailable> {
        let cannot = |problem: &str| Unavailable::new("signer", problem);
        let chain_id = network.evm_chain_id();
        let chain_id = chain_id.ok_or_else(|| cannot("the network is not an EVM network"))?;
        let adoption =
            Adoption::new(chain_id, nonce).map_err(|error| cannot(&error.to_string()))?;
        let authorization = adoption.sign(root).await?;
        let call = match grants {
            Some(operation) => operation.sign(root).await?,
            None => Bytes::new(),
        };
        let granted = Granted::of(&call);
        Ok(Self { network: network.clone(), account: root.address(), authorization, call, granted })
    }

    /// Reads what [`SignedAdoption::to_json`] wrote.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(value: &Map<String, Value>) -> Result<Self, Malformed> {
        let mut rest = value.clone();
        let network = rest.remove(NETWORK);
        let network = network.as_ref().and_then(Value::as_str).map(str::parse::<NetworkId>);
        let network = match network {
            Some(Ok(network)) => network,
            Some(Err(error)) => return Err(Malformed::new(NETWORK, error.to_string())),
            None => return Err(Malformed::new(NETWORK, "is missing; it must be a string")),
        };
        let AccountRequest { account, authorization, call } = AccountRequest::parse(&rest)?;
        let authorization = authorization.ok_or_else(|| {
            Malformed::new("authorization", "is missing; there is nothing to adopt")
        })?;
        let call = call.unwrap_or_default();
        let granted = Granted::of(&call);
        if granted.is_none() && !call.is_empty() {
            return Err(Malformed::new("call", "is no registration of sessions"));
        }
        Ok(Self { network, account, authorization, call, granted })
    }

    /// As `POST /account` of a facilitator takes it.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            NETWORK: self.network.to_string(),
            "account": self.account,
            "authorization": authorization_json(&self.authorization),
        });
        if !self.call.is_empty() {
            value["call"] = json!(self.call);
        }
        value
    }

    /// Where it holds.
    pub const fn network(&self) -> &NetworkId {
        &self.network
    }

    /// Whose it is.
    pub const fn account(&self) -> AgentAccount {
        AgentAccount {
            chain_id: self.authorization.inner().chain_id.as_limbs()[0],
            address: self.account,
        }
    }

    /// What the account's next nonce must be for it to take effect.
    pub(super) const fn nonce(&self) -> u64 {
        self.authorization.inner().nonce
    }

    /// The epoch in which `key` gets a session by it, and the session.
    pub(super) fn session(&self, key: Address) -> Option<(u64, &Session)> {
        let granted = self.granted.as_ref()?;
        let session = granted.sessions.iter().find(|session| session.key == key)?;
        Some((granted.epoch, session))
    }

    /// The last moment at which its registration is good.
    pub fn deadline(&self) -> Option<UnixTime> {
        self.granted.as_ref().map(|granted| granted.deadline)
    }

    /// What a payment says in its extension's `info`.
    pub(super) fn info(&self) -> Map<String, Value> {
        adoption_info(&self.authorization, &self.call)
    }
}

impl Granted {
    fn of(call: &Bytes) -> Option<Self> {
        let read = Contract::registerSessionsCall::abi_decode_validate(call).ok()?;
        let sessions = read.sessions.iter().map(Session::from_abi).collect();
        Some(Self { sessions, epoch: read.epoch, deadline: UnixTime(read.deadline.to()) })
    }
}

impl fmt::Debug for SignedAdoption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedAdoption")
            .field("network", &self.network)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, U64};
    use alloy::signers::local::PrivateKeySigner;

    use super::*;
    use crate::account::{Payees, TokenLimit};

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn root() -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).unwrap()
    }

    fn network() -> NetworkId {
        "eip155:84532".parse().unwrap()
    }

    #[tokio::test]
    async fn the_halves_of_a_signature_are_whole_words() {
        let mut has_zeros = false;
        for nonce in 0..64 {
            let signed = SignedAdoption::sign(&root(), &network(), nonce, None).await.unwrap();
            has_zeros |= signed.authorization.r().leading_zeros() >= 4;
            let value = signed.to_json();
            let tuple = &value["authorization"];
            for half in ["r", "s"] {
                assert_eq!(tuple[half].as_str().unwrap().len(), 66, "{value}");
            }
            assert_eq!(
                (&tuple["chainId"], &tuple["nonce"]),
                (&json!("0x14a34"), &json!(U64::from(nonce)))
            );
        }
        assert!(has_zeros, "no signature of these tells");
    }

    #[tokio::test]
    async fn what_is_written_is_read_back() {
        let key = Address::repeat_byte(7);
        let token = Address::repeat_byte(8);
        let limit = TokenLimit { token, cap: 10, budget: 30, window_s: 60, slots: 0 };
        let session = Session {
            key,
            valid_after: NOW,
            expiry: NOW.plus_s(600),
            payees: Payees::Any,
            tokens: vec![limit],
        };
        let account = AgentAccount { chain_id: 84_532, address: root().address() };
        let sessions = std::slice::from_ref(&session);
        let grants = RootOperation::register(account, sessions, 4, NOW.plus_s(60), NOW).unwrap();
        let signed = SignedAdoption::sign(&root(), &network(), 3, Some(&grants)).await.unwrap();
        let value = signed.to_json();
        let read = SignedAdoption::parse(value.as_object().unwrap()).unwrap();
        assert_eq!(read.to_json(), value);
        assert_eq!((read.account(), read.nonce()), (account, 3));
        assert_eq!(read.session(key), Some((4, &session)));
        assert_eq!(read.session(token), None);
        assert_eq!(read.deadline(), Some(NOW.plus_s(60)));
        let without = |field: &str| {
            let mut value = value.as_object().unwrap().clone();
            value.remove(field);
            SignedAdoption::parse(&value).map_err(|error| error.field)
        };
        for field in ["network", "account", "authorization"] {
            assert_eq!(without(field).unwrap_err(), field);
        }
        assert!(without("call").unwrap().session(key).is_none());
        for call in ["0x", "0x1234"] {
            let mut value = value.as_object().unwrap().clone();
            value.insert("call".into(), call.into());
            assert_eq!(SignedAdoption::parse(&value).is_err(), call == "0x1234", "{call}");
        }
    }
}
