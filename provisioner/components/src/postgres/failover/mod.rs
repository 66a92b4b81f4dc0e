//! Another member becomes primary: unplanned where the primary is lost (failover), planned where it hands over
//! (switchover).
//!
//! Look ([`detect`]), ask everybody ([`survey`]), decide ([`isolate`], [`succeed`], [`switchover`]: pure), then carry out
//! the plan, whose tasks ([`steps`], [`hand_over`]) may each be run again. What is under way stands in the record from the first side
//! effect to the promotion, so a run that was killed is carried on by the next one.

mod decide;
mod detect;
mod elect;
pub(super) mod hand_over;
mod refusal;
pub(super) mod steps;
mod survey;
#[cfg(test)]
mod tests;

pub use decide::{Scene, Wish, abandon, isolate, succeed, successor, switchover};
pub use detect::{EVERY, Health, Watcher, heard_by};
pub use elect::Attributes;
pub use refusal::Refusal;
pub use survey::{Seen, Survey, Told, survey};

use provisioner_core::name::Member;
use provisioner_core::stack::Stack;

/// What the manifest says of a member.
fn attributes(stack: &Stack, member: &Member) -> Attributes {
    super::candidate::attributes(stack, member)
}
