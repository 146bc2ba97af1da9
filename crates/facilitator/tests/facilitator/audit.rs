//! The books against the chain: what the engine did is proven, and every figure that somebody changes in
//! the books is found out.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alloy::consensus::Transaction as _;
use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::providers::Provider as _;
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{
    ErrorPayload, RequestPacket, Response, ResponsePacket, ResponsePayload,
};
use alloy::signers::SignerSync as _;
use alloy::transports::{TransportError, TransportFut};
use pay402_core::books::Booked;
use pay402_core::facilitator::Settled;
use pay402_core::journal::{Forgotten, Holder, Horizon, Journal as _, Outcome};
use pay402_core::time::{SystemClock, UnixTime};
use pay402_core::{Amount, Digest, NetworkId, Payment, Refusal};
use pay402_devchain::genesis::{DEV_ACCOUNTS, USDC_ADDRESS, dev_signer, usdc_balance_slot};
use pay402_devchain::{DevTransport, Devchain};
use pay402_evm::audit::{Audit, Audited, Balance, Balances, Kind, Scope, Standing, What};
use pay402_evm::network::pack::{PACKER, PackSettings};
use pay402_evm::{AssetTable, EvmNetwork, Rpc, Settings};
use pay402_facilitator::Engine;
use pay402_store::SqliteJournal;
use serde_json::Value;
use tower::Service;

use crate::bed::{LONG, SHORT, done, options, pending, refused, settle, until};
use crate::evm::{PAYER, PRICE, SIGNERS, chain, payee, payment, payment_by, start_packing};

/// Who does what anyone may.
const ANYONE: usize = 7;
/// A tip that comes before everybody else's, in wei for a unit of gas.
const FIRST_TIP: u128 = 100_000_000_000;

fn id(chain: &Devchain) -> NetworkId {
    NetworkId::eip155(chain.chain_id())
}

/// What stands in a journal, read as an auditor reads it: beside whoever writes it.
async fn books(chain: &Devchain, journal: &Path) -> Vec<Booked> {
    let journal = SqliteJournal::look(journal).unwrap();
    journal.books(&id(chain), 0, usize::MAX).await.unwrap()
}

async fn audit_by(rpc: Rpc, chain: &Devchain, books: Vec<Booked>, balances: Balances) -> Audited {
    let mut audit = Audit::begin(id(chain), rpc, AssetTable::defaults()).await.unwrap();
    audit.add(books);
    audit.finish(&Scope { balances, ..Scope::default() }).await.unwrap()
}

async fn audit(chain: &Devchain, books: Vec<Booked>) -> Audited {
    let rpc = Rpc::over(&id(chain), &chain.rpc_client());
    audit_by(rpc, chain, books, Balances::Compared).await
}

/// Asserts that the chain proves a journal, all of it final, to the wei.
pub(crate) async fn proven(chain: &Devchain, journal: &Path) -> Audited {
    let audited = audit(chain, books(chain, journal).await).await;
    assert_eq!(audited.standing(), Standing::Proven, "{audited:#?}");
    assert_eq!(audited.open, 0, "{audited:#?}");
    assert_eq!(audited.booked, audited.spent);
    for signer in &audited.signers {
        let received = Balance::Compared { received: Amount::ZERO };
        assert_eq!(signer.balance, received, "{signer:?}");
    }
    audited
}

/// Signs a call of an account's that comes before all others.
async fn signed(chain: &Devchain, from: usize, to: Address, input: Bytes) -> Vec<u8> {
    let nonce = chain.provider().get_transaction_count(DEV_ACCOUNTS[from]).await.unwrap();
    let transaction = TxEip1559 {
        chain_id: chain.chain_id(),
        nonce,
        gas_limit: 300_000,
        max_fee_per_gas: FIRST_TIP + 20_000_000_000,
        max_priority_fee_per_gas: FIRST_TIP,
        to: TxKind::Call(to),
        input,
        ..TxEip1559::default()
    };
    let signature = dev_signer(from).sign_hash_sync(&transaction.signature_hash()).unwrap();
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718()
}

