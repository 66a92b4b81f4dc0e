//! Which numbers of each writer a member holds.

use std::collections::BTreeMap;

use provisioner_components::postgres::ledger::Ranges;

/// Kept as ranges: an undisturbed ledger has one a writer, however many rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows(BTreeMap<u16, Vec<(u64, u64)>>);

impl Rows {
    pub fn contains(&self, writer: u16, number: u64) -> bool {
        self.0.get(&writer).is_some_and(|ranges| {
            let after = ranges.partition_point(|(first, _)| *first <= number);
            after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| number <= *last)
        })
    }

    pub fn len(&self) -> u64 {
        self.0.values().flatten().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        self.0.iter().flat_map(|(writer, ranges)| {
            ranges.iter().flat_map(|(first, last)| (*first..=*last).map(|number| (*writer, number)))
        })
    }
}

impl From<Ranges> for Rows {
    fn from(mut ranges: Ranges) -> Self {
        ranges.values_mut().for_each(|ranges| ranges.sort_unstable());
        Self(ranges)
    }
}

impl FromIterator<(u16, u64)> for Rows {
    fn from_iter<I: IntoIterator<Item = (u16, u64)>>(rows: I) -> Self {
        let mut sorted: Vec<(u16, u64)> = rows.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut ranges: BTreeMap<u16, Vec<(u64, u64)>> = BTreeMap::new();
        for (writer, number) in sorted {
            let ranges = ranges.entry(writer).or_default();
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        Self(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_at_both_ends_of_a_range_and_nowhere_else() {
        let rows: Rows = [(0, 3), (0, 1), (0, 2), (0, 7), (2, 1), (0, 2)].into_iter().collect();
        assert_eq!(rows, Rows::from(Ranges::from([(0, vec![(7, 7), (1, 3)]), (2, vec![(1, 1)])])));
        let found: Vec<u64> = (0..9).filter(|number| rows.contains(0, *number)).collect();
        assert_eq!(found, [1, 2, 3, 7]);
        assert!(!rows.contains(1, 1));
        assert_eq!((rows.len(), rows.iter().count()), (5, 5));
    }
}
