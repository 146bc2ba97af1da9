//! The network port: what a facilitator needs from a network family.
//!
//! Settling goes verify → pack → sign → journal → send → status. Nothing is sent that was not
//! signed and journalled first, and a retry sends the same bytes.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::amount::U256;
use crate::error::{Malformed, Unavailable};
use crate::facilitator::Kind;
use crate::time::UnixTime;
use crate::{
    Amount, Digest, NetworkId, Payment, PaymentKey, Presented, Refusal, Refused, Requirements,
};

/// Bytes that are a bearer capability: signed transactions, calldata with signatures. Hidden from
/// `Debug`, wiped on drop.
#[derive(Clone, Eq, PartialEq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes over `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

/// A payment that a network family checked against the chain.
///
/// Evidence: built only by [`Verified::attest`], which only a family's verification calls
/// (`xtask tidy` lists the callers).
#[derive(Clone, Debug)]
pub struct Verified {
    /// What the chain would refuse twice.
    pub key: PaymentKey,
    /// Everything that was checked, so that the same key with other content is noticed.
    pub fingerprint: Digest,
    /// Who pays, as spelled on the wire.
    pub payer: String,
    /// How much, in atomic units.
    pub amount: Amount,
    /// The last moment at which settling can succeed (exclusive, chain time).
    pub expires: UnixTime,
    /// What has to be called to settle, in the family's own encoding.
    pub plan: SecretBytes,
    /// What has to be done before it can be settled. It is to be verified again then, and may have
    /// to wait for something else.
    pub first: Option<Prerequisite>,
    /// How many payments and errands of its kind are begun for one payer in one day (UTC), where
    /// settling it costs us more than a payment does; `None` for an ordinary one.
    pub daily_max: Option<u32>,
    /// What it is taken from. Each has enough for it, and need not for others beside it.
    pub backing: Vec<Backing>,
    _sealed: Sealed,
}

/// What a payment is taken from: the payer's tokens, or an allowance of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backing {
    /// Which, as [`Network::sources`] names it: the same for all payments that are taken from it.
    pub source: String,
    /// What could be taken when the payment was verified, in atomic units.
    pub held: Amount,
}

#[derive(Clone, Debug)]
struct Sealed;

impl Verified {
    /// Attests that a payment was verified. For network families only.
    pub fn attest(
        key: PaymentKey,
        fingerprint: Digest,
        payer: String,
        amount: Amount,
        expires: UnixTime,
        plan: SecretBytes,
    ) -> Self {
        Self {
            key,
            fingerprint,
            payer,
            amount,
            expires,
            plan,
            first: None,
            daily_max: None,
            backing: Vec::new(),
            _sealed: Sealed,
        }
    }

    /// The same payment, which is taken from these.
    #[must_use]
    pub fn backed_by(self, backing: Vec<Backing>) -> Self {
        Self { backing, ..self }
    }

    /// The same payment, which can be settled only when something else is done.
    #[must_use]
    pub fn after(self, first: Prerequisite) -> Self {
        Self { first: Some(first), ..self }
    }

    /// The same payment, which takes one of the payer's turns of the day, of so many.
    #[must_use]
    pub fn taking_a_turn(self, daily_max: u32) -> Self {
        Self { daily_max: Some(daily_max), ..self }
    }
}

/// What has to be done before a payment can be settled.
#[derive(Clone, Debug)]
pub struct Prerequisite {
    /// What has to be done.
    pub errand: Errand,
    /// What to answer when it was done and the payment still wants it.
    pub in_vain: Refused,
}

/// A payment read without asking the chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identified {
    /// What the chain would refuse twice.
    pub key: PaymentKey,
    /// Everything that identifies this very payment: authorization and terms.
    pub fingerprint: Digest,
    /// Who pays, as spelled on the wire.
    pub payer: String,
}

/// Something that is sent for an account without being a payment: adopting code, or what a payment
/// has to wait for. It has a journal entry of its own.
#[derive(Clone, Debug)]
pub struct Errand {
    /// What is not to be done twice.
    pub key: PaymentKey,
    /// Everything that identifies it.
    pub fingerprint: Digest,
    /// For whom it is done, as spelled on the wire.
    pub account: String,
    /// The last moment at which it is begun (exclusive, chain time).
    pub expires: UnixTime,
    /// What has to be sent, in the family's own encoding.
    pub plan: SecretBytes,
    /// How many of its kind are begun for one account in one day (UTC); `None` when the key alone
    /// bounds it.
    pub daily_max: Option<u32>,
}

