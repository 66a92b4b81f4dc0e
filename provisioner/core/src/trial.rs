//! How a system is tried on a stack that is thrown away afterwards: used as its clients use it, and hurt.

use async_trait::async_trait;

use crate::component::Access;
use crate::finding::{Broken, Finding};
use crate::name::Member;
use crate::stack::Stack;

/// Other than the checks of `verify` it leaves traces (an order, a killed member), so it is no business of a stack that
/// somebody uses.
#[async_trait]
pub trait Trial: Send + Sync {
    /// One whole use of the stack, through its published entrance to everything that it leads to.
    async fn journey(&self, access: &Access<'_>) -> Journey;

    /// A member whose sudden end clients must not notice for long.
    fn expendable(&self, stack: &Stack) -> Option<Expendable>;

    /// Somebody who uses the stack through its published entrance again and again.
    async fn client(&self, access: &Access<'_>) -> Result<Box<dyn Client>, Broken>;
}

#[async_trait]
pub trait Client: Send + Sync {
    /// One read that every part behind the entrance must answer for; no cache stands in.
    async fn ask(&self) -> Result<(), Broken>;
}

/// What came of a journey: a part is either looked at or said not to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journey {
    pub findings: Vec<Finding>,
    /// Each part that was not tried, and why.
    pub not_run: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expendable {
    pub member: Member,
    /// How many others do the same work; with none, clients meet an outage until it is back.
    pub others: usize,
}
