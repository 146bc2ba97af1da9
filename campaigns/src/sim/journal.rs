//! A journal in memory that fails as the weather says: before the commit, or after it. It keeps the rules
//! of [`pay402_core::journal`], without a thread or a file, so that a run can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pay402_core::books::Booked;
use pay402_core::error::Unavailable;
use pay402_core::history::{Change, Record, Sent, Span};
use pay402_core::journal::{
    Advance, Aged, Cost, Delivery, Entered, Entry, Event, Forgotten, Holder, Horizon, Journal,
    JournalError, Lease, Leased, Looked, Loss, NewEntry, Outcome, Stage, Watch, step,
};
use pay402_core::network::BlockId;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, NetworkId, PaymentKey};

use super::world::{Life, Sea};

/// What is durable.
#[derive(Debug, Default)]
pub(super) struct Store(Mutex<Db>);

#[derive(Debug, Default)]
struct Db {
    entries: Vec<Entry>,
    by_key: BTreeMap<PaymentKey, usize>,
    /// Signer, nonce, hash and entry of everything that was ever signed.
    signed: Vec<(String, u64, String, usize)>,
    leases: BTreeMap<NetworkId, Held>,
    history: Vec<Record>,
    /// The number of the last record.
    recorded: u64,
    /// Places of entries that are forgotten. They stay for those who judge, and for nobody else.
    gone: BTreeSet<usize>,
    /// The highest number of a record that is forgotten.
    gone_records: u64,
    /// How far each hook has come.
    hooks: BTreeMap<(String, NetworkId), u64>,
}

#[derive(Debug)]
struct Held {
    holder: Holder,
    token: u64,
    until: UnixTime,
}

impl Store {
    fn db(&self) -> MutexGuard<'_, Db> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this transaction stands in the journal.
    pub(super) fn has_signed(&self, hash: &str) -> bool {
        self.db().signed.iter().any(|(_, _, signed, _)| signed == hash)
    }

    /// All entries that ever were.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.db().entries.clone()
    }

    /// The keys of those that are forgotten.
    pub(super) fn gone(&self) -> Vec<PaymentKey> {
        let db = self.db();
        db.gone.iter().map(|index| db.entries[*index].new.key.clone()).collect()
    }

    /// The keys of those that were entered again after they were forgotten.
    pub(super) fn again(&self) -> Vec<PaymentKey> {
        let db = self.db();
        let keys = db.gone.iter().map(|index| &db.entries[*index].new.key);
        keys.filter(|key| db.by_key.contains_key(*key)).cloned().collect()
    }

    /// Whether nothing is unfinished, and nothing is closed by a block that `stands` does not say is there.
    pub(super) fn is_finished(&self, stands: impl Fn(&BlockId) -> bool) -> bool {
        self.db().entries.iter().all(|entry| {
            matches!(entry.stage, Stage::Final(_))
                && entry.watch.as_ref().is_none_or(|watch| stands(&watch.block))
        })
    }

    /// Nonces that were recorded for one payment and for another with no transaction in common. What only
    /// consumes a nonce is no payment.
    pub(super) fn reused(&self) -> Vec<String> {
        let db = self.db();
        let mut of: BTreeMap<(&str, u64), Vec<&str>> = BTreeMap::new();
        for (signer, nonce, hash, entry) in &db.signed {
            if db.entries[*entry].new.key.as_str().contains("/cancel/") {
                continue;
            }
            let hashes = of.entry((signer, *nonce)).or_default();
            if !hashes.contains(&hash.as_str()) {
                hashes.push(hash);
            }
        }
        let mut reused = Vec::new();
        for ((signer, nonce), hashes) in of {
            let entries = |hash: &str| -> Vec<usize> {
                let with = db.signed.iter().filter(|(_, _, signed, _)| signed == hash);
                with.map(|(_, _, _, entry)| *entry).collect()
            };
            let first = entries(hashes[0]);
            if hashes.iter().any(|hash| !entries(hash).iter().any(|entry| first.contains(entry))) {
                reused.push(format!("{signer} {nonce}: {hashes:?}"));
            }
        }
        reused
    }
}

