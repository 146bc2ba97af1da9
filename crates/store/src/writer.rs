//! The one thread that owns a connection, and the commit that its callers share.
//!
//! Callers queue commands; the thread takes what is queued, runs it in one transaction with a
//! savepoint for each command, commits once, and only then answers all of them.
//!
//! **Invariant:** no answer leaves before the commit of what it says returned. A commit that fails
//! answers the whole batch with `Unavailable`, and nothing is run after it: what is on the disk is
//! not known then, and only opening the file anew finds out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use pay402_core::error::{Misconfigured, Unavailable};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::database::{BUSY_TIMEOUT, StoreKind};

/// Most commands that wait for a store at once; further callers wait for their turn.
pub const QUEUE_COMMANDS_MAX: usize = 1024;
/// Most commands that share one commit.
pub const BATCH_COMMANDS_MAX: usize = 256;
/// Changes after which the write-ahead log is moved into the file, so that it does not grow.
const LOG_COMMANDS_MAX: usize = 200;
/// Statements that are kept prepared: more than a store has. To prepare one costs more than to run it.
const STATEMENTS_KEPT: usize = 256;
/// How long a store rests before its write-ahead log is emptied, so that what was wiped does not
/// linger there.
const REST: Duration = Duration::from_millis(500);

/// Why a command did not do as asked. Whatever it wrote is undone.
#[derive(Debug)]
pub(crate) enum Stop<E> {
    /// SQLite failed.
    Sql(rusqlite::Error),
    /// What is stored contradicts itself, or cannot be stored.
    Broken(String),
    /// The port says no.
    Refused(E),
}

impl<E> From<rusqlite::Error> for Stop<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Whether a command changes anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// It only reads: no lock is taken that keeps others from writing.
    Read,
    /// It may write.
    Write,
}

/// The queue to a connection's thread. Dropping it finishes what is queued and closes the file.
#[derive(Debug)]
pub(crate) struct Writer {
    kind: &'static StoreKind,
    slots: Arc<Semaphore>,
    // An option only so that `drop` can hang up before it waits for the thread.
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread that owns `connection`.
    pub(crate) fn start(
        kind: &'static StoreKind,
        connection: Connection,
    ) -> Result<Self, Misconfigured> {
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        let (queue, commands) = sync_channel(QUEUE_COMMANDS_MAX);
        let commits = Arc::new(AtomicU64::new(0));
        let owner = Owner { kind, connection, commits: Arc::clone(&commits), failed: None };
        let thread = std::thread::Builder::new()
            .name(format!("pay402-{}", kind.name))
            .spawn(move || owner.work(&commands))
            .map_err(|error| {
                let problem = format!("its thread cannot be started: {error}; raise the limit");
                Misconfigured::new(kind.name, problem)
            })?;
        let slots = Arc::new(Semaphore::new(QUEUE_COMMANDS_MAX));
        Ok(Self { kind, slots, queue: Some(queue), thread: Some(thread), commits })
    }

    /// Runs `command` on the connection and returns its result once it is durable.
    pub(crate) async fn run<T, E, C>(&self, access: Access, command: C) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Unavailable> + Send + 'static,
        C: FnOnce(&Connection) -> Result<T, Stop<E>> + Send + 'static,
    {
        let answer = self.enqueue(access, command).await?;
        answer.await.unwrap_or_else(|_| Err(self.stopped().into()))
    }

    /// Puts `command` into the queue and returns where its answer will arrive.
    async fn enqueue<T, E, C>(
        &self,
        access: Access,
        command: C,
    ) -> Result<oneshot::Receiver<Result<T, E>>, Unavailable>
    where
        T: Send + 'static,
        E: From<Unavailable> + Send + 'static,
        C: FnOnce(&Connection) -> Result<T, Stop<E>> + Send + 'static,
    {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| self.stopped())?;
        let (reply, answer) = oneshot::channel();
        let job = Command { command: Some(command), result: None, reply };
        let message = Message { access, job: Box::new(job), _slot: slot };
        // There are as many slots as places in the queue: it is full only when the thread is gone.
        let queue = self.queue.as_ref().ok_or_else(|| self.stopped())?;
        queue.try_send(message).map_err(|_| self.stopped())?;
        Ok(answer)
    }

    fn stopped(&self) -> Unavailable {
        Unavailable::new(self.kind.name, "its thread has stopped")
    }

    /// Commits so far that wrote something, each for the whole batch it carried.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has rolled back and told its callers; nothing is left to do.
            let _ = thread.join();
        }
    }
}

