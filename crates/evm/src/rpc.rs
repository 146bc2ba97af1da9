//! The road to a node: JSON-RPC over HTTP, or over any alloy transport.
//!
//! Requests carry signed transactions and signatures, and a node's URL often carries an API key.
//! Therefore nothing here logs, and errors carry neither. That is also why alloy's own client and
//! HTTP transport are not used: they put requests, responses and the URL into their traces.
//! Everything that is asked at one time goes as one batch: one round trip.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::providers::Provider;
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{
    ErrorPayload, Id, Request, RequestPacket, ResponsePacket, ResponsePayload, SerializedRequest,
};
use alloy::transports::{BoxTransport, TransportError};
use pay402_core::NetworkId;
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::host::{is_loopback, is_metadata};
use pay402_core::network::{BlockId, Header};
use pay402_core::time::UnixTime;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower_service::Service as _;
use url::Url;

use crate::network::errors;
use crate::pool::{Reached, Seat};

/// How long a node may take to answer, in seconds. A hanging node must not hang its callers.
pub const REQUEST_TIMEOUT_S: u64 = 10;
/// Most gas that a question to a contract may take. Tokens behind proxies answer within 50,000.
pub const VIEW_GAS_MAX: u64 = 1_000_000;
/// Largest answer of a node that is read, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A node of one network. Cheap to clone.
#[derive(Clone)]
pub struct Rpc {
    wire: Wire,
    what: Arc<str>,
    watch: Option<Arc<dyn RpcWatch>>,
    /// Its place among the nodes of its network.
    seat: Option<Seat>,
}

/// How a question to a node ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RpcEnd {
    /// With a result.
    Answered,
    /// With an error of the node. A simulation that reverts is one too.
    Failed,
    /// Without an answer, or with one of another form.
    Unanswered,
}

/// How a node stands among those of its network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodeState {
    /// It is asked.
    Well,
    /// It failed several times in a row, and is left alone for a while.
    Resting,
    /// It is on another chain, and asked nothing until it says otherwise.
    OtherChain,
}

/// Is told how each question ended, once. It learns the method and nothing else: neither what was
/// asked, nor what was answered, nor where the node is.
pub trait RpcWatch: Send + Sync {
    /// A question of this method has ended.
    fn ended(&self, method: &'static str, end: RpcEnd);

    /// A round trip that was answered took so long.
    fn took(&self, _time: Duration) {}

    /// The node showed this to be its newest block.
    fn saw(&self, _head: u64) {}

    /// The node stands differently from now on.
    fn stands(&self, _state: NodeState) {}

    /// What the node showed of a payment was not what another one showed.
    fn disagreed(&self) {}
}

/// Questions that are under way. Those whose end is not told when this is dropped, perhaps with the
/// future that waited for them, have ended without an answer.
struct Asking {
    watch: Arc<dyn RpcWatch>,
    methods: Vec<&'static str>,
    began: Instant,
}

impl Asking {
    fn answered<'a>(mut self, answers: impl Iterator<Item = &'a Answer>) {
        self.watch.took(self.began.elapsed());
        for (method, answer) in std::mem::take(&mut self.methods).into_iter().zip(answers) {
            let end = if answer.is_ok() { RpcEnd::Answered } else { RpcEnd::Failed };
            self.watch.ended(method, end);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        for method in &self.methods {
            self.watch.ended(method, RpcEnd::Unanswered);
        }
    }
}

#[derive(Clone)]
enum Wire {
    Http { client: reqwest::Client, url: Url },
    Transport(BoxTransport),
}

impl Rpc {
    /// A node of `network` at an `http` or `https` URL. `setting` names the configuration key in
    /// errors.
    ///
    /// # Errors
    /// When `url` cannot be one; the URL is not repeated, it may hold a key.
    pub fn http(setting: &str, network: &NetworkId, url: &str) -> Result<Self, Misconfigured> {
        let bad = |problem: &str| Misconfigured::new(setting, problem);
        let url = Url::parse(url).map_err(|_| bad("is not a URL; write https://…"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("must begin with https:// or http://"));
        }
        if is_metadata(&url) {
            return Err(bad("is an address where clouds tell secrets; name a node"));
        }
        let mut builder = reqwest::Client::builder()
            .timeout(Duration::from_secs(REQUEST_TIMEOUT_S))
            .redirect(reqwest::redirect::Policy::none());
        // A proxy would read, and could answer, what is asked of a node on this machine.
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let client =
            builder.build().map_err(|_| bad("cannot be used: the TLS library did not start"))?;
        Ok(Self { wire: Wire::Http { client, url }, what: what(network), watch: None, seat: None })
    }