impl Db {
    fn note(&mut self, index: usize, at: UnixTime, change: Change) {
        let entry = &self.entries[index];
        let new = &entry.new;
        self.recorded += 1;
        self.history.push(Record {
            seq: self.recorded,
            at,
            key: new.key.clone(),
            network: new.network.clone(),
            payer: new.payer.clone(),
            amount: new.amount,
            entered_by: new.entered_by.clone(),
            change,
            delivery: entry.delivery,
        });
    }

    fn enter(&mut self, new: NewEntry) -> Entered {
        if let Some(index) = self.by_key.get(&new.key) {
            return Entered::Known(Box::new(self.entries[*index].clone()));
        }
        let at = new.entered_at;
        self.by_key.insert(new.key.clone(), self.entries.len());
        self.entries.push(Entry {
            new,
            stage: Stage::Due,
            delivery: Delivery::Waiting,
            watch: None,
        });
        self.note(self.entries.len() - 1, at, Change::Entered);
        Entered::New
    }

    fn lease(
        &mut self,
        network: &NetworkId,
        holder: &Holder,
        now: UnixTime,
        lasts: Duration,
    ) -> Leased {
        let until = now.plus_s(lasts.as_secs());
        let token = match self.leases.get(network) {
            Some(held) if held.holder.name == holder.name && held.until == UnixTime(0) => {
                return Leased::Held(held.holder.clone());
            }
            Some(held) if held.holder.name == holder.name => held.token,
            Some(held) if now < held.until => return Leased::Held(held.holder.clone()),
            Some(held) => held.token + 1,
            None => 1,
        };
        if self.leases.get(network).is_none_or(|held| held.token != token) {
            for index in 0..self.entries.len() {
                let entry = &mut self.entries[index];
                if entry.new.network == *network && entry.delivery == Delivery::Waiting {
                    entry.delivery = Delivery::Owed;
                    self.note(index, now, Change::HandedOver);
                }
            }
        }
        self.leases.insert(network.clone(), Held { holder: holder.clone(), token, until });
        Leased::Granted(Lease { network: network.clone(), token })
    }

    fn advance(
        &mut self,
        lease: &Lease,
        changes: Vec<Advance>,
    ) -> Result<Vec<Entry>, JournalError> {
        self.check(lease)?;
        // All or none: tried on a copy of what is touched.
        let mut touched: BTreeMap<usize, Entry> = BTreeMap::new();
        let (mut signed, mut noted, mut answer) = (Vec::new(), Vec::new(), Vec::new());
        for Advance { key, event, deliver, at } in changes {
            let index = *self.by_key.get(&key).ok_or(JournalError::NoEntry(key))?;
            let mut entry = touched.remove(&index).unwrap_or_else(|| self.entries[index].clone());
            if let Event::Signed(new) | Event::Replaced(new) = &event {
                let sent = &new.sent;
                let row = (sent.signer.clone(), sent.nonce, sent.transaction.clone(), index);
                signed.push(row);
            }
            entry = step(entry, event.clone())?;
            let is_told = matches!(entry.stage, Stage::Final(_)) && deliver;
            if is_told && entry.delivery == Delivery::Waiting {
                entry.delivery = Delivery::Delivered;
            }
            if let Some(change) = Change::by(&event, &entry.stage) {
                noted.push((index, at, change));
            }
            answer.push(entry.clone());
            touched.insert(index, entry);
        }
        for (index, entry) in touched {
            self.entries[index] = entry;
        }
        self.signed.extend(signed);
        for (index, at, change) in noted {
            self.note(index, at, change);
        }
        Ok(answer)
    }

    fn hand_over(&mut self, key: &PaymentKey, from: Delivery, to: Delivery, at: UnixTime) -> bool {
        let Some(index) = self.by_key.get(key).copied() else { return false };
        let entry = &self.entries[index];
        let is_settled = matches!(entry.stage, Stage::Final(Outcome::Settled { .. }));
        let moves = entry.delivery == from && (to != Delivery::Delivered || is_settled);
        if moves {
            self.entries[index].delivery = to;
            self.note(index, at, Change::HandedOver);
        }
        moves
    }
}

