//! What the chain starts with: well-known addresses, public development keys, and the state of block 0.
//!
//! Nothing here runs transactions. The invariant kept: the token's storage written here agrees with the layout that
//! `contracts/src/Usdc.sol` documents, so that supply equals the sum of balances.

use std::sync::LazyLock;

use alloy::primitives::{Address, B256, Bytes, U256, address, b256, bytes, keccak256};
use alloy::signers::local::PrivateKeySigner;

use crate::state::State;

/// Where the USDC-like token lives: Base Sepolia's USDC address.
pub const USDC_ADDRESS: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");
/// Where the Multicall3-compatible contract lives: its canonical address.
pub const MULTICALL3: Address = address!("0xcA11bde05977b3631167028862bE2a173976CA11");
/// Where the Permit2-compatible contract lives: its canonical address.
pub const PERMIT2: Address = address!("0x000000000022D473030F116dDEE9F6B43aC78BA3");
/// Where the x402 proxy of scheme `exact` lives: its canonical address.
pub const EXACT_PERMIT2_PROXY: Address = address!("0x402085c248EeA27D92E8b30b2C58ed07f9E20001");
/// Where the x402 proxy of scheme `upto` lives: its canonical address.
pub const UPTO_PERMIT2_PROXY: Address = address!("0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");
/// The deterministic CREATE2 deployer: call data is a 32-byte salt followed by creation code.
pub const CREATE2_DEPLOYER: Address = address!("0x4e59b44847b379578588920cA78FbF26c0B4956C");
/// Where `AgentAccount` lives, the code that an EOA delegates to (EIP-7702): where [`CREATE2_DEPLOYER`] puts its creation
/// code with salt 0, on every chain.
pub const AGENT_ACCOUNT_ADDRESS: Address = address!("0x8DA472a94aeEb4801807d4641696B654C93eb94b");
/// Where `Packer` lives, which carries out many payments in one transaction: where [`CREATE2_DEPLOYER`] puts its creation code
/// with salt 0, on every chain.
pub const PACKER_ADDRESS: Address = address!("0xEb777d33Bb7AED70DA598f68bbcE7DcDBe4488e6");
/// EIP-712 domain name of the token.
pub const USDC_NAME: &str = "USDC";
/// EIP-712 domain version of the token.
pub const USDC_VERSION: &str = "2";
/// Wei that every development account starts with: 10,000 ETH.
pub const DEV_WEI: U256 = U256::from_limbs([1_864_712_049_423_024_128, 542, 0, 0]);
/// Atomic units of USDC that every development account but the last starts with: 1,000,000 USDC.
pub const DEV_USDC: u64 = 1_000_000_000_000;
/// Most that an account can hold of the token, in atomic units: above it in the account's word is the bit that says
/// that it is blacklisted.
pub const USDC_BALANCE_MAX: U256 = U256::from_limbs([u64::MAX, u64::MAX, u64::MAX, u64::MAX >> 1]);
/// Position in [`DEV_ACCOUNTS`] of the token's owner, who may mint, pause and blacklist.
pub const USDC_OWNER_INDEX: usize = 8;
/// Position in [`DEV_ACCOUNTS`] of the account that has gas but no USDC.
pub const NO_USDC_INDEX: usize = 9;

/// Ten addresses known to everyone who has used a development chain.
pub const DEV_ACCOUNTS: [Address; 10] = [
    address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
    address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    address!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
    address!("0x90F79bf6EB2c4f870365E785982E1f101E93b906"),
    address!("0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65"),
    address!("0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc"),
    address!("0x976EA74026E726554dB657fA54763abd0C3a0aa9"),
    address!("0x14dC79964da2C08b23698B3D3cc7Ca32193d9955"),
    address!("0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f"),
    address!("0xa0Ee7A142d267C1f36714E4a8F75612F20a79720"),
];