    /// A node at an `http` or `https` URL, and the network it says it is on. For a payer who asks
    /// what became of a payment; a facilitator says itself which network it means.
    ///
    /// # Errors
    /// As [`Rpc::http`], and when the node does not answer.
    pub async fn discover(setting: &str, url: &str) -> Result<(NetworkId, Self), Misconfigured> {
        let mut rpc = Self::http(setting, &NetworkId::eip155(1), url)?;
        let asked = async { rpc.read::<U64>(rpc.ask(Call::chain_id()).await?) };
        let id = asked.await.map_err(|error| {
            Misconfigured::new(setting, format!("the node gives no chain id ({})", error.problem))
        })?;
        let network = NetworkId::eip155(id.to());
        rpc.what = what(&network);
        Ok((network, rpc))
    }

    /// A node of `network` behind an alloy client. The client's own timeouts apply.
    pub fn over(network: &NetworkId, client: &RpcClient) -> Self {
        Self::through(network, client.transport().clone())
    }

    /// A node of `network` behind an alloy provider; its layers and fillers are not used.
    pub fn provided(network: &NetworkId, provider: &impl Provider) -> Self {
        Self::through(network, provider.client().transport().clone())
    }

    fn through(network: &NetworkId, transport: BoxTransport) -> Self {
        Self { wire: Wire::Transport(transport), what: what(network), watch: None, seat: None }
    }

    /// The same node, whose every question `watch` is told of.
    #[must_use]
    pub fn watched(mut self, watch: Arc<dyn RpcWatch>) -> Self {
        self.watch = Some(watch);
        self
    }

    fn asking(&self, calls: &[Call]) -> Option<Asking> {
        let watch = Arc::clone(self.watch.as_ref()?);
        let methods = calls.iter().map(|call| call.method).collect();
        Some(Asking { watch, methods, began: Instant::now() })
    }

    /// The same node in its place among the others.
    pub(crate) fn seated(mut self, seat: Seat) -> Self {
        if let Some(name) = seat.name() {
            self.what = format!("{} (node {name})", self.what).into();
        }
        self.seat = Some(seat);
        self
    }

    /// What the node is called, where there are several.
    pub(crate) fn name(&self) -> Option<&str> {
        self.seat.as_ref()?.name()
    }

    /// Tells how the node fared in one round trip.
    fn fared<'a>(&self, answers: Result<&'a [Answer], &Unavailable>) {
        let Some(seat) = &self.seat else { return };
        let is_busy = |answer: &'a Answer| answer.as_ref().is_err_and(errors::is_busy);
        let state = match answers {
            Err(_) => seat.failed(Reached::No),
            Ok(answers) if answers.iter().any(is_busy) => seat.failed(Reached::Yes),
            Ok(_) => seat.answered(),
        };
        self.tell(state);
    }

    fn tell(&self, state: Option<NodeState>) {
        if let (Some(state), Some(watch)) = (state, &self.watch) {
            watch.stands(state);
        }
    }

    /// The node kept a whole decision waiting. It has failed if nothing at all came since it began.
    pub(crate) fn kept_waiting(&self, since: Instant) {
        if let Some(seat) = self.seat.as_ref().filter(|seat| !seat.has_answered_since(since)) {
            self.tell(seat.failed(Reached::No));
        }
    }

