//! The agent account: adopted, granted and paid from on the embedded chain.

use alloy::consensus::{SignableTransaction as _, TxEip7702};
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use pay402_core::network::Verified;
use pay402_core::scheme::{ClientScheme as _, Fate, Unplanned};
use pay402_core::spend::{Clearance, Intent, Plan, Reservation};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, Refusal, Refused, Requirements, Scheme};
use pay402_devchain::genesis::{
    AGENT_ACCOUNT_ADDRESS, USDC_ADDRESS, dev_signer, usdc_balance_slot,
};
use pay402_evm::account::relay::{self, Adopting, RelayError};
use pay402_evm::account::state::{self, Delegate, KeyState};
use pay402_evm::account::{
    AGENT_ACCOUNT, Adoption, AgentAccount, CONTEXT_BYTES, Payees, RootOperation, Session,
    SessionClient, TokenLimit,
};
use pay402_evm::exact::Erc7710Payload;
use pay402_evm::exact::client::{CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S};
use pay402_evm::{AssetTable, ExactClient, Rpc, Settings};
use serde_json::json;

use crate::support::{CHAIN_ID, House, PAY_TO, PAYER, START, STRANGER, network_id, pair, terms};

/// Atomic units of one payment, and of three.
const CAP: u128 = 10_000;
const BUDGET: u128 = 30_000;
const WINDOW_S: u32 = 3600;

fn signer(name: &str) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&keccak256(name)).unwrap()
}

/// An EOA with USDC and no ETH, the key of its agent, and a chain.
struct World {
    house: House,
    rpc: Rpc,
    root: PrivateKeySigner,
    key: PrivateKeySigner,
}

impl World {
    fn new() -> Self {
        let settings = Settings { delegates: vec![AGENT_ACCOUNT], ..Settings::default() };
        let house = House::with(AssetTable::defaults(), settings);
        let (root, key) = (signer("root"), signer("agent"));
        let slot = usdc_balance_slot(root.address());
        house.chain.set_storage(USDC_ADDRESS, slot, U256::from(1_000_000));
        let rpc = Rpc::over(&network_id(), &house.chain.rpc_client());
        Self { house, rpc, root, key }
    }

    async fn ready() -> Self {
        let world = Self::new();
        let call = world.register(&[world.session()], 0).await;
        world.adopt(call).await;
        world
    }

    fn account(&self) -> AgentAccount {
        AgentAccount { chain_id: CHAIN_ID, address: self.root.address() }
    }

    fn session(&self) -> Session {
        Session {
            key: self.key.address(),
            valid_after: UnixTime(START - 100),
            expiry: UnixTime(START + 86_400),
            payees: Payees::Only(vec![PAY_TO.parse().unwrap()]),
            tokens: vec![TokenLimit {
                token: USDC_ADDRESS,
                cap: CAP,
                budget: BUDGET,
                window_s: WINDOW_S,
                slots: 0,
            }],
        }
    }

    async fn register(&self, sessions: &[Session], epoch: u64) -> Bytes {
        let (now, deadline) = (UnixTime(START), UnixTime(START + 100_000));
        let operation =
            RootOperation::register(self.account(), sessions, epoch, deadline, now).unwrap();
        operation.sign(&self.root).await.unwrap()
    }

    /// A stranger relays the adoption together with `call`.
    async fn adopt(&self, call: Bytes) {
        let standing = state::standing(&self.rpc, self.root.address()).await.unwrap();
        let adoption = Adoption::new(CHAIN_ID, standing.nonce).unwrap();
        let authorization_list = vec![adoption.sign(&self.root).await.unwrap()];
        self.relay(authorization_list, call).await;
    }

