//! Redis as a cache: what it does not say is a miss.
//!
//! Every entry carries the position of what it was read from, and `CHANGED` the position of the last change that was
//! announced. An entry from before that is as good as none, and is never written over one from after it. So neither a
//! query that took long nor a replica that lags can bring back what was replaced.
//!
//! What Redis said is remembered in this process for a moment, the last change and fresh entries alike: of what is asked for
//! a thousand times a second it is asked ten times.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use quick_cache::{Weighter, sync};
use redis::Cmd;

use crate::{catalogue::Entry, redis_link::RedisLink, store::position::Position, telemetry};

/// What an announcement that never came costs at most.
const HARD_SECONDS: u64 = 60;
/// Who renews and dies leaves the work to the next reader after this.
const RENEW_SECONDS: u64 = 5;
/// For longer than any replica lags that is still asked. It ends, because a database restored from a backup begins
/// again at an earlier position.
const CHANGED_SECONDS: u64 = 15 * 60;
const CHANGED: &str = "products:changed";
/// No command a read instead of two, at the price of hearing that much later of a change.
const REMEMBER: Duration = Duration::from_millis(100);
const REMEMBERED_BYTES: u64 = 8 << 20;
/// A page of the catalogue has some 8 KiB.
const REMEMBERED_ENTRIES: usize = 1_000;

const PUT: &str = "
local changed = redis.call('GET', KEYS[2])
if (changed and changed > ARGV[1]) or redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) > ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1";

/// Several announce at once: the greatest position counts.
const ANNOUNCE: &str = "
local changed = redis.call('GET', KEYS[1])
if changed and changed >= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Absent,
    Up,
    Down,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Answers from before this position are out of date. `None`: nothing is kept, so no answer can be.
    pub(crate) changed: Option<Position>,
    pub(crate) entry: Option<Entry>,
}

#[derive(Clone)]
pub(crate) struct Cache {
    link: Option<Arc<RedisLink>>,
    /// What Redis said last, and when it was asked.
    changed: Arc<Mutex<Option<(Position, Instant)>>>,
    /// Entries as Redis gave them, and when.
    entries: Arc<sync::Cache<String, (Entry, Instant), ByBytes>>,
}

/// How much room an entry takes.
#[derive(Clone)]
struct ByBytes;

impl Weighter<String, (Entry, Instant)> for ByBytes {
    fn weight(&self, name: &String, (entry, _): &(Entry, Instant)) -> u64 {
        u64::try_from(name.len() + entry.stored().len()).unwrap_or(u64::MAX)
    }
}

impl Cache {
    pub(crate) fn new(link: Option<Arc<RedisLink>>) -> Self {
        let entries = sync::Cache::with_weighter(REMEMBERED_ENTRIES, REMEMBERED_BYTES, ByBytes);
        Self { link, changed: Arc::default(), entries: Arc::new(entries) }
    }

    pub(crate) async fn find(&self, name: &str) -> Found {
        let Some(link) = &self.link else { return Found::default() };
        let (result, found) = match self.look_up(link, name).await {
            Some(found) => {
                let result = match &found.entry {
                    Some(entry) if entry.is_fresh() => "hit",
                    Some(_) => "stale",
                    None => "miss",
                };
                (result, found)
            }
            None => ("error", Found { changed: Some(Position::default()), entry: None }),
        };
        metrics::counter!(telemetry::CACHE_REQUESTS, "result" => result).increment(1);
        found
    }

    async fn look_up(&self, link: &RedisLink, name: &str) -> Option<Found> {
        let changed = self.changed(link).await?;
        let is_current = |entry: &Entry| entry.position >= changed;
        let remembered = self.entries.get(name).filter(|(_, asked)| asked.elapsed() < REMEMBER).map(|(entry, _)| entry);
        if let Some(entry) = remembered.filter(|entry| is_current(entry) && entry.is_fresh()) {
            return Some(Found { changed: Some(changed), entry: Some(entry) });
        }
        let asked = Instant::now();
        let stored: Option<Vec<u8>> = link.call(&Cmd::get(entry_key(name))).await?;
        let entry = stored.and_then(Entry::read).filter(is_current);
        if let Some(entry) = entry.as_ref().filter(|entry| entry.is_fresh()) {
            self.entries.insert(name.to_owned(), (entry.clone(), asked));
        }
        Some(Found { changed: Some(changed), entry })
    }

    async fn changed(&self, link: &RedisLink) -> Option<Position> {
        {
            let mut remembered = self.remembered();
            if let Some((changed, asked)) = &mut *remembered {
                if asked.elapsed() < REMEMBER {
                    return Some(*changed);
                }
                // One asks again; the others go on with what is known.
                *asked = Instant::now();
            }
        }
        let text: Option<Vec<u8>> = link.call(&Cmd::get(CHANGED)).await?;
        let changed = text.and_then(|text| Position::read(&text)).unwrap_or_default();
        *self.remembered() = Some((changed, Instant::now()));
        Some(changed)
    }