    /// What the node showed was contradicted.
    pub(crate) fn disagreed(&self) {
        if let Some(watch) = &self.watch {
            watch.disagreed();
        }
    }

    /// The node showed this to be its newest block.
    ///
    /// # Errors
    /// When others have shown so much newer ones that it is not to be believed.
    pub(crate) fn saw(&self, head: u64) -> Result<(), Unavailable> {
        if let Some(watch) = &self.watch {
            watch.saw(head);
        }
        match &self.seat {
            Some(seat) if !seat.saw(head) => Err(self.unavailable("the node is behind the others")),
            _ => Ok(()),
        }
    }

    /// The node said, in answer to [`Call::chain_id`], which chain it is on.
    ///
    /// # Errors
    /// When it is another one, or the answer none.
    pub(crate) fn read_chain(&self, answer: Answer, chain_id: u64) -> Result<(), Unavailable> {
        let said = self.read::<U64>(answer)?.to::<u64>();
        if let Some(seat) = &self.seat {
            self.tell(seat.said_chain(said == chain_id));
        }
        match said == chain_id {
            true => Ok(()),
            false => Err(self.unavailable(&format!("is a node of eip155:{said}"))),
        }
    }

    /// Asks which chain the node is on if it was out of reach since it last said so: what answers
    /// under its address may be another by now.
    pub(crate) async fn meet(&self, chain_id: u64) -> Result<(), Unavailable> {
        match &self.seat {
            Some(seat) if !seat.is_known() => {
                self.read_chain(self.ask(Call::chain_id()).await?, chain_id)
            }
            _ => Ok(()),
        }
    }

    /// Asks one question.
    pub(crate) async fn ask(&self, call: Call) -> Result<Answer, Unavailable> {
        let asking = self.asking(std::slice::from_ref(&call));
        let is_head = call.is_head;
        let answered = self.ask_one(call).await;
        self.fared(answered.as_ref().map(std::slice::from_ref));
        let answer = answered?;
        if let Some(asking) = asking {
            asking.answered(std::iter::once(&answer));
        }
        if is_head {
            self.saw_in(&answer)?;
        }
        Ok(answer)
    }

    /// The head in the answer to [`Call::head`], if there is one.
    fn saw_in(&self, answer: &Answer) -> Result<(), Unavailable> {
        let number = answer.as_ref().ok().and_then(|block| block.get("number")?.as_str());
        match number.and_then(|digits| digits.parse::<U64>().ok()) {
            Some(head) => self.saw(head.to()),
            None => Ok(()),
        }
    }

    async fn ask_one(&self, call: Call) -> Result<Answer, Unavailable> {
        let packet = RequestPacket::Single(self.request(0, call)?);
        let ResponsePacket::Single(response) = self.exchange(packet).await? else {
            return Err(self.unavailable("the node answered with another form"));
        };
        self.answer(response.payload)
    }

    /// Asks several questions in one round trip; the answers come in the order of the questions.
    pub(crate) async fn ask_all<const N: usize>(
        &self,
        calls: [Call; N],
    ) -> Result<[Answer; N], Unavailable> {
        let answers = self.ask_many(Vec::from(calls)).await?;
        answers.try_into().map_err(|_| self.unavailable("the node answered too little"))
    }

    /// As [`Rpc::ask_all`], for a number of questions that is not fixed.
    pub(crate) async fn ask_many(&self, calls: Vec<Call>) -> Result<Vec<Answer>, Unavailable> {
        let asking = self.asking(&calls);
        let head = calls.iter().position(|call| call.is_head);
        let answered = self.ask_batch(calls).await;
        self.fared(answered.as_deref());
        let answers = answered?;
        if let Some(asking) = asking {
            asking.answered(answers.iter());
        }
        if let Some(head) = head {
            self.saw_in(&answers[head])?;
        }
        Ok(answers)
    }

