//! An account that pays: what offers cost it, what it signs, and what became of that.
//!
//! **Invariant:** the only road to a signature over money is a [`Clearance`]; what is signed comes
//! from its reservation and from our own asset table. Signing is deterministic (RFC 6979), so that
//! the same clearance always gives the same bytes.

use std::collections::BTreeMap;

use alloy::consensus::{SignableTransaction as _, TxEip1559};
use alloy::eips::Encodable2718 as _;
use alloy::eips::eip2930::AccessList;
use alloy::primitives::{Address, B256, U64, U256, keccak256};
use alloy::signers::Signer;
use alloy::sol_types::SolCall as _;
use pay402_core::asset::AssetId;
use pay402_core::error::Unavailable;
use pay402_core::scheme::{Authorized, Decline, Fate};
use pay402_core::spend::{Clearance, Quote, Reservation};
use pay402_core::{Amount, NetworkId, Requirements, Scheme};
use serde_json::{Map, Value};

use crate::address::{canonical, parse_address, parse_payee};
use crate::assets::{Asset, AssetTable, TransferMethod};
use crate::contracts::Erc20;
use crate::exact::{Eip3009Payload, Permit2Payload};
use crate::fees::Fees;
use crate::mandate::Mandate;
use crate::network::FACILITATOR_ADDRESS;
use crate::network::sight::{Sighting, Subject, is_cancelled_for_good, is_over, sight};
use crate::read::domain_of;
use crate::rpc::{Block, Call, Called, Rpc};
use crate::signature::Ecdsa;
use crate::sponsor::{
    EIP2612_GAS_SPONSORING, ERC20_APPROVAL_GAS_SPONSORING, approval_info, token_permit_info,
};
use crate::typed_data::{Authorization, PERMIT2, PermitTransfer, TokenPermit, token_domain};

/// Gas of an approval: what official clients ask for, and more than common tokens take.
const APPROVAL_GAS: u64 = 70_000;
/// Sets identifiers apart from everything else that the key signs. An EIP-191 message can be
/// neither a transaction nor typed data.
const IDENTIFIER_LABEL: &str = "pay402 payment identifier";

/// One account with its key, the tokens it pays in, and the nodes it may ask.
pub(crate) struct Payer<S> {
    signer: S,
    assets: AssetTable,
    rpcs: BTreeMap<NetworkId, Rpc>,
    /// What an approval of Permit2 is for, where a payment does not need more.
    approves: U256,
}

impl<S: Signer + Send + Sync> Payer<S> {
    pub(crate) const fn new(signer: S, assets: AssetTable) -> Self {
        Self { signer, assets, rpcs: BTreeMap::new(), approves: U256::ZERO }
    }

    pub(crate) fn add_rpc(&mut self, network: NetworkId, rpc: Rpc) {
        self.rpcs.insert(network, rpc);
    }

    pub(crate) const fn set_approves(&mut self, amount: Amount) {
        self.approves = amount.to_u256();
    }

    pub(crate) fn address(&self) -> Address {
        self.signer.address()
    }

    /// What taking up `offer` by `scheme` would cost.
    pub(crate) fn quote(&self, scheme: &Scheme, offer: &Requirements) -> Result<Quote, Decline> {
        let asset = asset_of(&self.assets, scheme, offer)?;
        match TransferMethod::of(offer) {
            Some(TransferMethod::Eip3009) => check_eip3009(offer, asset)?,
            Some(TransferMethod::Permit2) => {}
            Some(TransferMethod::Erc7710) => {
                let why = "erc7710 is paid by a session key of an adopted account";
                return Err(Decline(why.into()));
            }
            None => return Err(Decline("the asset transfer method is not known here".into())),
        }
        if *scheme == Scheme::UPTO {
            facilitator_of(offer)?;
        }
        quote_in(asset, scheme, offer)
    }

    /// Signs what was cleared.
    pub(crate) async fn authorize(&self, clearance: &Clearance) -> Result<Authorized, Unavailable> {
        let reservation = clearance.reservation();
        let (mandate, asset) = self.mandate(reservation)?;
        let chain_id = chain_id_of(reservation)?;
        let domain = token_domain(&asset.info, chain_id, asset.token());
        let payload = match &mandate {
            Mandate::Authorization(authorization) => {
                let signature = self.sign(&authorization.digest(&domain)).await?;
                Eip3009Payload { authorization: *authorization, signature: signature.to_bytes() }
                    .to_json()
            }
            Mandate::Permit(permit) => {
                let signature = self.sign(&permit.digest(chain_id)).await?.to_bytes();
                Permit2Payload { permit: *permit, spender: permit.spender(), signature }.to_json()
            }
            Mandate::Delegation(_) => return Err(cannot("the reservation is for another method")),
        };
        Ok(Authorized { payload })
    }

