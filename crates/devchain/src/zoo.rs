//! Badly behaved contracts for tests: tokens that cheat, fail or waste gas, wallets that change their mind, and
//! factories. Their sources, `contracts/src/zoo`, say how each behaves and how it is switched.
//!
//! None stands at genesis: a test deploys what it wants with [`Artifact::creation`]. Anyone may mint the tokens.

use std::sync::LazyLock;

use crate::genesis::{Artifact, artifact};

macro_rules! zoo {
    ($($(#[$about:meta])+ $name:ident = $contract:literal;)+) => {$(
        $(#[$about])+
        pub static $name: LazyLock<Artifact> = LazyLock::new(|| {
            artifact(include_str!(concat!(
                "../../../contracts/artifacts/zoo/",
                $contract,
                ".json"
            )))
        });
    )+};
}

zoo! {
    /// An ERC-20 with no kind of permit.
    PLAIN_TOKEN = "PlainToken";
    /// Keeps 1 % of what is moved, rounded up.
    FEE_TOKEN = "FeeToken";
    /// All balances grow and shrink at once.
    REBASING_TOKEN = "RebasingToken";
    /// Answers `false` where others revert, or always, if told to.
    RETURNS_FALSE_TOKEN = "ReturnsFalseToken";
    /// An EIP-3009 token on which a used nonce succeeds and moves nothing.
    SILENT_NONCE_TOKEN = "SilentNonceToken";
    /// Can be paused, and bar accounts.
    PAUSABLE_TOKEN = "PausableToken";
    /// Wastes gas in transfers, once told how much.
    GAS_BURNER_TOKEN = "GasBurnerToken";
    /// Its answers are as long as it is told to make them.
    RETURN_BOMB_TOKEN = "ReturnBombToken";
    /// Calls somebody during transfers.
    REENTRANT_TOKEN = "ReentrantToken";
    /// Its transfers answer and act as it is told, and it claims EIP-3009's view of used nonces.
    PUPPET_TOKEN = "PuppetToken";
    /// Its EIP-2612 permit always fails, with the revert data it is told to give.
    FAILING_PERMIT_TOKEN = "FailingPermitToken";
    /// Accepts every signature before a block, which is its constructor's argument, and none from there on.
    FLIP_WALLET = "FlipWallet";
    /// Accepts every signature, and wastes gas on it, once told how much.
    GAS_WALLET = "GasWallet";
    /// Deploys the wallets of [`WALLET_1271`](crate::genesis::WALLET_1271) at addresses known before (ERC-6492).
    WALLET_FACTORY = "WalletFactory";
    /// Takes every call, deploys nothing, wastes gas once told how much, and says that all is well.
    EVIL_FACTORY = "EvilFactory";
}