/// Why verification gave no [`Verified`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unverified {
    /// The payment is no good. An answer.
    Invalid(Refused),
    /// It could not be told. Grants nothing.
    Unavailable(Unavailable),
}

impl From<Refused> for Unverified {
    fn from(refused: Refused) -> Self {
        Self::Invalid(refused)
    }
}

impl From<Unavailable> for Unverified {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

/// A signed transaction, ready to be journalled and then sent.
#[derive(Clone, Debug)]
pub struct SignedTransaction {
    /// Its hash, known before it is sent.
    pub transaction: String,
    /// Its bytes.
    pub raw: SecretBytes,
}

/// Why a transaction was not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SendError {
    /// The signer's nonce was already spent, by this transaction or by another: ask for its status.
    NonceSpent,
    /// The node refused it for certain and these bytes are not in its pool.
    Rejected(String),
    /// Not known: it may be in a pool. Send the same bytes again.
    Unknown(String),
}

/// What a signer has to pay gas with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Funds {
    /// The signer, as spelled on the wire.
    pub signer: String,
    /// What it has, in wei.
    pub wei: Amount,
    /// What it must have for new work to be accepted, in wei.
    pub floor: Amount,
}

impl Funds {
    /// Whether it has too little for new work.
    pub fn are_low(&self) -> bool {
        self.wei < self.floor
    }
}

/// A block, told from another with the same number.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BlockId {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

/// What the chain says of a block, beside what is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// Which block.
    pub block: BlockId,
    /// The hash of the block that it follows.
    pub parent: String,
    /// Its time.
    pub time: UnixTime,
}

/// Where a payment stands on the chain, read from logs and not from receipt status alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ChainStatus {
    /// Nothing is mined for it and its authorization is unused.
    Open {
        /// Whether the authorization can no longer be used by chain time.
        expired: bool,
        /// Whether the signer's nonce was consumed by another transaction, so that ours never can
        /// be mined.
        displaced: bool,
    },
    /// Mined, and the exact transfer is proven by logs at the depth asked for.
    Proven {
        /// The transaction that made the transfer: ours, or one that carried the same
        /// authorization for us.
        transaction: String,
        /// The block it is in.
        number: u64,
        /// The newest block that this rests on: the one it is in, or a later one with a transaction of
        /// ours that cost something. While the chain has this one it has all of it.
        block: BlockId,
        /// What settling cost us, in wei: the fee of our own transaction, also of one that lost the
        /// race to another's. Zero when none of ours was mined.
        fee: Amount,
    },
    /// Mined, but not deep enough yet.
    Shallow {
        /// The transaction.
        transaction: String,
    },
    /// Mined without the transfer, among others or as a cancellation, for certain, and its authorization is
    /// unused.
    LeftOut {
        /// Whether the authorization can no longer be used by chain time.
        expired: bool,
        /// The block that the transaction is in.
        block: BlockId,
        /// Its share of what the transaction cost us, in wei.
        fee: Amount,
    },
    /// Mined without the transfer, for certain.
    Failed {
        /// Why.
        refused: Refused,
        /// The newest block that this rests on, as in [`ChainStatus::Proven`].
        block: BlockId,
        /// What it cost us, in wei.
        fee: Amount,
    },
}

/// One network, to the facilitator.
#[async_trait]
pub trait Network: Send + Sync {
    /// Which network.
    fn id(&self) -> &NetworkId;

    /// What can be settled here, in every version.
    fn kinds(&self) -> Vec<Kind>;

    /// Extensions of the protocol that are served here, by name.
    fn extensions(&self) -> Vec<String> {
        Vec::new()
    }

    /// The accounts that send transactions, as spelled on the wire. Each is one lane.
    fn signers(&self) -> Vec<String>;

    /// A key to seal what the journal holds, derived from the signers' secrets: who reads the
    /// database without them reads nothing spendable.
    fn sealing_key(&self) -> Zeroizing<[u8; 32]>;

