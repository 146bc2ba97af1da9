//! Watches the blocks that closed entries until they are buried.
//!
//! A settlement is told once its block is as deep as its tier asks for, and a block that is told may
//! still be undone. Until it is buried the journal keeps what is needed to go on, and here is looked
//! whether the chain still has it.
//!
//! **Invariants:** an outcome whose block is undone is never left standing: the entry is opened again
//! and followed as before, with the same bytes, and closes by what the chain shows then. What is
//! buried is wiped. While blocks follow one another a look costs two questions, however much is watched.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt as _, future, stream};
use pay402_core::error::Unavailable;
use pay402_core::journal::{Entry, Event, JournalError, Lease, Outcome, SignedAs, Stage};
use pay402_core::network::{BlockId, ChainStatus, Header};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::Instant;

use crate::budgets::Earmark;
use crate::desk::Desk;
use crate::exposure::Firm;
use crate::failpoint::Failpoint;
use crate::heads::Lookahead;
use crate::recover;
use crate::review::{self, Review};
use crate::scribe::Unwritten;
use crate::seal::{Content, Unopened};
use crate::worker::Crew;

/// Blocks that are asked for in one question; nodes take a hundred at least.
const HEADERS_MAX: usize = 100;
/// Entries that are buried in one commit.
const BURIED_MAX: usize = 512;
/// Blocks of which what they closed is looked at together: a node may keep one of them waiting for long.
pub(crate) const BLOCKS_AT_ONCE: usize = 8;
/// Transactions of an undone block that are looked at together.
const LOOKS_MAX: usize = 16;

/// The blocks that closed watched entries.
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<BTreeMap<BlockId, Mark>>);

/// What is known of a watched block.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Whether it was held against the chain that the last look saw.
    held: bool,
    review: Review,
}

impl Mark {
    /// Whether something is still to be done before it may be buried.
    const fn is_open(&self) -> bool {
        !(self.held && self.review.is_done)
    }
}

impl Watched {
    /// Has a block watched.
    pub(crate) fn add(&self, block: BlockId) {
        let mut blocks = self.lock();
        let mark = blocks.entry(block).or_default();
        *mark = Mark { held: false, review: mark.review.again() };
    }

    /// How many blocks are watched.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The blocks that are to be held against the chain.
    fn due(&self) -> Vec<BlockId> {
        let blocks = self.lock();
        blocks.iter().filter(|(_, mark)| !mark.held).map(|(block, _)| block.clone()).collect()
    }

    /// The blocks below this one whose outcomes are to be looked at again, in turn.
    pub(crate) fn unreviewed(&self, head: u64) -> Vec<BlockId> {
        let blocks = self.lock();
        let is_due = |(block, mark): &(&BlockId, &Mark)| {
            block.number < head && mark.held && !mark.review.is_done
        };
        let mut due: Vec<_> = blocks.iter().filter(is_due).collect();
        due.sort_by_key(|(_, mark)| mark.review.turn());
        due.into_iter().map(|(block, _)| block.clone()).collect()
    }

    /// Takes note of how far the review of a block has come.
    pub(crate) fn review(&self, block: &BlockId, note: impl FnOnce(Review) -> Review) {
        if let Some(mark) = self.lock().get_mut(block) {
            mark.review = note(mark.review);
        }
    }

    /// None of them counts as held against the chain any more.
    fn unmark(&self) {
        self.lock().values_mut().for_each(|mark| mark.held = false);
    }

    fn mark(&self, block: &BlockId) {
        if let Some(mark) = self.lock().get_mut(block) {
            mark.held = true;
        }
    }

    fn remove(&self, block: &BlockId) {
        self.lock().remove(block);
    }

    /// The blocks up to `through` that are below the first which is not held against the chain yet, or not
    /// reviewed, with the number up to which there are no others; `None` where there are none.
    fn deep(&self, through: u64) -> Option<(u64, Vec<BlockId>)> {
        let blocks = self.lock();
        let open = blocks.iter().find(|(_, mark)| mark.is_open()).map(|(block, _)| block.number);
        let through = open.map_or(Some(through), |open| Some(through.min(open.checked_sub(1)?)))?;
        let deep: Vec<_> = blocks.keys().filter(|it| it.number <= through).cloned().collect();
        (!deep.is_empty()).then_some((through, deep))
    }

