//! Mutated payments: every leaf of every kind of payment message changed, removed, retyped,
//! extended and swapped, from a seed.
//!
//! A mutated payment is refused, or it is the very same payment: the same key, and exactly the same
//! effect on the chain. Nothing in between.

use std::fmt;

use alloy::primitives::{Address, B256, Bytes, Log, U256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use alloy::sol_types::SolValue as _;
use pay402_core::network::{ChainStatus, Network as _, Unverified};
use pay402_core::resource::ResourceInfo;
use pay402_core::scheme::ServerScheme as _;
use pay402_core::time::Clock as _;
use pay402_core::{Amount, Payment, PaymentKey, Requirements, Scheme, WireVersion, wire};
use pay402_devchain::genesis::{
    AGENT_ACCOUNT_ADDRESS, DEV_ACCOUNTS, USDC_ADDRESS, WALLET_1271, dev_signer,
};
use pay402_evm::account::{AgentAccount, SessionPayment};
use pay402_evm::exact::Erc7710Payload;
use pay402_evm::signature::Ecdsa;
use pay402_evm::{AssetTable, ExactServer, Settings, Sponsoring, UptoServer};
use serde_json::{Map, Value, json};

use crate::accounts::{Undeployed, first_contract};
use crate::first_payment;
use crate::permit::{exact, sponsored, upto};
use crate::support::{CHAIN_ID, House, PAY_TO, PAYER, START, STRANGER, pair, payment_by, terms};
use crate::wallets::Method;

/// Mutations of each kind in the ordinary run.
const FEW: usize = 200;
/// Mutations of each kind in the campaign: 20,000 and more in all.
const MANY: usize = 2_000;

/// A generator whose numbers a seed decides (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// The kinds of payments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Authorization,
    AuthorizationV1,
    Permit,
    PermitSponsored,
    Metered,
    MeteredSponsored,
    Deployed,
    Undeployed,
    UndeployedPermit,
    AgentAccount,
    Adopting,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Authorization,
        Self::AuthorizationV1,
        Self::Permit,
        Self::PermitSponsored,
        Self::Metered,
        Self::MeteredSponsored,
        Self::Deployed,
        Self::Undeployed,
        Self::UndeployedPermit,
        Self::AgentAccount,
        Self::Adopting,
    ];

    /// What is collected of a ceiling.
    fn charge(self) -> Option<Amount> {
        matches!(self, Self::Metered | Self::MeteredSponsored).then(|| Amount::from(4_000))
    }
}

/// A house with everything that any kind of payer needs.
struct World {
    house: House,
    deployed: Address,
    undeployed: Undeployed,
}

impl World {
    async fn new(kind: Kind) -> Self {
        let settings = Settings {
            factories: vec![first_contract()],
            delegates: vec![AGENT_ACCOUNT_ADDRESS],
            sponsoring: Sponsoring { adoptions: true, ..Sponsoring::default() },
            ..Settings::default()
        };
        let house = House::with(AssetTable::defaults(), settings);
        house.network.check().await.unwrap();
        let undeployed = Undeployed::by_factory(house.factory().await, PAYER);
        let owner = dev_signer(PAYER).address();
        let deployed = house.deploy(WALLET_1271.creation(&owner.abi_encode())).await;
        let sponsored = matches!(kind, Kind::PermitSponsored | Kind::MeteredSponsored);
        for account in [deployed, undeployed.address, first_payment::payer().address] {
            house.fund(account);
        }
        // What is signed for Permit2 does not name its owner: a wallet that does not bind what its key
        // signs to itself, as this one, signs for the key's own account too. Permit2 may take
        // nothing from there.
        if !sponsored && kind != Kind::UndeployedPermit {
            house.fund(dev_signer(PAYER).address());
        }
        if kind == Kind::AgentAccount {
            house.delegate(&dev_signer(PAYER), AGENT_ACCOUNT_ADDRESS).await;
        }
        Self { house, deployed, undeployed }
    }