    /// What lets a facilitator give Permit2 the allowance that is missing, by an extension that the
    /// server advertised: an EIP-2612 permit for exactly this payment, or, where there can be none,
    /// an approval. Nothing where the allowance suffices or no node can be asked: the facilitator
    /// then says what is missing.
    pub(crate) async fn extensions(
        &self,
        clearance: &Clearance,
        advertised: &Map<String, Value>,
    ) -> Map<String, Value> {
        match self.allowance(clearance.reservation(), advertised).await {
            Ok(Some((name, info))) => Map::from_iter([(name.to_owned(), info)]),
            Ok(None) | Err(_) => Map::new(),
        }
    }

    async fn allowance(
        &self,
        reservation: &Reservation,
        advertised: &Map<String, Value>,
    ) -> Result<Option<(&'static str, Value)>, Unavailable> {
        let asks = |name| advertised.contains_key(name);
        let (asks_permit, asks_approval) =
            (asks(EIP2612_GAS_SPONSORING), asks(ERC20_APPROVAL_GAS_SPONSORING));
        let (mandate, asset) = self.mandate(reservation)?;
        let rpc = self.rpcs.get(&asset.info.id.network);
        let (Mandate::Permit(permit), Some(rpc), true) =
            (mandate, rpc, asks_permit || asks_approval)
        else {
            return Ok(None);
        };
        let (offer, chain_id) = (&reservation.quote.offer, chain_id_of(reservation)?);
        let (token, owner) = (asset.token(), permit.from);
        let allowance = Erc20::allowanceCall { owner, spender: PERMIT2 }.abi_encode();
        let nonces = Erc20::noncesCall { owner }.abi_encode();
        let [allowance, nonce] =
            rpc.ask_all([Call::view(token, allowance), Call::view(token, nonces)]).await?;
        let allowance = rpc.read_call(allowance)?.word();
        if allowance.is_none_or(|allowance| allowance >= permit.permitted) {
            return Ok(None);
        }
        // A server that names no domain takes no token permit, whatever the token can do.
        let has_names = asset.has_domain() && matches!(domain_of(offer), (Some(_), Some(_)));
        let nonce = rpc.read_call(nonce)?.word().filter(|_| asks_permit && has_names);
        let Some(nonce) = nonce else {
            if !asks_approval {
                return Ok(None);
            }
            let info = self.approval(rpc, token, &permit, chain_id).await?;
            return Ok(info.map(|info| (ERC20_APPROVAL_GAS_SPONSORING, info.into())));
        };
        let (value, deadline) = (permit.permitted, permit.deadline);
        let token_permit = TokenPermit { owner, value, nonce, deadline };
        let domain = token_domain(&asset.info, chain_id, token);
        let signature = self.sign(&token_permit.digest(&domain)).await?;
        let info = token_permit_info(&token_permit, token, signature);
        Ok(Some((EIP2612_GAS_SPONSORING, info.into())))
    }

    /// A signed transaction that approves Permit2, for the facilitator to broadcast. None that could
    /// not be used, since whoever has it can send it all the same: of an account with code, whose
    /// transactions are not its key's alone; beside another that is not mined yet, which would take
    /// its nonce; of a token that refuses it, as those do that change an allowance only from or to
    /// zero; and while gas costs more than is ever paid here.
    async fn approval(
        &self,
        rpc: &Rpc,
        token: Address,
        permit: &PermitTransfer,
        chain_id: u64,
    ) -> Result<Option<Map<String, Value>>, Unavailable> {
        let owner = permit.from;
        let amount = self.approves.max(permit.permitted);
        let input = Erc20::approveCall { spender: PERMIT2, value: amount }.abi_encode();
        let [code, nonce, pending, head, tip, trial] = rpc
            .ask_all([
                Call::code(owner),
                Call::mined_nonces(owner),
                Call::pending_nonces(owner),
                Call::head(),
                Call::tip(),
                Call::simulate((owner, token), input.clone(), APPROVAL_GAS, "latest"),
            ])
            .await?;
        let nonce: U64 = rpc.read(nonce)?;
        let is_free = rpc.read_bytes(code)?.is_empty() && rpc.read::<U64>(pending)? == nonce;
        // A token may answer nothing, as some well-known ones do, or `true`.
        let works = match rpc.read_call(trial)? {
            Called::Returned(answer) if answer.is_empty() => true,
            answer => answer.word() == Some(U256::from(1)),
        };
        let head: Block = rpc.read(head)?;
        let fees = Fees::offered(rpc, &head, tip).filter(|_| is_free && works);
        let Some(fees) = fees else { return Ok(None) };
        let transaction = TxEip1559 {
            chain_id,
            nonce: nonce.to(),
            gas_limit: APPROVAL_GAS,
            max_fee_per_gas: fees.max,
            max_priority_fee_per_gas: fees.tip,
            to: token.into(),
            value: U256::ZERO,
            access_list: AccessList::default(),
            input: input.into(),
        };
        let signature = self.signer.sign_hash(&transaction.signature_hash()).await;
        let signature = signature.map_err(|_| refused_to_sign())?.normalized_s();
        let raw = transaction.into_signed(signature).encoded_2718();
        Ok(Some(approval_info(owner, token, amount, &raw)))
    }

