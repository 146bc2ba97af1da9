//! What a transaction offers for its gas that an owner or a payer signs. A facilitator's own are
//! priced in [`crate::network`], by its operator's settings.

use crate::network::FEE_PER_GAS_MAX_DEFAULT;
use crate::rpc::{Answer, Block, Rpc};

/// Tip where the node proposes none, in wei: 1 gwei.
pub(crate) const TIP_FALLBACK: u128 = 1_000_000_000;

/// The fees of a transaction, in wei for a unit of gas.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fees {
    pub(crate) max: u128,
    pub(crate) tip: u128,
}

impl Fees {
    /// Enough for blocks whose base fee doubled since `head`, and never more than
    /// [`FEE_PER_GAS_MAX_DEFAULT`], whatever a node says. `None` where that is not enough for the
    /// next block, whose base fee may be an eighth above.
    pub(crate) fn offered(rpc: &Rpc, head: &Block, tip: Answer) -> Option<Self> {
        let base = head.base_fee_per_gas.unwrap_or_default().saturating_to();
        let tip = rpc.read::<alloy::primitives::U256>(tip).ok();
        Self::above(base, tip.map(|tip| tip.saturating_to()))
    }

    fn above(base: u128, tip: Option<u128>) -> Option<Self> {
        let tip = tip.unwrap_or(TIP_FALLBACK);
        let max = base.saturating_mul(2).saturating_add(tip).min(FEE_PER_GAS_MAX_DEFAULT);
        let next = base.saturating_add(base / 8);
        (next <= max).then_some(Self { max, tip: tip.min(max) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_bounded_whatever_a_node_says() {
        const MOST: u128 = FEE_PER_GAS_MAX_DEFAULT;
        let fees = |max, tip| Some(Fees { max, tip });
        assert_eq!(Fees::above(7, Some(2)), fees(16, 2));
        assert_eq!(Fees::above(7, None), fees(14 + TIP_FALLBACK, TIP_FALLBACK));
        assert_eq!(Fees::above(0, Some(u128::MAX)), fees(MOST, MOST));
        // 8 of 9 parts, and an eighth of them, are the most.
        assert_eq!(Fees::above(MOST / 9 * 8, Some(1)), fees(MOST, 1));
        assert_eq!(Fees::above(MOST / 9 * 8 + 10, Some(1)), None);
        assert_eq!(Fees::above(u128::MAX, None), None);
    }
}