    async fn relay(
        &self,
        authorization_list: Vec<alloy::eips::eip7702::SignedAuthorization>,
        input: Bytes,
    ) {
        use alloy::consensus::TxEip1559;
        let (provider, sender) = (self.house.chain.provider(), dev_signer(STRANGER));
        let nonce = provider.get_transaction_count(sender.address()).await.unwrap();
        let (gas_limit, max_fee_per_gas, to) = (2_000_000, 20_000_000_000, self.root.address());
        let raw = if authorization_list.is_empty() {
            let transaction = TxEip1559 {
                chain_id: CHAIN_ID,
                nonce,
                gas_limit,
                max_fee_per_gas,
                to: to.into(),
                input,
                ..TxEip1559::default()
            };
            let signature = sender.sign_hash_sync(&transaction.signature_hash()).unwrap();
            transaction.into_signed(signature).encoded_2718()
        } else {
            let transaction = TxEip7702 {
                chain_id: CHAIN_ID,
                nonce,
                gas_limit,
                max_fee_per_gas,
                to,
                authorization_list,
                input,
                ..TxEip7702::default()
            };
            let signature = sender.sign_hash_sync(&transaction.signature_hash()).unwrap();
            transaction.into_signed(signature).encoded_2718()
        };
        let sent = provider.send_raw_transaction(&raw).await.unwrap();
        assert!(sent.get_receipt().await.unwrap().status());
    }

    fn client(&self) -> SessionClient {
        SessionClient::new(self.root.address(), self.key.clone(), AssetTable::defaults())
            .with_rpc(network_id(), self.rpc.clone())
    }

    /// A clearance as the client plans it now; `seed` stands for the randomness.
    async fn clearance(&self, client: &SessionClient, seed: u8) -> Clearance {
        let quote = client.quote(&offer(10_000)).unwrap();
        let nonce = client.plan_nonce(&quote, [seed; 32]).await.unwrap();
        clearance(client, &offer(10_000), nonce)
    }

    /// Verifies a payment and settles it.
    async fn settle(&self, client: &SessionClient, clearance: &Clearance) -> String {
        let verified = self.verify(client, clearance).await.unwrap();
        let (sent, _) = self.house.submit(&verified.plan).await;
        sent.transaction
    }

    async fn verify(
        &self,
        client: &SessionClient,
        clearance: &Clearance,
    ) -> Result<Verified, Refused> {
        let payload = client.authorize(clearance).await.unwrap().payload;
        let offer = &clearance.reservation().quote.offer;
        self.house.verify(&pair(offer, payload)).await
    }

    async fn paid(&self) -> U256 {
        U256::from(1_000_000) - self.house.usdc_of(self.root.address()).await
    }
}

fn offer(amount: u64) -> Requirements {
    let mut offer = terms(amount);
    offer.extra.insert("assetTransferMethod".into(), json!("erc7710"));
    offer
}

fn clearance(client: &SessionClient, offer: &Requirements, nonce: [u8; 32]) -> Clearance {
    Clearance::resume(Reservation {
        intent: Intent {
            id: Digest::of(&[b"test"]),
            origin: "https://api.example.com".into(),
            resource: "https://api.example.com/weather".into(),
        },
        payer: client.payer(),
        quote: client.quote(offer).unwrap(),
        plan: Plan { nonce, valid_after: UnixTime(START - 60), valid_before: UnixTime(START + 60) },
        reserved_at: UnixTime(START),
    })
}

#[test]
fn the_delegate_is_where_the_embedded_chain_has_it() {
    assert_eq!(AGENT_ACCOUNT, AGENT_ACCOUNT_ADDRESS);
}

#[test]
fn nothing_is_adopted_on_every_chain_at_once() {
    assert_eq!(Adoption::new(0, 1).unwrap_err().field, "chainId");
    assert!(Adoption::new(1, 0).is_ok());
}

#[tokio::test]
async fn a_session_key_pays_from_the_account_that_adopted() {
    let world = World::ready().await;
    let standing = state::standing(&world.rpc, world.root.address()).await.unwrap();
    assert_eq!((standing.delegate, standing.epoch), (Delegate::AgentAccount, 0));
    assert_eq!((standing.nonce, standing.wei), (1, U256::ZERO), "the tuple counts, no gas is paid");
    let client = world.client();
    assert_eq!(client.payer(), format!("{:#x}", world.root.address()));
    let clearance = world.clearance(&client, 1).await;
    let transaction = world.settle(&client, &clearance).await;
    assert_eq!(world.paid().await, U256::from(10_000));
    let used = Fate::Used { transaction: Some(transaction), charged: Some(Amount::from(10_000)) };
    assert_eq!(client.fate(&clearance).await, Ok(used));
}