    /// A good payment of this kind; another one each time.
    fn payment(&self, kind: Kind, payer: usize) -> Payment {
        let wrap = |signature: Vec<u8>| self.undeployed.wrap(signature);
        match kind {
            Kind::Authorization | Kind::AuthorizationV1 => payment_by(payer, 10_000),
            Kind::Permit => Method::Permit2.pay(DEV_ACCOUNTS[payer], payer, |bytes| bytes),
            Kind::PermitSponsored => sponsored(&exact(10_000), |_| {}, |_| {}),
            Kind::Metered => Method::Upto.pay(DEV_ACCOUNTS[payer], payer, |bytes| bytes),
            Kind::MeteredSponsored => sponsored(&upto(10_000), |_| {}, |_| {}),
            Kind::Deployed => Method::Eip3009.pay(self.deployed, payer, |bytes| bytes),
            Kind::Undeployed => Method::Eip3009.pay(self.undeployed.address, PAYER, wrap),
            Kind::UndeployedPermit => Method::Permit2.pay(self.undeployed.address, PAYER, wrap),
            Kind::AgentAccount => agent_payment(),
            Kind::Adopting => first_payment::first_with(fresh()),
        }
    }
}

fn fresh() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NONCES: AtomicU64 = AtomicU64::new(1);
    NONCES.fetch_add(1, Ordering::Relaxed)
}

/// A payment of the root key through the agent account that its own account delegated to.
fn agent_payment() -> Payment {
    let root = dev_signer(PAYER);
    let mut terms = terms(10_000);
    terms.extra.insert("assetTransferMethod".into(), "erc7710".into());
    let account = AgentAccount { chain_id: CHAIN_ID, address: root.address() };
    let payment = SessionPayment {
        key: root.address(),
        token: USDC_ADDRESS,
        to: PAY_TO.parse().unwrap(),
        value: U256::from(10_000),
        nonce: U256::from(fresh()),
        valid_after: pay402_core::time::UnixTime(START - 60),
        deadline: pay402_core::time::UnixTime(START + 600),
        epoch: 0,
    };
    let signature = root.sign_hash_sync(&payment.digest(&account)).unwrap();
    let payload = Erc7710Payload {
        manager: root.address(),
        context: payment.context(&Ecdsa::from(signature)),
        delegator: root.address(),
    };
    pair(&terms, payload.to_json())
}

/// What a settlement did: whatever was logged, and what everybody has afterwards.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Effect {
    logs: Vec<Log>,
    balances: Vec<U256>,
    allowance: U256,
    code: Bytes,
}

/// A kind of payment, a good one of it, and what that does.
struct Specimen {
    kind: Kind,
    world: World,
    terms: Requirements,
    payer: Address,
    message: Value,
    key: PaymentKey,
    effect: Effect,
    /// Messages of other payments: of this kind first.
    donors: Vec<Value>,
}

fn message_of(kind: Kind, payment: &Payment) -> Value {
    let mut presented = payment.presented().clone();
    if kind == Kind::AuthorizationV1 {
        presented.version = WireVersion::V1;
        presented.accepted = None;
    } else {
        let resource = ResourceInfo::at("http://127.0.0.1/weather");
        presented.resource = Some(ResourceInfo { description: Some("weather".into()), ..resource });
        let id = json!({ "info": { "id": "0123456789abcdef0123" } });
        presented.extensions.insert("payment-identifier".into(), id);
    }
    wire::encode_presented(&presented)
}

impl Specimen {
    async fn new(kind: Kind) -> Self {
        let world = World::new(kind).await;
        let good = world.payment(kind, PAYER);
        let message = message_of(kind, &good);
        let terms = good.terms().clone();
        let mut donors = vec![
            message_of(kind, &world.payment(kind, PAYER)),
            message_of(kind, &world.payment(kind, STRANGER)),
        ];
        for other in Kind::ALL {
            donors.push(message_of(other, &world.payment(other, PAYER)));
        }
        let none = Effect {
            logs: Vec::new(),
            balances: Vec::new(),
            allowance: U256::ZERO,
            code: Bytes::new(),
        };
        let payment = read(&message, &terms, kind).expect("the specimen itself is read");
        let verified = world.house.verify(&payment).await.unwrap();
        let payer = verified.payer.parse().unwrap();
        let mut specimen =
            Self { kind, world, terms, payer, message, key: verified.key, effect: none, donors };
        specimen.effect = specimen.settle(&payment).await.expect("the specimen itself settles");
        assert!(!specimen.effect.logs.is_empty());
        specimen
    }

