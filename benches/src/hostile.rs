//! What hostile tokens, wallets and factories cost a facilitator that allows them: the gas of its
//! signer, held against the cap of one settlement.
//!
//! Each is switched at three moments: before the payment is presented, while the handler runs, and
//! when the settlement waits in the pool. Nothing may be granted, and the books equal the chain;
//! otherwise the bench fails.

use alloy::primitives::{Address, U256};
use alloy::sol_types::SolValue as _;
use pay402_core::Presented;
use pay402_devchain::genesis::Artifact;
use pay402_devchain::{Config, Devchain, zoo};
use pay402_e2e::den::{
    ANYONE, Attempt, Den, GAS_LIMIT_MAX, Meddling, PAYER, Payer, Token, When, abi, counterfactual,
    deploy,
};
use pay402_evm::TransferMethod;
use pay402_facilitator::Options;
use serde_json::json;

use crate::Result;

pub(crate) const NAMES: &[&str] = &["hostile"];

/// Replays of one payment.
const REPLAYS: usize = 100;
/// More than any cap, in gas.
const MUCH: u64 = 10_000_000;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Line {
    case: &'static str,
    moment: &'static str,
    presented: usize,
    granted: usize,
    transactions: u64,
    gas: u64,
}

impl Line {
    /// For people.
    pub(crate) fn text(&self) -> String {
        format!(
            "hostile_{:<22} {:<10} {:>7} gas of {GAS_LIMIT_MAX}, {} transactions, {} of {} granted",
            self.case, self.moment, self.gas, self.transactions, self.granted, self.presented,
        )
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> String {
        json!({
            "bench": format!("hostile_{}_{}", self.case, self.moment),
            "value": self.gas,
            "unit": "gas",
            "reference": GAS_LIMIT_MAX,
            "against": "the gas cap of one settlement",
            "transactions": self.transactions,
            "granted": self.granted,
            "presented": self.presented,
        })
        .to_string()
    }
}

const fn name(when: When) -> &'static str {
    match when {
        When::Before => "before",
        When::InHandler => "in_handler",
        When::InPool => "in_pool",
    }
}

/// Runs all of them.
///
/// # Errors
/// When one of them is granted, or costs more than it may.
pub(crate) async fn run() -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let much = U256::from(MUCH);
    let paused = abi::setPausedCall { value: true };
    lines.extend(
        token("pausable_token", &zoo::PAUSABLE_TOKEN, |at| Meddling::new(at, &paused)).await?,
    );
    let refusing = abi::setRefusingCall { value: true };
    let answers_false = |at| Meddling::new(at, &refusing);
    lines.extend(token("returns_false_token", &zoo::RETURNS_FALSE_TOKEN, answers_false).await?);
    let shrinks = abi::rebaseCall { newIndex: U256::from(1) };
    lines.extend(
        token("rebasing_token", &zoo::REBASING_TOKEN, |at| Meddling::new(at, &shrinks)).await?,
    );
    let burns = abi::setGasToBurnCall { amount: much };
    lines.extend(
        token("gas_burner_token", &zoo::GAS_BURNER_TOKEN, |at| Meddling::new(at, &burns)).await?,
    );
    let long = abi::setAnswerBytesCall { length: U256::from(1_000_000) };
    lines.extend(
        token("return_bomb_token", &zoo::RETURN_BOMB_TOKEN, |at| Meddling::new(at, &long)).await?,
    );
    lines.push(fee_token().await?);
    lines.push(silent_nonce_token().await?);
    let flips = abi::setFlipsAtCall { firstRefusingBlock: U256::ZERO };
    let flip_wallet = zoo::FLIP_WALLET.creation(&U256::MAX.abi_encode());
    lines.extend(wallet("flip_wallet", flip_wallet, |at| Meddling::new(at, &flips)).await?);
    let gas_wallet = zoo::GAS_WALLET.creation(&[]);
    lines.extend(wallet("gas_wallet", gas_wallet, |at| Meddling::new(at, &burns)).await?);
    lines.push(evil_factory(&burns).await?);
    Ok(lines)
}

fn line(case: &'static str, moment: &'static str, attempts: &[Attempt]) -> Result<Line> {
    let granted = attempts.iter().filter(|attempt| attempt.granted).count();
    let transactions = attempts.iter().map(|attempt| attempt.transactions).sum();
    let gas = attempts.iter().map(|attempt| attempt.gas).sum();
    let line = Line { case, moment, presented: attempts.len(), granted, transactions, gas };
    // What is refused when it is verified costs nothing; what reverts costs at most the cap.
    let bound = if moment == name(When::InPool) { GAS_LIMIT_MAX } else { 0 };
    if granted > 0 || gas > bound {
        return Err(format!("not bounded: {}", line.text()).into());
    }
    Ok(line)
}

