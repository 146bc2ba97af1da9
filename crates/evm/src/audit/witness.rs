//! What one mined transaction says of the payments in the books.

use std::collections::HashMap;

use alloy::primitives::{Address, B256, U256};
use alloy::sol_types::SolEvent as _;
use pay402_core::asset::AssetId;
use pay402_core::books::Booked;
use pay402_core::{NetworkId, PaymentKey, Scheme};

use super::carried::{Carried, bare, carried};
use super::judge::{Identified, Mined, Proof};
use super::reader::Sent;
use crate::address::canonical;
use crate::assets::AssetTable;
use crate::contracts::Eip3009;
use crate::mandate::Mandate;
use crate::network::pack::{CREATE2_DEPLOYER, deployment};
use crate::network::plan::Plan;
use crate::network::status::proves;
use crate::read::Identity;
use crate::rpc::Receipt;
use crate::typed_data::{PermitTransfer, signing_hash};

/// Longest time of terms that is tried, in seconds: a week. Payers sign for minutes as a rule.
pub const TIMEOUT_S_MAX: u64 = 7 * 24 * 60 * 60;
/// Most payments of which all times are tried and none fits.
pub const SEARCHES_MAX: u32 = 64;

/// Looks at transactions, one after the other.
pub(super) struct Witness<'a> {
    network: &'a NetworkId,
    assets: &'a AssetTable,
    books: &'a [Booked],
    by_key: HashMap<&'a PaymentKey, usize>,
    /// Times that terms have left, which others will leave too.
    timeouts: Vec<u64>,
    searches_left: u32,
}

impl<'a> Witness<'a> {
    pub(super) fn new(
        network: &'a NetworkId,
        assets: &'a AssetTable,
        books: &'a [Booked],
        by_key: HashMap<&'a PaymentKey, usize>,
    ) -> Self {
        let (timeouts, searches_left) = (Vec::new(), SEARCHES_MAX);
        Self { network, assets, books, by_key, timeouts, searches_left }
    }

    /// What a transaction did to the entries in the books: to those that it carries, and to `settled`, which
    /// the books say that it settled.
    pub(super) fn look(
        &mut self,
        receipt: &Receipt,
        sent: &Sent,
        is_ours: bool,
        settled: &[usize],
    ) -> Mined {
        let delegator = |key: &PaymentKey| {
            self.by_key.get(key).and_then(|index| self.books[*index].payer.parse().ok())
        };
        let carried = match sent.to {
            Some(to) => carried(self.network, to, &sent.input, &delegator),
            None => Vec::new(),
        };
        let (mut proofs, mut strangers) = (Vec::new(), Vec::new());
        for it in &carried {
            match self.by_key.get(&it.key) {
                Some(index) => proofs.push((*index, self.prove(*index, receipt, it))),
                None if is_ours => strangers.push(it.key.clone()),
                None => {}
            }
        }
        for index in settled {
            if !proofs.iter().any(|(of, _)| of == index) {
                proofs.push((*index, self.seen(*index, receipt)));
            }
        }
        Mined { is_ours, proofs, strangers, ..sent.mined(receipt) }
    }

    /// Whether the transaction made the payment that its call asks for, and that is in the books.
    fn prove(&mut self, index: usize, receipt: &Receipt, it: &Carried) -> Proof {
        let booked = &self.books[index];
        let plan = Plan { charge: booked.amount.to_u256(), ..it.plan.clone() };
        if !proves(receipt, &plan) {
            return Proof::Missing;
        }
        let identified = self.identify(index, &plan);
        Proof::Made { token: plan.token, payee: plan.mandate.payee(), identified }
    }

    /// Whether the transaction made a payment that its call does not show: by another contract, in which the
    /// token logged the use and the transfer.
    fn seen(&self, index: usize, receipt: &Receipt) -> Proof {
        let booked = &self.books[index];
        let logged = || {
            let (token, payer, nonce) = authorization_of(&booked.key)?;
            let logs: Vec<_> = receipt.logs.iter().filter(|log| log.address == token).collect();
            let used = [Eip3009::AuthorizationUsed::SIGNATURE_HASH, payer.into_word(), nonce];
            let two = logs.windows(2).find(|two| two[0].topics == used)?;
            let payee = Address::from_word(*two[1].topics.get(2)?);
            let authorization = crate::typed_data::Authorization {
                from: payer,
                to: payee,
                value: booked.amount.to_u256(),
                valid_after: U256::ZERO,
                valid_before: U256::ZERO,
                nonce,
            };
            let mandate = Mandate::Authorization(authorization);
            let plan = bare(token, mandate, authorization.value);
            proves(receipt, &plan).then_some(Proof::Made {
                token,
                payee,
                identified: Identified::Unknown("its call is not read"),
            })
        };
        if booked.key.asset().starts_with("0x") {
            logged().unwrap_or(Proof::Missing)
        } else {
            Proof::Errand
        }
    }

    /// Whether the payment that was made is the very one that was entered.
    fn identify(&mut self, index: usize, plan: &Plan) -> Identified {
        let Booked { key, fingerprint, .. } = &self.books[index];
        let (message, digest) = match &plan.mandate {
            Mandate::Authorization(authorization) => {
                let id = AssetId::new(self.network.clone(), &canonical(&plan.token));
                let Some(asset) = self.assets.find(&id) else {
                    return Identified::Unknown("its token is not in the configuration");
                };
                let message = authorization.struct_hash();
                (message, signing_hash(asset.separator(), message))
            }
            Mandate::Permit(permit) => {
                let chain_id = self.network.evm_chain_id().unwrap_or_default();
                (permit.struct_hash(), permit.digest(chain_id))
            }
            Mandate::Delegation(delegation) => (delegation.context, delegation.context),
        };
        let metered =
            matches!(plan.mandate, Mandate::Permit(PermitTransfer { facilitator: Some(_), .. }));
        let scheme = if metered { &Scheme::UPTO } else { &Scheme::EXACT };
        let (token, payee) = (plan.token, plan.mandate.payee());
        let identity = Identity { scheme, key, message, digest, token, payee };
        let fits = |timeout: &u64| identity.fingerprint(*timeout) == *fingerprint;
        if self.timeouts.iter().any(fits) {
            return Identified::Same;
        }
        if self.searches_left == 0 {
            return Identified::Unknown("too many others are not the ones that were entered");
        }
        match (0..=TIMEOUT_S_MAX).find(fits) {
            Some(timeout) => {
                self.timeouts.push(timeout);
                Identified::Same
            }
            None => {
                self.searches_left -= 1;
                Identified::Another
            }
        }
    }
}

/// Token, payer and nonce of a payment's key, where it has the form of one by EIP-3009.
fn authorization_of(key: &PaymentKey) -> Option<(Address, Address, B256)> {
    let mut parts = key.as_str().split('/').skip(1);
    let mut next = || parts.next();
    let (token, payer, nonce) = (next()?, next()?, next()?);
    let parsed = (token.parse().ok()?, payer.parse().ok()?, nonce.parse().ok()?);
    next().is_none().then_some(parsed)
}

/// Whether a transaction puts `Packer` on the chain, and nothing else: what `facilitator setup` sends.
pub(super) fn is_setup(sent: &Sent) -> bool {
    sent.to == Some(CREATE2_DEPLOYER) && sent.input == deployment() && sent.value.is_zero()
}
