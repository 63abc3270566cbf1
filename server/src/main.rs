//! The command `waxwing`.

use std::process::ExitCode;

fn main() -> ExitCode {
    waxwing_server::cli::run(std::env::args_os())
}
