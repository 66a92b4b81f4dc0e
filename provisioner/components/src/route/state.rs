//! Which servers of a route member are open, as its statistics page and its socket tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use futures_util::future::join_all;
use provisioner_core::component::Access;
use provisioner_core::name::Member;
use provisioner_core::observed::{Observed, State};

use super::{NAME, STATUS_LIMIT, STATUS_PORT};
use crate::http::Site;

pub(super) const RW: &str = "rw";
pub(super) const RO: &str = "ro";

/// Facts of a route member: its open servers, and those whose state cannot be seen from outside.
pub(super) fn open_key(member: &Member, backend: &str) -> String {
    format!("{member}.{backend}")
}

const HIDDEN: &str = ".hidden";

pub(super) fn hidden_key(member: &Member) -> String {
    format!("{member}{HIDDEN}")
}

/// Names in a fact are apart by spaces.
pub(super) fn names<'a>(members: impl IntoIterator<Item = &'a Member>) -> String {
    members.into_iter().map(Member::as_str).collect::<Vec<_>>().join(" ")
}

/// A server of a backend as the public statistics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    backend: String,
    server: String,
    status: String,
}

impl Shown {
    /// `MAINT (resolution)`: its name is unknown just now. Whether it is also closed shows only on the socket.
    fn is_hidden(&self) -> bool {
        self.status.starts_with("MAINT (resolution)")
    }

    fn is_up(&self) -> bool {
        self.status.starts_with("UP")
    }

    fn is_open(&self) -> bool {
        !self.status.starts_with("MAINT")
    }
}

/// The rows of servers in `show stat` (HAProxy 3.0 management guide, 9.1: fields 1, 2 and 18).
fn shown(csv: &str) -> Vec<Shown> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let (&backend, &server) = (fields.first()?, fields.get(1)?);
        if backend.starts_with('#') || server == "BACKEND" || server == "FRONTEND" {
            return None;
        }
        let status = (*fields.get(17)?).to_owned();
        Some(Shown { backend: backend.to_owned(), server: server.to_owned(), status })
    };
    csv.lines().filter_map(row).collect()
}

/// A server's administrative state in `show servers state` (management guide, 9.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Administered {
    pub(super) backend: String,
    pub(super) server: String,
    pub(super) is_open: bool,
}

/// SRV_ADMF_FMAINT and SRV_ADMF_FDRAIN: closed or draining by command. 0x04, closed by the file, stays set for ever and
/// means nothing once a command has opened the server; 0x20 tells that its name is unknown just now.
const CLOSED_BY_COMMAND: u32 = 0x01 | 0x08;
pub(super) fn administered(text: &str) -> Vec<Administered> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let admin: u32 = fields.get(6)?.parse().ok()?;
        Some(Administered {
            backend: (*fields.get(1)?).to_owned(),
            server: (*fields.get(3)?).to_owned(),
            is_open: admin & CLOSED_BY_COMMAND == 0,
        })
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
}

/// Members that run and of which some route member cannot tell whether it leads there: it has not looked their name up again
/// since they started.
pub fn untold(observed: &Observed) -> BTreeSet<Member> {
    let facts = observed.facts.get(NAME).into_iter().flatten();
    let hidden = facts.filter(|(key, _)| key.ends_with(HIDDEN)).flat_map(|(_, names)| names.split_whitespace());
    hidden.map(Member::named).filter(|member| observed.is_running(member)).collect()
}