    async fn ask_batch(&self, calls: Vec<Call>) -> Result<Vec<Answer>, Unavailable> {
        let count = calls.len();
        let mut requests = Vec::with_capacity(count);
        for (id, call) in (0..).zip(calls) {
            requests.push(self.request(id, call)?);
        }
        let ResponsePacket::Batch(responses) =
            self.exchange(RequestPacket::Batch(requests)).await?
        else {
            return Err(self.unavailable("the node does not take batches of requests"));
        };
        let mut answers: Vec<Option<Answer>> = (0..count).map(|_| None).collect();
        for response in responses {
            let Id::Number(id) = response.id else { continue };
            let slot = usize::try_from(id).ok().and_then(|id| answers.get_mut(id));
            if let Some(slot) = slot {
                *slot = Some(self.answer(response.payload)?);
            }
        }
        let answers: Option<Vec<Answer>> = answers.into_iter().collect();
        answers.ok_or_else(|| self.unavailable("the node left a request unanswered"))
    }

    /// Reads the answer to a question that a healthy node always answers.
    pub(crate) fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, Unavailable> {
        let value = answer.map_err(|error| self.unavailable(&error.public_text()))?;
        serde_json::from_value(value)
            .map_err(|_| self.unavailable("the node's answer has another form"))
    }

    /// Reads bytes: `0x` and hexadecimal digits, and no other form of bytes.
    pub(crate) fn read_bytes(&self, answer: Answer) -> Result<Bytes, Unavailable> {
        let text: String = self.read(answer)?;
        let digits = text.strip_prefix("0x").and_then(|digits| alloy::hex::decode(digits).ok());
        digits
            .map(Bytes::from)
            .ok_or_else(|| self.unavailable("the node's answer has another form"))
    }

    /// Reads the answer to an `eth_call`.
    pub(crate) fn read_call(&self, answer: Answer) -> Result<Called, Unavailable> {
        match answer {
            Ok(value) => self.read_bytes(Ok(value)).map(Called::Returned),
            Err(error) => match errors::execution_failure(&error) {
                Some(why) => Ok(Called::Failed(why)),
                None => Err(self.unavailable(&error.public_text())),
            },
        }
    }

    /// The node is out of reach, or talks nonsense.
    pub(crate) fn unavailable(&self, problem: &str) -> Unavailable {
        Unavailable::new(&*self.what, problem)
    }

    fn request(&self, id: u64, call: Call) -> Result<SerializedRequest, Unavailable> {
        Request::new(call.method, Id::Number(id), call.params)
            .serialize()
            .map_err(|_| self.unavailable("the request could not be written"))
    }

    fn answer(&self, payload: ResponsePayload) -> Result<Answer, Unavailable> {
        match payload {
            ResponsePayload::Success(raw) => serde_json::from_str(raw.get())
                .map(Ok)
                .map_err(|_| self.unavailable("the node's answer is no JSON")),
            ResponsePayload::Failure(error) => Ok(Err(RpcError::new(&error))),
        }
    }

    async fn exchange(&self, packet: RequestPacket) -> Result<ResponsePacket, Unavailable> {
        match &self.wire {
            Wire::Http { client, url } => self.post(client, url, &packet).await,
            Wire::Transport(transport) => {
                let mut transport = transport.clone();
                transport.call(packet).await.map_err(|error| match error {
                    TransportError::Transport(_) => self.unavailable("the node cannot be reached"),
                    _ => self.unavailable("the node's answer has another form"),
                })
            }
        }
    }

    async fn post(
        &self,
        client: &reqwest::Client,
        url: &Url,
        packet: &RequestPacket,
    ) -> Result<ResponsePacket, Unavailable> {
        let failed = |error: reqwest::Error| {
            self.unavailable(match () {
                () if error.is_timeout() => "the node did not answer in time",
                () if error.is_connect() => "no connection to the node",
                () => "the connection to the node failed",
            })
        };
        let body = serde_json::to_vec(packet)
            .map_err(|_| self.unavailable("the request could not be written"))?;
        let request = client.post(url.clone()).header("content-type", "application/json");
        let mut response = request.body(body).send().await.map_err(failed)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > RESPONSE_BYTES_MAX {
                return Err(self.unavailable("the node's answer is too large"));
            }
            bytes.extend_from_slice(&chunk);
        }
        // Some nodes put JSON-RPC errors into answers with an error status.
        serde_json::from_slice(&bytes).map_err(|_| match status.is_success() {
            true => self.unavailable("the node's answer is no JSON-RPC"),
            false => self.unavailable(&format!("the node answered HTTP {}", status.as_u16())),
        })
    }
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rpc({})", self.what)
    }
}