async fn send(chain: &Devchain, raw: &[u8]) -> B256 {
    *chain.provider().send_raw_transaction(raw).await.unwrap().tx_hash()
}

/// What one facilitator did: payments by themselves and in packs, one that failed at its cost, and one that
/// somebody else sent first.
struct Town {
    chain: Devchain,
    engine: Engine,
    folder: tempfile::TempDir,
    /// How many settled.
    payments: u64,
    /// The transaction of somebody else that settled a payment.
    other: String,
}

/// Payments that settle by themselves.
const SINGLES: u64 = 3;
/// Payments that are presented at once, and how often that is done until some of them were packed.
const AT_ONCE: u64 = 8;
const ROUNDS_MAX: u64 = 10;

impl Town {
    async fn start() -> Self {
        let (chain, folder) = (chain(), tempfile::tempdir().unwrap());
        let wait = Some(Duration::from_millis(100));
        let packing = PackSettings { wait, ..PackSettings::default() };
        let engine =
            start_packing(&chain, &folder.path().join("journal.db"), options(), packing).await;
        for number in 0..SINGLES {
            done(&settle(&engine, payment(number).await, LONG).await);
        }
        let mut payments = SINGLES;
        for _ in 0..ROUNDS_MAX {
            let mut asked = Vec::new();
            for number in payments..payments + AT_ONCE {
                let (engine, payment) = (engine.clone(), payment(number).await);
                asked.push(tokio::spawn(async move { settle(&engine, payment, LONG).await }));
            }
            payments += AT_ONCE;
            let mut transactions = HashSet::new();
            for one in asked {
                transactions.insert(done(&one.await.unwrap()));
            }
            if (transactions.len() as u64) < AT_ONCE {
                break;
            }
        }
        let town = Self { chain, engine, folder, payments: payments + 1, other: String::new() };
        town.fail(1_000).await;
        let other = town.preempt(1_001).await;
        Self { other, ..town }
    }

    fn journal(&self) -> std::path::PathBuf {
        self.folder.path().join("journal.db")
    }

    async fn books(&self) -> Vec<Booked> {
        books(&self.chain, &self.journal()).await
    }

    /// A payment that is sent, and nothing of it mined yet; and its transaction.
    async fn held(&self, number: u64) -> (Payment, B256) {
        self.chain.hold_mempool();
        let payment = payment(number).await;
        _ = pending(settle(&self.engine, payment.clone(), SHORT).await);
        until("it is sent", || async { !self.chain.pending_transactions().is_empty() }).await;
        (payment, self.chain.pending_transactions()[0])
    }

    /// Its payer's money is gone when it is mined.
    async fn fail(&self, number: u64) {
        let (payment, _) = self.held(number).await;
        let slot = usdc_balance_slot(DEV_ACCOUNTS[PAYER]);
        self.chain.set_storage(USDC_ADDRESS, slot, U256::ZERO);
        self.chain.release_mempool();
        let told = settle(&self.engine, payment, LONG).await;
        refused(told, Refusal::TransactionReverted);
        self.chain.set_storage(USDC_ADDRESS, slot, U256::from(1_000_000_000_u64));
    }

    /// Somebody else sends it first. Gives their transaction.
    async fn preempt(&self, number: u64) -> String {
        let (payment, ours) = self.held(number).await;
        let ours = self.chain.provider().get_transaction_by_hash(ours).await.unwrap().unwrap();
        let input = ours.input().clone();
        let theirs =
            send(&self.chain, &signed(&self.chain, ANYONE, USDC_ADDRESS, input).await).await;
        self.chain.release_mempool();
        let told = settle(&self.engine, payment, LONG).await;
        assert_eq!(done(&told), theirs.to_string());
        theirs.to_string()
    }
}

