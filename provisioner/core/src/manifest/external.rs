//! Services that exist already: where they are, who logs in and how the connection is encrypted.

use std::net::IpAddr;
use std::path::PathBuf;

use super::read::{Table, describe};
use super::sections::{is_host, port, unread};
use super::{External, ExternalPostgres, ExternalRabbitmq, ExternalRedis, HostFiles};

const HOST: &str = "a name or an address such as db.example.com, its port in `port`";
const CA: &str = "a PEM file with who signed its certificate (of a public authority /etc/ssl/certs/ca-certificates.crt), \
     or tls: off";
const DATABASE: &str = "the name of the database";
const TLS: [(&str, bool); 2] = [("verify", true), ("off", false)];

/// What a login is made of.
#[derive(Clone, Copy)]
enum Login {
    Required,
    /// User and password, or neither.
    Both,
    /// A password may come without a user.
    Password,
}

/// Ports that servers listen on by default, in clear and over TLS.
struct Ports {
    clear: u16,
    tls: u16,
}

pub(super) fn postgres(section: &mut Table<'_>) -> Option<ExternalPostgres> {
    let mut table = alone(section, &[])?;
    let server = server(&mut table, &Ports { clear: 5432, tls: 5432 }, Login::Required);
    let read_host = host(&mut table, "read_host");
    if table.is_absent("database") {
        table.problem("database", "nothing".to_owned(), DATABASE);
    }
    let database = name(&mut table, "database", DATABASE);
    table.finish();
    Some(ExternalPostgres { server: server?, read_host, database: database? })
}

pub(super) fn redis(section: &mut Table<'_>) -> Option<ExternalRedis> {
    let mut table = alone(section, &[])?;
    let server = server(&mut table, &Ports { clear: 6379, tls: 6379 }, Login::Password);
    let database = table.integer("database", 0, 15).unwrap_or(0);
    table.finish();
    Some(ExternalRedis { server: server?, database })
}

/// The queues are the app's, whoever runs the broker.
pub(super) fn rabbitmq(section: &mut Table<'_>) -> Option<ExternalRabbitmq> {
    let mut table = alone(section, &["queues"])?;
    let server = server(&mut table, &Ports { clear: 5672, tls: 5671 }, Login::Required);
    let vhost = name(&mut table, "vhost", "the name of a virtual host").unwrap_or_else(|| "/".to_owned());
    let is_tls = server.as_ref().is_none_or(|server| server.ca.is_some());
    let management = table.has("management").then(|| {
        let mut table = table.section("management");
        let host = host(&mut table, "host");
        let port = port(&mut table, "port").unwrap_or(if is_tls { 15671 } else { 15672 });
        table.finish();
        (host, port)
    });
    table.finish();
    let server = server?;
    let management = management.map(|(host, port)| (host.unwrap_or_else(|| server.host.clone()), port));
    Some(ExternalRabbitmq { server, vhost, management })
}

pub(super) fn elasticsearch(section: &mut Table<'_>) -> Option<External> {
    let mut table = alone(section, &[])?;
    let server = server(&mut table, &Ports { clear: 9200, tls: 9200 }, Login::Both);
    table.finish();
    server
}

/// The section `external`. Whatever else is said of the system would have no effect, but for what is `shared`.
fn alone<'a>(section: &'a mut Table<'_>, shared: &[&str]) -> Option<Table<'a>> {
    if !section.has("external") {
        return None;
    }
    section.refuse_beside("external", shared, "nothing: beside `external:` it has no effect");
    Some(section.section("external"))
}

fn server(table: &mut Table<'_>, ports: &Ports, login: Login) -> Option<External> {
    if table.is_absent("host") {
        table.problem("host", "nothing".to_owned(), HOST);
    }
    let host = host(table, "host");
    let is_tls = table.choice("tls", &TLS).unwrap_or(true);
    let port = port(table, "port").unwrap_or(if is_tls { ports.tls } else { ports.clear });
    let (has_user, has_password) = (!table.is_absent("user"), !table.is_absent("password_file"));
    let user = name(table, "user", "the name to log in with");
    let file = |table: &mut Table<'_>, key, expected| {
        let path = table.text(key, expected);
        path.map(|path| HostFiles { files: vec![PathBuf::from(path)], digest: unread() })
    };
    let password = file(table, "password_file", "the path of a file that holds the password");
    if is_tls && table.is_absent("ca_file") {
        table.problem("ca_file", "nothing".to_owned(), CA);
    }
    let ca = file(table, "ca_file", CA);
    let (needs_user, needs_password) = match login {
        Login::Required => (true, true),
        Login::Both => (has_password, has_user),
        Login::Password => (false, has_user),
    };
    for (key, is_missing) in [("user", needs_user && !has_user), ("password_file", needs_password && !has_password)] {
        if is_missing {
            table.problem(key, "nothing".to_owned(), "both user and password_file");
        }
    }
    if !is_tls && ca.is_some() {
        table.problem("ca_file", "a file beside `tls: off`".to_owned(), "tls: verify, or no file");
    }
    Some(External { host: host?, port, user, password, ca })
}

/// One that leads there from this machine and from inside the stack alike.
fn host(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let found = table.value(key, HOST, |value| {
        let is_right = |text: &&str| is_host(text) && (!text.contains(':') || text.parse::<IpAddr>().is_ok());
        value.as_str().filter(is_right).map(str::to_owned)
    })?;
    let is_own = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    if found == "localhost" || found.parse().is_ok_and(is_own) {
        let expected = "a name that leads there from inside the stack too: for each member this is the member itself";
        table.problem(key, describe(&found.into()), expected);
        return None;
    }
    Some(found)
}

fn name(table: &mut Table<'_>, key: &'static str, expected: &str) -> Option<String> {
    table.value(key, expected, |value| {
        let is_name = |text: &&str| !text.is_empty() && text.len() < 256 && !text.contains(char::is_control);
        value.as_str().filter(is_name).map(str::to_owned)
    })
}
