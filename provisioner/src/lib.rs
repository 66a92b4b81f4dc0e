//! The command line over the core, the components and the engines. A thin library beside the binary, so that tests run
//! whole verbs with an engine and streams of their own.

pub mod cli;
pub mod engines;
pub mod interrupt;
pub mod streams;

mod context;
mod evidence;
mod machine;
mod preflight;
mod progress;
mod report;
mod table;

pub use cli::run;