    /// Watches these no more, but for one that closed something again meanwhile.
    fn forget(&self, buried: &[BlockId]) {
        let mut blocks = self.lock();
        for block in buried {
            if blocks.get(block).is_some_and(|mark| !mark.is_open()) {
                blocks.remove(block);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BlockId, Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes up the watch of what was closed before.
///
/// # Errors
/// When the journal does not answer.
pub(crate) async fn take_up(desk: &Desk) -> Result<(), JournalError> {
    for block in desk.journal.watched_blocks(&desk.id).await? {
        desk.watched.add(block);
    }
    Ok(())
}

/// Why a look was not finished. It is made again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfinished {
    #[error(transparent)]
    Chain(#[from] Unavailable),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Unopened(#[from] Unopened),
    #[error("an entry was not opened again")]
    Unwritten,
}

/// Watches until the desk halts.
pub(crate) async fn watch(crew: Crew, lease: Lease) {
    let (tell, heads) = channel(None);
    tokio::select! {
        biased;
        () = follow_heads(&crew.desk, tell) => {}
        () = look_from(&crew, &lease, heads) => {}
    }
}

/// Asks for the newest block, however long a look at what is watched takes: that blocks come is not to be doubted
/// because one of them is looked at for long.
async fn follow_heads(desk: &Desk, tell: Sender<Option<Header>>) {
    let (watch_every, head_every) = (desk.options.watch_every, desk.options.head_every);
    let mut ahead = Lookahead::default();
    let mut told = Instant::now();
    loop {
        // Who settles waits for each block, and what is watched is looked at so often.
        let pause = match desk.busy() {
            0 => watch_every,
            _ => ahead.pause(Instant::now(), head_every).min(watch_every),
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            () = desk.heads.wanted() => {}
        }
        if desk.watched.len() == 0 && desk.busy() == 0 {
            // What is closed from here on is held against the chain before it is left to its child.
            desk.pulse.rest();
            continue;
        }
        match desk.in_time(desk.network.head()).await {
            Ok(Ok(head)) => {
                let now = Instant::now();
                desk.pulse.note(&head, desk.busy() > 0);
                ahead.note(&head.block.hash, now, pause, &desk.heads);
                if now.duration_since(told) >= watch_every {
                    told = now;
                    _ = tell.send(Some(head));
                }
            }
            Ok(Err(error)) | Err(error) => {
                tracing::debug!(network = %desk.id, %error, "the head is unknown");
            }
        }
    }
}

/// Looks at what is watched from each newest block that is told, until the lease is lost.
async fn look_from(crew: &Crew, lease: &Lease, mut heads: Receiver<Option<Header>>) {
    let desk = &crew.desk;
    let mut tip: Option<Header> = None;
    while heads.changed().await.is_ok() {
        let head = heads.borrow_and_update().clone();
        let Some(head) = head.filter(|_| desk.watched.len() > 0) else { continue };
        match look(crew, lease, tip.as_ref(), head).await {
            Ok(head) => tip = Some(head),
            Err(Unfinished::Journal(JournalError::LeaseLost(_))) => return,
            Err(error) => {
                tracing::warn!(network = %desk.id, %error, "watched blocks were not looked at");
            }
        }
    }
}

/// Holds watched blocks against the chain of the newest block, and buries what is deep below it. One node
/// has `seen` the newest; gives the one that was looked from.
async fn look(
    crew: &Crew,
    lease: &Lease,
    tip: Option<&Header>,
    seen: Header,
) -> Result<Header, Unfinished> {
    let desk = &crew.desk;
    let head = desk.in_time(desk.network.common_head(seen)).await??;
    let follows = match tip {
        Some(tip) if tip.block == head.block || tip.block.hash == head.parent => true,
        Some(tip) => headers(desk, &[&tip.block], &head).await?.is_below(&tip.block),
        None => false,
    };
    if !follows {
        // Also what a chain that is shorter for a moment has no block in the place of.
        desk.watched.unmark();
    }
    // What is above the head that was seen would be left to a child that this look knows nothing of.
    let due: Vec<BlockId> = desk.watched.due();
    let due: Vec<&BlockId> = due.iter().filter(|it| it.number <= head.block.number).collect();
    let mut fallen = Vec::new();
    for blocks in due.chunks(HEADERS_MAX - 1) {
        let shown = headers(desk, blocks, &head).await?;
        for block in blocks {
            match shown.at(block.number) {
                // Only below that head: another node may be on another branch.
                Some(there) if there == *block && shown.has_head => desk.watched.mark(block),
                Some(there) if there == *block => {}
                Some(_) => fallen.push(*block),
                // The node lags behind, nodes do not agree, or the chain became shorter and will be longer
                // again: it is asked for in the next look.
                None => {}
            }
        }
    }
    all_undone(crew, fallen).await?;
    review::look(crew, head.block.number).await?;
    let through = head.block.number.checked_sub(desk.options.burial_blocks);
    let _closing = desk.closing.lock().await;
    if let Some((through, blocks)) = through.and_then(|through| desk.watched.deep(through)) {
        desk.options.failpoints.pass(Failpoint::AfterDeepBeforeBury).await;
        bury(desk, lease, through).await?;
        // Only now: what the journal still keeps is looked at again.
        desk.watched.forget(&blocks);
    }
    Ok(head)
}

/// What one answer shows of the chain.
struct Shown {
    blocks: Vec<BlockId>,
    /// Whether it is the chain of the head that was asked about.
    has_head: bool,
}

impl Shown {
    fn at(&self, number: u64) -> Option<&BlockId> {
        self.blocks.iter().find(|there| there.number == number)
    }

    /// Whether a block is on the chain of the head.
    fn is_below(&self, block: &BlockId) -> bool {
        self.has_head && self.at(block.number) == Some(block)
    }
}

/// The canonical blocks with the numbers of these, asked for together with `head`: two answers may be of two
/// nodes, and those on two branches.
async fn headers(desk: &Desk, blocks: &[&BlockId], head: &Header) -> Result<Shown, Unavailable> {
    let numbers = blocks.iter().map(|block| block.number).chain([head.block.number]);
    let there = desk.in_time(desk.network.headers(&numbers.collect::<Vec<_>>())).await??;
    let blocks: Vec<_> = there.into_iter().flatten().map(|there| there.block).collect();
    let has_head = blocks.contains(&head.block);
    Ok(Shown { blocks, has_head })
}

async fn bury(desk: &Desk, lease: &Lease, through: u64) -> Result<(), JournalError> {
    loop {
        let buried = desk.journal.bury(lease, through, BURIED_MAX).await?;
        if usize::try_from(buried).is_ok_and(|buried| buried < BURIED_MAX) {
            return Ok(());
        }
    }
}

/// The chain has other blocks in the place of these. What one of them closed does not wait for what another did.
async fn all_undone(crew: &Crew, blocks: Vec<&BlockId>) -> Result<(), Unfinished> {
    let undo = async |block: &BlockId| (undone(crew, block).await, block.number);
    // To the end of each: one that was begun is not watched meanwhile.
    let blocks = stream::iter(blocks).map(undo).buffer_unordered(BLOCKS_AT_ONCE);
    let mut failed = None;
    for (undone, number) in blocks.collect::<Vec<_>>().await {
        match undone {
            Ok(()) => {}
            Err(error @ (Unfinished::Chain(_) | Unfinished::Unopened(_))) => {
                tracing::warn!(network = %crew.desk.id, number, %error,
                    "an undone block was not looked at to its end");
            }
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The chain has another block in the place of this one: what it closed is opened again.
async fn undone(crew: &Crew, block: &BlockId) -> Result<(), Unfinished> {
    let watched = &crew.desk.watched;
    // Before it is read what the block closed: what is closed by it meanwhile has it watched again.
    watched.remove(block);
    let opened = open_again(crew, block).await;
    // Where a node contradicts itself it is asked again.
    if !matches!(opened, Ok(true)) {
        watched.add(block.clone());
    }
    opened.map(drop)
}

/// Opens again what a block closed, unless the chain still shows it closed there. `false` when something stands.
/// What could not be looked at keeps nothing else waiting.
async fn open_again(crew: &Crew, block: &BlockId) -> Result<bool, Unfinished> {
    let desk = &crew.desk;
    let entries = desk.journal.watched_in(&desk.id, block).await?;
    let count = entries.len();
    tracing::warn!(network = %desk.id, number = block.number, hash = block.hash, entries = count,
        "a block that closed settlements is undone");
    let look = async |group: Vec<Entry>| (stand(desk, &group, block).await, group);
    let groups = stream::iter(by_transaction(entries));
    let looks: Vec<_> = groups.map(look).buffer_unordered(LOOKS_MAX).collect().await;
    let (mut fallen, mut failed) = (Vec::with_capacity(count), None);
    for (stand, group) in looks {
        match stand {
            Ok(true) => {}
            Ok(false) => fallen.extend(group),
            Err(error) => failed = Some(error),
        }
    }
    if !fallen.is_empty() {
        reopen(crew, &fallen).await?;
    }
    failed.map_or(Ok(fallen.len() == count), Err)
}

/// What shares a transaction goes on together: its bytes are with one of them.
pub(crate) fn by_transaction(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut groups: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        let name = signed(&entry).map_or(entry.new.key.as_str(), |signed| &signed.sent.transaction);
        groups.entry(name.to_owned()).or_default().push(entry);
    }
    groups.into_values().collect()
}

/// Whether all of these still stand closed in `block`. `false` also when that is only known of some.
async fn stand(desk: &Desk, group: &[Entry], block: &BlockId) -> Result<bool, Unfinished> {
    let looks = group.iter().map(|entry| stands(desk, entry, block));
    let mut all = Ok(true);
    for look in future::join_all(looks).await {
        match look {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => all = Err(error),
        }
    }
    all
}

/// What was signed last for a watched entry.
pub(crate) fn signed(entry: &Entry) -> Option<&SignedAs> {
    entry.watch.as_ref()?.signed.as_ref()
}

/// Whether an entry still stands closed in `block`.
async fn stands(desk: &Desk, entry: &Entry, block: &BlockId) -> Result<bool, Unfinished> {
    let plan = desk.sealer.open(Content::Plan, &entry.new.key, &entry.new.plan)?;
    Ok(match desk.status(&plan, signed(entry).map(|signed| &signed.sent)).await? {
        ChainStatus::Proven { block: there, .. }
        | ChainStatus::Failed { block: there, .. }
        | ChainStatus::LeftOut { block: there, .. } => there == *block,
        ChainStatus::Open { .. } | ChainStatus::Shallow { .. } => false,
    })
}

/// Opens entries again that do not stand as they were closed, and follows them.
pub(crate) async fn reopen(crew: &Crew, entries: &[Entry]) -> Result<(), Unfinished> {
    let desk = &crew.desk;
    // The payer has the money again and may not promise it to another, also until it is taken up.
    let _held = entries.iter().map(|entry| hold(desk, entry)).collect::<Result<Vec<_>, _>>()?;
    desk.options.failpoints.pass(Failpoint::AfterUndoneBeforeReopen).await;
    let reopened = |entry: &Entry| (entry.new.key.clone(), Event::Reopened);
    let written = crew.scribe.write(entries.iter().map(reopened).collect()).await;
    for (entry, written) in entries.iter().zip(written) {
        let payment = &entry.new.key;
        match written {
            Ok(_) => {
                desk.metrics.reopened.add(1);
                let was = name(entry);
                tracing::warn!(%payment, was, "opened again; settling it");
            }
            // Opened or closed in another block since it was read.
            Err(Unwritten::Forbidden(problem)) => {
                tracing::debug!(%payment, problem, "not opened again");
            }
            Err(Unwritten::Stopped) => return Err(Unfinished::Unwritten),
        }
    }
    desk.options.failpoints.pass(Failpoint::AfterReopenBeforeResend).await;
    if let Err(error) = recover::recover(crew).await {
        // The search for what nobody works on finds it.
        tracing::warn!(network = %desk.id, %error, "not taken up");
    }
    Ok(())
}

/// Reserves what an entry is settled for, and takes its gas out of its caller's budget.
fn hold(desk: &Desk, entry: &Entry) -> Result<(Firm, Option<Earmark>), Unopened> {
    let plan = desk.sealer.open(Content::Plan, &entry.new.key, &entry.new.plan)?;
    let (sources, gas) = (desk.network.sources(&plan), desk.network.gas(&plan));
    let earmark = desk.budgets.earmark(entry.new.entered_by.as_deref(), gas);
    Ok((desk.exposure.restore(&entry.new.key, entry.new.amount, sources), earmark))
}

pub(crate) const fn name(entry: &Entry) -> &'static str {
    match &entry.stage {
        Stage::Final(Outcome::Settled { .. }) => "settled",
        Stage::Final(Outcome::Failed { .. }) => "failed",
        Stage::Final(Outcome::Reverted { .. }) => "reverted",
        Stage::Due | Stage::Signed(_) | Stage::Sent(_) => "open",
    }
}
