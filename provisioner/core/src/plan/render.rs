//! The one-line form of a step: what people read, what tests compare, what the documentation shows.

use std::fmt;

use super::{Action, Impact, Plan, Step, Withheld};
use crate::component::Dependency;
use crate::stack::Resource;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for withheld in &self.withheld {
            writeln!(f, "{withheld}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3} {}, because {}", self.id.0, self.action, self.because)?;
        if !self.after.is_empty() {
            let ids: Vec<String> = self.after.iter().map(|id| id.0.to_string()).collect();
            write!(f, " [after {}]", ids.join(" "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { resource } => write!(f, "+ create {}", resource.id()),
            Self::Change { to: to @ Resource::Secret(_), .. } => write!(f, "~ renew {}", to.id()),
            Self::Change { to: to @ Resource::Volume(_), .. } => write!(f, "~ resize {}", to.id()),
            Self::Change { to, impact } => match impact {
                Impact::None { files } if files.is_empty() => write!(f, "~ update {}", to.id()),
                Impact::None { .. } => write!(f, "~ update files of {}", to.id()),
                Impact::Reload { .. } => write!(f, "~ reload {}", to.id()),
                Impact::Restart | Impact::Anew => write!(f, "~ replace {}", to.id()),
                Impact::Start => write!(f, "~ start {}", to.id()),
            },
            Self::Remove { id } => write!(f, "- remove {id}"),
            Self::Await { member, .. } => write!(f, "? await {member}"),
            Self::Run { task } => write!(f, "> run {task}"),
        }
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, reason, unlock, blocks: _ } = self;
        write!(f, "  ! withheld: {what}, because {reason} (unlock: {unlock})")
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(id) => write!(f, "{id}"),
            Self::Ready(member) => write!(f, "ready {member}"),
            Self::Task { component, name } => write!(f, "{component}.{name}"),
        }
    }
}
