//! Packing: many payments in one transaction, through `contracts/src/Packer.sol`.
//!
//! Packed are payments by EIP-3009 of accounts without code, in tokens that the asset table says can be,
//! where that contract is on the chain with the code that we know.
//!
//! **Invariant:** a payment in a pack costs no more gas than the cap that it was given, and what becomes of
//! it never depends on another one's. What a pack did is read from its tokens' logs, never from its receipt's
//! status.

use std::sync::LazyLock;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy::sol_types::SolCall as _;
use pay402_core::network::{Pack, Packing, Part};
use serde::Deserialize;

use super::EvmNetwork;
use super::plan::{Account, Plan};
use super::submit::Fees;
use crate::contracts::Packer;
use crate::mandate::Mandate;
use crate::rpc::{Call, Receipt};
use crate::typed_data::Authorization;

/// The deterministic CREATE2 deployer: call data is a 32-byte salt followed by creation code.
pub const CREATE2_DEPLOYER: Address = address!("0x4e59b44847b379578588920cA78FbF26c0B4956C");
/// Where [`CREATE2_DEPLOYER`] puts `Packer` with salt 0, on every network.
pub const PACKER: Address = address!("0xEb777d33Bb7AED70DA598f68bbcE7DcDBe4488e6");
/// The salt that [`PACKER`] comes from.
const SALT: B256 = B256::ZERO;

/// How long a payment that is not the only one due waits for others, unless configured otherwise.
pub const PACK_WAIT_DEFAULT: Duration = Duration::from_millis(20);
/// Most payments of one transaction, unless configured otherwise.
pub const PACK_MEMBERS_MAX_DEFAULT: usize = 50;
/// Most gas of one such transaction, unless configured otherwise.
pub const PACK_GAS_MAX_DEFAULT: u64 = 6_000_000;
/// Most gas of one payment in a pack; one that may take more goes by itself. A transfer of USDC takes
/// about 45,000.
pub const ITEM_GAS_MAX: u64 = 150_000;

/// Bytes of one item of the contract's list.
const ITEM_BYTES: usize = 184;
/// The kind of an item that is a transfer by EIP-3009.
const KIND_AUTHORIZATION: u8 = 1;
/// Gas of a transaction before it does anything.
const GAS_INTRINSIC: u64 = 21_000;
/// Most gas of a byte of call data, also by the floor of EIP-7623.
const GAS_PER_BYTE: u64 = 40;
/// What an item takes beside its own call: the loop, the call data, and a token that is new to the
/// transaction.
const ITEM_OVERHEAD_GAS: u64 = 4_000;
/// What the contract keeps for itself, and what it takes to begin and to end.
const RESERVE_GAS: u64 = 20_000;
/// What a transfer takes beyond what it took after the token was looked at: six slots and accounts that
/// are new to the transaction (EIP-2929).
const GAS_COLD: u64 = 15_000;

/// What the contract is deployed from, and what it is then.
struct Code {
    creation: Bytes,
    runtime_hash: B256,
}

static CODE: LazyLock<Code> = LazyLock::new(|| {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Compiled {
        creation_code: Bytes,
        runtime_code: Bytes,
    }
    let artifact = include_str!("../../../../contracts/artifacts/Packer.json");
    let compiled: Compiled = serde_json::from_str(artifact)
        .expect("committed artefacts are checked by contracts/compile.mjs");
    let runtime_hash = keccak256(&compiled.runtime_code);
    Code { creation: compiled.creation_code, runtime_hash }
});

/// Whether, and how much, payments are packed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackSettings {
    /// How long a payment that is not the only one due waits for others; `None` packs nothing.
    pub wait: Option<Duration>,
    /// Most payments of one transaction; at least 2.
    pub members_max: usize,
    /// Most gas of one such transaction.
    pub gas_max: u64,
}

impl Default for PackSettings {
    fn default() -> Self {
        Self {
            wait: Some(PACK_WAIT_DEFAULT),
            members_max: PACK_MEMBERS_MAX_DEFAULT,
            gas_max: PACK_GAS_MAX_DEFAULT,
        }
    }
}

/// What [`CREATE2_DEPLOYER`] is called with to put the contract at [`PACKER`].
pub(crate) fn deployment() -> Bytes {
    [SALT.as_slice(), &CODE.creation].concat().into()
}