#[tokio::test]
async fn signing_again_gives_the_same_bytes_and_follows_from_the_plan_alone() {
    let world = World::ready().await;
    let client = world.client();
    let planned = world.clearance(&client, 7).await;
    let first = client.authorize(&planned).await.unwrap().payload;
    // Another epoch, no node, another process: the same clearance is the same payment.
    let revoke =
        RootOperation::revoke_all(world.account(), 0, UnixTime(START + 60), UnixTime(START));
    world.relay(Vec::new(), revoke.unwrap().sign(&world.root).await.unwrap()).await;
    let apart = SessionClient::new(world.root.address(), world.key.clone(), AssetTable::defaults());
    for signer in [&client, &apart] {
        assert_eq!(signer.authorize(&planned).await.unwrap().payload, first);
    }
    let payload = Erc7710Payload::parse(&first).unwrap();
    assert_eq!((payload.manager, payload.delegator), (world.root.address(), world.root.address()));
    let context = payload.context.expose();
    assert_eq!(context.len(), CONTEXT_BYTES);
    assert_eq!(&context[..20], world.key.address().as_slice());
    assert_eq!(context[20..28], [0; 8], "the epoch");
    let nonce = &planned.reservation().plan.nonce;
    assert_eq!(&context[28..60], nonce);
    assert_eq!((&nonce[..8], &nonce[8..]), (&[0; 8][..], &[7; 24][..]));
    assert_eq!(context[60..66], (START - 60).to_be_bytes()[2..], "valid after");
    assert_eq!(context[66..72], (START + 59).to_be_bytes()[2..], "the deadline");
    // Planned now, it is of the epoch that is now.
    let given = apart.with_epoch(network_id(), 1);
    let quote = given.quote(&offer(10_000)).unwrap();
    assert_eq!(given.plan_nonce(&quote, [7; 32]).await.unwrap()[..9], [0, 0, 0, 0, 0, 0, 0, 1, 7]);
}

#[tokio::test]
async fn what_is_signed_is_good_for_an_hour_at_most() {
    let world = World::ready().await;
    let client = world.client();
    let mut long = world.clearance(&client, 3).await.reservation().clone();
    long.plan.valid_before = UnixTime(START + 50_000);
    let long = Clearance::resume(long);
    world.settle(&client, &long).await;
    assert_eq!(world.paid().await, U256::from(10_000));
}

#[tokio::test]
async fn the_account_is_asked_before_anything_is_planned() {
    let world = World::ready().await;
    let client = world.client();
    let denied = async |client: &SessionClient, offer: &Requirements| {
        let quote = client.quote(offer).unwrap();
        match client.plan_nonce(&quote, [1; 32]).await {
            Err(Unplanned::Denied(denied)) => denied,
            other => panic!("{other:?}"),
        }
    };
    let over = denied(&client, &offer(10_001)).await;
    assert_eq!((over.rule, over.limit), ("session_cap", Some(Amount::from(10_000))));
    let stranger = Requirements { pay_to: dev_signer(7).address().to_string(), ..offer(1) };
    assert_eq!(denied(&client, &stranger).await.rule, "session_payee");
    let other = SessionClient::new(world.root.address(), signer("other"), AssetTable::defaults())
        .with_rpc(network_id(), world.rpc.clone());
    assert_eq!(denied(&other, &offer(1)).await.rule, "session_key");
    let plain =
        SessionClient::new(dev_signer(PAYER).address(), signer("agent"), AssetTable::defaults())
            .with_rpc(network_id(), world.rpc.clone());
    assert_eq!(denied(&plain, &offer(1)).await.rule, "session_account");

    for seed in 1..=3 {
        let clearance = world.clearance(&client, seed).await;
        world.settle(&client, &clearance).await;
    }
    let spent = denied(&client, &offer(1)).await;
    assert_eq!((spent.rule, spent.remaining), ("session_budget", Some(Amount::ZERO)), "{spent}");
    assert!(spent.message.contains("0 of 0.03 USDC, until 20"), "{spent}");
    world.house.advance_to(START + u64::from(WINDOW_S));
    let quote = client.quote(&offer(1)).unwrap();
    assert!(client.plan_nonce(&quote, [1; 32]).await.is_ok(), "another window, another budget");
    world.house.advance_to(START + 86_400);
    let expired = denied(&client, &offer(1)).await;
    assert!(expired.rule == "session_key" && expired.message.contains("expired"), "{expired}");
}