fn what(network: &NetworkId) -> Arc<str> {
    format!("rpc {network}").into()
}

/// One question. It may hold signatures: no `Debug`.
pub(crate) struct Call {
    method: &'static str,
    params: Value,
    /// Whether it asks for the newest block.
    is_head: bool,
}

impl Call {
    pub(crate) const fn new(method: &'static str, params: Value) -> Self {
        Self { method, params, is_head: false }
    }

    /// The chain that the node is on.
    pub(crate) fn chain_id() -> Self {
        Self::new("eth_chainId", json!([]))
    }

    /// The tip that the node proposes, in wei for a unit of gas.
    pub(crate) fn tip() -> Self {
        Self::new("eth_maxPriorityFeePerGas", json!([]))
    }

    /// The newest block.
    pub(crate) fn head() -> Self {
        let params = json!(["latest", false]);
        Self { method: "eth_getBlockByNumber", params, is_head: true }
    }

    /// The block with this number.
    pub(crate) fn block(number: u64) -> Self {
        Self::new("eth_getBlockByNumber", json!([U64::from(number), false]))
    }

    /// The code at `account`.
    pub(crate) fn code(account: Address) -> Self {
        Self::new("eth_getCode", json!([account, "latest"]))
    }

    /// The number of transactions that `account` has had mined.
    pub(crate) fn mined_nonces(account: Address) -> Self {
        Self::new("eth_getTransactionCount", json!([account, "latest"]))
    }

    /// The same number with those that the node knows of and that are not mined yet.
    pub(crate) fn pending_nonces(account: Address) -> Self {
        Self::new("eth_getTransactionCount", json!([account, "pending"]))
    }

    /// The number of transactions that `account` had had mined by the end of the block with this number.
    pub(crate) fn mined_nonces_at(account: Address, number: u64) -> Self {
        Self::new("eth_getTransactionCount", json!([account, U64::from(number)]))
    }

    /// What `account` holds of the native coin, in wei.
    pub(crate) fn balance(account: Address) -> Self {
        Self::new("eth_getBalance", json!([account, "latest"]))
    }

    /// The receipt of a transaction, or null.
    pub(crate) fn receipt(transaction: B256) -> Self {
        Self::new("eth_getTransactionReceipt", json!([transaction]))
    }

    /// A transaction, or null.
    pub(crate) fn transaction(hash: B256) -> Self {
        Self::new("eth_getTransactionByHash", json!([hash]))
    }

    /// A read-only call at the newest block.
    pub(crate) fn view(to: Address, data: Vec<u8>) -> Self {
        Self::new("eth_call", json!([bounded_view(to, data), "latest"]))
    }

    /// A read-only call at the block with this number.
    pub(crate) fn view_at(to: Address, data: Vec<u8>, number: u64) -> Self {
        Self::new("eth_call", json!([bounded_view(to, data), U64::from(number)]))
    }

    /// The same call on a state with these accounts changed, which not every node can do. The
    /// question must be one about a call, with its block.
    pub(crate) fn overriding(mut self, overrides: Value) -> Self {
        if let Value::Array(params) = &mut self.params {
            params.push(overrides);
        }
        self
    }

    /// A call as if `from` had sent a transaction with `gas` to `to`, at `block` (a tag).
    pub(crate) fn simulate(
        (from, to): (Address, Address),
        data: Vec<u8>,
        gas: u64,
        block: &str,
    ) -> Self {
        let call =
            json!({ "from": from, "to": to, "gas": U64::from(gas), "data": Bytes::from(data) });
        Self::new("eth_call", json!([call, block]))
    }
}