/// Asks every running route member's statistics page. What cannot be read is left out.
pub(super) async fn facts(access: &Access<'_>) -> BTreeMap<String, String> {
    let members = access.stack.members(NAME).map(|workload| &workload.member);
    let running = members.filter(|member| access.observed.is_running(member));
    let asked = running.map(|member| async move {
        let Ok(address) = access.published(member, STATUS_PORT) else { return BTreeMap::new() };
        match statistics(address).await {
            Ok(shown) => facts_of(member, &shown),
            Err(_) => BTreeMap::new(),
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Whether each route member answers: one that does can be told where to lead.
pub(crate) async fn answers(access: &Access<'_>) -> BTreeMap<Member, Result<(), String>> {
    let asked = access.stack.members(NAME).map(|workload| async move {
        let member = &workload.member;
        let answer = match access.observed.workload(member).map(|found| found.state) {
            None => Err("the engine has no such member".to_owned()),
            Some(State::Running) => match access.published(member, STATUS_PORT) {
                Ok(address) => statistics(address).await.map(drop),
                Err(error) => Err(error.to_string()),
            },
            Some(state) => Err(format!("it is {}", state.word())),
        };
        (member.clone(), answer)
    });
    join_all(asked).await.into_iter().collect()
}

/// Open servers that the route's own health checks do not reach.
pub(super) async fn unreached(address: SocketAddr) -> Result<Vec<String>, String> {
    let unreached = statistics(address).await?.into_iter().filter(|server| server.is_open() && !server.is_up());
    Ok(unreached.map(|server| format!("{} of {}", server.server, server.backend)).collect())
}

async fn statistics(address: SocketAddr) -> Result<Vec<Shown>, String> {
    let site = Site::at(address, STATUS_LIMIT)?;
    let reply = site.get("/stats;csv").await?;
    if reply.status != 200 {
        return Err(format!("/stats;csv: {}, expected 200", reply.status));
    }
    Ok(shown(&reply.text()))
}

fn facts_of(member: &Member, shown: &[Shown]) -> BTreeMap<String, String> {
    let open = |backend: &str| {
        let servers = shown.iter().filter(|server| server.backend == backend && server.is_open());
        servers.map(|server| server.server.as_str()).collect::<Vec<_>>().join(" ")
    };
    let hidden: BTreeSet<&str> =
        shown.iter().filter(|server| server.is_hidden()).map(|server| server.server.as_str()).collect();
    BTreeMap::from([
        (open_key(member, RW), open(RW)),
        (open_key(member, RO), open(RO)),
        (hidden_key(member), hidden.into_iter().collect::<Vec<_>>().join(" ")),
    ])
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::stack::Stack;

    use super::*;
    use crate::postgres::Postgres;
    use crate::testing::{manifest, settled};

    const CSV: &str = "\
# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,
postgres-rw,FRONTEND,,,1,1,1000,1,0,0,0,0,0,,,,,OPEN,,
rw,postgres-1,0,0,3,3,,4,0,0,,0,,0,0,0,0,UP,1,
rw,postgres-2,0,0,0,0,,0,0,0,,0,,0,0,0,0,MAINT,1,
rw,BACKEND,0,0,3,3,100,4,0,0,0,0,,0,0,0,0,UP,1,
ro,postgres-1,0,0,0,0,,0,0,0,,0,,0,0,0,0,MAINT,1,
ro,postgres-2,0,0,0,0,,0,0,0,,0,,0,0,0,0,MAINT (resolution),1,
";

    #[test]
    fn open_servers_are_told_from_closed_and_hidden_ones() {
        let member = Member::nth(NAME, 1);
        let facts = facts_of(&member, &shown(CSV));
        assert_eq!(facts["route-1.rw"], "postgres-1");
        assert_eq!(facts["route-1.ro"], "");
        assert_eq!(facts["route-1.hidden"], "postgres-2");
    }

    #[test]
    fn a_running_member_that_the_route_cannot_find_is_one_of_which_nothing_is_told() {
        let manifest = manifest();
        let mut observed = settled(&Stack::new(manifest.name.clone(), Postgres.declare(&manifest)));
        observed.facts.insert(NAME.to_owned(), facts_of(&Member::nth(NAME, 1), &shown(CSV)));
        let second = Member::nth("postgres", 2);
        assert_eq!(untold(&observed), [second.clone()].into());
        observed.workloads.remove(&second);
        assert!(untold(&observed).is_empty(), "one that is not there is not led to");
    }

    /// The lines are HAProxy 3.0.11's own.
    #[test]
    fn a_server_opened_by_command_is_open_though_the_file_closes_it() {
        let text = "1\n\
            # be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight\n\
            4 rw 1 postgres-1 - 0 37 1 1 322 1 0 0 14 0 0 0 postgres-1 5432 - 0 0 - - 0\n\
            4 rw 2 postgres-2 172.18.0.3 0 5 1 1 319 7 2 0 14 0 0 0 postgres-2 5432 - 0 0 - - 0\n\
            5 ro 1 postgres-1 - 0 36 1 1 322 1 0 0 14 0 0 0 postgres-1 5432 - 0 0 - - 0\n\
            5 ro 2 postgres-2 172.18.0.3 2 4 1 1 314 15 3 2 6 0 0 0 postgres-2 5432 - 0 0 - - 0\n\n";
        let open: Vec<bool> = administered(text).iter().map(|server| server.is_open).collect();
        assert_eq!(open, [false, false, true, true]);
    }
}
