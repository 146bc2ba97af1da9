//! One network through several nodes.
//!
//! **Invariants:** all reads of one decision are of one node; if that fails, the whole decision is made
//! anew with another one. A broadcast goes to all of them, and what any of them takes is sent. What
//! closes an entry whose tier asks for several nodes is shown alike by so many of them, or it is unknown; and
//! so is what is told of the blocks that closed entries.

use std::time::{Duration, Instant};

use alloy::primitives::{B256, U64};
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::network::{ChainStatus, Header, SecretBytes, SendError, SentAs, Unverified};
use tokio::sync::mpsc;

use super::{EvmNetwork, submit};
use crate::pool::NODES_MAX;
use crate::rpc::{Block, Call, Receipt};

/// How long a decision may take with one node before it is made with the next, if there is one.
pub const ATTEMPT: Duration = Duration::from_secs(3);

/// An error that may be the node's.
pub(super) trait MayBeTheNodes {
    /// Whether another node may do better.
    fn is_unavailable(&self) -> bool;
}

impl MayBeTheNodes for Unavailable {
    fn is_unavailable(&self) -> bool {
        true
    }
}

impl MayBeTheNodes for Unverified {
    fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl EvmNetwork {
    /// The network as this node shows it.
    fn through(&self, index: usize) -> &Self {
        match index.checked_sub(1) {
            None => self,
            Some(other) => &self.others[other],
        }
    }

    /// The network as each of its nodes shows it.
    pub(super) fn through_each(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    pub(super) fn is_alone(&self) -> bool {
        self.others.is_empty()
    }

    /// Makes a decision with one node; with the next when that one does not answer.
    pub(super) async fn decide<'a, T, E, F>(
        &'a self,
        decision: impl Fn(&'a Self) -> F + Send + Sync,
    ) -> Result<T, E>
    where
        E: MayBeTheNodes + From<Unavailable>,
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
    {
        if self.is_alone() {
            return self.attempt(&decision).await;
        }
        self.decide_with(self.pool.order(), decision).await
    }

    async fn decide_with<'a, T, E, F>(
        &'a self,
        order: Vec<usize>,
        decision: impl Fn(&'a Self) -> F + Send + Sync,
    ) -> Result<T, E>
    where
        E: MayBeTheNodes + From<Unavailable>,
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
    {
        self.look_at_nodes();
        let mut order = order.into_iter().peekable();
        let mut failed = None;
        while let Some(index) = order.next() {
            let node = self.through(index);
            let attempt = node.attempt(&decision);
            let decided = match order.peek() {
                // There is nobody else to ask: it has the caller's time.
                None => attempt.await,
                Some(_) => node.in_time(attempt).await,
            };
            match decided {
                Err(error) if error.is_unavailable() => failed = Some(error),
                decided => return decided,
            }
        }
        Err(failed.unwrap_or_else(|| self.nobody().into()))
    }

    async fn attempt<'a, T, E, F>(&'a self, decision: impl Fn(&'a Self) -> F) -> Result<T, E>
    where
        E: From<Unavailable>,
        F: Future<Output = Result<T, E>>,
    {
        self.rpc.meet(self.chain_id).await?;
        decision(self).await
    }

    async fn in_time<T, E: From<Unavailable>>(
        &self,
        attempt: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        tokio::time::timeout(ATTEMPT, attempt).await.unwrap_or_else(|_| {
            self.rpc.kept_waiting(began);
            Err(self.rpc.unavailable("the node did not answer in time").into())
        })
    }

    fn nobody(&self) -> Unavailable {
        Unavailable::new(format!("rpc {}", self.id), "no node of this network can be asked")
    }

    /// Looks at all nodes now and then, so that it is known how those fare that nobody asks.
    fn look_at_nodes(&self) {
        if !self.pool.is_look_due() {
            return;
        }
        for index in self.pool.looked_at() {
            let (rpc, chain_id) = (self.through(index).rpc.clone(), self.chain_id);
            tokio::spawn(async move {
                let began = Instant::now();
                let asked = rpc.ask_all([Call::chain_id(), Call::head()]);
                match tokio::time::timeout(ATTEMPT, asked).await {
                    Ok(Ok([chain, _])) => _ = rpc.read_chain(chain, chain_id),
                    // It is noted already how it fared.
                    Ok(Err(_)) => {}
                    Err(_) => rpc.kept_waiting(began),
                }
            });
        }
    }

    /// Asks every node at the start which chain it is on; gives those that answer, one at least.
    pub(super) async fn check_nodes(&self) -> Result<Vec<&Self>, Misconfigured> {
        let mut there = Vec::new();
        let mut down = None;
        for node in self.through_each() {
            let asked = async {
                let mut calls = vec![Call::chain_id()];
                calls.extend(self.head_beside_others());
                let said = node.rpc.ask_many(calls).await?.swap_remove(0);
                node.rpc.read::<U64>(said)
            };
            // A lone node has as long as any question to it.
            let said = if self.is_alone() { asked.await } else { node.in_time(asked).await };
            match said {
                Ok(said) if said.to::<u64>() == self.chain_id => there.push(node),
                Ok(said) => {
                    let which = node.rpc.name().map(|name| format!("node {name} "));
                    let which = which.unwrap_or_default();
                    let problem = format!("{which}is a node of eip155:{said}, not of {}", self.id);
                    return Err(self.misconfigured("rpc", problem));
                }
                Err::<_, Unavailable>(error) => down = Some(error),
            }
        }
        if there.is_empty() {
            let problem = down.map_or_else(|| self.nobody().problem, |error| error.problem);
            return Err(self.misconfigured("rpc", problem));
        }
        Ok(there)
    }

    /// Sends the bytes to every node that is well.
    pub(super) async fn broadcast(&self, raw: &SecretBytes) -> Result<(), SendError> {
        if self.is_alone() {
            return submit::send(&self.rpc, raw).await;
        }
        self.look_at_nodes();
        let (tell, mut told) = mpsc::channel(NODES_MAX);
        for index in self.pool.order() {
            let (rpc, raw, tell) = (self.through(index).rpc.clone(), raw.clone(), tell.clone());
            // Each on its own: once one has it nobody waits for the others, which get it too.
            tokio::spawn(async move { _ = tell.send(submit::send(&rpc, &raw).await).await });
        }
        drop(tell);
        let mut answers = Vec::new();
        while let Some(answer) = told.recv().await {
            if answer.is_ok() {
                return Ok(());
            }
            answers.push(answer);
        }
        together(answers)
    }

    /// Where the payment stands, as so many nodes show it alike if it is to be closed.
    pub(super) async fn agreed_status(
        &self,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
        nodes: u32,
    ) -> Result<ChainStatus, Unavailable> {
        if nodes <= 1 {
            return self.decide(|node| node.status_here(plan, sent)).await;
        }
        self.look_at_nodes();
        let mut shown: Vec<Shown<'_>> = Vec::new();
        let mut failed = None;
        for index in self.pool.order_in_turn() {
            let node = self.through(index);
            let asked = async {
                let status = node.attempt(|node| node.status_here(plan, sent)).await?;
                let proof = node.proof_of(&status).await?;
                Ok::<_, Unavailable>((status, proof))
            };
            let (status, proof) = match node.in_time(asked).await {
                Ok(told) => told,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            if shown.is_empty() && !is_a_step(&status) {
                return Ok(status);
            }
            let is_alike =
                |other: &&Shown<'_>| is_same(&other.status, &status) && other.proof == proof;
            let alike = shown.iter().filter(is_alike).count() + 1;
            if u32::try_from(alike).is_ok_and(|alike| alike >= nodes) {
                for other in shown.iter().filter(|other| !is_alike(other)) {
                    other.node.rpc.disagreed();
                }
                return Ok(status);
            }
            shown.push(Shown { node, status, proof });
        }
        match shown.split_first() {
            Some((_, [])) => Err(self.rpc.unavailable("too few nodes show it")),
            Some((first, _)) => {
                first.node.rpc.disagreed();
                Err(self.rpc.unavailable("the nodes do not show the same"))
            }
            None => Err(failed.unwrap_or_else(|| self.nobody())),
        }
    }

    /// Where payments of one transaction stand; each as [`EvmNetwork::agreed_status`].
    pub(super) async fn agreed_statuses(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        let nodes: Vec<u32> =
            members.iter().map(|(plan, _)| self.nodes_to_close(plan).unwrap_or(u32::MAX)).collect();
        let one_is_enough = self.is_alone() || nodes.iter().all(|nodes| *nodes <= 1);
        let shown = match one_is_enough {
            true => self.decide(|node| node.statuses_here(members)).await,
            false => {
                let order = self.pool.order_in_turn();
                self.decide_with(order, |node| node.statuses_here(members)).await
            }
        };
        let mut statuses = match shown {
            Ok(statuses) => statuses,
            Err(error) => return members.iter().map(|_| Err(error.clone())).collect(),
        };
        // What one node shows is not enough for these; that they are open still is.
        for ((status, (plan, sent)), nodes) in statuses.iter_mut().zip(members).zip(nodes) {
            if nodes > 1 && status.as_ref().is_ok_and(is_a_step) {
                *status = self.agreed_status(plan, Some(sent), nodes).await;
            }
        }
        statuses
    }

    /// Where payments of one transaction stand, as two nodes show it alike; as one shows it where no other
    /// answers, unless a tier asks for more.
    pub(super) async fn statuses_of_two(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        if self.is_alone() {
            return self.agreed_statuses(members).await;
        }
        self.look_at_nodes();
        let mut shown: Vec<Vec<Result<ChainStatus, Unavailable>>> = Vec::new();
        let mut alike: Vec<Option<ChainStatus>> = vec![None; members.len()];
        let mut failed = None;
        for index in self.pool.order_in_turn() {
            let node = self.through(index);
            let asked = node.attempt(|node| node.statuses_here(members));
            let statuses = match node.in_time(asked).await {
                Ok(statuses) => statuses,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            for (at, (alike, status)) in alike.iter_mut().zip(&statuses).enumerate() {
                let Ok(status) = status else { continue };
                let shows_it = |others: &Vec<Result<ChainStatus, Unavailable>>| {
                    others[at].as_ref().is_ok_and(|other| is_same(other, status))
                };
                if alike.is_none() && shown.iter().any(shows_it) {
                    *alike = Some(status.clone());
                }
            }
            shown.push(statuses);
            if alike.iter().all(Option::is_some) {
                break;
            }
        }
        match (shown.len(), shown.pop()) {
            (1, Some(statuses))
                if members.iter().all(|(plan, _)| self.nodes_to_close(plan) == Ok(1)) =>
            {
                statuses
            }
            (_, Some(_)) => {
                let differ = || self.rpc.unavailable("the nodes do not show the same");
                alike.into_iter().map(|status| status.ok_or_else(differ)).collect()
            }
            (_, None) => {
                let error = failed.unwrap_or_else(|| self.nobody());
                members.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    /// The newest block as this node shows it.
    pub(super) async fn head_here(&self) -> Result<Header, Unavailable> {
        let head: Block = self.rpc.read(self.rpc.ask(Call::head()).await?)?;
        Ok(head.header())
    }

    /// The newest block that as many nodes show alike as any tier asks for; `seen` is what one showed.
    pub(super) async fn agreed_head(&self, seen: Header) -> Result<Header, Unavailable> {
        let nodes = self.most_nodes();
        if nodes <= 1 {
            return Ok(seen);
        }
        self.look_at_nodes();
        let ask = async |index: usize| {
            let node = self.through(index);
            let asked = node.in_time(node.attempt(Self::head_here));
            asked.await.ok().map(|head: Header| head.block.number)
        };
        let asked = futures_util::future::join_all(self.pool.order().into_iter().map(ask)).await;
        let mut heads: Vec<u64> = asked.into_iter().flatten().collect();
        heads.sort_unstable_by(|a, b| b.cmp(a));
        // So many have come as far, whatever one that lies shows.
        let Some(number) = heads.get(place(nodes)) else {
            return Err(self.rpc.unavailable("too few nodes show their newest block"));
        };
        let agreed = self.agreed_headers(&[*number]).await?.pop().flatten();
        agreed.ok_or_else(|| self.rpc.unavailable("the nodes do not show the same newest block"))
    }

    /// The blocks with these numbers that as many nodes show alike as any tier asks for; `None` for each
    /// that they do not.
    pub(super) async fn agreed_headers(
        &self,
        numbers: &[u64],
    ) -> Result<Vec<Option<Header>>, Unavailable> {
        let nodes = self.most_nodes();
        if nodes <= 1 {
            return self.decide(|node| node.headers_here(numbers)).await;
        }
        self.look_at_nodes();
        let mut shown: Vec<Vec<Option<Header>>> = Vec::new();
        let mut failed = None;
        for index in self.pool.order_in_turn() {
            let node = self.through(index);
            let asked = node.attempt(|node| node.headers_here(numbers));
            match node.in_time(asked).await {
                Ok(headers) => shown.push(headers),
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            }
            let agreed = agreed_of(&shown, numbers.len(), nodes);
            if agreed.iter().all(Option::is_some) {
                return Ok(agreed);
            }
        }
        match shown.len() > place(nodes) {
            true => Ok(agreed_of(&shown, numbers.len(), nodes)),
            false => {
                Err(failed.unwrap_or_else(|| self.rpc.unavailable("too few nodes show blocks")))
            }
        }
    }

    async fn headers_here(&self, numbers: &[u64]) -> Result<Vec<Option<Header>>, Unavailable> {
        let calls = numbers.iter().copied().map(Call::block).collect();
        let answers = self.rpc.ask_many(calls).await?;
        let read = |answer| Ok(self.rpc.read::<Option<Block>>(answer)?.map(|block| block.header()));
        answers.into_iter().map(read).collect()
    }

    /// The most nodes that any tier asks for.
    fn most_nodes(&self) -> u32 {
        let asked = self.settings.tiers.iter().map(|tier| tier.certainty.nodes);
        asked.max().unwrap_or(1).max(self.settings.least().nodes)
    }

    /// The network as the node shows it that is asked first.
    pub(super) fn preferred(&self) -> &Self {
        match self.is_alone() {
            true => self,
            false => self.pool.order().first().map_or(self, |index| self.through(*index)),
        }
    }

    /// The block and the logs that prove a settlement, as this node has them now.
    async fn proof_of(&self, status: &ChainStatus) -> Result<Option<Proof>, Unavailable> {
        let ChainStatus::Proven { transaction, number, .. } = status else { return Ok(None) };
        let rpc = &self.rpc;
        let hash: B256 =
            transaction.parse().map_err(|_| rpc.unavailable("the transaction has no hash"))?;
        let [block, receipt] = rpc.ask_all([Call::block(*number), Call::receipt(hash)]).await?;
        let block: Option<Block> = rpc.read(block)?;
        let receipt: Option<Receipt> = rpc.read(receipt)?;
        match (block, receipt) {
            (Some(block), Some(receipt)) if receipt.block_hash == block.hash => {
                Ok(Some(Proof { block: block.hash, receipt }))
            }
            _ => Err(rpc.unavailable("the chain is being reorganized")),
        }
    }
}

/// What a node showed of a payment.
struct Shown<'a> {
    node: &'a EvmNetwork,
    status: ChainStatus,
    proof: Option<Proof>,
}

/// What of a receipt several nodes must show alike.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Proof {
    block: B256,
    receipt: Receipt,
}

/// The place of the last of so many, from zero.
fn place(nodes: u32) -> usize {
    usize::try_from(nodes.saturating_sub(1)).unwrap_or(usize::MAX)
}

/// Of each of so many numbers, the block that at least `nodes` of those who were asked showed.
fn agreed_of(shown: &[Vec<Option<Header>>], count: usize, nodes: u32) -> Vec<Option<Header>> {
    let agreed = |number: usize| {
        let headers = || shown.iter().filter_map(move |headers| headers.get(number)?.as_ref());
        let alike = |one: &&Header| headers().filter(|other| *other == *one).count() > place(nodes);
        headers().find(alike).cloned()
    };
    (0..count).map(agreed).collect()
}

/// Whether two nodes show the same of a payment. A failure that no transaction shows is told at the newest
/// block of each.
fn is_same(a: &ChainStatus, b: &ChainStatus) -> bool {
    match (a, b) {
        (
            ChainStatus::Failed { refused, fee, .. },
            ChainStatus::Failed { refused: other, fee: cost, .. },
        ) if refused.transaction.is_none() => (refused, fee) == (other, cost),
        _ => a == b,
    }
}

/// Whether something is done about an entry because of this: it is closed, or signed anew.
const fn is_a_step(status: &ChainStatus) -> bool {
    match status {
        ChainStatus::Proven { .. } | ChainStatus::Failed { .. } | ChainStatus::LeftOut { .. } => {
            true
        }
        ChainStatus::Open { expired, displaced } => *expired || *displaced,
        ChainStatus::Shallow { .. } => false,
    }
}

/// What it means when no node took a transaction: it is refused for certain only if all say so that were
/// asked.
fn together(answers: Vec<Result<(), SendError>>) -> Result<(), SendError> {
    let mut sum: Option<SendError> = None;
    for answer in answers {
        let Err(error) = answer else { return Ok(()) };
        sum = Some(match (sum, error) {
            (None, error) => error,
            (Some(SendError::Rejected(why)), SendError::Rejected(_)) => SendError::Rejected(why),
            (Some(SendError::NonceSpent), SendError::NonceSpent) => SendError::NonceSpent,
            (Some(SendError::Unknown(why)), _) | (Some(_), SendError::Unknown(why)) => {
                SendError::Unknown(why)
            }
            (Some(SendError::Rejected(why)), SendError::NonceSpent)
            | (Some(SendError::NonceSpent), SendError::Rejected(why)) => SendError::Unknown(why),
        });
    }
    Err(sum.unwrap_or_else(|| SendError::Unknown("no node of this network can be asked".into())))
}

#[cfg(test)]
mod tests {
    use pay402_core::network::BlockId;
    use pay402_core::{Amount, Refusal, Refused};

    use super::*;

    #[test]
    fn what_no_transaction_shows_is_the_same_at_each_nodes_newest_block() {
        let block = |number| BlockId { number, hash: number.to_string() };
        let failed = |refused: &Refused, number| {
            let (refused, block) = (refused.clone(), block(number));
            ChainStatus::Failed { refused, block, fee: Amount::ZERO }
        };
        let unseen = Refused::from(Refusal::NonceAlreadyUsed);
        assert!(is_same(&failed(&unseen, 1), &failed(&unseen, 2)));
        let other = Refused::from(Refusal::ValidBefore);
        assert!(!is_same(&failed(&unseen, 1), &failed(&other, 1)));
        let shown = unseen.with_transaction("0x1");
        assert!(is_same(&failed(&shown, 1), &failed(&shown, 1)));
        assert!(!is_same(&failed(&shown, 1), &failed(&shown, 2)), "in another block");
    }

    #[test]
    fn one_that_takes_it_is_enough_and_all_must_refuse_it() {
        let rejected = || Err(SendError::Rejected("underpriced".into()));
        let unknown = || Err(SendError::Unknown("timeout".into()));
        let spent = || Err(SendError::NonceSpent);
        assert_eq!(together(vec![spent(), rejected(), unknown(), Ok(())]), Ok(()));
        assert_eq!(together(vec![rejected(), rejected()]), rejected());
        assert_eq!(together(vec![spent(), spent()]), spent());
        for unclear in [
            vec![rejected(), unknown()],
            vec![unknown(), spent()],
            vec![spent(), rejected()],
            vec![rejected(), spent()],
            vec![],
        ] {
            let sum = together(unclear.clone());
            assert!(matches!(sum, Err(SendError::Unknown(_))), "{unclear:?}: {sum:?}");
        }
    }
}