/// A question to a contract that may be anybody's: it costs us nothing, and the node little.
fn bounded_view(to: Address, data: Vec<u8>) -> Value {
    json!({ "to": to, "gas": U64::from(VIEW_GAS_MAX), "data": Bytes::from(data) })
}

/// What a node answered: a result, or an error of its own.
pub(crate) type Answer = Result<Value, RpcError>;

/// What an `eth_call` did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Called {
    /// It returned.
    Returned(Bytes),
    /// It reverted or ran out of gas; why, for people.
    Failed(String),
}

impl Called {
    /// The word that was returned; `None` when the call failed or returned less.
    pub(crate) fn word(&self) -> Option<U256> {
        match self {
            Self::Returned(bytes) => bytes.get(..32).map(U256::from_be_slice),
            Self::Failed(_) => None,
        }
    }

    /// Whether nothing answered: there is no contract.
    pub(crate) fn is_void(&self) -> bool {
        matches!(self, Self::Returned(bytes) if bytes.is_empty())
    }
}

/// An error that a node answered with. Its text comes from outside: see
/// [`RpcError::public_text`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Bytes>,
}

impl RpcError {
    fn new(error: &ErrorPayload) -> Self {
        Self { code: error.code, message: error.message.to_string(), data: error.as_revert_data() }
    }

    /// The message, short and without what looks like a URL.
    pub(crate) fn public_text(&self) -> String {
        errors::public_text(&self.message)
    }
}

/// A block, as far as we read it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Block {
    number: U64,
    pub(crate) hash: B256,
    #[serde(default)]
    parent_hash: B256,
    timestamp: U64,
    pub(crate) base_fee_per_gas: Option<U256>,
}

impl Block {
    /// The block with this number and time, of which nothing else is known.
    pub(crate) fn told(number: u64, time: u64) -> Self {
        Self {
            number: U64::from(number),
            hash: B256::ZERO,
            parent_hash: B256::ZERO,
            timestamp: U64::from(time),
            base_fee_per_gas: None,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number.to()
    }

    pub(crate) fn id(&self) -> BlockId {
        BlockId { number: self.number(), hash: self.hash.to_string() }
    }

    pub(crate) fn header(&self) -> Header {
        let (parent, time) = (self.parent_hash.to_string(), UnixTime(self.time()));
        Header { block: self.id(), parent, time }
    }

    pub(crate) fn time(&self) -> u64 {
        self.timestamp.to()
    }
}

/// A log, as far as we read it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Log {
    pub(crate) address: Address,
    pub(crate) topics: Vec<B256>,
    pub(crate) data: Bytes,
    pub(crate) transaction_hash: Option<B256>,
    block_number: Option<U64>,
}

impl Log {
    pub(crate) fn block(&self) -> Option<u64> {
        self.block_number.map(|number| number.to())
    }
}

/// A receipt, as far as we read it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    pub(crate) transaction_hash: B256,
    pub(crate) from: Address,
    pub(crate) to: Option<Address>,
    status: U64,
    block_number: U64,
    pub(crate) block_hash: B256,
    gas_used: U256,
    effective_gas_price: Option<U256>,
    /// What rollups add for the data they post.
    l1_fee: Option<U256>,
    pub(crate) logs: Vec<Log>,
}

impl Receipt {
    pub(crate) fn succeeded(&self) -> bool {
        self.status == U64::from(1)
    }

    pub(crate) fn block(&self) -> u64 {
        self.block_number.to()
    }

    pub(crate) fn block_id(&self) -> BlockId {
        BlockId { number: self.block(), hash: self.block_hash.to_string() }
    }

    /// What the sender paid, in wei.
    pub(crate) fn fee(&self) -> U256 {
        let price = self.effective_gas_price.unwrap_or_default();
        self.gas_used.saturating_mul(price).saturating_add(self.l1_fee.unwrap_or_default())
    }
}
