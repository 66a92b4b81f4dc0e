//! Sizes and shares as people write them.

use serde_json::Value;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const UNITS: [(&str, u64); 9] = [
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("kb", KIB),
    ("mb", MIB),
    ("gb", GIB),
    ("k", KIB),
    ("m", MIB),
    ("g", GIB),
];

/// Below this no service of the stack starts; above that it is a typing error.
const MEMORY_MIN: u64 = 8 * MIB;
const MEMORY_MAX: u64 = 1024 * GIB;
/// A database that has just been made, and what one machine has of disks.
const DISK_MIN: u64 = 128 * MIB;
const DISK_MAX: u64 = 64 * 1024 * GIB;

pub(super) const MEMORY: &str = "a size from 8MiB to 1024GiB such as 512MiB";
pub(super) const DISK: &str = "a size from 128MiB to 65536GiB such as 20GiB";
pub(super) const CPUS: &str = "a number of cores from 0.05 to 256 such as 0.5";

pub(super) fn memory(value: &Value) -> Option<u64> {
    bytes(value).filter(|bytes| (MEMORY_MIN..=MEMORY_MAX).contains(bytes))
}

pub(super) fn disk(value: &Value) -> Option<u64> {
    bytes(value).filter(|bytes| (DISK_MIN..=DISK_MAX).contains(bytes))
}

/// `512MiB`, `512m` or `512mb` in bytes.
fn bytes(value: &Value) -> Option<u64> {
    let text = value.as_str()?.trim();
    let (number, factor) = UNITS.iter().find_map(|(unit, factor)| {
        let matches = text.len() > unit.len()
            && text.get(text.len() - unit.len()..).is_some_and(|tail| tail.eq_ignore_ascii_case(unit));
        matches.then(|| (text.get(..text.len() - unit.len()).unwrap_or_default(), *factor))
    })?;
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

/// Cores in thousandths.
pub(super) fn cpus(value: &Value) -> Option<u32> {
    let cores = value.as_f64()?;
    if !(0.05..=256.0).contains(&cores) {
        return None;
    }
    // In range, so neither negative nor too large.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just above")]
    let millis = (cores * 1000.0).round() as u32;
    Some(millis)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_are_read_in_the_usual_spellings() {
        for text in ["512MiB", "512mib", "512m", "512mb", "524288KiB"] {
            assert_eq!(memory(&json!(text)), Some(512 * MIB), "{text}");
        }
    }

    #[test]
    fn a_disk_is_larger_than_a_memory_may_be() {
        let read = ["64MiB", "128MiB", "65536GiB", "65537GiB"].map(|text| disk(&json!(text)).is_some());
        assert_eq!(read, [false, true, true, false]);
        assert_eq!(memory(&json!("65536GiB")), None);
    }

    #[test]
    fn absurd_sizes_and_shares_are_not_read() {
        for value in
            [json!("-1MiB"), json!("0MiB"), json!("99999999GiB"), json!(""), json!("MiB"), json!(5), json!("é")]
        {
            assert_eq!(memory(&value), None, "{value}");
        }
        for value in [json!(-1), json!(0), json!("two"), json!(1e300)] {
            assert_eq!(cpus(&value), None, "{value}");
        }
    }
}