    /// Settles on a chain that is then as before. `None` if it was refused.
    async fn settle(&self, payment: &Payment) -> Option<Effect> {
        let house = &self.world.house;
        let verified = match house.network.verify(payment).await {
            Ok(verified) => verified,
            Err(Unverified::Invalid(_)) => return None,
            Err(Unverified::Unavailable(error)) => panic!("a payment broke the node: {error}"),
        };
        let snapshot = house.chain.snapshot();
        let (sent, _) = house.submit(&verified.plan).await;
        let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
        assert!(
            matches!(status, ChainStatus::Proven { .. }),
            "accepted and not settled: {status:?}"
        );
        let provider = house.chain.provider();
        let hash = sent.transaction.parse::<B256>().unwrap();
        let receipt = provider.get_transaction_receipt(hash).await.unwrap().unwrap();
        let mut balances = Vec::new();
        for account in [self.payer, PAY_TO.parse().unwrap()].into_iter().chain(DEV_ACCOUNTS) {
            balances.push(house.usdc_of(account).await);
        }
        let effect = Effect {
            logs: receipt.logs().iter().map(|log| log.inner.clone()).collect(),
            balances,
            allowance: house.allowance(self.payer).await,
            code: house.code_of(self.payer).await,
        };
        assert!(house.chain.revert(snapshot));
        Some(effect)
    }

    /// Whether the mutated message is refused. Panics if it is anything but the same payment.
    async fn is_refused(&self, mutation: &Mutation) -> bool {
        let Some(payment) = read(&mutation.message, &self.terms, self.kind) else { return true };
        let network = &self.world.house.network;
        let verified = match network.verify(&payment).await {
            Err(Unverified::Invalid(_)) => return true,
            Err(Unverified::Unavailable(error)) => panic!("{mutation}: the node broke: {error}"),
            Ok(verified) => verified,
        };
        assert_eq!(verified.key, self.key, "{mutation}: another payment");
        assert_eq!(verified.amount, payment.charge(), "{mutation}");
        let identified = network.identify(&payment).unwrap();
        assert_eq!(
            (&identified.key, identified.fingerprint),
            (&verified.key, verified.fingerprint),
            "{mutation}: identified as another"
        );
        // The resource server takes it for the same payment, or for none.
        let now = self.world.house.time.now();
        let server = match self.terms.scheme == Scheme::UPTO {
            true => UptoServer::new(AssetTable::defaults()).identify(&payment, now),
            false => ExactServer::new(AssetTable::defaults()).identify(&payment, now),
        };
        if let Ok(key) = server {
            assert_eq!(key, self.key, "{mutation}: another payment to the resource server");
        }
        let effect = self.settle(&payment).await;
        assert_eq!(effect.as_ref(), Some(&self.effect), "{mutation}: another effect");
        false
    }
}

/// Reads a message as a facilitator does that is asked to settle it on our terms.
fn read(message: &Value, terms: &Requirements, kind: Kind) -> Option<Payment> {
    let presented = wire::decode_presented(message.to_string().as_bytes()).ok()?;
    let payment = Payment::pair(terms.clone(), presented).ok()?;
    match kind.charge() {
        Some(charge) => payment.charging(charge).ok(),
        None => Some(payment),
    }
}

/// A message that was changed, and how.
struct Mutation {
    message: Value,
    place: String,
    how: &'static str,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.how, self.place)
    }
}

/// JSON pointers of everything in `value` but itself.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut inner = |key: &str, value: &Value| {
        let at = format!("{at}/{key}");
        found.push(at.clone());
        places(value, &at, found);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| inner(key, value)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| inner(&index.to_string(), value));
        }
        _ => {}
    }
}

/// Places that hold all that was signed.
const WHOLE: [&str; 2] = ["/payload", "/payload/permissionContext"];

const HOW: [&str; 8] = [
    "change",
    "remove",
    "retype",
    "extend",
    "add beside",
    "swap with another's",
    "swap within",
    "spell",
];

fn mutate(specimen: &Specimen, random: &mut Random) -> Mutation {
    let mut all = Vec::new();
    places(&specimen.message, "", &mut all);
    loop {
        let place = random.of(&all).clone();
        let how = *random.of(&HOW);
        let mut message = specimen.message.clone();
        let changed = match how {
            "remove" => remove(&mut message, &place),
            "swap with another's" => {
                // A whole payload of another payment is another payment, and so is a whole context.
                let donor = random.of(&specimen.donors).pointer(&place).cloned();
                let slot = message.pointer_mut(&place).unwrap();
                !WHOLE.contains(&&*place) && donor.is_some_and(|donor| replace(slot, donor))
            }
            "swap within" => {
                let other = random.of(&all).clone();
                let (one, two) =
                    (message.pointer(&place).cloned(), message.pointer(&other).cloned());
                let nested = place.starts_with(&other) || other.starts_with(&place);
                if !nested {
                    *message.pointer_mut(&place).unwrap() = two.unwrap();
                    *message.pointer_mut(&other).unwrap() = one.unwrap();
                }
                !nested
            }
            "add beside" => match parent(&mut message, &place).0 {
                Value::Object(map) => {
                    let key = *random.of(&[
                        "to",
                        "value",
                        "amount",
                        "facilitator",
                        "charge",
                        "from",
                        "nonce",
                        "x",
                    ]);
                    let value = random
                        .of(&[json!("1"), json!(1), json!({}), json!(null), json!(PAY_TO)])
                        .clone();
                    let fresh = !map.contains_key(key);
                    if fresh {
                        map.insert(key.into(), value);
                    }
                    fresh
                }
                _ => false,
            },
            how => {
                let slot = message.pointer_mut(&place).unwrap();
                let new = changed(slot, how, random);
                new.is_some_and(|new| replace(slot, new))
            }
        };
        if changed && message != specimen.message {
            return Mutation { message, place, how };
        }
    }
}

