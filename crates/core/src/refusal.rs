//! The refusal registry: every reason for which a payment is turned down, in one closed list.
//!
//! The wire code, the HTTP status, the advice on retrying and what is known about the money all
//! derive from here. Codes of other implementations are kept as they came ([`Reason::Foreign`]);
//! those that mean the same as ours are read as ours.

use std::fmt;

/// Whether and how to try again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// The same request will be refused again.
    Never,
    /// Present the same authorization again, later.
    Same,
    /// Only a new authorization can succeed.
    NewPayment,
}

/// What is known about the payer's money.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Funds {
    /// Nothing moved because of this attempt.
    Untouched,
    /// The outcome is not known yet.
    MaybeMoved,
    /// The money moved.
    Moved,
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal $(| $alias:literal)*, $status:literal, $retry:ident, $funds:ident;)+) => {
        /// Why a payment is refused. The payer can usually mend it; the code says how.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        pub enum Refusal { $($(#[doc = $doc])+ $variant,)+ }

        impl Refusal {
            /// Every refusal, in the order of the registry.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code on the wire (spec v2 §9 where it has one).
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The refusal that a wire code stands for, other implementations' spellings included.
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($code $(| $alias)* => Some(Self::$variant),)+ _ => None }
            }

            /// The HTTP status a resource server answers with.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// Whether trying again can help.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)+ }
            }

            /// What is known about the payer's money.
            pub const fn funds(self) -> Funds {
                match self { $(Self::$variant => Funds::$funds,)+ }
            }

            /// One sentence for people, without its full stop and without any value from the payment.
            pub fn describe(self) -> &'static str {
                let text: &'static str = match self { $(Self::$variant => concat!($($doc),+),)+ };
                text.trim_start().trim_end_matches('.')
            }
        }
    };
}

