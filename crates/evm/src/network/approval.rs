//! Approvals of Permit2 that payers sign as whole transactions (`erc20ApprovalGasSponsoring`): what is
//! checked before anything is sent for one, and what is sent.
//!
//! **Invariant:** a payer is sent gas at most once on a network, ever: its key in the journal names
//! the payer and nothing else. What that payer does with it is not in our hands, so nothing is sent for
//! a payment that would not settle otherwise, as far as the node can show it.

use alloy::primitives::{B256, Bytes, U64, U256, b256, keccak256};
use alloy::sol_types::{SolCall as _, SolValue as _};
use pay402_core::error::Unavailable;
use pay402_core::network::{BlockId, ChainStatus, Errand, Part, Prerequisite, SecretBytes, SentAs};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, PaymentKey, Refusal, Refused};
use serde_json::{Map, Value, json};

use super::EvmNetwork;
use super::errand::{Advance, Approval};
use super::errors;
use super::status::{Mined, is_displaced_for_good, is_past, mined, proven_by, time};
use crate::address::canonical;
use crate::contracts::Erc20;
use crate::read::ReadPayment;
use crate::rpc::{Answer, Block, Call, Called};
use crate::sponsor::SignedApproval;
use crate::typed_data::PERMIT2;

/// Storage slots in which the allowances of a token may begin, by the order in which its contract
/// declares them: what most tokens use, with and without a gap for upgrades before them.
const ALLOWANCE_SLOTS: [u64; 20] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 51, 52, 101, 102];
/// The slot of allowances in the ERC-7201 namespace of OpenZeppelin's upgradeable ERC-20.
const ALLOWANCE_NAMESPACE: B256 =
    b256!("0x52c63247e1f47db19d5ce0460030c497f067ca4cebf71ba98eeadabe20bace01");

/// Checks of an approval that need no chain, beyond whose it is and what it calls.
pub(super) fn check(
    network: &EvmNetwork,
    read: &ReadPayment,
    approval: &SignedApproval,
) -> Result<(), Refused> {
    let settings = &network.settings;
    let sponsoring = &settings.sponsoring;
    let no = |why: String| Err(Refused::new(Refusal::ApprovalNotAllowed, why).by(read.payer()));
    if approval.chain_id != Some(network.chain_id) {
        return no(format!("the approval's chain id must be {}", network.chain_id));
    }
    if !approval.wei.is_zero() || !approval.is_plain {
        return no("the approval must send no value and have no access list".into());
    }
    if approval.gas_limit > sponsoring.approval_gas_max {
        return no(format!("the approval's gas must be at most {}", sponsoring.approval_gas_max));
    }
    if approval.max_fee > settings.fee_per_gas_max {
        return no(format!(
            "the approval's fee per gas must be at most {}",
            settings.fee_per_gas_max
        ));
    }
    if approval.tip > approval.max_fee {
        return no("the approval's priority fee must not be above its fee per gas".into());
    }
    if approval.amount < read.mandate.ceiling() {
        return no("the approval must be of at least the payment's amount".into());
    }
    if network.sends_from(&read.mandate.payer()) {
        return no("the payer sends the facilitator's own transactions".into());
    }
    Ok(())
}

/// The questions about a payment that brings an approval, as `settle` will settle it.
pub(super) fn calls(read: &ReadPayment, approval: &SignedApproval, settle: Call) -> Vec<Call> {
    let payer = read.mandate.payer();
    let approve = Erc20::approveCall { spender: PERMIT2, value: approval.amount }.abi_encode();
    let allowance = Erc20::allowanceCall { owner: payer, spender: PERMIT2 }.abi_encode();
    let approved = approved(read, approval.amount);
    vec![
        Call::mined_nonces(payer),
        Call::balance(payer),
        Call::simulate((payer, read.token), approve, approval.gas_limit, "latest"),
        Call::view(read.token, allowance).overriding(approved.clone()),
        settle.overriding(approved),
    ]
}

/// A state in which the payer allows Permit2 this much, wherever the token keeps it: where it does not
/// keep it nothing is kept.
fn approved(read: &ReadPayment, amount: U256) -> Value {
    let (owner, spender) = (read.mandate.payer(), PERMIT2);
    let bases = ALLOWANCE_SLOTS.iter().map(|slot| B256::from(U256::from(*slot)));
    let slots = bases.chain([ALLOWANCE_NAMESPACE]).map(|base| {
        let of_owner = keccak256((owner, base).abi_encode());
        let slot = keccak256((spender, of_owner).abi_encode());
        (slot.to_string(), json!(B256::from(amount)))
    });
    let changed: Map<String, Value> = slots.collect();
    json!({ read.token.to_string(): { "stateDiff": changed } })
}