#[tokio::test]
async fn the_chain_refuses_the_fourth_payment_of_a_budget_of_three_and_a_revoked_key() {
    let world = World::ready().await;
    // This client does not ask the account first.
    let blind = SessionClient::new(world.root.address(), world.key.clone(), AssetTable::defaults())
        .with_epoch(network_id(), 0);
    for seed in 1..=3 {
        let clearance = world.clearance(&blind, seed).await;
        world.settle(&blind, &clearance).await;
    }
    let fourth = world.clearance(&blind, 4).await;
    let refused = world.verify(&blind, &fourth).await.unwrap_err();
    assert!(refused.reason.is(Refusal::DelegationSimulationFailed), "{refused}");
    assert!(refused.message.contains("budget of this window is used up"), "{refused}");

    world.house.advance_to(START + u64::from(WINDOW_S));
    let mut later = fourth.reservation().clone();
    later.plan.valid_after = UnixTime(START + u64::from(WINDOW_S) - 60);
    later.plan.valid_before = UnixTime(START + u64::from(WINDOW_S) + 600);
    let later = Clearance::resume(later);
    world.verify(&blind, &later).await.unwrap();
    let operation = RootOperation::revoke(
        world.account(),
        world.key.address(),
        0,
        UnixTime(START + 100_000),
        UnixTime(START),
    );
    world.relay(Vec::new(), operation.unwrap().sign(&world.root).await.unwrap()).await;
    let refused = world.verify(&blind, &later).await.unwrap_err();
    assert!(refused.message.contains("revoked"), "{refused}");
    assert_eq!(world.paid().await, U256::from(30_000));

    // Its reservation is released once no reorganization can bring the key back.
    let client = world.client();
    assert_eq!(client.fate(&later).await, Ok(Fate::Live));
    world.house.chain.mine(CANCEL_DEPTH_BLOCKS - 1);
    assert_eq!(client.fate(&later).await, Ok(Fate::Live));
    world.house.chain.mine(1);
    assert_eq!(client.fate(&later).await, Ok(Fate::Dead));
}

#[tokio::test]
async fn a_payment_lives_until_the_chain_shows_its_end() {
    let world = World::ready().await;
    let client = world.client();
    let clearance = world.clearance(&client, 1).await;
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Live));
    world.house.advance_to(START + 59 + FINALITY_MARGIN_S);
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Live));
    // Our clock proves nothing; a block does.
    world.house.time.set(UnixTime(START + 60 + FINALITY_MARGIN_S));
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Live));
    world.house.chain.mine(1);
    assert_eq!(client.fate(&clearance).await, Ok(Fate::Dead));
}

#[tokio::test]
async fn a_new_epoch_ends_what_was_not_paid_and_hides_nothing_that_was() {
    let world = World::ready().await;
    let client = world.client();
    let (paid, open) = (world.clearance(&client, 1).await, world.clearance(&client, 2).await);
    let transaction = world.settle(&client, &paid).await;
    let (deadline, now) = (UnixTime(START + 60), UnixTime(START));
    let operation = RootOperation::revoke_all(world.account(), 0, deadline, now).unwrap();
    world.relay(Vec::new(), operation.sign(&world.root).await.unwrap()).await;
    assert_eq!(client.fate(&open).await, Ok(Fate::Live), "a reorganization could undo it");
    world.house.chain.mine(CANCEL_DEPTH_BLOCKS);
    assert_eq!(client.fate(&open).await, Ok(Fate::Dead));
    let used = Fate::Used { transaction: Some(transaction), charged: Some(Amount::from(10_000)) };
    assert_eq!(client.fate(&paid).await, Ok(used.clone()));

    // The same key, granted anew, pays with a nonce of the new epoch.
    world.relay(Vec::new(), world.register(&[world.session()], 1).await).await;
    let again = world.clearance(&client, 1).await;
    assert_eq!(client.fate(&again).await, Ok(Fate::Live));
    world.settle(&client, &again).await;
    assert_eq!(client.fate(&paid).await, Ok(used));
    assert_eq!(world.paid().await, U256::from(20_000));
}