    pub(crate) async fn identifier(&self, clearance: &Clearance) -> Result<String, Unavailable> {
        let reservation = clearance.reservation();
        let (_, asset) = self.mandate(reservation)?;
        identifier(&self.signer, &asset.info.id, reservation.plan.nonce).await
    }

    pub(crate) async fn fate(&self, clearance: &Clearance) -> Result<Fate, Unavailable> {
        let reservation = clearance.reservation();
        let network = &reservation.quote.asset.network;
        let rpc = self.rpcs.get(network).ok_or_else(|| {
            Unavailable::new(
                format!("rpc {network}"),
                "no RPC URL is configured, so the chain cannot be asked what became of a payment",
            )
        })?;
        let (mandate, asset) = self.mandate(reservation)?;
        let subject = Subject { token: asset.token(), mandate: &mandate, delegate: None };
        fate_of(&mandate, sight(rpc, &subject).await?, reservation)
    }

    /// The mandate that a reservation stands for, and the token it is for.
    fn mandate(&self, reservation: &Reservation) -> Result<(Mandate, &Asset), Unavailable> {
        if reservation.payer != canonical(&self.signer.address()) {
            return Err(cannot("the reservation is for another account"));
        }
        let (quote, plan) = (&reservation.quote, &reservation.plan);
        let asset = self
            .assets
            .find(&quote.asset)
            .ok_or_else(|| cannot("the asset is no longer in the asset table"))?;
        let to = parse_payee(&quote.pay_to).map_err(|_| cannot("the payee is no address"))?;
        let (from, value) = (self.signer.address(), quote.amount.to_u256());
        let facilitator = match quote.scheme == Scheme::UPTO {
            true => Some(facilitator_of(&quote.offer).map_err(|error| cannot(&error.0))?),
            false => None,
        };
        let mandate = match TransferMethod::of(&quote.offer) {
            Some(TransferMethod::Eip3009) => Mandate::Authorization(Authorization {
                from,
                to,
                value,
                valid_after: U256::from(plan.valid_after.0),
                valid_before: U256::from(plan.valid_before.0),
                nonce: B256::from(plan.nonce),
            }),
            Some(TransferMethod::Permit2) => Mandate::Permit(PermitTransfer {
                from,
                token: asset.token(),
                permitted: value,
                nonce: U256::from_be_bytes(plan.nonce),
                // Valid up to and including its deadline, where the plan's end is excluded.
                deadline: U256::from(plan.valid_before.minus_s(1).0),
                to,
                valid_after: U256::from(plan.valid_after.0),
                facilitator,
            }),
            Some(TransferMethod::Erc7710) | None => {
                return Err(cannot("the reservation is for another method"));
            }
        };
        Ok((mandate, asset))
    }

    async fn sign(&self, digest: &B256) -> Result<Ecdsa, Unavailable> {
        sign(&self.signer, digest).await
    }
}

/// The asset of an offer that `scheme` may take up, from our own table.
pub(crate) fn asset_of<'a>(
    assets: &'a AssetTable,
    scheme: &Scheme,
    offer: &Requirements,
) -> Result<&'a Asset, Decline> {
    if offer.scheme != *scheme {
        let name = short(offer.scheme.as_str());
        return Err(Decline(format!("the scheme {name} is not paid here")));
    }
    if offer.network.evm_chain_id().is_none() {
        return Err(Decline(format!("{} is not an EVM network", offer.network)));
    }
    assets.find(&offer.asset_id()).ok_or_else(|| {
        let asset = short(&offer.asset);
        Decline(format!("{asset} on {} is not in the asset table", offer.network))
    })
}