/// What the chain shows of an approval.
pub(super) struct ApprovalView {
    nonce: u64,
    /// In wei.
    balance: U256,
    approve: Called,
    /// What the payment does once it is approved; `None` where the node cannot show it.
    settle: Option<Called>,
}

impl ApprovalView {
    /// Reads the answers to [`calls`].
    pub(super) fn read(
        network: &EvmNetwork,
        approval: &SignedApproval,
        answers: Vec<Answer>,
    ) -> Result<Self, Unavailable> {
        let rpc = &network.rpc;
        let answers: [Answer; 5] =
            answers.try_into().map_err(|_| rpc.unavailable("the node answered too little"))?;
        let [nonce, balance, approve, allowance, settle] = answers;
        // Only if the allowance is seen is it the state that we asked for.
        let is_approved =
            called(allowance).and_then(|called| called.word()) == Some(approval.amount);
        Ok(Self {
            nonce: rpc.read::<U64>(nonce)?.to(),
            balance: rpc.read(balance)?,
            approve: rpc.read_call(approve)?,
            settle: called(settle).filter(|_| is_approved),
        })
    }

    /// Whether the approval can be mined and the payment settles then.
    pub(super) fn judge(
        &self,
        network: &EvmNetwork,
        read: &ReadPayment,
        approval: &SignedApproval,
        head: &Block,
    ) -> Result<(), Refused> {
        let by = |refusal, message: String| Err(Refused::new(refusal, message).by(read.payer()));
        if approval.nonce != self.nonce {
            let message = format!("the approval's nonce must be the payer's next, {}", self.nonce);
            return by(Refusal::ApprovalNotAllowed, message);
        }
        // The base fee may rise by an eighth with each block until then.
        let base = head.base_fee_per_gas.unwrap_or_default();
        let needed = base.saturating_add(base / U256::from(8));
        if U256::from(approval.max_fee) < needed {
            let message = format!(
                "the approval's fee per gas must be at least {needed}: an eighth above what blocks ask \
                 for now"
            );
            return by(Refusal::ApprovalNotAllowed, message);
        }
        if let Called::Failed(why) = &self.approve {
            let message = format!("the approval fails when it is simulated: {why}");
            return by(Refusal::ApprovalNotAllowed, message);
        }
        match &self.settle {
            Some(Called::Failed(why)) => {
                let message = format!("the transfer fails when it is simulated as approved: {why}");
                return by(Refusal::PermitSimulationFailed, message);
            }
            // Without a node that can show it, all that is known is what was checked before: balance,
            // signature, nonce, and that the approval works.
            Some(Called::Returned(_)) | None => {}
        }
        let max = network.settings.sponsoring.advance_wei_max;
        if self.missing(approval) > U256::from(max) {
            let message = format!(
                "the payer lacks {} wei of gas for the approval, and at most {max} are advanced; \
                 approve Permit2 for the token, or sign the approval for less gas",
                self.missing(approval)
            );
            return by(Refusal::Permit2AllowanceRequired, message);
        }
        Ok(())
    }

    /// What the payer lacks to have the approval mined, in wei.
    pub(super) fn missing(&self, approval: &SignedApproval) -> U256 {
        let cost = U256::from(approval.gas_limit).saturating_mul(U256::from(approval.max_fee));
        cost.saturating_sub(self.balance)
    }

    /// What has to be done before the payment can be settled.
    pub(super) fn prerequisite(
        &self,
        network: &EvmNetwork,
        read: &ReadPayment,
        approval: &SignedApproval,
    ) -> Prerequisite {
        let payer = read.mandate.payer();
        let expires: u64 = read.mandate.ends().saturating_to();
        let missing = self.missing(approval);
        let (name, nonce, plan, why) = if missing.is_zero() {
            let SignedApproval { nonce, hash, ref raw, .. } = *approval;
            let plan = Approval { payer, nonce, hash, raw: raw.clone(), expires }.encode();
            ("approve", hash.to_string(), plan, APPROVED_IN_VAIN)
        } else {
            let plan = Advance { payer, wei: missing, expires }.encode();
            ("advance", "once".to_owned(), plan, ADVANCED_IN_VAIN)
        };
        let key = PaymentKey::new(&network.id, name, &canonical(&payer), &nonce);
        let fingerprint = Digest::of(&[key.as_str().as_bytes()]);
        let errand = Errand {
            key,
            fingerprint,
            account: read.payer(),
            expires: UnixTime(expires),
            plan,
            daily_max: None,
        };
        let in_vain = Refused::new(Refusal::Permit2AllowanceRequired, why).by(read.payer());
        Prerequisite { errand, in_vain }
    }
}

