//! Ports of members at addresses of this process.

#[derive(Clone, Default)]
pub(crate) struct Forwards;