/// Whether this is the contract's code.
pub(super) fn is_packer(code: &[u8]) -> bool {
    keccak256(code) == CODE.runtime_hash
}

impl EvmNetwork {
    /// How payments are packed here, if they are.
    pub(super) fn packing_here(&self) -> Option<Packing> {
        let PackSettings { wait, members_max, .. } = self.settings.packing;
        let wait = wait.filter(|_| self.found.get().is_some_and(|found| found.packer))?;
        Some(Packing { wait, members_max })
    }

    /// Whether a payment may be packed as far as it can be told without the chain.
    pub(super) fn is_packable(&self, plan: &Plan) -> bool {
        let packs = || self.assets.iter().any(|asset| asset.packs && asset.token() == plan.token);
        self.packing_here().is_some() && item(plan).is_some() && packs()
    }

    /// Puts together what is to go together, after a look at the payers' accounts and a trial of each
    /// transfer. What does not work, or not within [`ITEM_GAS_MAX`], goes by itself, and so does what may not
    /// cost its share of what is offered for the whole: it would hold the others back.
    pub(super) async fn pack_together(&self, plans: Vec<Option<Plan>>) -> Vec<Pack> {
        let looks = plans.iter().map(async |plan| {
            let plan = plan.as_ref().filter(|plan| self.is_packable(plan))?;
            let seen = self.glances.look(plan.question()?).await?;
            let gas = seen.works.filter(|_| !seen.has_code && seen.used == Some(false))?;
            let cap = gas.saturating_add(GAS_COLD);
            let cap = cap.saturating_add(cap / 4);
            (cap <= ITEM_GAS_MAX).then_some(cap)
        });
        let caps = futures_util::future::join_all(looks).await;
        let wei_per_gas = match self.settings.guard.looks_at_cost() {
            true => self.fees().await.ok().map(Fees::cap),
            false => Some(0),
        };
        // What gas costs is not known: nothing can be signed either.
        let Some(wei_per_gas) = wei_per_gas else { return Vec::new() };
        let fit = plans.iter().zip(caps).enumerate().filter_map(|(index, (plan, cap))| {
            let wei_max = self.cost_wei_max(plan.as_ref()?).unwrap_or(U256::MAX);
            Some(Fit { index, cap: cap?, wei_max })
        });
        let PackSettings { members_max, gas_max, .. } = self.settings.packing;
        put_together(fit, Limits { members_max, gas_max, wei_per_gas })
    }
}

/// A payment that may be packed.
#[derive(Clone, Copy)]
struct Fit {
    index: usize,
    /// The gas that it needs at most.
    cap: u64,
    /// What it may cost, in wei.
    wei_max: U256,
}

/// What packs are held within.
#[derive(Clone, Copy)]
struct Limits {
    members_max: usize,
    gas_max: u64,
    /// What is offered for a unit of gas.
    wei_per_gas: u128,
}

impl Limits {
    /// Whether so many items may be packed with this cap, of which the one that may cost the least may cost
    /// so much.
    fn allow(self, members: usize, item_gas: u64, wei_max: U256) -> bool {
        let gas = gas_limit(members, item_gas);
        let cost = U256::from(gas).saturating_mul(U256::from(self.wei_per_gas));
        let shares = U256::from(members);
        members <= self.members_max && gas <= self.gas_max && cost <= wei_max.saturating_mul(shares)
    }
}

/// Packs of what fits together, in order, each in the first that it fits in; each has one cap for all. One
/// payment is no pack.
fn put_together(fit: impl Iterator<Item = Fit>, limits: Limits) -> Vec<Pack> {
    let mut packs: Vec<(Pack, U256)> = Vec::new();
    for Fit { index, cap, wei_max } in fit {
        // It fits in no pack if not with another one like it.
        if !limits.allow(2, cap, wei_max) {
            continue;
        }
        let room = packs.iter_mut().find(|(pack, least)| {
            let item_gas = pack.item_gas.max(cap);
            limits.allow(pack.members.len() + 1, item_gas, wei_max.min(*least))
        });
        match room {
            Some((pack, least)) => {
                pack.members.push(index);
                pack.item_gas = pack.item_gas.max(cap);
                *least = wei_max.min(*least);
            }
            None => packs.push((Pack { members: vec![index], item_gas: cap }, wei_max)),
        }
    }
    packs.into_iter().map(|(pack, _)| pack).filter(|pack| pack.members.len() > 1).collect()
}