fn replace(slot: &mut Value, new: Value) -> bool {
    let differs = *slot != new;
    *slot = new;
    differs
}

fn parent<'a>(message: &'a mut Value, place: &str) -> (&'a mut Value, String) {
    let (above, key) = place.rsplit_once('/').unwrap();
    (message.pointer_mut(above).unwrap(), key.to_owned())
}

fn remove(message: &mut Value, place: &str) -> bool {
    match parent(message, place) {
        (Value::Object(map), key) => map.remove(&key).is_some(),
        (Value::Array(items), key) => {
            items.remove(key.parse().unwrap());
            true
        }
        _ => false,
    }
}

/// Another value for a leaf or a group, in one of the ways.
fn changed(value: &Value, how: &str, random: &mut Random) -> Option<Value> {
    match (how, value) {
        ("retype", _) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let number = text.parse::<u64>().map_or(json!(0), |number| json!(number));
            let other = [
                json!(null),
                json!(true),
                json!([value]),
                json!({ "value": value }),
                number,
                json!(text),
                json!([]),
                json!({}),
            ];
            Some(random.of(&other).clone())
        }
        ("change", Value::String(text)) => Some(change_text(text, random)),
        ("change", Value::Number(number)) => {
            let number = number.as_u64()?;
            Some(json!(*random.of(&[number.wrapping_add(1), number.wrapping_sub(1), 0, u64::MAX])))
        }
        ("change", Value::Bool(flag)) => Some(json!(!flag)),
        ("extend", Value::String(text)) => {
            let byte = format!("{:02x}", random.below(256));
            let tail = random.of(&["0", "00", " ", "\n", "\u{0}", "f", ".0", "e0", "n"]);
            let head = random.of(&["0", " ", "+", "-", "0x", "\u{feff}", "00"]);
            let long = "ab".repeat(5_000);
            let other = [
                format!("{text}{tail}"),
                format!("{text}{byte}"),
                format!("{head}{text}"),
                format!("{text}{text}"),
                format!("{text}{long}"),
            ];
            Some(json!(random.of(&other)))
        }
        ("extend", Value::Array(items)) => {
            let mut items = items.clone();
            items.push(json!("x"));
            Some(json!(items))
        }
        ("extend", Value::Object(map)) => {
            let mut map: Map<String, Value> = map.clone();
            map.insert("unheard-of".into(), json!({ "deep": [1, { "x": null }] }));
            Some(json!(map))
        }
        // What means the same to some.
        ("spell", Value::String(text)) => {
            let other = [
                text.to_lowercase(),
                text.to_uppercase(),
                text.replacen("0x", "0X", 1),
                text.replacen("0x", "", 1),
                text.parse::<U256>().map_or(text.clone(), |number| format!("{number:#x}")),
                format!("{text}.0"),
                text.replace('1', "１"),
            ];
            Some(json!(random.of(&other)))
        }
        _ => None,
    }
}

/// One character changed, one number up or down, one signature re-encoded, an edge.
fn change_text(text: &str, random: &mut Random) -> Value {
    if let Some(digits) = text.strip_prefix("0x")
        && digits.len() == 130
        && random.below(3) == 0
    {
        return json!(reencoded(digits, random));
    }
    if let Ok(number) = text.parse::<U256>()
        && !text.starts_with("0x")
        && random.below(2) == 0
    {
        let one = U256::from(1);
        let other = [
            number.wrapping_add(one),
            number.wrapping_sub(one),
            U256::ZERO,
            U256::MAX,
            number << 1,
        ];
        return json!(random.of(&other).to_string());
    }
    if text.is_empty() {
        return json!("a");
    }
    let mut characters: Vec<char> = text.chars().collect();
    let index = random.below(characters.len());
    let hexadecimal: Vec<char> = "0123456789abcdefABCDEF".chars().collect();
    characters[index] = *random.of(&hexadecimal);
    json!(characters.into_iter().collect::<String>())
}

