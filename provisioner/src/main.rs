//! Parse, run, exit.

use std::process::ExitCode;

use provisioner::cli::exit::Exit;
use provisioner::cli::settings::Environment;
use provisioner::engines::RealEngines;
use provisioner::interrupt::Interrupt;
use provisioner::streams::Streams;

/// Planning is many small strings; with the system's allocator it takes half as long again (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(_) => return Exit::Error.into(),
    };
    let exit = runtime.block_on(async {
        let environment = Environment::of_process();
        let interrupt = Interrupt::listen();
        provisioner::run(std::env::args_os(), &RealEngines, &environment, Streams::of_process(), interrupt).await
    });
    // A read of stdin that is still blocked must not keep the process.
    runtime.shutdown_background();
    exit.into()
}