/// PUBLIC DEV KEYS of [`DEV_ACCOUNTS`], derived from the phrase "test test test test test test test test test test
/// test junk". The whole world knows them: anything sent to these accounts on a real network is lost.
pub const PUBLIC_DEV_KEYS: [B256; 10] = [
    b256!("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    b256!("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    b256!("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    b256!("0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
    b256!("0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a"),
    b256!("0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba"),
    b256!("0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e"),
    b256!("0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356"),
    b256!("0xdbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97"),
    b256!("0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6"),
];

/// Storage slot of the token's owner (bits 0–159) and pause flag (bit 160).
const USDC_OWNER_SLOT: U256 = U256::ZERO;
/// Storage slot of the token's total supply.
const USDC_SUPPLY_SLOT: U256 = U256::from_limbs([1, 0, 0, 0]);
/// Base slot of the token's mapping of accounts: balance (bits 0–254) and blacklisted (bit 255).
const USDC_BALANCES_SLOT: U256 = U256::from_limbs([2, 0, 0, 0]);

/// The runtime of the deployer that sits at [`CREATE2_DEPLOYER`] on public networks: it passes its call data, less a
/// 32-byte salt, to CREATE2 and returns the 20-byte address.
const CREATE2_DEPLOYER_CODE: Bytes = bytes!(
    "0x7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
);

/// What one account holds at genesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Funding {
    /// Who is funded.
    pub address: Address,
    /// Native balance, in wei.
    pub wei: U256,
    /// Token balance, in atomic units (6 decimals); what is above [`USDC_BALANCE_MAX`] is not given.
    pub usdc: U256,
}

/// A contract of `contracts/`, as compiled.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Code that deploys the contract, without constructor arguments.
    pub creation_code: Bytes,
    /// Code that the deployed contract has.
    pub runtime_code: Bytes,
}

impl Artifact {
    /// What a transaction without a recipient has to carry to deploy the contract with these ABI-encoded arguments.
    pub fn creation(&self, arguments: &[u8]) -> Bytes {
        [self.creation_code.as_ref(), arguments].concat().into()
    }
}

/// The USDC-like token.
pub static USDC: LazyLock<Artifact> =
    LazyLock::new(|| artifact(include_str!("../../../contracts/artifacts/Usdc.json")));
/// The Multicall3-compatible contract.
pub static MULTICALL: LazyLock<Artifact> =
    LazyLock::new(|| artifact(include_str!("../../../contracts/artifacts/Multicall3.json")));
/// The contract at [`PERMIT2`].
pub static PERMIT2_CONTRACT: LazyLock<Artifact> =
    LazyLock::new(|| artifact(include_str!("../../../contracts/artifacts/Permit2.json")));
/// The contract at [`EXACT_PERMIT2_PROXY`].
pub static EXACT_PROXY_CONTRACT: LazyLock<Artifact> = LazyLock::new(|| {
    artifact(include_str!("../../../contracts/artifacts/X402ExactPermit2Proxy.json"))
});
/// The contract at [`UPTO_PERMIT2_PROXY`].
pub static UPTO_PROXY_CONTRACT: LazyLock<Artifact> = LazyLock::new(|| {
    artifact(include_str!("../../../contracts/artifacts/X402UptoPermit2Proxy.json"))
});
/// A minimal EIP-1271 wallet: owner in slot 0; its creation code takes the owner as ABI-encoded argument. Where slot 0
/// is empty the account owns itself, which suits an EIP-7702 delegation.
pub static WALLET_1271: LazyLock<Artifact> =
    LazyLock::new(|| artifact(include_str!("../../../contracts/artifacts/Wallet1271.json")));
/// The delegate of [`AGENT_ACCOUNT_ADDRESS`]; its creation code takes no argument.
pub static AGENT_ACCOUNT: LazyLock<Artifact> =
    LazyLock::new(|| artifact(include_str!("../../../contracts/artifacts/AgentAccount.json")));
/// The contract at [`PACKER_ADDRESS`].
pub static PACKER: LazyLock<Artifact> =
    LazyLock::new(|| artifact(include_str!("../../../contracts/artifacts/Packer.json")));

/// The signer of development account `index` (0–9); keys are public, see [`PUBLIC_DEV_KEYS`].
///
/// # Panics
/// If `index` is above 9.
pub fn dev_signer(index: usize) -> PrivateKeySigner {
    static SIGNERS: LazyLock<Vec<PrivateKeySigner>> = LazyLock::new(|| {
        PUBLIC_DEV_KEYS
            .iter()
            .map(|key| PrivateKeySigner::from_bytes(key).expect("the constants are valid keys"))
            .collect()
    });
    SIGNERS[index].clone()
}

/// The development accounts, each with [`DEV_WEI`] and [`DEV_USDC`], except that the last has no USDC.
pub fn dev_funding() -> Vec<Funding> {
    DEV_ACCOUNTS
        .iter()
        .enumerate()
        .map(|(index, address)| Funding {
            address: *address,
            wei: DEV_WEI,
            usdc: if index == NO_USDC_INDEX { U256::ZERO } else { U256::from(DEV_USDC) },
        })
        .collect()
}