refusals! {
    /// The authorization was cancelled by the payer before it was used.
    AuthorizationCanceled = "authorization_canceled", 402, NewPayment, Untouched;
    /// The asset is not one this facilitator settles.
    AssetNotAllowed = "asset_not_allowed", 402, Never, Untouched;
    /// The resource server's key at the facilitator is not for payments to this payee.
    PayeeNotAllowed = "payee_not_allowed", 402, Never, Untouched;
    /// There is no contract at the asset's address on this network.
    AssetNotDeployed = "asset_not_deployed_contract", 402, Never, Untouched;
    /// This payment was already presented and its outcome was given to another request.
    DuplicateSettlement = "duplicate_settlement", 409, NewPayment, Moved;
    /// The payer's balance is below the amount.
    InsufficientFunds = "insufficient_funds" | "invalid_exact_evm_insufficient_balance" | "permit2_insufficient_balance", 402, Same, Untouched;
    /// The requirements lack the name or version of the token's EIP-712 domain in extra.
    MissingEip712Domain = "invalid_exact_evm_missing_eip712_domain" | "missing_eip712_domain", 402, Never, Untouched;
    /// The name or version in extra is not that of the token's EIP-712 domain.
    Eip712DomainMismatch = "invalid_exact_evm_token_name_mismatch" | "invalid_exact_evm_token_version_mismatch", 402, Never, Untouched;
    /// The chain no longer accepts this authorization: its nonce is used.
    NonceAlreadyUsed = "invalid_exact_evm_nonce_already_used", 402, NewPayment, MaybeMoved;
    /// The authorization pays another recipient than the requirements ask for.
    RecipientMismatch = "invalid_exact_evm_payload_recipient_mismatch" | "invalid_exact_evm_recipient_mismatch", 402, NewPayment, Untouched;
    /// The signature does not belong to the payer and this authorization.
    InvalidSignature = "invalid_exact_evm_payload_signature" | "invalid_exact_evm_signature" | "invalid_exact_evm_failed_to_parse_signature", 402, NewPayment, Untouched;
    /// The transfer fails when it is simulated on the chain.
    SimulationFailed = "invalid_exact_evm_transaction_simulation_failed", 402, NewPayment, Untouched;
    /// The settlement transaction was mined and reverted, and is not sent again; the authorization itself can still be used by anyone until it expires, so sign a new one only then.
    TransactionReverted = "invalid_transaction_state" | "invalid_exact_evm_transaction_failed" | "invalid_upto_evm_transaction_failed", 402, NewPayment, MaybeMoved;
    /// The transaction succeeded without the transfer it had to make.
    TransferEventMismatch = "invalid_exact_evm_transfer_event_mismatch", 402, Never, MaybeMoved;
    /// The authorization is not valid yet.
    ValidAfter = "invalid_exact_evm_payload_authorization_valid_after", 402, Same, Untouched;
    /// The authorization has expired, or expires too soon to be settled safely.
    ValidBefore = "invalid_exact_evm_payload_authorization_valid_before", 402, NewPayment, Untouched;
    /// The authorization's value is not exactly the amount asked for.
    ValueMismatch = "invalid_exact_evm_payload_authorization_value_mismatch" | "invalid_exact_evm_authorization_value", 402, NewPayment, Untouched;
    /// The asset does not take EIP-3009 authorizations; the requirements must name another transfer method.
    Eip3009NotSupported = "invalid_exact_evm_eip3009_not_supported", 402, Never, Untouched;
    /// The contract that would deploy the payer's wallet is not one this facilitator calls.
    FactoryNotAllowed = "eip6492_factory_not_allowed", 402, Never, Untouched;
    /// The payer's wallet is not deployed, and the deployment that came with the signature does not work.
    DeploymentFailed = "smart_wallet_deployment_failed", 402, NewPayment, Untouched;
    /// The permit's amount is not exactly the amount asked for.
    PermitAmountMismatch = "permit2_amount_mismatch" | "permit2_invalid_amount", 402, NewPayment, Untouched;
    /// The permit has expired, or expires too soon to be settled safely.
    PermitExpired = "permit2_deadline_expired", 402, NewPayment, Untouched;
    /// Permit2 no longer accepts this permit: its nonce is used.
    PermitNonceUsed = "permit2_invalid_nonce", 402, NewPayment, MaybeMoved;
    /// The permit is not valid yet.
    PermitNotYetValid = "permit2_not_yet_valid" | "permit2_payment_too_early", 402, Same, Untouched;
    /// There is no proxy for Permit2 payments on this network.
    ProxyNotDeployed = "permit2_proxy_not_deployed", 402, Never, Untouched;
    /// The permit pays another recipient than the requirements ask for.
    PermitRecipientMismatch = "invalid_permit2_recipient_mismatch" | "permit2_invalid_destination", 402, NewPayment, Untouched;
    /// The signature does not belong to the payer and this permit.
    PermitInvalidSignature = "invalid_permit2_signature" | "permit2_invalid_owner", 402, NewPayment, Untouched;
    /// The transfer by Permit2 fails when it is simulated on the chain.
    PermitSimulationFailed = "permit2_simulation_failed", 402, NewPayment, Untouched;
    /// The permit names another spender than the scheme's proxy.
    PermitSpenderMismatch = "invalid_permit2_spender", 402, NewPayment, Untouched;
    /// The permit is for another token than the requirements ask for.
    PermitTokenMismatch = "permit2_token_mismatch", 402, NewPayment, Untouched;
    /// The permit names a facilitator that is not this one.
    FacilitatorMismatch = "upto_facilitator_mismatch" | "upto_unauthorized_facilitator", 402, NewPayment, Untouched;
    /// The gas sponsoring extension with an EIP-2612 permit does not have its form.
    TokenPermitForm = "invalid_eip2612_extension_format", 402, NewPayment, Untouched;
    /// The EIP-2612 permit is for another amount than the payment.
    TokenPermitAmountMismatch = "permit2_2612_amount_mismatch", 402, NewPayment, Untouched;
    /// The EIP-2612 permit is for another token than the payment.
    TokenPermitAssetMismatch = "eip2612_asset_mismatch", 402, NewPayment, Untouched;
    /// The EIP-2612 permit has expired, or expires too soon to be settled safely.
    TokenPermitExpired = "eip2612_deadline_expired", 402, NewPayment, Untouched;
    /// The EIP-2612 permit is not the payer's.
    TokenPermitFromMismatch = "eip2612_from_mismatch", 402, NewPayment, Untouched;
    /// The EIP-2612 permit lets another contract than Permit2 spend.
    TokenPermitSpenderMismatch = "eip2612_spender_not_permit2", 402, NewPayment, Untouched;
    /// The gas sponsoring extension with a signed approval does not have its form.
    ApprovalForm = "invalid_erc20_approval_extension_format", 402, NewPayment, Untouched;
    /// The approval is not the payer's.
    ApprovalFromMismatch = "erc20_approval_from_mismatch", 402, NewPayment, Untouched;
    /// The approval is for another token than the payment.
    ApprovalAssetMismatch = "erc20_approval_asset_mismatch", 402, NewPayment, Untouched;
    /// The approval lets another contract than Permit2 spend.
    ApprovalSpenderMismatch = "erc20_approval_spender_not_permit2", 402, NewPayment, Untouched;
    /// The signed approval is no transaction of EIP-1559.
    ApprovalUnreadable = "erc20_approval_tx_parse_failed", 402, NewPayment, Untouched;
    /// The signed approval calls another contract than the token.
    ApprovalWrongTarget = "erc20_approval_tx_wrong_target", 402, NewPayment, Untouched;
    /// The signed approval does not call approve.
    ApprovalWrongSelector = "erc20_approval_tx_wrong_selector", 402, NewPayment, Untouched;
    /// The signed approval's call data is not that of approve and nothing else.
    ApprovalInvalidCalldata = "erc20_approval_tx_invalid_calldata", 402, NewPayment, Untouched;
    /// The signed approval is for another spender than Permit2.
    ApprovalWrongSpender = "erc20_approval_tx_wrong_spender", 402, NewPayment, Untouched;
    /// The signed approval's signature is none.
    ApprovalInvalidSignature = "erc20_approval_tx_invalid_signature", 402, NewPayment, Untouched;
    /// The approval is signed by another account than the payer.
    ApprovalSignerMismatch = "erc20_approval_tx_signer_mismatch", 402, NewPayment, Untouched;
    /// The signed approval is one that this facilitator does not broadcast.
    ApprovalNotAllowed = "erc20_approval_tx_not_allowed", 402, NewPayment, Untouched;
    /// The signed approval was broadcast and approved nothing.
    ApprovalFailed = "erc20_approval_broadcast_failed", 402, NewPayment, Untouched;
    /// The delegation manager is not one this facilitator calls, and not the payer's own adopted account.
    ManagerNotAllowed = "erc7710_delegation_manager_not_allowed", 402, Never, Untouched;
    /// The delegation does not let this payment through when it is simulated on the chain.
    DelegationSimulationFailed = "invalid_exact_evm_erc7710_simulation_failed", 402, NewPayment, Untouched;
    /// This facilitator sends nothing of this kind for accounts.
    SponsoringNotOffered = "sponsoring_not_offered", 402, Never, Untouched;
    /// Enough was sent for this account today; ask again tomorrow.
    SponsoringLimit = "sponsoring_limit_reached", 402, Same, Untouched;
    /// The EIP-7702 authorization is not one of this account, on this network, for its next transaction.
    AdoptionInvalid = "account_authorization_invalid", 402, NewPayment, Untouched;
    /// The account would delegate, or delegates, to code that this facilitator does not sponsor.
    DelegateNotAllowed = "delegate_not_allowed", 402, Never, Untouched;
    /// The transaction was mined and the account does not have the code: another one of the account came first.
    AdoptionNotEffective = "adoption_not_effective", 402, NewPayment, Untouched;
    /// The account has no code that could carry the operation out; send the authorization to adopt it along.
    AccountNotAdopted = "account_not_adopted", 402, NewPayment, Untouched;
    /// The call is not one of the operations that this facilitator sponsors.
    OperationNotAllowed = "account_operation_not_allowed", 402, Never, Untouched;
    /// The account does not carry the operation out.
    OperationFailed = "account_operation_failed", 402, NewPayment, Untouched;
    /// The payment is for another network than the requirements, or one nobody here serves.
    InvalidNetwork = "invalid_network" | "invalid_exact_evm_network_mismatch" | "invalid_upto_evm_network_mismatch", 402, NewPayment, Untouched;
    /// The payment does not have the form its scheme asks for.
    InvalidPayload = "invalid_payload" | "unsupported_payload_type", 402, NewPayment, Untouched;
    /// The payment answers other requirements than the ones that were offered.
    InvalidPaymentRequirements = "invalid_payment_requirements", 402, NewPayment, Untouched;
    /// The payment is of another scheme than the requirements.
    InvalidScheme = "invalid_scheme" | "invalid_exact_evm_scheme" | "invalid_upto_evm_scheme", 402, NewPayment, Untouched;
    /// The protocol version is neither 1 nor 2.
    InvalidVersion = "invalid_x402_version", 402, Never, Untouched;
    /// The settlement was sent, or may have been, and its outcome is not known yet.
    SettlementPending = "settlement_pending", 503, Same, MaybeMoved;
    /// The payment was settled, and the chain undid it: a reorganization dropped its block, and it can no longer be settled; nothing is charged.
    SettlementReverted = "settlement_reverted", 402, NewPayment, Untouched;
    /// Settlement failed for a reason that is none of the payer's.
    UnexpectedSettleError = "unexpected_settle_error", 503, Same, MaybeMoved;
    /// Verification failed for a reason that is none of the payer's.
    UnexpectedVerifyError = "unexpected_verify_error" | "erc20_approval_tx_validation_unavailable", 503, Same, Untouched;
    /// Nobody here serves this scheme on this network.
    UnsupportedScheme = "unsupported_scheme", 402, Never, Untouched;
    /// The resource server asks for more than the ceiling that the payer signed.
    SettlementExceedsAmount = "invalid_upto_evm_payload_settlement_exceeds_amount", 500, Never, Untouched;
    /// Too many settlements of this payer failed of late although they had been verified; present the same payment again later, or pay from another account.
    PayerSuspended = "payer_suspended", 429, Same, Untouched;
    /// Settlements that the resource server's API key entered failed and cost the facilitator more than it loses in an hour; present the same payment again later.
    CallerSuspended = "caller_suspended", 503, Same, Untouched;
    /// Settlements that the resource server's API key entered have cost as much gas as the facilitator spends on them in an hour; present the same payment again later.
    GasBudgetSpent = "gas_budget_spent", 503, Same, Untouched;
    /// The charge is below the least that this facilitator settles of the asset.
    AmountTooSmall = "amount_too_small", 402, Never, Untouched;
    /// The gas of settling it would cost more than the facilitator spends on such a payment; present the same payment again when gas is cheaper.
    SettlementTooCostly = "settlement_too_costly", 503, Same, Untouched;
    /// The payer has not allowed Permit2 to move the asset; approve the Permit2 contract for it once, then present the same payment again.
    Permit2AllowanceRequired = "permit2_allowance_required", 412, Same, Untouched;
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A reason as it came over the wire: one of ours, or a stranger's, kept as written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// A code of the registry.
    Known(Refusal),
    /// Another implementation's code that means nothing to us.
    Foreign(String),
}

