//! Who listens on this machine's TCP ports, from /proc/net/tcp and /proc/*/fd.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

/// State 0A of /proc/net/tcp (proc(5)): listening.
const LISTEN: &str = "0A";

#[derive(Debug, Default)]
pub(crate) struct Listeners(Vec<Listener>);

#[derive(Debug, PartialEq, Eq)]
struct Listener {
    ip: IpAddr,
    port: u16,
    inode: u64,
}

impl Listeners {
    pub(crate) fn of_this_machine() -> Self {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        Self(tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(parse).collect())
    }

    /// Who holds the port, as a person would look for them; `None`: it is free. Binding is the proof, the tables of
    /// the kernel only give the name.
    pub(crate) fn holder(&self, ip: IpAddr, port: u16) -> Option<String> {
        if TcpListener::bind((ip, port)).is_ok() {
            return None;
        }
        let inodes: Vec<u64> = self.on(ip, port).map(|listener| listener.inode).collect();
        Some(process_with(&inodes).unwrap_or_else(|| "a process that is not shown to this user".to_owned()))
    }

    fn on(&self, ip: IpAddr, port: u16) -> impl Iterator<Item = &Listener> {
        let covers = move |bound: IpAddr| bound == ip || bound.is_unspecified() || ip.is_unspecified();
        self.0.iter().filter(move |listener| listener.port == port && covers(listener.ip))
    }
}

/// One line of the table: `0: 0100007F:1F90 00000000:0000 0A ... uid timeout inode`.
fn parse(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    Some(Listener {
        ip: parse_ip(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Addresses stand as 32-bit words in the byte order of the machine.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let words: Option<Vec<u32>> =
        (0..text.len() / 8).map(|nth| u32::from_str_radix(text.get(nth * 8..nth * 8 + 8)?, 16).ok()).collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    match bytes.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    }
}

/// The process that has one of these sockets open: `nginx (pid 812)`.
fn process_with(inodes: &[u64]) -> Option<String> {
    let targets: BTreeSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let numbered = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in numbered {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let has_it = descriptors
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|link| link.to_str().is_some_and(|link| targets.contains(link)));
        if has_it {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_listening_line_is_read_and_others_are_not() {
        let listening =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        let expected = Listener { ip: [127, 0, 0, 1].into(), port: 8080, inode: 4711 };
        assert_eq!(parse(listening), Some(expected));
        assert_eq!(parse(&listening.replace(" 0A ", " 01 ")), None);
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn our_own_listener_is_found_with_our_name() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ours.local_addr().unwrap().port();
        let holder = Listeners::of_this_machine().holder([127, 0, 0, 1].into(), port).unwrap();
        assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
        drop(ours);
        assert_eq!(Listeners::of_this_machine().holder([127, 0, 0, 1].into(), port), None);
    }
}