    /// Checks at start that the chain is the one configured and the assets are there.
    ///
    /// # Errors
    /// What is wrong, named by setting.
    async fn check(&self) -> Result<(), crate::error::Misconfigured>;

    /// Whether a payload has the form its scheme asks for, so that the edge can answer 400 and
    /// name the field (relative to the payment message, such as `payload.authorization.value`).
    /// Passing proves nothing more; [`Network::identify`] checks the form again.
    ///
    /// # Errors
    /// The field that is wrong.
    fn form(&self, presented: &Presented) -> Result<(), Malformed>;

    /// Whether requirements have the form their scheme asks for: addresses above all. Fields are
    /// named relative to the requirements, such as `payTo`.
    ///
    /// # Errors
    /// The field that is wrong.
    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed>;

    /// Reads a payment and checks all that needs no chain: form, terms, signature of a plain
    /// account. The same for a repeat as for the first.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn identify(&self, payment: &Payment) -> Result<Identified, Refused>;

    /// Checks everything, the chain included.
    ///
    /// # Errors
    /// See [`Unverified`].
    async fn verify(&self, payment: &Payment) -> Result<Verified, Unverified>;

    /// Whether what somebody asks to have sent for an account has the family's form. As
    /// [`Network::form`]; fields are named relative to the request.
    ///
    /// # Errors
    /// The field that is wrong.
    fn account_form(&self, _request: &Map<String, Value>) -> Result<(), Malformed> {
        Err(Malformed::new("network", "is one on which nothing is sent for accounts"))
    }

