//! Orders that wait in the route's members, from the task that gives them to those that need them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use provisioner_core::name::Member;

use crate::order::Order;

/// By member. One that nobody takes ends with the run.
#[derive(Default)]
pub(super) struct Held(Mutex<BTreeMap<Member, Order>>);

impl Held {
    pub(super) fn keep(&self, member: &Member, order: Order) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(member.clone(), order);
    }

    pub(super) fn take(&self, member: &Member) -> Option<Order> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(member)
    }
}