struct Message {
    access: Access,
    job: Box<dyn Job>,
    _slot: OwnedSemaphorePermit,
}

/// A command with its caller's types hidden.
trait Job: Send {
    /// Runs it and keeps the result. Says whether what it wrote stands.
    fn run(&mut self, kind: &StoreKind, connection: &Connection) -> Ran;
    /// Gives the result to the caller, or the failure of the commit.
    fn answer(self: Box<Self>, committed: Result<(), Unavailable>);
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ran {
    Stands,
    Undo,
}

struct Command<T, E, C> {
    command: Option<C>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, C> Job for Command<T, E, C>
where
    T: Send,
    E: From<Unavailable> + Send,
    C: FnOnce(&Connection) -> Result<T, Stop<E>> + Send,
{
    fn run(&mut self, kind: &StoreKind, connection: &Connection) -> Ran {
        let Some(command) = self.command.take() else { return Ran::Undo };
        let result = command(connection).map_err(|stop| match stop {
            Stop::Sql(error) => Unavailable::new(kind.name, error.to_string()).into(),
            Stop::Broken(problem) => Unavailable::new(kind.name, problem).into(),
            Stop::Refused(error) => error,
        });
        let ran = if result.is_ok() { Ran::Stands } else { Ran::Undo };
        self.result = Some(result);
        ran
    }

    fn answer(self: Box<Self>, committed: Result<(), Unavailable>) {
        let result = match (committed, self.result) {
            (Ok(()), Some(result)) => result,
            (Err(failure), _) => Err(failure.into()),
            (Ok(()), None) => return,
        };
        // The caller may have gone; what it asked for is done all the same.
        let _ = self.reply.send(result);
    }
}

/// What the thread owns.
struct Owner {
    kind: &'static StoreKind,
    connection: Connection,
    commits: Arc<AtomicU64>,
    failed: Option<Unavailable>,
}

impl Owner {
    fn work(mut self, commands: &Receiver<Message>) {
        // Changes that may still be in the log.
        let mut logged = 0;
        loop {
            let first = match commands.recv_timeout(REST) {
                Ok(first) => first,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if logged > 0 && self.failed.is_none() {
                        let left = self.move_log("PRAGMA wal_checkpoint(TRUNCATE)");
                        logged = if left { logged } else { 0 };
                        continue;
                    }
                    // Nothing to do until somebody asks.
                    match commands.recv() {
                        Ok(first) => first,
                        Err(_) => return,
                    }
                }
            };
            let mut batch = vec![first];
            batch.extend(commands.try_iter().take(BATCH_COMMANDS_MAX - 1));
            let before = logged;
            logged += batch.iter().filter(|message| message.access == Access::Write).count();
            self.run_batch(batch);
            if before / LOG_COMMANDS_MAX < logged / LOG_COMMANDS_MAX && self.failed.is_none() {
                self.move_log("PRAGMA wal_checkpoint(PASSIVE)");
            }
        }
    }

    fn run_batch(&mut self, mut batch: Vec<Message>) {
        let outcome = match &self.failed {
            Some(failed) => Err(failed.clone()),
            None => self.transact(&mut batch).map_err(|fault| self.unavailable(fault)),
        };
        for message in batch {
            message.job.answer(outcome.clone());
        }
    }

    fn transact(&mut self, batch: &mut [Message]) -> Result<(), Fault> {
        let writes = batch.iter().any(|message| message.access == Access::Write);
        let behavior =
            if writes { TransactionBehavior::Immediate } else { TransactionBehavior::Deferred };
        let transaction =
            self.connection.transaction_with_behavior(behavior).map_err(Fault::Batch)?;
        for message in batch {
            run_apart(&transaction, || message.job.run(self.kind, &transaction))
                .map_err(Fault::Batch)?;
        }
        let committed = transaction.commit();
        if writes {
            committed.map_err(Fault::Commit)?;
            self.commits.fetch_add(1, Ordering::SeqCst);
            Ok(())
        } else {
            committed.map_err(Fault::Batch)
        }
    }

