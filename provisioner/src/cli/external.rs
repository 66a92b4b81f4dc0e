//! Services that exist already, as verbs tell of them.

use provisioner_core::stack::{External, Stack};
use serde::Serialize;

use super::exit::{Exit, Stop};
use crate::context::Context;

#[derive(Serialize)]
pub(super) struct ExternalView {
    component: String,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    tls: bool,
}

impl ExternalView {
    pub(super) fn human(&self) -> String {
        let user = self.user.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
        let tls = if self.tls { "over TLS" } else { "in clear" };
        format!("external: {} {}{user}, {tls}\n", self.component, self.address)
    }
}

pub(super) fn views(stack: &Stack) -> Vec<ExternalView> {
    let view = |external: &External| ExternalView {
        component: external.component.clone(),
        address: external.address(),
        user: external.user.clone(),
        tls: external.ca.is_some(),
    };
    stack.externals().map(view).collect()
}

/// One line each.
pub(super) fn human(stack: &Stack) -> String {
    views(stack).iter().map(ExternalView::human).collect()
}

/// What is done to PostgreSQL's members needs members.
pub(crate) fn refuse_postgres(context: &Context, verb: &str) -> Result<(), Stop> {
    let Some(external) = context.stack.external("postgres") else { return Ok(()) };
    let message = format!("{verb}: postgres is external ({}): its operator fails it over", external.address());
    Err(Stop::new(Exit::Refused, message))
}