    /// Reads what somebody asks to have sent for an account, and checks all that needs no chain. The
    /// same for a repeat as for the first.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn identify_account(&self, _request: &Map<String, Value>) -> Result<Identified, Refused> {
        Err(Refusal::SponsoringNotOffered.into())
    }

    /// Checks everything, the chain included. `None` when there is nothing left to do.
    ///
    /// # Errors
    /// See [`Unverified`].
    async fn check_account(
        &self,
        _request: &Map<String, Value>,
    ) -> Result<Option<Errand>, Unverified> {
        Err(Refused::from(Refusal::SponsoringNotOffered).into())
    }

    /// The signer that alone may send what carries out `plan`, as spelled on the wire; `None` when
    /// any may.
    fn sender(&self, _plan: &SecretBytes) -> Option<String> {
        None
    }

    /// Most that carrying out `plan` may cost, in wei; `None` without a bound. What is signed for it is told,
    /// and costs no more.
    fn cost_max(&self, _plan: &SecretBytes) -> Option<Amount> {
        None
    }

    /// About how much gas carrying out `plan` takes, rather more than less; for estimates alone.
    fn gas(&self, _plan: &SecretBytes) -> u64 {
        0
    }

    /// About what a unit of gas costs now, in wei, rather more than less; for estimates alone.
    ///
    /// # Errors
    /// When the chain cannot be asked.
    async fn gas_price(&self) -> Result<Amount, Unavailable> {
        Ok(Amount::ZERO)
    }

    /// The transaction that carries out `plan` where it was signed by somebody else, and who signed
    /// it; `None` where one of our signers has to.
    fn signed_elsewhere(&self, _plan: &SecretBytes) -> Option<(SentAs, SecretBytes)> {
        None
    }

    /// What carrying out `plan` takes the payment from, as in [`Verified::backing`]; nothing for an
    /// errand.
    fn sources(&self, _plan: &SecretBytes) -> Vec<String> {
        Vec::new()
    }

    /// Whether the chain by itself refuses whatever has this key, for good, once the time is over that the entry
    /// with it names; as far as the key tells. Only such an entry may be forgotten.
    fn refuses_again(&self, _key: &PaymentKey) -> bool {
        false
    }

    /// What the signers have to pay gas with; nothing where that is no matter.
    ///
    /// # Errors
    /// When the chain cannot be asked.
    async fn funds(&self) -> Result<Vec<Funds>, Unavailable> {
        Ok(Vec::new())
    }

    /// The next nonce of `signer` that the chain has not consumed.
    ///
    /// # Errors
    /// When the chain cannot be asked.
    async fn consumed_nonces(&self, signer: &str) -> Result<u64, Unavailable>;

    /// The first nonce of `signer` of which no node that is asked knows a transaction, mined or waiting.
    ///
    /// # Errors
    /// When the chain cannot be asked.
    async fn known_nonces(&self, signer: &str) -> Result<u64, Unavailable> {
        self.consumed_nonces(signer).await
    }

    /// The plan of a transaction that does nothing but consume this nonce of one of our signers, so that
    /// those behind it can be mined; `None` where nothing waits for a nonce.
    fn cancellation(&self, _signer: &str, _nonce: u64) -> Option<SecretBytes> {
        None
    }

    /// The signer and the nonce of a plan that [`Network::cancellation`] made; `None` of any other.
    fn cancels(&self, _plan: &SecretBytes) -> Option<(String, u64)> {
        None
    }

    /// Signs the transaction that carries out `plan`, with `signer`'s `nonce`, so that all of it costs
    /// `cost_max` wei at most. Sends nothing.
    ///
    /// # Errors
    /// When fees cannot be read, the plan cannot be carried out, or it would cost more now.
    async fn sign(
        &self,
        signer: &str,
        nonce: u64,
        plan: &SecretBytes,
        cost_max: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable>;

    /// How payments are packed here; `None` where each goes by itself.
    fn packing(&self) -> Option<Packing> {
        None
    }

    /// Whether `plan` may be one of several in a transaction, as far as it can be told without the chain.
    fn may_be_packed(&self, _plan: &SecretBytes) -> bool {
        false
    }

    /// Which of these plans are to go together, after a look at the chain. A plan is in one pack at
    /// most; one that is in none has to be sent by itself, as has one that may not cost its share.
    async fn pack(&self, _plans: &[&SecretBytes]) -> Vec<Pack> {
        Vec::new()
    }

    /// Signs one transaction that carries out all of these plans, in their order, each with `item_gas`
    /// at most, so that all of it costs `cost_max` wei at most. What becomes of one never depends on another.
    /// Sends nothing.
    ///
    /// # Errors
    /// When fees cannot be read, a plan cannot be packed, or it would cost more now.
    async fn sign_pack(
        &self,
        _signer: &str,
        _nonce: u64,
        _plans: &[&SecretBytes],
        _item_gas: u64,
        _cost_max: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable> {
        Err(Unavailable::new(format!("network {}", self.id()), "nothing is packed here"))
    }

    /// Where payments stand that were put on their way in one transaction, in their order.
    ///
    /// # Errors
    /// Of each, as [`Network::status`].
    async fn statuses(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        let mut statuses = Vec::with_capacity(members.len());
        for (plan, sent) in members {
            statuses.push(self.status(plan, Some(sent)).await);
        }
        statuses
    }

    /// Looks a second time where payments of one transaction stand, that were closed by what one look showed;
    /// where there are several nodes, by what two of those that answer show alike.
    ///
    /// # Errors
    /// Of each, as [`Network::status`]; and where the nodes do not show the same.
    async fn second_look(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        self.statuses(members).await
    }

    /// Signs what takes the place of a transaction that is not mined at the fees it offers: the same
    /// call with the same nonce, and fees that nodes take for a replacement, within the operator's
    /// bound and that of the `bid`. `None` where that is of no use: the offer is good enough, or cannot be
    /// raised.
    ///
    /// # Errors
    /// When fees cannot be read.
    async fn replacement(
        &self,
        _sent: &SentAs,
        _raw: &SecretBytes,
        _bid: Bid,
    ) -> Result<Option<SignedTransaction>, Unavailable> {
        Ok(None)
    }

    /// Whether carrying out `plan` is of no use for good once its status is open and expired, so that what
    /// was signed for it may be cancelled.
    fn lapses(&self, _plan: &SecretBytes) -> bool {
        false
    }

    /// Signs what takes the place of a transaction that is of no use any more, or of an earlier cancellation of
    /// it: nothing but the consumption of the nonce, at fees that nodes take for a replacement, within the
    /// operator's bound. [`ChainStatus::LeftOut`] is the status of what it carried once it is mined. `None` where
    /// that cannot be offered, or a cancellation is on its way whose offer is good enough.
    ///
    /// # Errors
    /// When fees cannot be read.
    async fn cancel(
        &self,
        _sent: &SentAs,
        _raw: &SecretBytes,
    ) -> Result<Option<SignedTransaction>, Unavailable> {
        Ok(None)
    }

    /// Sends the bytes. "Already known" counts as sent.
    ///
    /// # Errors
    /// See [`SendError`].
    async fn send(&self, raw: &SecretBytes) -> Result<(), SendError>;

    /// The newest block.
    ///
    /// # Errors
    /// When the chain cannot be asked.
    async fn head(&self) -> Result<Header, Unavailable>;

    /// The newest block that is beyond the word of one node, where the network is asked for more than
    /// that; `seen` is what [`Network::head`] gave.
    ///
    /// # Errors
    /// When the chain cannot be asked, or nodes contradict one another.
    async fn common_head(&self, seen: Header) -> Result<Header, Unavailable> {
        Ok(seen)
    }

    /// The canonical blocks with these numbers, in one question; `None` for each that is not there, not
    /// yet, or of which nodes show different ones where several are asked.
    ///
    /// # Errors
    /// When the chain cannot be asked.
    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Option<Header>>, Unavailable>;

    /// Where a payment stands: by our `transaction` with `signer`'s `nonce` when it was signed,
    /// and by the authorization itself.
    ///
    /// # Errors
    /// When the chain cannot be asked. Proves nothing.
    async fn status(
        &self,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable>;
}

/// What may be offered in place of a transaction that is not mined.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bid {
    /// Most that all of it may cost, in wei; `None` without a bound.
    pub cost_max: Option<Amount>,
    /// Whether so little time is left that there may be no other offer: then more is offered at once.
    pub is_last: bool,
}

/// How a payment was put on its way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SentAs {
    /// The account that sends.
    pub signer: String,
    /// Its nonce.
    pub nonce: u64,
    /// The hash of the signed transaction.
    pub transaction: String,
    /// Hashes of transactions with the same nonce that it was to take the place of. One of them may be
    /// mined instead.
    pub replaced: Vec<String>,
    /// Its part in the transaction.
    pub part: Part,
}