#[tokio::test]
async fn nothing_is_signed_for_another_account_method_or_plan() {
    let world = World::ready().await;
    let client = world.client();
    let good = world.clearance(&client, 7).await;
    let with = |change: fn(&mut Reservation)| {
        let mut changed = good.reservation().clone();
        change(&mut changed);
        Clearance::resume(changed)
    };
    for (what, bad) in [
        ("account", with(|r| r.payer = "0x0".into())),
        ("scheme", with(|r| r.quote.scheme = Scheme::UPTO)),
        ("method", with(|r| drop(r.quote.offer.extra.remove("assetTransferMethod")))),
        ("nonce", with(|r| r.plan.nonce = [7; 32])),
        ("times", with(|r| r.plan.valid_before = UnixTime(1 << 48))),
    ] {
        assert!(client.authorize(&bad).await.is_err(), "{what}");
        assert!(client.identifier(&bad).await.is_err(), "{what}");
        assert!(client.fate(&bad).await.is_err(), "{what}");
    }
    let none = SessionClient::new(world.root.address(), world.key.clone(), AssetTable::empty());
    assert!(none.authorize(&good).await.is_err());
    // Without a node or an epoch, nothing is planned and nothing is known.
    let mute = SessionClient::new(world.root.address(), world.key.clone(), AssetTable::defaults());
    let quote = mute.quote(&offer(1)).unwrap();
    let unplanned = mute.plan_nonce(&quote, [1; 32]).await.unwrap_err();
    assert!(unplanned.to_string().contains("no RPC URL"), "{unplanned}");
    assert!(mute.fate(&good).await.is_err());
    assert!(!format!("{client:?}").to_lowercase().contains("signer"), "{client:?}");
}

#[test]
fn only_offers_of_erc7710_are_taken_up() {
    let client =
        SessionClient::new(Address::repeat_byte(1), signer("agent"), AssetTable::defaults());
    let quote = client.quote(&offer(10_000)).unwrap();
    assert_eq!((quote.amount, quote.decimals), (Amount::from(10_000), 6));
    let unknown = Requirements { asset: Address::repeat_byte(9).to_string(), ..offer(1) };
    let zero = Requirements { pay_to: Address::ZERO.to_string(), ..offer(1) };
    let upto = Requirements { scheme: Scheme::UPTO, ..offer(1) };
    let free = Requirements { amount: Amount::ZERO, ..offer(1) };
    for bad in [terms(10_000), unknown, zero, upto, free] {
        assert!(client.quote(&bad).is_err(), "{bad:?}");
    }
    let plain = ExactClient::new(signer("agent"), AssetTable::defaults());
    assert!(plain.quote(&offer(1)).is_err(), "the key alone has no account to pay from");
}