/// Other encodings of the same ECDSA signature: `v` from 0, the compact form, the high `s`.
fn reencoded(digits: &str, random: &mut Random) -> String {
    let mut bytes = alloy::hex::decode(digits).unwrap();
    let order: U256 =
        "0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141".parse().unwrap();
    match random.below(3) {
        0 => bytes[64] = bytes[64].wrapping_sub(27),
        1 => {
            let v = bytes.pop().unwrap();
            bytes[32] |= (v.wrapping_sub(27) & 1) << 7;
        }
        _ => {
            let s = order.wrapping_sub(U256::from_be_slice(&bytes[32..64]));
            bytes[32..64].copy_from_slice(&s.to_be_bytes::<32>());
            bytes[64] = 55_u8.wrapping_sub(bytes[64]);
        }
    }
    alloy::hex::encode_prefixed(bytes)
}

/// Tries `count` mutations of a kind, and tells how many were the same payment still.
async fn campaign(kind: Kind, seed: u64, count: usize) -> usize {
    let specimen = Specimen::new(kind).await;
    let mut random = Random(seed);
    let mut accepted = 0;
    for _ in 0..count {
        let mutation = mutate(&specimen, &mut random);
        accepted += usize::from(!specimen.is_refused(&mutation).await);
    }
    // After all this the good one is still good.
    let good = read(&specimen.message, &specimen.terms, kind).unwrap();
    assert_eq!(specimen.settle(&good).await.as_ref(), Some(&specimen.effect));
    assert!(accepted > 0, "{kind:?}: nothing harmless was tried");
    assert!(accepted < count / 2, "{kind:?}: {accepted} of {count} were accepted");
    accepted
}

macro_rules! campaigns {
    ($($short:ident, $long:ident, $kind:ident;)+) => {$(
        #[tokio::test]
        async fn $short() {
            campaign(Kind::$kind, 402, FEW).await;
        }

        #[tokio::test]
        #[ignore = "long: cargo xtask campaign"]
        async fn $long() {
            let accepted = campaign(Kind::$kind, 1, MANY).await;
            println!("{:?}: {MANY} mutations, {accepted} accepted as the same payment", Kind::$kind);
        }
    )+};
}

campaigns! {
    mutated_authorizations_are_refused_or_the_same, campaign_authorization, Authorization;
    mutated_authorizations_of_v1_are_refused_or_the_same, campaign_authorization_v1, AuthorizationV1;
    mutated_permits_are_refused_or_the_same, campaign_permit, Permit;
    mutated_sponsored_permits_are_refused_or_the_same, campaign_permit_sponsored, PermitSponsored;
    mutated_metered_permits_are_refused_or_the_same, campaign_metered, Metered;
    mutated_sponsored_metered_permits_are_refused_or_the_same, campaign_metered_sponsored, MeteredSponsored;
    mutated_payments_of_a_contract_are_refused_or_the_same, campaign_deployed, Deployed;
    mutated_payments_of_an_undeployed_wallet_are_refused_or_the_same, campaign_undeployed, Undeployed;
    mutated_permits_of_an_undeployed_wallet_are_refused_or_the_same, campaign_undeployed_permit, UndeployedPermit;
    mutated_payments_of_an_agent_account_are_refused_or_the_same, campaign_agent_account, AgentAccount;
    mutated_first_payments_are_refused_or_the_same, campaign_adopting, Adopting;
}

#[test]
fn mutations_reach_every_place_and_change_something() {
    // Without a chain: the generator alone.
    let payment = payment_by(PAYER, 10_000);
    let message = message_of(Kind::Authorization, &payment);
    let mut all = Vec::new();
    places(&message, "", &mut all);
    assert!(all.iter().any(|place| place == "/payload/authorization/nonce"), "{all:?}");
    assert!(all.iter().any(|place| place == "/accepted/extra/name"), "{all:?}");
    let mut random = Random(7);
    for place in &all {
        let value = message.pointer(place).unwrap();
        // Some retyping changes every leaf.
        assert!((0..50).any(|_| changed(value, "retype", &mut random).as_ref() != Some(value)));
        let mut without = message.clone();
        assert!(remove(&mut without, place));
        assert!(without.pointer(place).is_none(), "{place}");
    }
}