impl Db {
    /// The entries that are not forgotten.
    fn present(&self) -> impl Iterator<Item = &Entry> {
        let here = self.entries.iter().enumerate();
        here.filter(|(index, _)| !self.gone.contains(index)).map(|(_, entry)| entry)
    }

    fn is_past(&self, index: usize, horizon: &Horizon) -> bool {
        let Entry { new, stage, delivery, watch } = &self.entries[index];
        let last = self.history.iter().rev().find(|record| record.key == new.key);
        let sent = horizon.hooks.iter().filter_map(|name| {
            let place = (name.clone(), new.network.clone());
            self.hooks.get(&place).copied()
        });
        let aged = Aged {
            amount: new.amount,
            expires: new.expires,
            entered_at: new.entered_at,
            delivery: *delivery,
            outcome: match stage {
                Stage::Final(outcome) => Some(outcome.clone()),
                Stage::Due | Stage::Signed(_) | Stage::Sent(_) => None,
            },
            watched: watch.is_some(),
            last: last.map(|record| (record.seq, record.at)),
        };
        aged.is_past(horizon, sent.min())
    }

    fn forget(
        &mut self,
        lease: &Lease,
        keys: &[PaymentKey],
        horizon: &Horizon,
    ) -> Result<u64, JournalError> {
        self.check(lease)?;
        let mut gone = 0;
        for key in keys {
            let Some(index) = self.by_key.get(key).copied() else { continue };
            if !self.is_past(index, horizon) {
                continue;
            }
            let of = self.history.extract_if(.., |record| record.key == *key);
            let last = of.map(|record| record.seq).max().unwrap_or_default();
            self.gone_records = self.gone_records.max(last);
            self.by_key.remove(key);
            self.gone.insert(index);
            gone += 1;
        }
        Ok(gone)
    }

    fn look(&self, after: u64, limit: usize, horizon: &Horizon) -> Looked {
        let first = usize::try_from(after).unwrap_or(usize::MAX);
        let here = (0..self.entries.len()).filter(|index| *index >= first);
        let found: Vec<usize> =
            here.filter(|index| !self.gone.contains(index)).take(limit).collect();
        let is_young = |index: &usize| self.entries[*index].new.entered_at >= horizon.before;
        let is_end = found.len() < limit || found.last().is_none_or(is_young);
        let at = found.last().map_or(after, |index| *index as u64 + 1);
        let past = found.into_iter().filter(|index| self.is_past(*index, horizon));
        Looked { past: past.map(|index| self.entries[index].new.key.clone()).collect(), at, is_end }
    }

    fn check(&self, lease: &Lease) -> Result<(), JournalError> {
        match self.leases.get(&lease.network) {
            Some(held) if held.token == lease.token => Ok(()),
            _ => Err(JournalError::LeaseLost(lease.network.clone())),
        }
    }

    /// When a final entry was closed last, and what it cost.
    fn closed(&self, entry: &Entry) -> Option<(UnixTime, Amount)> {
        let Stage::Final(
            Outcome::Settled { fee, .. }
            | Outcome::Failed { fee, .. }
            | Outcome::Reverted { fee, .. },
        ) = &entry.stage
        else {
            return None;
        };
        let closed = |record: &&Record| {
            record.key == entry.new.key
                && matches!(
                    record.change,
                    Change::Settled { .. } | Change::Failed { .. } | Change::Reverted { .. }
                )
        };
        Some((self.history.iter().rev().find(closed)?.at, *fee))
    }

    fn watched(&self) -> impl Iterator<Item = (&Entry, &BlockId)> {
        let entries = self.entries.iter();
        entries.filter_map(|entry| Some((entry, &entry.watch.as_ref()?.block)))
    }

    fn bury(&mut self, lease: &Lease, through: u64, limit: usize) -> Result<u64, JournalError> {
        self.check(lease)?;
        let mut buried = 0;
        for entry in &mut self.entries {
            let is_deep = |watch: &Watch| watch.block.number <= through;
            if buried < limit as u64 && entry.watch.as_ref().is_some_and(is_deep) {
                *entry = step(entry.clone(), Event::Buried)?;
                buried += 1;
            }
        }
        Ok(buried)
    }

