//! The one clock. Durations are measured with `tokio::time::Instant`; this is for what people read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// Seconds since 1970-01-01 UTC.
pub fn unix_seconds() -> u64 {
    since_1970().as_secs()
}

/// Microseconds since 1970-01-01 UTC, for moments that two processes of one machine compare.
pub fn unix_micros() -> u64 {
    u64::try_from(since_1970().as_micros()).unwrap_or(u64::MAX)
}

#[allow(clippy::disallowed_methods, reason = "this is the one clock")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `75` as `1m 15s`.
pub fn human_seconds(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}

/// `2026-11-22 20:54:07Z`. A second that no calendar reaches is printed as it is.
pub fn human_time(unix_seconds: u64) -> String {
    let moment = i64::try_from(unix_seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    match moment {
        Some(at) => format!("{} {:02}:{:02}:{:02}Z", at.date(), at.hour(), at.minute(), at.second()),
        None => unix_seconds.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_utc_to_the_second() {
        assert_eq!(human_time(0), "1970-01-01 00:00:00Z");
        assert_eq!(human_time(1_795_380_847), "2026-11-22 20:54:07Z");
        assert_eq!(human_time(u64::MAX), u64::MAX.to_string());
    }
}
