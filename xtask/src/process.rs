//! Child processes, every one bounded in time.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;

/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(50);
/// What a child gets to clean up after it was asked to end.
const GRACE: Duration = Duration::from_secs(15);

/// A command to run, and how long it may take.
#[derive(Debug)]
pub(crate) struct Step {
    command: Command,
    line: String,
    limit: Duration,
}

impl Step {
    /// `program` with `arguments` in `folder`, ended when it takes longer than `limit`.
    pub(crate) fn new(folder: &Path, program: &str, arguments: &[&str], limit: Duration) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        #[cfg(unix)]
        if !io::stdin().is_terminal() {
            // Its own group, so that the end of the limit ends its children too. At a terminal it
            // stays in ours, so that an interrupt from the keyboard reaches it.
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
        }
        Self { command, line: [&[program], arguments].concat().join(" "), limit }
    }

    /// With an environment variable more.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self.line = format!("{name}={value} {}", self.line);
        self
    }

    /// Runs it to its end, saying first what is run.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes too long.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        eprintln!("\n$ {}", self.line);
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => return Err(format!("cannot start `{}`: {error}", self.line).into()),
        };
        let limit_s = self.limit.as_secs();
        match wait(&mut child, self.limit) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(format!("`{}` failed: {status}", self.line).into()),
            Ok(None) => Err(format!("`{}` took longer than {limit_s} s", self.line).into()),
            Err(error) => Err(format!("lost sight of `{}`: {error}", self.line).into()),
        }
    }
}

/// Whether `program --version` (or `program arguments…`) works.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    matches!(wait(&mut child, Duration::from_secs(60)), Ok(Some(status)) if status.success())
}

/// The standard output of a short command.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn output(folder: &Path, program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let line = [&[program], arguments].concat().join(" ");
    let done = Command::new(program).args(arguments).current_dir(folder).output();
    let done = done.map_err(|error| Failure(format!("cannot start `{line}`: {error}")))?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        return Err(format!("`{line}` failed: {}\n{why}", done.status).into());
    }
    String::from_utf8(done.stdout).map_err(|_| Failure(format!("`{line}` wrote no UTF-8")))
}

/// Waits for `child`; ends it after `limit`, and then the answer is `None`.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    if let Some(status) = wait_until(child, Instant::now() + limit)? {
        return Ok(Some(status));
    }
    signal(child, "TERM");
    if wait_until(child, Instant::now() + GRACE)?.is_none() {
        signal(child, "KILL");
        child.kill()?;
        child.wait()?;
    }
    Ok(None)
}

fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
}

/// Signals the child and its group, as far as it has one of its own.
fn signal(child: &Child, name: &str) {
    let own_group = !io::stdin().is_terminal();
    let target = if own_group { format!("-{}", child.id()) } else { child.id().to_string() };
    // What cannot be signalled has ended already, or is killed by the caller.
    let _ = Command::new("kill").args(["-s", name, "--", &target]).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(script: &str, limit: Duration) -> Result<(), Failure> {
        Step::new(Path::new("."), "sh", &["-c", script], limit).run()
    }

    #[test]
    fn a_step_passes_fails_or_runs_out_of_time() {
        let minute = Duration::from_secs(60);
        assert!(step("exit 0", minute).is_ok());
        assert!(step("exit 3", minute).unwrap_err().0.contains("exit status: 3"));
        let late = step("sleep 50", Duration::from_millis(100)).unwrap_err();
        assert!(late.0.contains("took longer"), "{}", late.0);
        let missing = Step::new(Path::new("."), "no-such-program-here", &[], minute).run();
        assert!(missing.unwrap_err().0.contains("cannot start"));
    }

    #[test]
    fn a_missing_program_does_not_work() {
        assert!(!works("no-such-program-here", &["--version"]));
        assert!(!works("sh", &["-c", "exit 1"]));
        assert!(works("sh", &["-c", "exit 0"]));
    }
}
