//! Child processes, what they cost, and when they are ready.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use crate::Result;

/// Longest that a process may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often it is asked.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const KIB: f64 = 1024.0;

/// A process that ends with its owner.
pub(super) struct Process {
    child: Child,
    pub(super) address: SocketAddr,
    /// From its start until it was ready.
    pub(super) ready_after: Duration,
}

impl Process {
    /// Starts `command`, which is to listen on `address`, and waits until `GET path` is answered 200;
    /// or, without a path, until it takes connections.
    pub(super) async fn start(
        mut command: Command,
        address: SocketAddr,
        path: Option<&str>,
    ) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        if std::env::var_os("BENCH_LOGS").is_none() {
            command.stderr(Stdio::null());
        }
        let began = Instant::now();
        let mut child = command.spawn()?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        loop {
            let is_ready = match path {
                Some(path) => http
                    .get(format!("http://{address}{path}"))
                    .send()
                    .await
                    .is_ok_and(|answer| answer.status().is_success()),
                None => tokio::net::TcpStream::connect(address).await.is_ok(),
            };
            if is_ready {
                return Ok(Self { child, address, ready_after: began.elapsed() });
            }
            if let Some(status) = child.try_wait()? {
                return Err(format!("a process ended at its start: {status}").into());
            }
            if began.elapsed() > START_LIMIT {
                return Err("a process is not ready in time".into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn id(&self) -> Result<u32> {
        Ok(self.child.id().ok_or("a process has ended")?)
    }

    /// What it has taken of the CPU since its start, all threads together, in seconds.
    pub(super) fn cpu_s(&self) -> Result<f64> {
        let mut nanoseconds = 0_u64;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.id()?))? {
            // A thread may end between being listed and being read.
            let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let first = text.split(' ').next().unwrap_or_default();
            nanoseconds += first.parse::<u64>()?;
        }
        Ok(nanoseconds as f64 / 1e9)
    }

    /// What it holds in memory now, in MiB.
    pub(super) fn resident_mib(&self) -> Result<f64> {
        self.status("VmRSS:")
    }

    /// The most that it ever held in memory, in MiB.
    pub(super) fn peak_mib(&self) -> Result<f64> {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id()?))?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no such field")?;
        Ok(kib.parse::<f64>()? / KIB)
    }

    /// Ends it at once.
    pub(super) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// A port of the loopback interface that nobody listens on.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The released program, beside this one.
pub(super) fn pay402() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("pay402");
    if !program.is_file() {
        let shown = program.display();
        return Err(format!("{shown} is not there; `cargo xtask bench` builds it").into());
    }
    Ok(program)
}