    fn remembered(&self) -> MutexGuard<'_, Option<(Position, Instant)>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for one of all readers of all processes.
    pub(crate) async fn may_renew(&self, name: &str) -> bool {
        let Some(link) = &self.link else { return false };
        let mut command = redis::cmd("SET");
        command.arg(format!("products:renew:{name}")).arg("").arg("NX").arg("EX").arg(RENEW_SECONDS);
        link.call::<Option<String>>(&command).await.flatten().is_some()
    }

    /// Not over what is newer.
    pub(crate) async fn put(&self, name: &str, entry: &Entry) {
        let Some(link) = &self.link else { return };
        let mut command = script(PUT, &[&entry_key(name), CHANGED]);
        command.arg(entry.position.to_string()).arg(entry.stored()).arg(HARD_SECONDS);
        let _: Option<u8> = link.call(&command).await;
    }

    /// From here on nothing that was read at `position` or before is served or kept. At it too: a commit is in the log
    /// before anybody sees it, so who read there need not have seen the change. False: Redis does not know.
    pub(crate) async fn announce(&self, position: Position) -> bool {
        let Some(link) = &self.link else { return true };
        let mut command = script(ANNOUNCE, &[CHANGED]);
        command.arg(position.next().to_string()).arg(CHANGED_SECONDS);
        let announced = link.call::<u8>(&command).await.is_some();
        // This process asks again at once.
        *self.remembered() = None;
        announced
    }

    pub(crate) async fn health(&self) -> Health {
        let Some(link) = &self.link else { return Health::Absent };
        match link.send::<String>(&redis::cmd("PING")).await {
            Some(_) => Health::Up,
            None => Health::Down,
        }
    }
}

fn entry_key(name: &str) -> String {
    format!("products:entry:{name}")
}

fn script(text: &str, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys);
    command
}

#[cfg(test)]
#[cfg(feature = "live-tests")]
mod tests {
    use super::*;
    use crate::{config::SecretUrl, testing::setting, trust::Trust};

    /// An empty database of the server that no shop of the other live tests uses.
    async fn cache() -> (Cache, Arc<RedisLink>) {
        let url: SecretUrl = setting("APP_TEST_REDIS_URL").parse().unwrap();
        let link = Arc::new(RedisLink::new(url.redis(&Trust::default()).unwrap()).unwrap());
        let keys = ["entry:t", "renew:t", "changed"].map(|name| format!("products:{name}"));
        link.call::<i64>(redis::cmd("DEL").arg(&keys)).await.expect("Redis answers");
        (Cache::new(Some(Arc::clone(&link))), link)
    }

    fn entry(position: u64) -> Entry {
        Entry::new(Position::of(position), Duration::from_secs(20), position.to_string().as_bytes())
    }

    /// One test: its steps share the key of the last change.
    #[tokio::test]
    async fn what_was_read_earlier_never_replaces_what_was_read_later() {
        let (cache, link) = cache().await;
        // Each time as a process that remembers nothing.
        let kept = async || {
            let cache = Cache::new(Some(Arc::clone(&link)));
            cache.find("t").await.entry.map(|entry| entry.position)
        };
        cache.put("t", &entry(12)).await;
        cache.put("t", &entry(9)).await;
        assert_eq!(kept().await, Some(Position::of(12)), "a query that took long");
        cache.put("t", &entry(100)).await;
        assert_eq!(kept().await, Some(Position::of(100)), "by number, not by the first digit");

        assert!(cache.announce(Position::of(200)).await);
        assert_eq!(kept().await, None, "out of date");
        cache.put("t", &entry(199)).await;
        assert_eq!(kept().await, None, "a replica that lags");
        cache.put("t", &entry(200)).await;
        assert_eq!(kept().await, None, "read when the change was in the log and not yet to be seen");
        assert!(cache.announce(Position::of(150)).await);
        assert_eq!(cache.find("t").await.changed, Some(Position::of(201)), "a late announcement takes nothing back");
        cache.put("t", &entry(201)).await;
        assert_eq!(kept().await, Some(Position::of(201)));

        let at_hand = async || cache.find("t").await.entry.map(|entry| entry.position);
        assert_eq!(at_hand().await, Some(Position::of(201)));
        link.call::<i64>(redis::cmd("DEL").arg(entry_key("t"))).await.unwrap();
        assert_eq!(at_hand().await, Some(Position::of(201)), "Redis is not asked again so soon");
        let heard = async {
            let mut ticks = tokio::time::interval(REMEMBER / 10);
            while at_hand().await.is_some() {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(REMEMBER * 20, heard).await.expect("it is asked in the end");
        cache.put("t", &entry(301)).await;
        assert_eq!(at_hand().await, Some(Position::of(301)));
        assert!(cache.announce(Position::of(301)).await);
        assert_eq!(at_hand().await, None, "out of date, as soon as it is heard");
        cache.put("t", &entry(302)).await;

        assert_eq!((cache.may_renew("t").await, cache.may_renew("t").await), (true, false), "one does");
        for key in ["products:entry:t", "products:renew:t", "products:changed"] {
            assert!(link.call::<i64>(&Cmd::ttl(key)).await.unwrap() > 0, "{key} ends by itself");
        }
    }
}
