//! The `pay402` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    pay402::main()
}