    fn books(&self, network: &NetworkId, after: u64, limit: usize) -> Vec<Booked> {
        let booked = |(index, entry): (usize, &Entry)| Booked {
            seq: index as u64 + 1,
            key: entry.new.key.clone(),
            fingerprint: entry.new.fingerprint,
            payer: entry.new.payer.clone(),
            amount: entry.new.amount,
            entered_at: entry.new.entered_at,
            outcome: match &entry.stage {
                Stage::Final(outcome) => Some(outcome.clone()),
                Stage::Due | Stage::Signed(_) | Stage::Sent(_) => None,
            },
            watched: entry.watch.as_ref().map(|watch| watch.block.clone()),
            signed: self
                .signed
                .iter()
                .filter(|(.., of)| *of == index)
                .map(|(signer, nonce, hash, _)| Sent {
                    transaction: hash.clone(),
                    signer: signer.clone(),
                    nonce: *nonce,
                })
                .collect(),
        };
        let here = self
            .entries
            .iter()
            .enumerate()
            .filter(|(index, _)| *index as u64 >= after && !self.gone.contains(index))
            .filter(|(_, entry)| entry.new.network == *network);
        here.take(limit).map(booked).collect()
    }

    fn move_hook(
        &mut self,
        lease: &Lease,
        name: &str,
        from: Option<u64>,
        to: u64,
    ) -> Result<bool, JournalError> {
        self.check(lease)?;
        let place = (name.to_owned(), lease.network.clone());
        let moves = self.hooks.get(&place).copied() == from;
        if moves {
            self.hooks.insert(place, to);
        }
        Ok(moves)
    }
}

const fn is_settled(entry: &Entry) -> bool {
    matches!(entry.stage, Stage::Final(Outcome::Settled { .. }))
}

/// The journal as one process has it.
pub(super) struct Handle {
    store: Arc<Store>,
    life: Arc<Life>,
    sea: Arc<Sea>,
}

impl Handle {
    pub(super) const fn new(store: Arc<Store>, life: Arc<Life>, sea: Arc<Sea>) -> Self {
        Self { store, life, sea }
    }

    /// Does `work` as one transaction: the process may end on either side of the commit, and the answer
    /// may be an error on either side.
    async fn run<T: std::fmt::Debug>(
        &self,
        what: &str,
        work: impl FnOnce(&mut Db) -> Result<T, JournalError> + Send,
    ) -> Result<T, JournalError> {
        self.life.step(what).await;
        let mut die = self.sea.die(&format!("{} {what}", self.life.name()));
        self.sea.pass_time(&mut die, Duration::from_millis(12)).await;
        self.life.step(what).await;
        let broken = || JournalError::from(Unavailable::new("journal", "out of order"));
        if self.sea.happens(&mut die, |weather| weather.journal_fails) {
            return Err(broken());
        }
        let done = work(&mut self.store.db());
        self.sea.note_with(|| format!("{what}: {done:?}"));
        self.life.step(what).await;
        if self.sea.happens(&mut die, |weather| weather.commit_untold) {
            return Err(broken());
        }
        self.sea.pass_time(&mut die, Duration::from_millis(6)).await;
        self.life.step(what).await;
        done
    }
}

fn within<'a>(
    history: &'a [Record],
    span: &'a Span,
    of: impl Fn(&Record) -> bool + 'a,
) -> Vec<Record> {
    let inside = |record: &&Record| record.seq > span.after && record.seq <= span.upto;
    history.iter().filter(inside).filter(|record| of(record)).take(span.limit).cloned().collect()
}

#[async_trait]
impl Journal for Handle {
    async fn enter(&self, new: NewEntry) -> Result<Entered, JournalError> {
        let what = format!("enter {}", new.key);
        self.run(&what, |db| Ok(db.enter(new))).await
    }

    async fn find(&self, key: &PaymentKey) -> Result<Option<Entry>, JournalError> {
        let found = |db: &mut Db| db.by_key.get(key).map(|index| db.entries[*index].clone());
        self.run(&format!("find {key}"), |db| Ok(found(db))).await
    }

