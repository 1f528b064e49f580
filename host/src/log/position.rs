//! What a subscription has behind it: a settled floor and the ranges settled above it, in offsets.

use crate::message::Offset;

/// Every offset below `floor` is passed, and so are those in the ranges above it. A subscription passes
/// an offset when the message there is settled, stands in a row of its own, or is none of its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    floor: Offset,
    /// Half-open, ascending, neither touching each other nor the floor.
    above: Vec<(Offset, Offset)>,
}

impl Position {
    /// The position that begins at an offset.
    pub fn starting_at(floor: Offset) -> Self {
        Self { floor, above: Vec::new() }
    }

    /// A stored position; `None` where the ranges are not in order.
    pub fn from_parts(floor: Offset, above: Vec<(Offset, Offset)>) -> Option<Self> {
        let mut last = floor;
        for &(from, to) in &above {
            if from <= last || to <= from {
                return None;
            }
            last = to;
        }
        Some(Self { floor, above })
    }

    pub fn floor(&self) -> Offset {
        self.floor
    }

    pub fn above(&self) -> &[(Offset, Offset)] {
        &self.above
    }

    /// The offset after the last one that is passed.
    pub fn end(&self) -> Offset {
        self.above.last().map_or(self.floor, |range| range.1)
    }

    pub fn contains(&self, offset: Offset) -> bool {
        let after = self.above.partition_point(|range| range.0 <= offset);
        offset < self.floor || (after > 0 && offset < self.above[after - 1].1)
    }

    /// What is not passed, up to an end: ranges `[from, to)`, ascending.
    pub fn gaps(&self, end: Offset) -> Vec<(Offset, Offset)> {
        self.gaps_from(self.floor, end)
    }

    /// What is not passed of `[from, end)`.
    pub fn gaps_from(&self, from: Offset, end: Offset) -> Vec<(Offset, Offset)> {
        let begins = std::iter::once(self.floor).chain(self.above.iter().map(|range| range.1));
        let ends = self.above.iter().map(|range| range.0).chain([Offset::MAX]);
        begins.zip(ends).map(|(a, b)| (a.max(from), b.min(end))).filter(|(a, b)| a < b).collect()
    }

    /// Passes `[from, to)`. Passing an offset twice changes nothing.
    pub fn pass(&mut self, from: Offset, to: Offset) {
        if to <= self.floor || from >= to {
            return;
        }
        if from <= self.floor {
            self.floor = to;
            let reached = self.above.partition_point(|range| range.0 <= self.floor);
            if let Some(&(_, end)) = self.above[..reached].last() {
                self.floor = self.floor.max(end);
            }
            self.above.drain(..reached);
            return;
        }
        // Ranges that touch or overlap the new one melt into it.
        let first = self.above.partition_point(|range| range.1 < from);
        let last = self.above.partition_point(|range| range.0 <= to);
        if first == last {
            self.above.insert(first, (from, to));
        } else {
            let merged = (self.above[first].0.min(from), self.above[last - 1].1.max(to));
            self.above[first] = merged;
            self.above.drain(first + 1..last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_offsets(start in 0..5u64, ranges in prop::collection::vec((0..60u64, 0..8u64), 0..40)) {
            let mut position = Position::starting_at(start);
            let mut naive: BTreeSet<Offset> = (0..start).collect();
            for (from, length) in ranges {
                position.pass(from, from + length);
                naive.extend(from..from + length);
                for offset in 0..70 {
                    prop_assert_eq!(position.contains(offset), naive.contains(&offset), "{} in {:?}", offset, &position);
                }
                prop_assert_eq!(Position::from_parts(position.floor, position.above.clone()), Some(position.clone()));
                let gaps: BTreeSet<Offset> = position.gaps_from(3, 50).into_iter().flat_map(|(a, b)| a..b).collect();
                prop_assert_eq!(gaps, (3..50).filter(|offset| !naive.contains(offset)).collect());
                prop_assert_eq!(position.end(), naive.last().map_or(0, |last| last + 1));
            }
        }
    }

    #[test]
    fn ranges_out_of_order_are_no_position() {
        assert_eq!(Position::from_parts(5, vec![(5, 6)]), None);
        assert_eq!(Position::from_parts(5, vec![(7, 7)]), None);
        assert_eq!(Position::from_parts(5, vec![(7, 9), (9, 10)]), None);
    }
}