/// Gas with which every one of so many items gets its cap, whatever the others do.
pub(super) fn gas_limit(members: usize, item_gas: u64) -> u64 {
    let members = u64::try_from(members).unwrap_or(u64::MAX);
    let bytes = u64::try_from(ITEM_BYTES).unwrap_or(u64::MAX);
    let item = item_gas.saturating_add(ITEM_OVERHEAD_GAS).saturating_add(bytes * GAS_PER_BYTE);
    // One part in 64 of what is left is kept back from each call (EIP-150); it is there for the next.
    members
        .saturating_mul(item)
        .saturating_add(item_gas / 63)
        .saturating_add(GAS_INTRINSIC + RESERVE_GAS)
}

/// The call that carries out these plans; `None` when one of them cannot be packed.
pub(crate) fn call(plans: &[Plan], item_gas: u64) -> Option<(Address, Bytes)> {
    let mut items = Vec::with_capacity(plans.len() * ITEM_BYTES);
    for plan in plans {
        items.extend_from_slice(&item(plan)?);
    }
    let call = Packer::carryOutCall { itemGas: U256::from(item_gas), items: items.into() };
    Some((PACKER, call.abi_encode().into()))
}

/// A payment as the contract reads it; `None` for one that it cannot carry out.
fn item(plan: &Plan) -> Option<[u8; ITEM_BYTES]> {
    let Mandate::Authorization(authorization) = &plan.mandate else { return None };
    if plan.account != Account::Plain || plan.deployment.is_some() || plan.adoption.is_some() {
        return None;
    }
    let Authorization { from, to, value, valid_after, valid_before, nonce } = authorization;
    let signature = plan.signature.ecdsa()?;
    let value: u128 = (*value).try_into().ok()?;
    let mut item = Vec::with_capacity(ITEM_BYTES);
    item.push(KIND_AUTHORIZATION);
    for account in [&plan.token, from, to] {
        item.extend_from_slice(account.as_slice());
    }
    item.extend_from_slice(&value.to_be_bytes());
    for time in [valid_after, valid_before] {
        let time: u64 = (*time).try_into().ok()?;
        let [0, 0, 0, short @ ..] = time.to_be_bytes() else { return None };
        item.extend_from_slice(&short);
    }
    item.extend_from_slice(nonce.as_slice());
    item.extend_from_slice(signature.r().as_slice());
    item.extend_from_slice(signature.s().as_slice());
    item.push(signature.v());
    item.try_into().ok()
}

/// The payments in a call of [`PACKER`] with this input, each with its token.
pub(crate) fn items_in(input: &[u8]) -> Vec<(Address, Authorization)> {
    let Ok(call) = Packer::carryOutCall::abi_decode(input) else { return Vec::new() };
    let (items, _) = call.items.as_chunks::<ITEM_BYTES>();
    items.iter().filter(|item| item[0] == KIND_AUTHORIZATION).map(read_item).collect()
}

/// Reads what [`item`] wrote, but for the signature.
fn read_item(item: &[u8; ITEM_BYTES]) -> (Address, Authorization) {
    let mut rest = &item[1..];
    let mut take = |bytes: usize| {
        let (taken, left) = rest.split_at(bytes);
        rest = left;
        taken
    };
    let [token, from, to] = [(); 3].map(|()| Address::from_slice(take(20)));
    let value = U256::from_be_slice(take(16));
    let [valid_after, valid_before] = [(); 2].map(|()| U256::from_be_slice(take(5)));
    let nonce = B256::from_slice(take(32));
    (token, Authorization { from, to, value, valid_after, valid_before, nonce })
}

/// A payment's part in the call of [`PACKER`] with this input, if it is one of them.
fn part_in(input: &[u8], plan: &Plan) -> Option<Part> {
    let wanted = item(plan)?;
    let call = Packer::carryOutCall::abi_decode(input).ok()?;
    let (items, []) = call.items.as_chunks::<ITEM_BYTES>() else { return None };
    // Signatures aside: another one of the same payment may be in it.
    let unsigned = |item: &[u8; ITEM_BYTES]| item[..ITEM_BYTES - 65].to_vec();
    let index = items.iter().position(|item| unsigned(item) == unsigned(&wanted))?;
    Some(Part { index: index.try_into().ok()?, of: items.len().try_into().ok()? })
}