    async fn lease(
        &self,
        network: &NetworkId,
        holder: &Holder,
        now: UnixTime,
        lasts: Duration,
    ) -> Result<Leased, JournalError> {
        self.run("lease", |db| Ok(db.lease(network, holder, now, lasts))).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), JournalError> {
        let release = |db: &mut Db| {
            if let Some(held) = db.leases.get_mut(&lease.network)
                && held.token == lease.token
            {
                held.until = UnixTime(0);
            }
            Ok(())
        };
        self.run("release", release).await
    }

    async fn advance(
        &self,
        lease: &Lease,
        changes: Vec<Advance>,
    ) -> Result<Vec<Entry>, JournalError> {
        let keys = changes.iter().map(|change| format!(" {}", change.key)).collect::<String>();
        self.run(&format!("advance{keys}"), |db| db.advance(lease, changes)).await
    }

    async fn unfinished(
        &self,
        network: &NetworkId,
        limit: usize,
    ) -> Result<Vec<Entry>, JournalError> {
        let open = |entry: &&Entry| {
            entry.new.network == *network && !matches!(entry.stage, Stage::Final(_))
        };
        self.run("unfinished", |db| Ok(db.present().filter(open).take(limit).cloned().collect()))
            .await
    }

    async fn newest(&self, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let newest = |db: &mut Db| {
            let mut all: Vec<Entry> = db.present().cloned().collect();
            all.reverse();
            all.truncate(limit);
            all
        };
        self.run("newest", |db| Ok(newest(db))).await
    }

    async fn next_nonce(&self, _: &NetworkId, signer: &str) -> Result<Option<u64>, JournalError> {
        let highest = |db: &mut Db| {
            let of = db.signed.iter().filter(|(by, ..)| by == signer);
            of.map(|(_, nonce, ..)| nonce + 1).max()
        };
        self.run("next nonce", |db| Ok(highest(db))).await
    }

    async fn failures(
        &self,
        _: &NetworkId,
        payer: &str,
        since: UnixTime,
    ) -> Result<u64, JournalError> {
        let cost = |entry: &&Entry| match &entry.stage {
            Stage::Final(Outcome::Failed { fee, .. }) => {
                !fee.is_zero() && entry.new.payer == payer && entry.new.entered_at >= since
            }
            _ => false,
        };
        self.run("failures", |db| Ok(db.present().filter(cost).count() as u64)).await
    }

    async fn losses(&self, _: &NetworkId, since: UnixTime) -> Result<Vec<Loss>, JournalError> {
        let losses = |db: &mut Db| -> Vec<Loss> {
            let loss = |entry: &Entry| {
                let (at, fee) = db.closed(entry).filter(|_| !is_settled(entry))?;
                let (payer, entered_by) = (entry.new.payer.clone(), entry.new.entered_by.clone());
                let loss = Loss { key: entry.new.key.clone(), payer, entered_by, at, fee };
                (at >= since && !fee.is_zero()).then_some(loss)
            };
            db.present().filter_map(loss).collect()
        };
        self.run("losses", |db| Ok(losses(db))).await
    }

    async fn costs(
        &self,
        _: &NetworkId,
        callers: &[String],
        since: UnixTime,
    ) -> Result<Vec<Cost>, JournalError> {
        let costs = |db: &mut Db| -> Vec<Cost> {
            let cost = |entry: &Entry| {
                let entered_by = entry.new.entered_by.clone().filter(|it| callers.contains(it))?;
                let (at, fee) = db.closed(entry)?;
                let key = entry.watch.as_ref().map(|_| entry.new.key.clone());
                let cost = Cost { entered_by, key, at, fee };
                (at >= since && !fee.is_zero()).then_some(cost)
            };
            db.entries.iter().filter_map(cost).collect()
        };
        self.run("costs", |db| Ok(costs(db))).await
    }

    async fn watched_blocks(&self, _: &NetworkId) -> Result<Vec<BlockId>, JournalError> {
        let blocks = |db: &mut Db| -> BTreeSet<BlockId> {
            db.watched().map(|(_, block)| block.clone()).collect()
        };
        self.run("watched blocks", |db| Ok(blocks(db).into_iter().collect())).await
    }

    async fn watched_in(&self, _: &NetworkId, block: &BlockId) -> Result<Vec<Entry>, JournalError> {
        let of = |db: &mut Db| -> Vec<Entry> {
            db.watched().filter(|(_, by)| *by == block).map(|(entry, _)| entry.clone()).collect()
        };
        self.run("watched in", |db| Ok(of(db))).await
    }

