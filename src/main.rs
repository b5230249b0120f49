//! The `unpoll` program: one allocator, then the command line.

use std::process::ExitCode;

/// jemalloc: the smallest user-space memory of an idle session of those measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    unpoll::cli::run()
}
