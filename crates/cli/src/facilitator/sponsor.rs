//! `[network.sponsor]` of the configuration file: what is sent at the signer's cost beside payments.

use pay402_evm::Sponsoring;
use serde::Deserialize;

/// `[network.sponsor]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sponsor {
    /// Whether accounts may have their adoption of a delegate sent (EIP-7702), and what their root
    /// signed. Default no.
    #[serde(default)]
    pub(crate) adoptions: bool,
    /// How many of these are begun for one account in a day. Default 8.
    pub(crate) operations_per_account_max: Option<u32>,
    /// Whether approvals of Permit2 that payers sign as transactions are broadcast
    /// (`erc20ApprovalGasSponsoring`). Default no.
    #[serde(default)]
    pub(crate) approvals: bool,
    /// Most that is sent to a payer, once for all, for the gas of its approval, in wei. Default
    /// 10^14; 0 sends nothing.
    pub(crate) advance_wei_max: Option<u64>,
    /// Most gas that an approval may ask for. Default 100,000.
    pub(crate) approval_gas_max: Option<u64>,
}

impl Sponsor {
    /// What of it is set; the rest as by default.
    pub(crate) fn settings(&self) -> Sponsoring {
        let default = Sponsoring::default();
        Sponsoring {
            adoptions: self.adoptions,
            operations_per_account_max: self
                .operations_per_account_max
                .unwrap_or(default.operations_per_account_max),
            approvals: self.approvals,
            advance_wei_max: self.advance_wei_max.map_or(default.advance_wei_max, u128::from),
            approval_gas_max: self.approval_gas_max.unwrap_or(default.approval_gas_max),
        }
    }
}