/// A transaction's call, as far as we read it.
#[derive(Deserialize)]
struct SentCall {
    to: Option<Address>,
    input: Bytes,
}

/// The part that a payment has in a transaction of ours that was not recorded as its own: one that was
/// given up for displaced and mined after all.
pub(super) async fn part_of(
    network: &EvmNetwork,
    receipt: &Receipt,
    plan: &Plan,
) -> Result<Part, pay402_core::error::Unavailable> {
    let rpc = &network.rpc;
    let sent: Option<SentCall> =
        rpc.read(rpc.ask(Call::transaction(receipt.transaction_hash)).await?)?;
    let sent = sent.ok_or_else(|| rpc.unavailable("the transaction of a receipt is missing"))?;
    let part = (sent.to == Some(PACKER)).then(|| part_in(&sent.input, plan)).flatten();
    Ok(part.unwrap_or(Part::WHOLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_is_where_the_deployer_puts_it() {
        assert_eq!(PACKER, CREATE2_DEPLOYER.create2_from_code(SALT, &CODE.creation));
    }

    #[test]
    fn packs_are_bounded_in_members_and_gas() {
        let pack = |members: &[usize], item_gas| Pack { members: members.to_vec(), item_gas };
        let all = |caps: &[u64], members_max, gas_max| {
            let fit = |(index, cap)| Fit { index, cap, wei_max: U256::MAX };
            let limits = Limits { members_max, gas_max, wei_per_gas: u128::MAX };
            put_together(caps.iter().copied().enumerate().map(fit), limits)
        };
        assert_eq!(all(&[], 50, u64::MAX), []);
        assert_eq!(all(&[7], 50, u64::MAX), [], "one is no pack");
        assert_eq!(all(&[5, 9, 7], 50, u64::MAX), [pack(&[0, 1, 2], 9)]);
        assert_eq!(all(&[5, 5, 5, 5, 5], 2, u64::MAX), [pack(&[0, 1], 5), pack(&[2, 3], 5)]);
        let two = gas_limit(2, 60_000);
        assert_eq!(all(&[60_000; 4], 50, two), [pack(&[0, 1], 60_000), pack(&[2, 3], 60_000)]);
        assert_eq!(all(&[60_000; 4], 50, two - 1), []);
        // What one may burn is set aside for all.
        assert_eq!(all(&[50_000, 60_000, 50_000], 50, two), [pack(&[0, 1], 60_000)]);
        assert_eq!(gas_limit(usize::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn nobody_bears_more_in_a_pack_than_it_may_cost() {
        let cap = 60_000;
        let half = |members| gas_limit(members, cap).div_ceil(members as u64);
        let together = |wei: &[u64], wei_per_gas| {
            let fit = |(index, wei)| Fit { index, cap, wei_max: U256::from(wei) };
            let limits = Limits { members_max: 50, gas_max: u64::MAX, wei_per_gas };
            let packs = put_together(wei.iter().copied().enumerate().map(fit), limits);
            packs.into_iter().map(|pack| pack.members).collect::<Vec<_>>()
        };
        assert_eq!(together(&[half(2); 3], 1), [[0, 1, 2]]);
        assert_eq!(together(&[half(2); 3], 2), [[0; 0]; 0]);
        // The one that may cost the least goes by itself and parts nobody.
        assert_eq!(together(&[u64::MAX, half(2) - 1, u64::MAX, 0], 1), [[0, 2]]);
        // A cap that is raised for one raises everybody's share.
        let fit = |index, cap, wei| Fit { index, cap, wei_max: U256::from(wei) };
        let dear = fit(1, 2 * cap, u64::MAX);
        let limits = Limits { members_max: 50, gas_max: u64::MAX, wei_per_gas: 1 };
        let fits = [fit(0, cap, half(2)), dear, fit(2, cap, half(2)), Fit { index: 3, ..dear }];
        let packs = put_together(fits.into_iter(), limits);
        let members: Vec<_> = packs.into_iter().map(|pack| pack.members).collect();
        assert_eq!(members, [[0, 2], [1, 3]]);
    }
}