const ADVANCED_IN_VAIN: &str = "gas for an approval was advanced to this payer before, once for all, \
                                and is not there any more; approve Permit2 for the token, or have the \
                                gas for the approval";
const APPROVED_IN_VAIN: &str = "this approval was mined, and Permit2 may not move enough any more; \
                                sign another one, or approve Permit2 for the token";

/// What a call did; `None` where the node did not take the question.
fn called(answer: Answer) -> Option<Called> {
    match answer {
        Ok(Value::String(text)) => {
            let bytes = text.strip_prefix("0x").and_then(|digits| alloy::hex::decode(digits).ok());
            bytes.map(Bytes::from).map(Called::Returned)
        }
        Ok(_) => None,
        Err(error) => errors::execution_failure(&error).map(Called::Failed),
    }
}

impl Advance {
    /// Where it stands. What it cost is its gas and what was sent. Nothing on the chain would refuse it
    /// a second time, so it is never signed anew.
    pub(super) async fn status(
        &self,
        network: &EvmNetwork,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        Ok(match mined(network, sent, network.settings.least()).await? {
            Mined::Deep(receipt) => {
                let transaction = receipt.transaction_hash.to_string();
                if receipt.succeeded() {
                    let fee = Amount::new(receipt.fee().saturating_add(self.wei));
                    proven_by(&receipt, None, fee)
                } else {
                    let message = "the gas for the approval could not be sent";
                    let refused = Refused::new(Refusal::Permit2AllowanceRequired, message)
                        .with_transaction(transaction);
                    let block = receipt.block_id();
                    ChainStatus::Failed { refused, block, fee: Amount::new(receipt.fee()) }
                }
            }
            Mined::Shallow { transaction } => ChainStatus::Shallow { transaction },
            Mined::Reorganized => ChainStatus::Open { expired: false, displaced: false },
            // Not even signed, so that it cost nothing. What was signed is seen through.
            Mined::No { head, .. } if sent.is_none() && is_past(self.expires, time(&head)) => {
                let message = "the gas for the approval was not sent while the payment was good, and \
                               will not be; approve Permit2 for the token";
                let refused = Refused::new(Refusal::Permit2AllowanceRequired, message);
                ChainStatus::Failed { refused, block: head.id(), fee: Amount::ZERO }
            }
            Mined::No { .. } => {
                let Some(block) = is_displaced_for_good(network, sent).await? else {
                    return Ok(ChainStatus::Open { expired: false, displaced: false });
                };
                let message = "another transaction has the place of the one that sent gas for the \
                               approval, which is not sent again; approve Permit2 for the token";
                let refused = Refused::new(Refusal::Permit2AllowanceRequired, message);
                ChainStatus::Failed { refused, block, fee: Amount::ZERO }
            }
        })
    }
}

impl Approval {
    /// The transaction, and who signed it.
    pub(super) fn signed(&self) -> (SentAs, SecretBytes) {
        let sent = SentAs {
            signer: self.payer.to_checksum(None),
            nonce: self.nonce,
            transaction: self.hash.to_string(),
            replaced: Vec::new(),
            part: Part::WHOLE,
        };
        (sent, SecretBytes::new(self.raw.expose().to_vec()))
    }

    /// Where it stands. It costs us nothing, and we cannot sign it anew: it is over when its nonce
    /// went to another transaction, or when the payment is.
    pub(super) async fn status(
        &self,
        network: &EvmNetwork,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        let failed = |block: BlockId, message: &str| ChainStatus::Failed {
            refused: Refused::new(Refusal::ApprovalFailed, message)
                .with_transaction(self.hash.to_string()),
            block,
            fee: Amount::ZERO,
        };
        Ok(match mined(network, sent, network.settings.least()).await? {
            Mined::Deep(receipt) if receipt.succeeded() => proven_by(&receipt, None, Amount::ZERO),
            Mined::Deep(receipt) => {
                failed(receipt.block_id(), "the approval was mined and reverted; sign another one")
            }
            Mined::Shallow { transaction } => ChainStatus::Shallow { transaction },
            Mined::Reorganized => ChainStatus::Open { expired: false, displaced: false },
            Mined::No { head, displaced: true } => failed(
                head.id(),
                "another transaction of the payer came before the approval; sign it anew",
            ),
            Mined::No { head, .. } if sent.is_some() && is_past(self.expires, time(&head)) => {
                failed(head.id(), "the approval was not mined in time; sign it anew")
            }
            Mined::No { head, .. } => {
                ChainStatus::Open { expired: is_past(self.expires, time(&head)), displaced: false }
            }
        })
    }
}