    fn unavailable(&mut self, fault: Fault) -> Unavailable {
        let (error, fatal) = match fault {
            Fault::Commit(error) => (error, true),
            Fault::Batch(error) => {
                let device = matches!(
                    error.sqlite_error_code(),
                    Some(
                        ErrorCode::SystemIoFailure
                            | ErrorCode::DatabaseCorrupt
                            | ErrorCode::NotADatabase
                    )
                );
                (error, device)
            }
        };
        if fatal { self.stop(&error) } else { Unavailable::new(self.kind.name, error.to_string()) }
    }

    fn stop(&mut self, error: &rusqlite::Error) -> Unavailable {
        let problem = format!(
            "writing failed ({error}); it takes nothing more until the process is started anew: \
             check the disk first"
        );
        let failed = Unavailable::new(self.kind.name, problem);
        self.failed = Some(failed.clone());
        failed
    }

    /// Moves the write-ahead log into the file. Says whether some of it is left because another
    /// process was reading.
    fn move_log(&mut self, checkpoint: &'static str) -> bool {
        let busy = self
            .connection
            .busy_timeout(Duration::ZERO)
            .and_then(|()| self.connection.query_row(checkpoint, [], |row| row.get(0)));
        let patient = self.connection.busy_timeout(BUSY_TIMEOUT);
        match (busy, patient) {
            (Ok(busy), Ok(())) => busy,
            (Err(error), _) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => true,
            (Err(error), _) | (Ok(_), Err(error)) => {
                // A sync that failed once may "succeed" the next time with the data gone.
                self.stop(&error);
                false
            }
        }
    }
}

/// Runs a command so that what it does can be undone alone. An error undoes the whole transaction.
fn run_apart(transaction: &Transaction<'_>, run: impl FnOnce() -> Ran) -> rusqlite::Result<()> {
    // Kept prepared, unlike those that `rusqlite` has for this.
    let step = |sql| transaction.prepare_cached(sql)?.execute([]);
    step("SAVEPOINT command")?;
    if run() == Ran::Undo {
        // Fails when SQLite gave the whole transaction up: then nobody's change stands.
        step("ROLLBACK TO command")?;
    }
    step("RELEASE command").map(drop)
}

enum Fault {
    /// Nothing was committed and everything is rolled back.
    Batch(rusqlite::Error),
    /// It is not known what is on the disk.
    Commit(rusqlite::Error),
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::database::{JOURNAL, open_in_memory};

    type Answer<T> = Result<T, Unavailable>;

    /// A store with one table whose broken references are found only by the commit.
    fn scratch() -> Arc<Writer> {
        let connection = open_in_memory(&JOURNAL).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE number (n INTEGER PRIMARY KEY,
                     next INTEGER REFERENCES number (n) DEFERRABLE INITIALLY DEFERRED)",
            )
            .unwrap();
        Arc::new(Writer::start(&JOURNAL, connection).unwrap())
    }

    async fn put(writer: &Writer, number: i64) -> Answer<()> {
        writer.run(Access::Write, insert(number, None)).await
    }