#[tokio::test]
async fn the_chain_shows_keys_limits_and_what_is_left() {
    let world = World::ready().await;
    let (account, rpc) = (world.root.address(), &world.rpc);
    let second =
        Session { key: signer("second").address(), payees: Payees::Any, ..world.session() };
    let third = Session { key: signer("third").address(), ..second.clone() };
    let both = world.register(&[second.clone(), third.clone()], 0).await;
    world.relay(Vec::new(), both).await;
    let client = world.client();
    let clearance = world.clearance(&client, 1).await;
    world.settle(&client, &clearance).await;

    let head = state::standing(rpc, account).await.unwrap().block;
    let history = state::registrations(rpc, account, 0, head).await.unwrap();
    assert_eq!(history.from_block, 0);
    let sessions: Vec<_> = history.registrations.iter().map(|r| r.session.clone()).collect();
    let granted = [third, second.clone(), world.session()];
    assert_eq!(sessions, granted.map(Some), "newest first");

    let keys = [world.key.address(), second.key, signer("unknown").address()];
    let policies = state::policies(rpc, account, 0, &keys).await.unwrap();
    let states: Vec<_> = policies.iter().map(|policy| policy.state).collect();
    assert_eq!(states, [KeyState::Registered, KeyState::Registered, KeyState::Unknown]);
    assert_eq!(policies[0].valid_after, world.session().valid_after);
    assert_eq!(policies[0].expiry, world.session().expiry);
    assert_eq!([policies[0].any_payee, policies[1].any_payee], [false, true]);

    let tokens = [USDC_ADDRESS, Address::repeat_byte(7)];
    let allowances = state::allowances(rpc, account, keys[0], &tokens).await.unwrap();
    let [allowance] = allowances[..] else { panic!("{allowances:?}") };
    assert_eq!(allowance.limit, world.session().tokens[0]);
    assert_eq!(allowance.left, U256::from(20_000));
    assert_eq!(allowance.resets, Some(UnixTime(START - 100 + u64::from(WINDOW_S))));

    let (deadline, now) = (UnixTime(START + 60), UnixTime(START));
    let operation = RootOperation::revoke(world.account(), keys[0], 0, deadline, now).unwrap();
    world.relay(Vec::new(), operation.sign(&world.root).await.unwrap()).await;
    let policies = state::policies(rpc, account, 0, &keys[..1]).await.unwrap();
    assert_eq!(policies[0].state, KeyState::Revoked);
    let allowances = state::allowances(rpc, account, keys[0], &tokens).await.unwrap();
    assert_eq!((allowances[0].left, allowances[0].resets), (U256::ZERO, None));
}

#[tokio::test]
async fn a_root_with_gas_sends_its_own_operations() {
    let world = World::new();
    let root = dev_signer(PAYER);
    let account = AgentAccount { chain_id: CHAIN_ID, address: root.address() };
    let look = async || state::standing(&world.rpc, root.address()).await.unwrap();
    let send = async |adopting, call: Bytes| {
        let standing = look().await;
        relay::send(&world.rpc, &root, account, &standing, adopting, call).await
    };
    let (deadline, now) = (UnixTime(START + 60), UnixTime(START));
    let register =
        |epoch| RootOperation::register(account, &[world.session()], epoch, deadline, now).unwrap();
    assert_eq!(look().await.delegate, Delegate::None);
    // What the account would refuse is not sent.
    let wrong = send(Adopting::Yes, register(1).unsigned()).await.unwrap_err();
    assert!(matches!(&wrong, RelayError::Refused(why) if why.contains("epoch")), "{wrong:?}");
    assert_eq!((look().await.nonce, look().await.delegate), (0, Delegate::None));

    let sent = send(Adopting::Yes, register(0).unsigned()).await.unwrap();
    assert_eq!(relay::succeeded(&world.rpc, sent).await, Ok(Some(true)));
    assert_eq!(look().await.delegate, Delegate::AgentAccount);
    let keys = [world.key.address()];
    let policies = state::policies(&world.rpc, root.address(), 0, &keys).await.unwrap();
    assert_eq!(policies[0].state, KeyState::Registered);

    let again = send(Adopting::No, register(0).unsigned()).await.unwrap_err();
    assert!(matches!(&again, RelayError::Refused(why) if why.contains("new key")), "{again:?}");
    let all = RootOperation::revoke_all(account, 0, deadline, now).unwrap();
    let sent = send(Adopting::No, all.unsigned()).await.unwrap();
    assert_eq!(relay::succeeded(&world.rpc, sent).await, Ok(Some(true)));
    assert_eq!(look().await.epoch, 1);
    assert_eq!(relay::succeeded(&world.rpc, B256::ZERO).await, Ok(None));

    let poor = World::new();
    let standing = state::standing(&poor.rpc, poor.root.address()).await.unwrap();
    let call = Bytes::new();
    let (root, account) = (&poor.root, poor.account());
    let error = relay::send(&poor.rpc, root, account, &standing, Adopting::Yes, call).await;
    assert!(matches!(error, Err(RelayError::Funds { held: U256::ZERO, .. })), "{error:?}");
}
