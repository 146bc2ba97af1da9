//! Processes of the binary, with a bare environment, ended with their owner.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait for a line of output.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary with nothing of the caller's environment but where to find programs.
pub(crate) fn pay402(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pay402"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).args(arguments);
    command.stdin(Stdio::null());
    command
}

pub(crate) fn run(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A server that prints its URL in its first line.
pub(crate) struct Server {
    child: Child,
    /// The URL.
    pub(crate) url: String,
    output: Vec<JoinHandle<String>>,
}

impl Server {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (first, found) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let output = vec![
            std::thread::spawn(move || {
                let mut text = String::new();
                for line in BufReader::new(stdout).lines() {
                    let line = line.unwrap();
                    if let Some(at) = line.find("http://") {
                        let url = line[at..].split([' ', ',']).next().unwrap().to_owned();
                        // Nobody listens for the second one.
                        let _ = first.send(url);
                    }
                    text.push_str(&line);
                    text.push('\n');
                }
                text
            }),
            std::thread::spawn(move || {
                let mut text = String::new();
                stderr.read_to_string(&mut text).unwrap();
                text
            }),
        ];
        let url = found.recv_timeout(PATIENCE).expect("the server says where it listens");
        Self { child, url, output }
    }

    /// Asks it to end with SIGTERM. `None` when it still runs after `patience`.
    #[cfg(unix)]
    pub(crate) fn terminate(&mut self, patience: Duration) -> Option<std::process::ExitStatus> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.ended(patience)
    }

    /// How it ended by itself. `None` when it still runs after `patience`.
    #[cfg(unix)]
    pub(crate) fn ended(&mut self, patience: Duration) -> Option<std::process::ExitStatus> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < patience {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    #[cfg(unix)]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it and returns everything it printed.
    pub(crate) fn stop(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.output.drain(..).map(|output| output.join().unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The public dev accounts of the embedded chain, by index.
pub(crate) fn dev_key(index: usize) -> String {
    format!("{:#x}", pay402_devchain::genesis::PUBLIC_DEV_KEYS[index])
}

pub(crate) fn dev_address(index: usize) -> String {
    pay402_devchain::genesis::dev_signer(index).address().to_checksum(None)
}

/// Chain, facilitator and paid API, each a process of its own.
pub(crate) struct Market {
    pub(crate) chain: Server,
    pub(crate) facilitator: Server,
    pub(crate) api: Server,
}

impl Market {
    pub(crate) fn open(folder: &Path, log: &str) -> Self {
        let chain = Server::start(pay402(&["devchain", "--port", "0", "--chain-id", "84532"]));
        let config = folder.join("facilitator.toml");
        let text = format!(
            "listen = \"127.0.0.1:0\"\ndatabase = \"facilitator.db\"\n[[network]]\n\
             id = \"eip155:84532\"\nrpc = \"{}\"\nsigner = {{ env = \"SIGNER_KEY\" }}\n",
            chain.url
        );
        std::fs::write(&config, text).unwrap();
        let mut command = pay402(&["facilitator", "--config", config.to_str().unwrap()]);
        command.env("SIGNER_KEY", dev_key(0)).env("RUST_LOG", log);
        let facilitator = Server::start(command);
        let grants = folder.join("grants.db");
        let mut command = pay402(&["serve", "--listen", "127.0.0.1:0"]);
        command
            .args(["--facilitator", &facilitator.url, "--pay-to", &dev_address(2)])
            .args(["--price", "$0.001", "--route", "GET /paid", "--route", "POST /paid"])
            .args(["--database", grants.to_str().unwrap()])
            .env("RUST_LOG", log);
        let api = Server::start(command);
        Self { chain, facilitator, api }
    }

    /// `pay402 pay` with the payer's key, state in `folder`, and `arguments`.
    pub(crate) fn pay(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = pay402(&["pay"]);
        command
            .args(arguments)
            .env("EVM_PRIVATE_KEY", dev_key(1))
            .env("EVM_RPC_URL", &self.chain.url)
            .env("PAY402_STATE_DIR", folder.join("state"));
        command
    }
}