    async fn bury(&self, lease: &Lease, through: u64, limit: usize) -> Result<u64, JournalError> {
        self.run("bury", |db| db.bury(lease, through, limit)).await
    }

    async fn forgettable(
        &self,
        _: &NetworkId,
        after: u64,
        limit: usize,
        horizon: &Horizon,
    ) -> Result<Looked, JournalError> {
        self.run("forgettable", |db| Ok(db.look(after, limit, horizon))).await
    }

    async fn forget(
        &self,
        lease: &Lease,
        keys: Vec<PaymentKey>,
        horizon: &Horizon,
    ) -> Result<u64, JournalError> {
        let names = keys.iter().map(|key| format!(" {key}")).collect::<String>();
        self.run(&format!("forget{names}"), |db| db.forget(lease, &keys, horizon)).await
    }

    async fn forgotten(&self, network: &NetworkId) -> Result<Forgotten, JournalError> {
        let known = |db: &mut Db| {
            let of = |index: &&usize| db.entries[**index].new.network == *network;
            let mut forgotten = Forgotten::default();
            for index in db.gone.iter().filter(of) {
                forgotten.entries += 1;
                forgotten.entry = *index as u64 + 1;
                if let Stage::Final(outcome) = &db.entries[*index].stage {
                    forgotten.fees =
                        forgotten.fees.checked_add(outcome.fee()).unwrap_or(Amount::MAX);
                }
            }
            forgotten
        };
        self.run("forgotten", |db| Ok(known(db))).await
    }

    async fn forgotten_records(&self) -> Result<u64, JournalError> {
        self.run("forgotten records", |db| Ok(db.gone_records)).await
    }

    async fn hook(&self, name: &str, network: &NetworkId) -> Result<Option<u64>, JournalError> {
        let place = (name.to_owned(), network.clone());
        self.run("hook", |db| Ok(db.hooks.get(&place).copied())).await
    }

    async fn move_hook(
        &self,
        lease: &Lease,
        name: &str,
        from: Option<u64>,
        to: u64,
    ) -> Result<bool, JournalError> {
        self.run("move hook", |db| db.move_hook(lease, name, from, to)).await
    }

    async fn replay_hook(&self, name: &str, after: u64) -> Result<u64, JournalError> {
        let back = |db: &mut Db| {
            let ahead =
                db.hooks.iter_mut().filter(|((hook, _), seq)| hook == name && **seq > after);
            ahead.map(|(_, seq)| *seq = after).count() as u64
        };
        self.run("replay hook", |db| Ok(back(db))).await
    }

    async fn hand_over(
        &self,
        lease: Option<&Lease>,
        key: &PaymentKey,
        from: Delivery,
        to: Delivery,
        at: UnixTime,
    ) -> Result<bool, JournalError> {
        let what = format!("hand over {key} from {from:?} to {to:?}");
        let change = |db: &mut Db| {
            lease.map_or(Ok(()), |lease| db.check(lease))?;
            Ok(db.hand_over(key, from, to, at))
        };
        self.run(&what, change).await
    }

    async fn history(&self, after: u64, limit: usize) -> Result<Vec<Record>, JournalError> {
        let span = Span { after, upto: u64::MAX, limit };
        self.run("history", |db| Ok(within(&db.history, &span, |_| true))).await
    }

    async fn history_end(&self) -> Result<u64, JournalError> {
        self.run("history end", |db| Ok(db.recorded)).await
    }

    async fn history_of_caller(&self, name: &str, span: Span) -> Result<Vec<Record>, JournalError> {
        let of = |record: &Record| record.entered_by.as_deref() == Some(name);
        self.run("history", |db| Ok(within(&db.history, &span, of))).await
    }

    async fn history_of_payment(
        &self,
        key: &PaymentKey,
        span: Span,
    ) -> Result<Vec<Record>, JournalError> {
        self.run("history", |db| Ok(within(&db.history, &span, |record| record.key == *key))).await
    }

    async fn books(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Booked>, JournalError> {
        self.run("books", |db| Ok(db.books(network, after, limit))).await
    }
}
