//! The engine and its API against a scripted chain and the real journals.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(unreachable_pub)] // modules of one test program

#[allow(dead_code, reason = "tests of the contract itself use the rest")]
#[path = "../../../devchain/tests/agent_account/signed.rs"]
mod agent;
mod api;
mod approvals;
mod audit;
mod bed;
mod berths;
mod budgets;
mod callers;
mod cancel;
mod chain;
#[cfg(unix)]
#[allow(dead_code, reason = "other tests and benches use the rest")]
#[path = "../../../store/tests/postgres/cluster.rs"]
mod cluster;
mod crash;
mod dashboard;
mod delegations;
mod errands;
mod events;
mod evm;
mod exposure;
mod faults;
mod fees;
mod first_payments;
mod fitness;
mod flaky;
mod forget;
mod funds;
mod gaps;
mod guard;
mod losses;
mod metered;
mod metrics;
mod openapi;
mod packs;
#[cfg(unix)]
mod postgres;
#[cfg(unix)]
mod postgres_replicas;
mod reorg;
mod restored;
mod review;
mod settle;
mod settlements;
mod strikes;
mod webhooks;