/// The token's storage slot that holds the balance of `holder`, and in its highest bit whether it is blacklisted: for
/// tests that write balances directly, which must be at most [`USDC_BALANCE_MAX`].
pub fn usdc_balance_slot(holder: Address) -> U256 {
    let mut preimage = [0u8; 64];
    preimage[12..32].copy_from_slice(holder.as_slice());
    preimage[32..].copy_from_slice(&USDC_BALANCES_SLOT.to_be_bytes::<32>());
    keccak256(preimage).into()
}

/// The state of block 0.
pub(crate) fn state(funding: &[Funding]) -> State {
    let mut state = State::default();
    for (address, code) in [
        (USDC_ADDRESS, USDC.runtime_code.clone()),
        (MULTICALL3, MULTICALL.runtime_code.clone()),
        (PERMIT2, PERMIT2_CONTRACT.runtime_code.clone()),
        (EXACT_PERMIT2_PROXY, EXACT_PROXY_CONTRACT.runtime_code.clone()),
        (UPTO_PERMIT2_PROXY, UPTO_PROXY_CONTRACT.runtime_code.clone()),
        (CREATE2_DEPLOYER, CREATE2_DEPLOYER_CODE),
        (AGENT_ACCOUNT_ADDRESS, AGENT_ACCOUNT.runtime_code.clone()),
        (PACKER_ADDRESS, PACKER.runtime_code.clone()),
    ] {
        state.set_code(address, code);
        state.set_nonce(address, 1);
    }
    let owner = U256::from_be_slice(DEV_ACCOUNTS[USDC_OWNER_INDEX].as_slice());
    state.set_storage(USDC_ADDRESS, USDC_OWNER_SLOT, owner);
    let mut supply = U256::ZERO;
    for account in funding {
        let wei = state.balance(account.address).saturating_add(account.wei);
        state.set_balance(account.address, wei);
        let slot = usdc_balance_slot(account.address);
        let held = state.storage(USDC_ADDRESS, slot);
        let holds = held.saturating_add(account.usdc).min(USDC_BALANCE_MAX);
        state.set_storage(USDC_ADDRESS, slot, holds);
        supply = supply.saturating_add(holds - held);
    }
    state.set_storage(USDC_ADDRESS, USDC_SUPPLY_SLOT, supply);
    state
}

pub(crate) fn artifact(json: &str) -> Artifact {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Compiled {
        creation_code: Bytes,
        runtime_code: Bytes,
    }
    let compiled: Compiled = serde_json::from_str(json)
        .expect("committed artefacts are checked by contracts/compile.mjs");
    Artifact { creation_code: compiled.creation_code, runtime_code: compiled.runtime_code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_addresses() {
        for (index, address) in DEV_ACCOUNTS.iter().enumerate() {
            assert_eq!(dev_signer(index).address(), *address);
        }
    }

    #[test]
    fn our_contracts_are_where_the_deployer_puts_them() {
        let put = |code: &Bytes| CREATE2_DEPLOYER.create2_from_code(B256::ZERO, code);
        assert_eq!(AGENT_ACCOUNT_ADDRESS, put(&AGENT_ACCOUNT.creation_code));
        assert_eq!(PACKER_ADDRESS, put(&PACKER.creation_code));
    }

    #[test]
    fn dev_wei_is_ten_thousand_ether() {
        assert_eq!(DEV_WEI, U256::from(10_000) * U256::from(10).pow(U256::from(18)));
    }

    #[test]
    fn supply_is_the_sum_of_balances() {
        let state = state(&dev_funding());
        let supply = state.storage(USDC_ADDRESS, USDC_SUPPLY_SLOT);
        assert_eq!(supply, U256::from(9 * DEV_USDC));
        assert_eq!(state.storage(USDC_ADDRESS, usdc_balance_slot(DEV_ACCOUNTS[9])), U256::ZERO);
    }

    #[test]
    fn nobody_is_so_rich_as_to_be_blacklisted() {
        let rich = |usdc| Funding { address: DEV_ACCOUNTS[0], wei: U256::ZERO, usdc };
        for funding in [vec![rich(U256::MAX)], vec![rich(USDC_BALANCE_MAX), rich(U256::ONE)]] {
            let state = state(&funding);
            let held = state.storage(USDC_ADDRESS, usdc_balance_slot(DEV_ACCOUNTS[0]));
            assert_eq!(held, USDC_BALANCE_MAX);
            assert!(!held.bit(255) && held.bit(254));
            assert_eq!(state.storage(USDC_ADDRESS, USDC_SUPPLY_SLOT), held);
        }
    }
}
