//! Reads what the probe wrote: one line for every row that was tried. The form is described where it is written,
//! `provisioner/probe/src/ledger/journal.rs`.

use provisioner_core::name::Member;

/// Of the form that is understood here.
const VERSION: &str = "1";

/// Times are microseconds since `zero`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Names the run in every row that it wrote.
    pub run: u64,
    pub writers: u16,
    /// In the order in which lines count them.
    pub members: Vec<Member>,
    /// Rows that went through the route, in the order in which they were settled.
    pub entries: Vec<Entry>,
    /// What members answered directly.
    pub answers: Vec<Answer>,
    /// When it ended; `None`: it was cut off, and rows may exist that it does not know.
    pub end_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Committed, without a warning.
    Acked,
    /// Certainly not written.
    Refused,
    /// Written or not.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub writer: u16,
    pub number: u64,
    pub began_us: u64,
    pub took_us: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Place in [`Journal::members`].
    pub member: usize,
    pub number: u64,
    pub began_us: u64,
    pub took_us: u64,
    pub is_acked: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("read the ledger's journal: its first line is {found:?}, expected `ledger {VERSION} ZERO WRITERS MEMBERS`")]
    Header { found: String },
    #[error("read the ledger's journal: line {number} is {found:?}, expected LETTER WHO NUMBER BEGAN TOOK")]
    Line { number: usize, found: String },
}

impl Entry {
    pub fn end_us(&self) -> u64 {
        self.began_us.saturating_add(self.took_us)
    }
}

impl Answer {
    pub fn end_us(&self) -> u64 {
        self.began_us.saturating_add(self.took_us)
    }
}

impl Journal {
    /// A last line without its end was being written when the machine or the probe went down; it never counted.
    pub fn parse(text: &str) -> Result<Self, JournalError> {
        let complete = text.rfind('\n').map_or("", |at| &text[..at]);
        let mut lines = complete.split('\n').enumerate();
        let first = lines.next().map_or("", |(_, line)| line);
        let mut journal = header(first).ok_or_else(|| JournalError::Header { found: first.to_owned() })?;
        for (at, line) in lines {
            let wrong = || JournalError::Line { number: at + 1, found: line.to_owned() };
            if journal.end_us.is_some() {
                return Err(wrong());
            }
            journal.take(line).ok_or_else(wrong)?;
        }
        journal.entries.sort_by_key(Entry::end_us);
        journal.answers.sort_by_key(Answer::end_us);
        Ok(journal)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let letter = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        if letter == "end" {
            self.end_us = Some(number()?);
            return words.next().is_none().then_some(());
        }
        let (who, row, began_us, took_us) = (number()?, number()?, number()?, number()?);
        if words.next().is_some() {
            return None;
        }
        let outcome = match letter {
            "a" | "A" => Outcome::Acked,
            "r" => Outcome::Refused,
            "u" | "U" => Outcome::Unknown,
            _ => return None,
        };
        if matches!(letter, "A" | "U") {
            let member = usize::try_from(who).ok().filter(|member| *member < self.members.len())?;
            let is_acked = outcome == Outcome::Acked;
            self.answers.push(Answer { member, number: row, began_us, took_us, is_acked });
        } else {
            let writer = u16::try_from(who).ok().filter(|writer| *writer < self.writers)?;
            self.entries.push(Entry { writer, number: row, began_us, took_us, outcome });
        }
        Some(())
    }

    /// A moment of the wall clock (microseconds since 1970) on the ledger's clock; before its zero counts as zero.
    pub fn at_unix_us(&self, unix_us: u64) -> u64 {
        unix_us.saturating_sub(self.run)
    }

    pub fn count(&self, outcome: Outcome) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.outcome == outcome)).sum()
    }

    /// The last moment that it tells of.
    pub fn last_us(&self) -> u64 {
        let settled = self.entries.last().map(Entry::end_us);
        let answered = self.answers.last().map(Answer::end_us);
        [settled, answered, self.end_us].into_iter().flatten().max().unwrap_or(0)
    }

    /// The longest time between two acknowledgements that ends after this moment; `None`: none came after it. The time
    /// after the last one counts too, up to the last answer of any kind: writes that stop again are not back.
    pub fn longest_gap_after(&self, us: u64) -> Option<u64> {
        let acked = || self.entries.iter().filter(|entry| entry.outcome == Outcome::Acked).map(Entry::end_us);
        let last = acked().next_back().filter(|last| *last > us)?;
        let between = acked().zip(acked().skip(1));
        let settled = self.entries.last().map_or(last, Entry::end_us);
        between.chain([(last, settled)]).filter(|(_, end)| *end > us).map(|(begin, end)| end - begin).max()
    }

    /// When the first row was acknowledged after this moment.
    pub fn first_ack_after(&self, us: u64) -> Option<u64> {
        let acked = self.entries.iter().filter(|entry| entry.outcome == Outcome::Acked);
        acked.map(Entry::end_us).find(|end| *end > us)
    }
}

fn header(line: &str) -> Option<Journal> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["ledger", VERSION, zero, writers, members] = words[..] else { return None };
    Some(Journal {
        run: zero.parse().ok()?,
        writers: writers.parse().ok()?,
        members: members.split(',').map(Member::named).collect(),
        entries: Vec::new(),
        answers: Vec::new(),
        end_us: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ledger 1 1790000000000000 2 postgres-1,postgres-2\na 0 1 100 50\nu 1 1 110 2000000\n\
                        A 1 1 90 20\nr 0 2 300 5\nend 3000000\n";

    #[test]
    fn every_line_is_what_became_of_a_row() {
        let journal = Journal::parse(TEXT).unwrap();
        assert_eq!(journal.run, 1_790_000_000_000_000);
        assert_eq!(journal.members[1], Member::named("postgres-2"));
        let outcomes: Vec<Outcome> = journal.entries.iter().map(|entry| entry.outcome).collect();
        assert_eq!(outcomes, [Outcome::Acked, Outcome::Refused, Outcome::Unknown]);
        assert_eq!(journal.answers, [Answer { member: 1, number: 1, began_us: 90, took_us: 20, is_acked: true }]);
        assert_eq!((journal.end_us, journal.last_us()), (Some(3_000_000), 3_000_000));
        assert_eq!((journal.first_ack_after(100), journal.first_ack_after(150)), (Some(150), None));
    }

    #[test]
    fn a_line_that_was_never_finished_does_not_count() {
        let cut = Journal::parse(TEXT.strip_suffix(" 5\nend 3000000\n").unwrap()).unwrap();
        assert_eq!((cut.entries.len(), cut.end_us), (2, None));
    }

    #[test]
    fn anything_else_is_an_error_with_its_line() {
        for (text, expected) in [
            ("", "its first line is \"\""),
            ("ledger 2 1 1 a\n", "its first line is \"ledger 2 1 1 a\""),
            ("ledger 1 1 1 a\nx 0 1 1 1\n", "line 2 is \"x 0 1 1 1\""),
            ("ledger 1 1 1 a\na 1 1 1 1\n", "line 2 is \"a 1 1 1 1\""),
            ("ledger 1 1 1 a\nA 1 1 1 1\n", "line 2 is \"A 1 1 1 1\""),
            ("ledger 1 1 1 a\nend 1\na 0 1 1 1\n", "line 3 is \"a 0 1 1 1\""),
        ] {
            let error = Journal::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