/// How payments are packed on a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packing {
    /// How long a payment that is not the only one due waits for others.
    pub wait: Duration,
    /// Most payments of one transaction.
    pub members_max: usize,
}

/// Payments that are to go in one transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pack {
    /// Which of those that were asked about, by their places; two at least.
    pub members: Vec<usize>,
    /// Most gas of each.
    pub item_gas: u64,
}

/// A payment's part in the transaction that carries it out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Its place, from zero.
    pub index: u32,
    /// How many payments there are.
    pub of: u32,
}

impl Part {
    /// That of a payment by itself.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Whether the transaction carries nothing else.
    pub const fn is_whole(self) -> bool {
        self.of <= 1
    }

    /// Its share of what the transaction cost, in wei. The shares of all parts add up to the whole.
    pub fn share(self, fee: Amount) -> Amount {
        let (fee, of) = (fee.to_u256(), U256::from(self.of.max(1)));
        let odd = u64::from(U256::from(self.index) < fee % of);
        Amount::new(fee / of + U256::from(odd))
    }
}

impl SentAs {
    /// Whether this is one of the transactions that may be mined for it.
    pub fn is_any(&self, transaction: &str) -> bool {
        self.transaction == transaction || self.replaced.iter().any(|hash| hash == transaction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_fee() {
        for (fee, of) in [(0, 3), (1, 3), (2, 3), (100, 7), (21_000, 1), (u64::MAX, 50)] {
            let shares: Vec<_> =
                (0..of).map(|index| Part { index, of }.share(fee.into()).to_u256()).collect();
            let sum: U256 = shares.iter().fold(U256::ZERO, |sum, share| sum + share);
            assert_eq!(sum, U256::from(fee), "{fee} among {of}");
            let (least, most) = (shares.iter().min(), shares.iter().max());
            assert!(*most.unwrap() - *least.unwrap() <= U256::from(1), "{shares:?}");
        }
        let last = Part { index: 2, of: 3 };
        assert_eq!(last.share(Amount::MAX), Amount::new(Amount::MAX.to_u256() / U256::from(3)));
    }
}
