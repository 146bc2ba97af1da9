//! The `pay402` binary.

use std::process::ExitCode;

/// A tenth of what verifying a payment costs is memory taken and given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pay402::main()
}
