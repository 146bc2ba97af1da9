//! Several processes on one database, and processes that die in the middle.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};

use pay402_core::journal::{Entered, Journal};
use pay402_store::PgJournal;

use crate::cluster::Cluster;
use crate::samples::{entry, key};

const CHILD: &str = "PAY402_STORE_TEST_CHILD";
const KEYS: usize = 60;

/// Starts this very test program to run one of the ignored tests below.
fn start(test: &str, task: &str, url: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("postgres_processes::{test}"), "--exact", "--ignored", "--nocapture"])
        .env(CHILD, format!("{task} {url}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn task() -> Option<(String, String)> {
    let task = std::env::var(CHILD).ok()?;
    task.split_once(' ').map(|(name, url)| (name.to_owned(), url.to_owned()))
}

#[tokio::test]
#[ignore = "the body of a process that another test starts"]
async fn child_that_enters() {
    let Some((_, url)) = task() else { return };
    let journal = PgJournal::open(&url, None).await.unwrap();
    let mut waiting = Vec::new();
    // Twice each, so that a process competes with itself too.
    for number in 0..2 * KEYS {
        let (journal, name) = (journal.clone(), (number % KEYS).to_string());
        waiting.push(tokio::spawn(async move {
            let entered = journal.enter(entry(&name)).await.unwrap();
            (entered == Entered::New).then_some(name)
        }));
    }
    for one in waiting {
        if let Some(name) = one.await.unwrap() {
            println!("\nnew={name}");
        }
    }
}

#[tokio::test]
async fn of_many_processes_one_enters_a_payment() {
    let database = Cluster::shared().database();
    // The schema is not there yet: its making is a race too.
    let children: Vec<Child> =
        (0..3).map(|_| start("child_that_enters", "-", &database.url())).collect();
    let mut winners: HashMap<String, usize> = HashMap::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            if let Some(name) = line.strip_prefix("new=") {
                *winners.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    assert_eq!(winners.len(), KEYS, "a payment was entered by nobody");
    assert!(winners.values().all(|count| *count == 1), "one was entered twice: {winners:?}");
}

#[tokio::test]
#[ignore = "the body of a process that another test starts"]
async fn child_that_dies() {
    let Some((last, url)) = task() else { return };
    let last: usize = last.parse().unwrap();
    let journal = PgJournal::open(&url, None).await.unwrap();
    for number in 0..=last {
        journal.enter(entry(&number.to_string())).await.unwrap();
    }
    for number in 0..50 {
        let journal = journal.clone();
        tokio::spawn(async move { journal.enter(entry(&format!("more {number}"))).await });
        tokio::task::yield_now().await;
    }
    std::process::abort();
}

#[tokio::test]
async fn what_was_answered_survives_a_crash_of_the_process() {
    let database = Cluster::shared().database();
    for last in [0, 3, 40] {
        let child = start("child_that_dies", &last.to_string(), &database.url());
        assert!(!child.wait_with_output().unwrap().status.success(), "it was to die");
        let journal = PgJournal::open(&database.url(), None).await.unwrap();
        for number in 0..=last {
            let known = journal.find(&key(&number.to_string())).await.unwrap();
            assert!(known.is_some(), "entry {number} of {last} was answered and is gone");
        }
        assert_eq!(journal.enter(entry(&format!("after {last}"))).await, Ok(Entered::New));
    }
}