async fn payment(den: &Den, payer: &Payer) -> Presented {
    den.payment("/exact", payer).await
}

/// A token that is switched to misbehave.
async fn token(
    case: &'static str,
    artifact: &Artifact,
    bad: impl Fn(Address) -> Meddling,
) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for when in When::ALL {
        let den = Den::start(Token::Erc20(artifact.creation(&[])), Vec::new()).await;
        let payer = Payer::Key(PAYER);
        den.fund(&payer).await;
        let payment = payment(&den, &payer).await;
        let attempt = den.present(&payment, when, &[bad(den.asset.token())]).await;
        den.assert_fees().await;
        lines.push(line(case, name(when), &[attempt])?);
    }
    Ok(lines)
}

/// A wallet that is switched to misbehave, paying with an honest token.
async fn wallet(
    case: &'static str,
    creation: alloy::primitives::Bytes,
    bad: impl Fn(Address) -> Meddling,
) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for when in When::ALL {
        let den = Den::start(Token::Usdc(TransferMethod::Eip3009), Vec::new()).await;
        let at = den.deploy(creation.clone()).await;
        let payer = Payer::Contract(at, ANYONE);
        den.fund(&payer).await;
        let payment = payment(&den, &payer).await;
        let attempt = den.present(&payment, when, &[bad(at)]).await;
        den.audit().await;
        lines.push(line(case, name(when), &[attempt])?);
    }
    Ok(lines)
}

/// It verifies and settles, and its own log shows that too little moved.
async fn fee_token() -> Result<Line> {
    let den = Den::start(Token::Erc20(zoo::FEE_TOKEN.creation(&[])), Vec::new()).await;
    let payer = Payer::Key(PAYER);
    den.fund(&payer).await;
    let attempt = den.present(&payment(&den, &payer).await, When::Before, &[]).await;
    den.assert_fees().await;
    // It is in the chain's hands when it is found out.
    line("fee_token", name(When::InPool), &[attempt])
}

/// Paid once, and then presented again and again.
async fn silent_nonce_token() -> Result<Line> {
    let token = Token::Eip3009(zoo::SILENT_NONCE_TOKEN.creation(&[]), "SilentNonce", "1");
    let den = Den::start(token, Vec::new()).await;
    let payer = Payer::Key(PAYER);
    den.fund(&payer).await;
    let payment = payment(&den, &payer).await;
    if !den.present(&payment, When::Before, &[]).await.granted {
        return Err("an honest payment was not granted".into());
    }
    let mut replays = Vec::with_capacity(REPLAYS);
    for _ in 0..REPLAYS {
        replays.push(den.present(&payment, When::Before, &[]).await);
    }
    den.audit().await;
    line("silent_nonce_token", "replayed", &replays)
}

/// It is on the list of allowed factories, burns gas and deploys nothing.
async fn evil_factory(burns: &abi::setGasToBurnCall) -> Result<Line> {
    let chain = Devchain::start(Config { chain_id: 84_532, ..Config::default() });
    let evil = deploy(&chain, zoo::EVIL_FACTORY.creation(&[])).await;
    let options = Options::default();
    let den = Den::on(chain, Token::Usdc(TransferMethod::Eip3009), vec![evil], options).await;
    let payer = counterfactual(evil, PAYER);
    den.fund(&payer).await;
    let payment = payment(&den, &payer).await;
    let attempt = den.present(&payment, When::Before, &[Meddling::new(evil, burns)]).await;
    den.audit().await;
    line("evil_factory", name(When::Before), &[attempt])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(granted: bool, gas: u64) -> Attempt {
        Attempt { status: 402, reason: None, granted, ran: false, transactions: 1, gas }
    }

    #[test]
    fn a_line_is_refused_above_its_bound() {
        assert!(line("x", "before", &[attempt(false, 0)]).is_ok());
        assert!(line("x", "before", &[attempt(false, 1)]).is_err());
        assert!(line("x", "in_pool", &[attempt(false, GAS_LIMIT_MAX)]).is_ok());
        assert!(line("x", "in_pool", &[attempt(false, GAS_LIMIT_MAX + 1)]).is_err());
        assert!(line("x", "in_pool", &[attempt(true, 1)]).is_err());
        let good = line("x", "in_pool", &[attempt(false, 7)]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&good.json()).unwrap();
        assert_eq!((&json["bench"], &json["value"]), (&json!("hostile_x_in_pool"), &json!(7)));
    }
}
