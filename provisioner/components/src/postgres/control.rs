//! The control file of a member's data, read past PostgreSQL: also of one that is down and must not be started.
//!
//! Its layout is that of `ControlFileData` in PostgreSQL 17 (src/include/catalog/pg_control.h) on a little-endian machine.

use crc::{CRC_32_ISCSI, Crc};
use provisioner_core::component::Access;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use tokio::sync::Mutex;

use super::declare;
use super::lsn::Lsn;
use crate::order::Order;

const VERSION: u32 = 1700;
const CHECKSUM_AT: usize = 288;
const SIZE: usize = CHECKSUM_AT + 4;
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) system_id: String,
    pub(super) state: State,
    /// Where its last checkpoint begins.
    pub(super) checkpoint: Lsn,
    /// The timeline that it was on when it last said so.
    pub(super) timeline: u32,
}

/// `DBState`, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    StartingUp,
    /// As a primary, with nothing left to recover.
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    /// It serves as a primary, or it did until it was killed.
    InProduction,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoControl {
    #[error("it has {0} bytes, expected at least {SIZE}")]
    TooShort(usize),
    #[error("its version is {0}, expected {VERSION} (PostgreSQL 17)")]
    Version(u32),
    #[error("its checksum is {found:08x}, expected {expected:08x}")]
    Checksum { found: u32, expected: u32 },
    #[error("its state is {0}, expected 0 to 6")]
    State(u32),
}

fn path() -> String {
    format!("{}/17/main/global/pg_control", declare::DATA_ROOT)
}

pub(super) async fn control(access: &Access<'_>, member: &Member) -> Result<Control, Failure> {
    let path = path();
    let doing = || format!("read {path} of {member}");
    let content = access.engine.read_file(member, &path).await?;
    let content = content.ok_or_else(|| Failure::new(format!("{}: no such file", doing())))?;
    Control::parse(&content).map_err(|error| Failure::because(doing(), error))
}

/// Reads it again and again while the member runs: asking the engine for a file costs 0.1 s on two busy cores.
pub(super) struct Reader {
    order: Mutex<Order>,
    doing: String,
}

impl Reader {
    pub(super) async fn open(access: &Access<'_>, member: &Member) -> Result<Self, Failure> {
        let path = path();
        let script = format!("while read -r _; do head -c {SIZE} {path}; done");
        let argv = ["/bin/sh", "-c", &script].map(str::to_owned);
        let order = Order::give(access, member, &argv).await?;
        Ok(Self { order: Mutex::new(order), doing: format!("read {path} of {member}") })
    }

    pub(super) async fn control(&self) -> Result<Control, Failure> {
        let said = self.order.lock().await.tell("again", |stdout| stdout.len() >= SIZE).await?;
        Control::parse(&said.stdout).map_err(|error| Failure::because(self.doing.clone(), error))
    }
}

impl Control {
    fn parse(content: &[u8]) -> Result<Self, NoControl> {
        let short = || NoControl::TooShort(content.len());
        let number = |at: usize| -> Result<u32, NoControl> {
            let bytes = content.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
            Ok(u32::from_le_bytes(bytes))
        };
        let long = |at: usize| Ok::<u64, NoControl>(u64::from(number(at)?) | u64::from(number(at + 4)?) << 32);
        let (version, expected) = (number(8)?, number(CHECKSUM_AT)?);
        if version != VERSION {
            return Err(NoControl::Version(version));
        }
        let found = CHECKSUM.checksum(content.get(..CHECKSUM_AT).ok_or_else(short)?);
        if found != expected {
            return Err(NoControl::Checksum { found, expected });
        }
        let (of_checkpoint, of_recovery) = (number(48)?, number(144)?);
        Ok(Self {
            system_id: long(0)?.to_string(),
            state: State::of(number(16)?)?,
            checkpoint: Lsn(long(32)?),
            // One that was promoted writes its next checkpoint later.
            timeline: of_checkpoint.max(of_recovery),
        })
    }
}

impl State {
    fn of(number: u32) -> Result<Self, NoControl> {
        match number {
            0 => Ok(Self::StartingUp),
            1 => Ok(Self::ShutDown),
            2 => Ok(Self::ShutDownInRecovery),
            3 => Ok(Self::ShuttingDown),
            4 => Ok(Self::InCrashRecovery),
            5 => Ok(Self::InArchiveRecovery),
            6 => Ok(Self::InProduction),
            other => Err(NoControl::State(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a replica of PostgreSQL 17.11 that was running; `pg_controldata` says what the test expects.
    const REAL: &[u8] = include_bytes!("testdata/pg_control");

    #[test]
    fn a_real_control_file_is_read() {
        let expected = Control {
            system_id: "7711174522010906642".to_owned(),
            state: State::InArchiveRecovery,
            checkpoint: "0/2000080".parse().unwrap(),
            timeline: 1,
        };
        assert_eq!(Control::parse(REAL), Ok(expected));
    }

    #[test]
    fn a_damaged_or_foreign_file_is_refused() {
        let mut damaged = REAL.to_vec();
        damaged[32] ^= 1;
        assert!(matches!(Control::parse(&damaged), Err(NoControl::Checksum { .. })));
        let mut foreign = REAL.to_vec();
        foreign[8..12].copy_from_slice(&1300_u32.to_le_bytes());
        assert_eq!(Control::parse(&foreign), Err(NoControl::Version(1300)));
        assert_eq!(Control::parse(&REAL[..100]), Err(NoControl::TooShort(100)));
    }
}