/// The quote of an offer in `asset`, whose transfer method was checked.
pub(crate) fn quote_in(
    asset: &Asset,
    scheme: &Scheme,
    offer: &Requirements,
) -> Result<Quote, Decline> {
    let info = &asset.info;
    let pay_to = parse_payee(&offer.pay_to).map_err(|error| Decline(format!("payTo {error}")))?;
    if offer.amount.is_zero() {
        return Err(Decline("the amount is zero: there is nothing to pay".into()));
    }
    Ok(Quote {
        offer: offer.clone(),
        scheme: scheme.clone(),
        asset: info.id.clone(),
        symbol: info.symbol.clone(),
        decimals: info.decimals,
        amount: offer.amount,
        pay_to: canonical(&pay_to),
        is_dollar: asset.is_dollar(),
    })
}

/// The secret id of what `signer` signs with `nonce` in `asset`.
pub(crate) async fn identifier(
    signer: &(impl Signer + Sync),
    asset: &AssetId,
    nonce: [u8; 32],
) -> Result<String, Unavailable> {
    let message = format!("{IDENTIFIER_LABEL}\n{asset}\n{}", B256::from(nonce));
    let signature = signer.sign_message(message.as_bytes()).await.map_err(|_| refused_to_sign())?;
    let digest = keccak256(signature.normalized_s().as_bytes());
    Ok(format!("pay_{}", alloy::hex::encode(digest)))
}

pub(crate) async fn sign(
    signer: &(impl Signer + Sync),
    digest: &B256,
) -> Result<Ecdsa, Unavailable> {
    let signature = signer.sign_hash(digest).await.map_err(|_| refused_to_sign())?;
    Ok(Ecdsa::from(signature.normalized_s()))
}

/// What a sighting says of a payer's own authorization.
fn fate_of(
    mandate: &Mandate,
    seen: Sighting,
    reservation: &Reservation,
) -> Result<Fate, Unavailable> {
    let dead_or_live = |dead: bool| if dead { Fate::Dead } else { Fate::Live };
    let whole = (reservation.quote.scheme == Scheme::EXACT).then_some(reservation.quote.amount);
    Ok(match seen {
        Sighting::Unused { head_time } => dead_or_live(is_over(mandate, head_time)),
        Sighting::Cancelled { block, head } => dead_or_live(is_cancelled_for_good(block, head)),
        Sighting::Used { transaction, moved, .. } => Fate::Used {
            transaction: Some(transaction.to_string()),
            charged: whole.or(moved.map(Amount::new)),
        },
        Sighting::UsedUnseen { .. } => Fate::Used { transaction: None, charged: whole },
    })
}

fn check_eip3009(offer: &Requirements, asset: &Asset) -> Result<(), Decline> {
    let info = &asset.info;
    if asset.method != TransferMethod::Eip3009 {
        return Err(Decline(format!("{} does not take EIP-3009 authorizations", info.symbol)));
    }
    if domain_of(offer) != (Some(&info.domain_name), Some(&info.domain_version)) {
        return Err(Decline(format!(
            "the offer's EIP-712 name and version are not those of {} ({}, {})",
            info.symbol, info.domain_name, info.domain_version
        )));
    }
    Ok(())
}

/// The one that the offer says will settle. It can move no more than what is signed, and only to
/// the payee.
fn facilitator_of(offer: &Requirements) -> Result<Address, Decline> {
    let named = offer.extra_str(FACILITATOR_ADDRESS).ok_or_else(|| {
        Decline(format!("the offer lacks extra.{FACILITATOR_ADDRESS}, which upto needs"))
    })?;
    parse_address(named)
        .ok()
        .filter(|address| *address != Address::ZERO)
        .ok_or_else(|| Decline(format!("extra.{FACILITATOR_ADDRESS} is no address")))
}

pub(crate) fn chain_id_of(reservation: &Reservation) -> Result<u64, Unavailable> {
    let network = &reservation.quote.asset.network;
    network.evm_chain_id().ok_or_else(|| cannot("the reservation is for another family"))
}

pub(crate) fn cannot(problem: &str) -> Unavailable {
    Unavailable::new("signer", problem)
}

fn refused_to_sign() -> Unavailable {
    cannot("the key did not sign")
}

/// Keeps a stranger's text short in messages.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
