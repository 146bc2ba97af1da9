//! What the signers have to pay gas with, and what they must have.

use alloy::primitives::U256;
use pay402_core::Amount;
use pay402_core::error::Unavailable;
use pay402_core::network::Funds;

use super::{EvmNetwork, SETTLEMENT_GAS, SETTLEMENTS_IN_HAND};
use crate::rpc::Call;

impl EvmNetwork {
    /// What [`SETTLEMENTS_IN_HAND`] settlements may cost now, in wei.
    async fn floor(&self) -> Result<U256, Unavailable> {
        // A pack asks for all that its payments could take.
        let pack = self.packing_here().map_or(0, |_| self.settings.packing.gas_max);
        let gas = U256::from(pack.max(SETTLEMENTS_IN_HAND * SETTLEMENT_GAS));
        Ok(gas.saturating_mul(U256::from(self.fees().await?.cap())))
    }

    pub(super) async fn funds_here(&self) -> Result<Vec<Funds>, Unavailable> {
        let mut calls = self.head_beside_others();
        let others = calls.len();
        calls.extend(self.signers.iter().map(|signer| Call::balance(signer.address())));
        let floor = match self.settings.signer_wei_min {
            Some(wei) => U256::from(wei),
            None => self.floor().await?,
        };
        let answers = self.rpc.ask_many(calls).await?.into_iter().skip(others);
        let funds = self.signers.iter().zip(answers).map(|(signer, wei)| {
            let wei = Amount::new(self.rpc.read(wei)?);
            let signer = signer.address().to_checksum(None);
            Ok(Funds { signer, wei, floor: Amount::new(floor) })
        });
        funds.collect()
    }
}