    fn insert(
        number: i64,
        next: Option<i64>,
    ) -> impl FnOnce(&Connection) -> Result<(), Stop<Unavailable>> + Send + 'static {
        move |connection| {
            connection.execute("INSERT INTO number VALUES (?1, ?2)", (number, next))?;
            Ok(())
        }
    }

    async fn count(writer: &Writer) -> Answer<i64> {
        writer
            .run(Access::Read, |connection| {
                Ok(connection.query_row("SELECT count(*) FROM number", [], |row| row.get(0))?)
            })
            .await
    }

    /// Keeps the thread busy until the returned barrier is passed, so that what is queued
    /// meanwhile becomes one batch.
    fn hold(writer: &Arc<Writer>) -> (Arc<Barrier>, tokio::task::JoinHandle<Answer<()>>) {
        let entered = Arc::new(Barrier::new(2));
        let barrier = Arc::new(Barrier::new(2));
        let (writer, inner, first) = (Arc::clone(writer), Arc::clone(&barrier), entered.clone());
        let held = tokio::spawn(async move {
            writer
                .run(Access::Read, move |_| {
                    first.wait();
                    inner.wait();
                    Ok(())
                })
                .await
        });
        tokio::task::block_in_place(|| entered.wait());
        (barrier, held)
    }

    /// Queues the commands, in order, as one batch, and returns their answers.
    async fn as_one_batch(
        writer: &Arc<Writer>,
        commands: Vec<(i64, Option<i64>)>,
    ) -> Vec<Answer<()>> {
        let (barrier, held) = hold(writer);
        let mut waiting = Vec::new();
        for (number, next) in commands {
            waiting.push(writer.enqueue(Access::Write, insert(number, next)).await.unwrap());
        }
        tokio::task::block_in_place(|| barrier.wait());
        held.await.unwrap().unwrap();
        let mut answers = Vec::new();
        for one in waiting {
            answers.push(one.await.unwrap());
        }
        answers
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_queued_together_shares_a_commit() {
        let writer = scratch();
        put(&writer, 1000).await.unwrap();
        put(&writer, 1001).await.unwrap();
        assert_eq!(writer.commits(), 2, "one after the other: a commit each");
        let answers = as_one_batch(&writer, (0..200).map(|number| (number, None)).collect()).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(writer.commits(), 3, "200 at once: one commit");
        assert_eq!(count(&writer).await, Ok(202));
        assert_eq!(writer.commits(), 3, "reading commits nothing");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_refused_command_undoes_itself_alone() {
        let writer = scratch();
        let numbers = vec![(1, None), (2, None), (1, None), (3, None)];
        let answers = as_one_batch(&writer, numbers).await;
        let oks: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(oks, [true, true, false, true]);
        assert_eq!(count(&writer).await, Ok(3));
        let half: Answer<()> = writer
            .run(Access::Write, |connection| {
                connection.execute("INSERT INTO number VALUES (4, NULL)", [])?;
                Err(Stop::Refused(Unavailable::new("test", "changed its mind")))
            })
            .await;
        assert_eq!(half, Err(Unavailable::new("test", "changed its mind")));
        assert_eq!(count(&writer).await, Ok(3), "a refused command left something");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_that_fails_answers_nobody_with_success_and_is_the_last() {
        let writer = scratch();
        put(&writer, 1).await.unwrap();
        let answers = as_one_batch(&writer, vec![(2, None), (3, Some(99)), (4, None)]).await;
        for answer in answers {
            assert!(answer.unwrap_err().problem.contains("started anew"));
        }
        assert!(put(&writer, 5).await.unwrap_err().problem.contains("started anew"));
        assert!(count(&writer).await.is_err(), "nothing may be assumed, so nothing is read");
        assert_eq!(writer.commits(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_that_panics_stops_the_store_and_hangs_nobody() {
        let writer = scratch();
        put(&writer, 1).await.unwrap();
        let broken: Answer<()> =
            writer.run(Access::Write, |_| panic!("an invariant is broken")).await;
        assert!(broken.unwrap_err().problem.contains("stopped"));
        assert!(put(&writer, 2).await.unwrap_err().problem.contains("stopped"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_caller_that_leaves_takes_nothing_back() {
        let writer = scratch();
        let (barrier, held) = hold(&writer);
        let free = writer.slots.available_permits();
        let own = Arc::clone(&writer);
        let leaving = tokio::spawn(async move { put(&own, 1).await });
        while writer.slots.available_permits() == free {
            tokio::task::yield_now().await;
        }
        leaving.abort();
        assert!(leaving.await.unwrap_err().is_cancelled());
        tokio::task::block_in_place(|| barrier.wait());
        held.await.unwrap().unwrap();
        assert_eq!(count(&writer).await, Ok(1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn more_callers_than_places_wait_for_their_turn() {
        let writer = scratch();
        let (barrier, held) = hold(&writer);
        let callers: Vec<_> = (0..2 * QUEUE_COMMANDS_MAX)
            .map(|number| {
                let own = Arc::clone(&writer);
                tokio::spawn(async move { put(&own, i64::try_from(number).unwrap()).await })
            })
            .collect();
        while writer.slots.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        tokio::task::block_in_place(|| barrier.wait());
        held.await.unwrap().unwrap();
        for caller in callers {
            caller.await.unwrap().unwrap();
        }
        assert_eq!(count(&writer).await, Ok(2048));
    }
}