fn settled(booked: &Booked) -> Option<&str> {
    match &booked.outcome {
        Some(Outcome::Settled { transaction, .. }) => Some(transaction),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_did_is_proven_while_it_runs() {
    let town = Town::start().await;
    let audited = proven(&town.chain, &town.journal()).await;
    let payments = town.payments;
    assert_eq!((audited.entries, audited.settled, audited.failed), (payments + 1, payments, 1));
    let usdc = pay402_evm::address::canonical(&USDC_ADDRESS);
    assert_eq!(
        audited.charged.into_iter().collect::<Vec<_>>(),
        [(usdc, Amount::from(PRICE * payments))]
    );
    // The chain's own figures.
    let (mut sent, mut spent) = (0, U256::ZERO);
    for signer in SIGNERS {
        let provider = town.chain.provider();
        sent += provider.get_transaction_count(DEV_ACCOUNTS[signer]).await.unwrap();
        let before = provider.get_balance(DEV_ACCOUNTS[signer]).number(0).await.unwrap();
        spent += before - provider.get_balance(DEV_ACCOUNTS[signer]).await.unwrap();
    }
    assert!(sent < payments + 1, "nothing was packed");
    assert_eq!((audited.transactions, audited.spent), (sent, Amount::new(spent)));
    // What it exports adds up to the same.
    let of = |kind: Kind| {
        let all = audited.movements.iter().filter(|it| it.kind == kind);
        all.fold(Amount::ZERO, |sum, it| sum.checked_add(it.amount).unwrap())
    };
    assert_eq!(of(Kind::Gas), audited.spent);
    assert_eq!(of(Kind::Payment), Amount::from(PRICE * payments));
    let to = Some(payee().to_checksum(None));
    for it in audited.movements.iter().filter(|it| it.kind == Kind::Payment) {
        assert_eq!((&it.to, it.standing), (&to, Standing::Proven), "{it:?}");
        assert!(it.at.0 > 0 && it.block > 0, "{it:?}");
    }
}

/// A change in the books of a town, with what it has to be found out by.
type Tampering<'a> = (&'a str, What, Box<dyn Fn(&mut Vec<Booked>) + 'a>);

fn fee(outcome: &mut Outcome) -> &mut Amount {
    match outcome {
        Outcome::Settled { fee, .. }
        | Outcome::Failed { fee, .. }
        | Outcome::Reverted { fee, .. } => fee,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_in_the_books_is_found_out() {
    let town = Town::start().await;
    let books = town.books().await;
    let find = |what: &str, is: &dyn Fn(&Booked) -> bool| {
        books.iter().position(is).unwrap_or_else(|| panic!("no {what} in {books:#?}"))
    };
    let shares = |booked: &Booked| {
        let of = |other: &&Booked| settled(booked).is_some() && settled(other) == settled(booked);
        books.iter().filter(of).count()
    };
    let single = find("single", &|it| shares(it) == 1 && settled(it) != Some(&*town.other));
    let member = find("member", &|it| shares(it) > 1);
    let failed = find("failure", &|it| matches!(it.outcome, Some(Outcome::Failed { .. })));
    let other = find("pre-empted", &|it| settled(it) == Some(&*town.other));
    let of_other = books[single + 1].outcome.clone();
    let one_more = |it: &mut Booked| {
        let fee = fee(it.outcome.as_mut().unwrap());
        *fee = fee.checked_add(Amount::from(1)).unwrap();
    };
    let one_less = |it: &mut Booked| {
        let fee = fee(it.outcome.as_mut().unwrap());
        *fee = fee.checked_sub(Amount::from(1)).unwrap();
    };
    let tamperings: Vec<Tampering<'_>> = vec![
        ("a wei too much", What::Fee, Box::new(|it| one_more(&mut it[single]))),
        ("a wei too little", What::Fee, Box::new(|it| one_less(&mut it[single]))),
        ("a wei of a pack", What::Fee, Box::new(|it| one_more(&mut it[member]))),
        ("a wei of a failure", What::Fee, Box::new(|it| one_less(&mut it[failed]))),
        ("a wei of a race that was lost", What::Fee, Box::new(|it| one_less(&mut it[other]))),
        ("another amount", What::Transfer, Box::new(|it| it[single].amount = Amount::from(1))),
        (
            "another payee, or anything else that was agreed",
            What::Transfer,
            Box::new(|it| it[single].fingerprint = Digest([7; 32])),
        ),
        (
            "the transaction of another payment",
            What::Transfer,
            Box::new(|it| it[single].outcome = of_other.clone()),
        ),
        (
            "another block",
            What::Transfer,
            Box::new(|it| {
                let Some(Outcome::Settled { block, .. }) = &mut it[single].outcome else {
                    panic!()
                };
                *block += 1;
            }),
        ),
        (
            "a transaction that never was",
            What::Transfer,
            Box::new(|it| {
                let Some(Outcome::Settled { transaction, .. }) = &mut it[single].outcome else {
                    panic!()
                };
                *transaction = B256::repeat_byte(7).to_string();
            }),
        ),
        (
            "a success told as a failure",
            What::Use,
            Box::new(|it| {
                let fee = *fee(it[single].outcome.as_mut().unwrap());
                let (reason, message) = ("valid_before".to_owned(), String::new());
                it[single].outcome =
                    Some(Outcome::Failed { reason, message, transaction: None, fee });
            }),
        ),
        (
            "a failure told as a success",
            What::Transfer,
            Box::new(|it| {
                let fee = *fee(it[failed].outcome.as_mut().unwrap());
                let transaction = it[failed].signed[0].transaction.clone();
                it[failed].outcome = Some(Outcome::Settled { transaction, block: 1, fee });
            }),
        ),
        ("a payment left out", What::Nonce, Box::new(|it| drop(it.remove(single)))),
        ("a failure left out", What::Nonce, Box::new(|it| drop(it.remove(failed)))),
        ("a member left out", What::Use, Box::new(|it| drop(it.remove(member)))),
        ("what was signed left out", What::Nonce, Box::new(|it| it[single].signed.clear())),
        (
            "a record that is none",
            What::Record,
            Box::new(|it| it[single].signed[0].transaction = "0x12".into()),
        ),
    ];
    for (name, what, tamper) in tamperings {
        let mut books = books.clone();
        tamper(&mut books);
        let audited = audit(&town.chain, books).await;
        assert_eq!(audited.standing(), Standing::Contradicted, "{name}: {audited:#?}");
        let found = audited.violations.iter().any(|finding| finding.what == what);
        assert!(found, "{name}: {:#?}", audited.violations);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_is_neither_proven_nor_wrong() {
    let town = Town::start().await;
    let (payment, _) = town.held(2_000).await;
    let audited = audit(&town.chain, town.books().await).await;
    assert_eq!((audited.standing(), audited.open), (Standing::Proven, 1), "{audited:#?}");
    // An entry that shares its transaction waits with it.
    let mut books = town.books().await;
    let member = books.iter().position(|booked| {
        books.iter().filter(|it| settled(it).is_some() && settled(it) == settled(booked)).count()
            > 1
    });
    books[member.unwrap()].outcome = None;
    let audited = audit(&town.chain, books).await;
    assert_eq!(audited.standing(), Standing::Proven, "{audited:#?}");
    assert!(audited.open > 2, "{audited:#?}");
    town.chain.release_mempool();
    done(&settle(&town.engine, payment, LONG).await);
    proven(&town.chain, &town.journal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signers_balance_is_accounted_for() {
    let town = Town::start().await;
    let signer = DEV_ACCOUNTS[SIGNERS[0]];
    let wei = town.chain.provider().get_balance(signer).await.unwrap();
    let of_signer = |audited: &Audited| {
        let found = audited.signers.iter().find(|it| it.address == signer.to_checksum(None));
        found.unwrap().balance.clone()
    };
    let at = async |balance: U256| {
        town.chain.set_balance(signer, balance);
        town.chain.mine(1);
        audit(&town.chain, town.books().await).await
    };
    let topped_up = at(wei + U256::from(5)).await;
    assert_eq!(topped_up.standing(), Standing::Proven);
    assert_eq!(of_signer(&topped_up), Balance::Compared { received: Amount::from(5) });
    let drained = at(wei - U256::from(1)).await;
    assert_eq!(drained.violations.len(), 1, "{drained:#?}");
    assert_eq!(drained.violations[0].what, What::Balance);
    assert_eq!(of_signer(&drained), Balance::Contradicted { lost: Amount::from(1) });
}

/// A transaction that the signer sent past the journal is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_signer_sent_past_the_books_is_named() {
    let town = Town::start().await;
    let raw = signed(&town.chain, SIGNERS[0], payee(), Bytes::new()).await;
    let stray = send(&town.chain, &raw).await;
    let audited = audit(&town.chain, town.books().await).await;
    assert_eq!(audited.violations.len(), 1, "{audited:#?}");
    let finding = &audited.violations[0];
    assert_eq!(finding.what, What::Nonce);
    assert!(finding.message.contains(&stray.to_string()), "{finding:?}");
    // Its cost is known, so that the balance is accounted for all the same.
    let all = audited.signers.iter().all(|it| matches!(it.balance, Balance::Compared { .. }));
    assert!(all, "{audited:#?}");
}

/// What `facilitator setup` sends is in no journal, and known for what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_setup_sent_is_no_surprise() {
    let town = Town::start().await;
    town.chain.set_code(PACKER, Bytes::new());
    town.chain.set_nonce(PACKER, 0);
    let network = EvmNetwork::new(
        id(&town.chain),
        Rpc::over(&id(&town.chain), &town.chain.rpc_client()),
        vec![dev_signer(SIGNERS[0])],
        AssetTable::defaults(),
        Arc::new(SystemClock),
        Settings::default(),
    );
    let deployed = network.unwrap().deploy_packer(400_000).await.unwrap();
    let audited = proven(&town.chain, &town.journal()).await;
    let of_setup = audited.movements.iter().filter(|it| it.transaction == deployed);
    let of_setup: Vec<_> = of_setup.map(|it| (it.kind, it.at.0 > 0)).collect();
    assert_eq!(of_setup, [(Kind::Gas, true)], "{audited:#?}");
}

/// An account that was used before is accounted for from the nonce on that is said, and one that the books
/// do not have, where it is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_is_accounted_for_from_the_nonce_that_is_said() {
    let town = Town::start().await;
    let mut books = town.books().await;
    let signer = DEV_ACCOUNTS[SIGNERS[0]];
    let is_first = |it: &Booked| {
        it.signed.iter().any(|sent| sent.nonce == 0 && sent.signer == signer.to_checksum(None))
    };
    let first = books.iter().position(is_first).unwrap();
    books.remove(first);
    let by = async |signers: &[(Address, u64)]| {
        let rpc = Rpc::over(&id(&town.chain), &town.chain.rpc_client());
        let mut audit = Audit::begin(id(&town.chain), rpc, AssetTable::defaults()).await.unwrap();
        audit.add(books.clone());
        let scope = Scope { signers: signers.iter().copied().collect(), ..Scope::default() };
        audit.finish(&scope).await.unwrap()
    };
    assert_eq!(by(&[]).await.standing(), Standing::Contradicted);
    let audited = by(&[(signer, 1)]).await;
    assert_eq!(audited.standing(), Standing::Proven, "{audited:#?}");
    let told = audited.signers.iter().find(|it| it.address == signer.to_checksum(None)).unwrap();
    assert_eq!(
        (told.first_nonce, &told.balance),
        (1, &Balance::Compared { received: Amount::ZERO })
    );
    // Somebody whom the books do not have sent what is not in them.
    let audited = by(&[(signer, 1), (DEV_ACCOUNTS[ANYONE], 0)]).await;
    assert_eq!(audited.violations.len(), 1, "{audited:#?}");
    assert!(audited.violations[0].message.contains(&town.other), "{audited:#?}");
}

/// The chain behind a node that answers some questions about old blocks, or about receipts, with an error.
#[derive(Clone)]
struct Forgetful {
    chain: DevTransport,
    refuses: Refuses,
}

/// What is answered in place of the node, by method and parameters.
type Refuses = Arc<dyn Fn(&str, &Value) -> Option<ResponsePayload> + Send + Sync>;

fn refusal(code: i64, message: &'static str) -> ResponsePayload {
    ResponsePayload::Failure(ErrorPayload { code, message: message.into(), data: None })
}

impl Service<RequestPacket> for Forgetful {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let mut node = self.clone();
        Box::pin(async move {
            let RequestPacket::Batch(requests) = packet else { panic!("an audit asks in batches") };
            let mut responses = Vec::new();
            for request in requests {
                let params = serde_json::from_str(request.params().unwrap().get()).unwrap();
                if let Some(payload) = (node.refuses)(request.method(), &params) {
                    responses.push(Response { id: request.id().clone(), payload });
                    continue;
                }
                match node.chain.call(RequestPacket::Single(request)).await? {
                    ResponsePacket::Single(response) => responses.push(response),
                    ResponsePacket::Batch(_) => unreachable!("one request was sent"),
                }
            }
            Ok(ResponsePacket::Batch(responses))
        })
    }
}

fn forgetful(
    chain: &Devchain,
    refuses: impl Fn(&str, &Value) -> Option<ResponsePayload> + Send + Sync + 'static,
) -> Rpc {
    let (chain_id, refuses) = (id(chain), Arc::new(refuses));
    let node = Forgetful { chain: chain.transport(), refuses };
    Rpc::over(&chain_id, &RpcClient::new(node, true))
}

/// Refuses what it is asked about the state of blocks before this one.
fn without_old_states(chain: &Devchain) -> Rpc {
    let newest = chain.block_number();
    forgetful(chain, move |method, params| {
        let is_state = matches!(method, "eth_getBalance" | "eth_getTransactionCount");
        let block = params[1].as_str().and_then(|number| number.strip_prefix("0x"));
        let block = block.and_then(|number| u64::from_str_radix(number, 16).ok());
        let is_old = is_state && block.is_some_and(|block| block < newest);
        is_old.then(|| refusal(-32_000, "missing trie node"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_does_not_know_any_more_is_unknown() {
    let town = Town::start().await;
    let (chain, books) = (&town.chain, town.books().await);
    let by = async |rpc: Rpc, books: &[Booked], balances| {
        audit_by(rpc, chain, books.to_vec(), balances).await
    };
    let old = || without_old_states(chain);
    let audited = by(old(), &books, Balances::Compared).await;
    assert_eq!(audited.standing(), Standing::Unknown, "{audited:#?}");
    assert!(audited.unknown.iter().all(|finding| finding.what == What::Balance), "{audited:#?}");
    let audited = by(old(), &books, Balances::LeftOut).await;
    assert_eq!(audited.standing(), Standing::Proven, "{audited:#?}");
    assert!(audited.signers.iter().all(|it| it.balance == Balance::LeftOut));
    // It cannot say which one is missing, and one is.
    let single = books.iter().position(|it| it.signed.len() == 1 && settled(it).is_some()).unwrap();
    let mut less = books.clone();
    less.remove(single);
    let audited = by(old(), &less, Balances::LeftOut).await;
    assert_eq!(audited.violations.len(), 1, "{audited:#?}");
    assert!(audited.violations[0].message.contains("which one is not known"), "{audited:#?}");

    // A receipt that is not there proves nothing, and contradicts nothing.
    let lost = books[single].signed[0].transaction.clone();
    let keeps = lost.clone();
    let rpc = forgetful(chain, move |method, params| {
        let is_it = method == "eth_getTransactionReceipt" && params[0] == keeps.as_str();
        is_it.then(|| {
            let null = serde_json::value::to_raw_value(&()).unwrap();
            ResponsePayload::Success(null)
        })
    });
    let audited = by(rpc, &books, Balances::Compared).await;
    assert_eq!(audited.standing(), Standing::Unknown, "{audited:#?}");
    let about = |what: What| audited.unknown.iter().filter(move |it| it.what == what).count();
    assert!(about(What::Transfer) == 1 && about(What::Fee) == 1, "{audited:#?}");
    let it = audited.movements.iter().find(|it| it.transaction == lost).unwrap();
    assert_eq!((it.standing, &it.to), (Standing::Unknown, &None));
}

/// What a block shows that is not in the chain any more is not known, until the facilitator has followed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_undone_block_showed_is_unknown() {
    let town = Town::start().await;
    let (chain, mut books) = (&town.chain, town.books().await);
    // It settled by itself.
    let Some(Outcome::Settled { block, .. }) = books[0].outcome else { panic!() };
    let head = chain.block_number();
    assert_ne!(block, head);
    let other = async |number: u64| {
        let number = format!("{number:#x}");
        let asked = (number.clone(), false);
        let shown = chain.provider().raw_request("eth_getBlockByNumber".into(), asked).await;
        let mut shown: Value = shown.unwrap();
        shown["hash"] = B256::repeat_byte(9).to_string().into();
        forgetful(chain, move |method, params| {
            let is_it = method == "eth_getBlockByNumber"
                && params[0] == number.as_str()
                && params[1] == false;
            let shown = || serde_json::value::to_raw_value(&shown).unwrap();
            is_it.then(|| ResponsePayload::Success(shown()))
        })
    };
    for _ in 0..2 {
        let audited = audit_by(other(block).await, chain, books.clone(), Balances::LeftOut).await;
        assert_eq!(audited.standing(), Standing::Unknown, "{audited:#?}");
        assert_eq!(audited.settled, town.payments - 1, "{audited:#?}");
        let fees = audited.unknown.iter().filter(|it| it.what == What::Fee);
        assert_eq!(fees.count(), 1, "{audited:#?}");
        // As one that was buried before.
        books[0].watched = None;
    }
    // The head itself: nothing is told of the signers then, neither good nor bad.
    let raw = signed(chain, SIGNERS[0], payee(), Bytes::new()).await;
    send(chain, &raw).await;
    assert_eq!(audit(chain, books.clone()).await.violations.len(), 1, "it is unbooked");
    let rpc = other(chain.block_number()).await;
    let audited = audit_by(rpc, chain, books, Balances::LeftOut).await;
    assert_eq!(audited.standing(), Standing::Unknown, "{audited:#?}");
    assert!(audited.unknown.iter().all(|it| it.what == What::Nonce), "{audited:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_answering_proves_nothing() {
    let town = Town::start().await;
    let rpc = forgetful(&town.chain, |method, _| {
        (method == "eth_getTransactionReceipt").then(|| refusal(429, "rate limit exceeded"))
    });
    let mut audit = Audit::begin(id(&town.chain), rpc, AssetTable::defaults()).await.unwrap();
    audit.add(town.books().await);
    let stopped = audit.finish(&Scope::default()).await.unwrap_err();
    assert!(stopped.problem.contains("rate limit"), "{stopped}");
    let other = NetworkId::eip155(1);
    let rpc = Rpc::over(&other, &town.chain.rpc_client());
    let stopped = Audit::begin(other, rpc, AssetTable::defaults()).await.unwrap_err();
    assert!(stopped.problem.contains("84532"), "{stopped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payers_and_their_payments_are_told_apart() {
    let town = Town::start().await;
    // Two payers with the same nonce.
    let one = settle(&town.engine, payment_by(3, 7).await, LONG).await;
    let Settled::Done(_) = one else { panic!("{one:?}") };
    let two = settle(&town.engine, payment_by(4, 7).await, LONG).await;
    let Settled::Done(_) = two else { panic!("{two:?}") };
    let audited = proven(&town.chain, &town.journal()).await;
    for payer in [3, 4] {
        let payer = DEV_ACCOUNTS[payer].to_checksum(None);
        let paid = audited.movements.iter().filter(|it| it.from == payer);
        assert_eq!(paid.count(), 1, "{payer}");
    }
}

/// What is left is proven, from behind what is gone on; and what is wrong there is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_after_forgetting_is_proven() {
    let town = Town::start().await;
    town.engine.stop(LONG).await;
    let journal = SqliteJournal::open(town.journal()).unwrap();
    let holder = Holder { name: "later".into(), url: None };
    let now = UnixTime(u64::MAX >> 1);
    let lease = journal.lease(&id(&town.chain), &holder, now, LONG).await.unwrap();
    let lease = lease.granted().unwrap();
    journal.bury(&lease, u64::MAX, usize::MAX).await.unwrap();
    let books = town.books().await;
    // One of a pack stays, and the others of it go.
    let packs: Vec<usize> = (1..books.len())
        .filter(|at| {
            settled(&books[*at]).is_some() && settled(&books[*at]) == settled(&books[at - 1])
        })
        .collect();
    let stays = *packs.first().expect("some were packed");
    let cut = books.len() - 2;
    let going = books[..cut].iter().enumerate().filter(|(at, _)| *at != stays);
    let going: Vec<_> = going.map(|(_, booked)| booked.key.clone()).collect();
    let horizon = Horizon { before: now, losses_before: now, hooks: Vec::new() };
    let count = journal.forget(&lease, going.clone(), &horizon).await.unwrap();
    assert_eq!(count, going.len() as u64);
    let left = town.books().await;
    assert_eq!(left.len(), 3);
    let audit = async |books: Vec<Booked>, forgotten: Forgotten| {
        let rpc = Rpc::over(&id(&town.chain), &town.chain.rpc_client());
        let mut audit = Audit::begin(id(&town.chain), rpc, AssetTable::defaults()).await.unwrap();
        audit.add(books);
        audit.forget(forgotten);
        audit.finish(&Scope::default()).await.unwrap()
    };
    let forgotten = journal.forgotten(&id(&town.chain)).await.unwrap();
    let audited = audit(left.clone(), forgotten.clone()).await;
    assert_eq!(audited.standing(), Standing::Proven, "{audited:#?}");
    assert_eq!((audited.forgotten.entries, audited.booked), (count, audited.spent));
    assert!(audited.older > 0, "the fee of a pack whose shares are gone was compared");
    assert!(audited.signers.iter().any(|signer| signer.first_nonce > 0), "{audited:#?}");
    for signer in &audited.signers {
        assert_eq!(signer.balance, Balance::Compared { received: Amount::ZERO }, "{signer:?}");
    }
    let unsaid = audit(left.clone(), Forgotten::default()).await;
    assert_eq!(unsaid.standing(), Standing::Contradicted, "nobody said what is gone");
    let last = left.len() - 1;
    let mut missing = left.clone();
    missing.remove(last);
    let found = audit(missing, forgotten.clone()).await;
    assert!(found.violations.iter().any(|it| it.what == What::Nonce), "{found:#?}");
    let mut dearer = left.clone();
    let fee = fee(dearer[last].outcome.as_mut().unwrap());
    *fee = fee.checked_add(Amount::from(1)).unwrap();
    let found = audit(dearer, forgotten).await;
    assert!(found.violations.iter().any(|it| it.what == What::Fee), "{found:#?}");
}