impl Reason {
    /// Longest foreign code that is kept, in characters.
    pub const FOREIGN_CHARS_MAX: usize = 128;

    /// Reads a wire code.
    pub fn parse(code: &str) -> Self {
        Refusal::from_code(code).map_or_else(
            || Self::Foreign(code.chars().take(Self::FOREIGN_CHARS_MAX).collect()),
            Self::Known,
        )
    }

    /// The code on the wire.
    pub fn code(&self) -> &str {
        match self {
            Self::Known(refusal) => refusal.code(),
            Self::Foreign(code) => code,
        }
    }

    /// Whether this is `refusal`.
    pub fn is(&self, refusal: Refusal) -> bool {
        *self == Self::Known(refusal)
    }

    /// Whether trying again can help; of a stranger's code nothing is known, and the same
    /// authorization does no harm.
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Known(refusal) => refusal.retry(),
            Self::Foreign(_) => Retry::Same,
        }
    }

    /// What is known about the payer's money; a stranger's code proves nothing.
    pub const fn funds(&self) -> Funds {
        match self {
            Self::Known(refusal) => refusal.funds(),
            Self::Foreign(_) => Funds::MaybeMoved,
        }
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self::Known(refusal)
    }
}

/// A refusal with what is known about this one payment. Holds no signature.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// What is wrong and how to mend it, for people.
    pub message: String,
    /// Who wanted to pay, when that is known.
    pub payer: Option<String>,
    /// The transaction that moved, or may have moved, the money.
    pub transaction: Option<String>,
}

impl Refused {
    /// A refusal with a message of its own.
    pub fn new(refusal: Refusal, message: impl Into<String>) -> Self {
        Self { reason: refusal.into(), message: message.into(), payer: None, transaction: None }
    }

    /// The same refusal, naming the payer.
    #[must_use]
    pub fn by(mut self, payer: impl Into<String>) -> Self {
        self.payer = Some(payer.into());
        self
    }

    /// The same refusal, naming the transaction.
    #[must_use]
    pub fn with_transaction(mut self, transaction: impl Into<String>) -> Self {
        self.transaction = Some(transaction.into());
        self
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal, refusal.describe())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.message)
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(refusal.code()), Some(*refusal));
            assert!(!refusal.describe().is_empty());
        }
        assert_eq!(
            Reason::parse("invalid_exact_evm_signature"),
            Reason::Known(Refusal::InvalidSignature)
        );
        assert_eq!(Reason::parse("no_such_code"), Reason::Foreign("no_such_code".into()));
    }

    #[test]
    fn an_unknown_outcome_is_never_called_untouched() {
        assert_eq!(Refusal::SettlementPending.funds(), Funds::MaybeMoved);
        assert_eq!(Reason::Foreign("x".into()).funds(), Funds::MaybeMoved);
    }
}
