//! What belongs to what, many to many: the indexes by which a change finds all that it touches.

use std::collections::BTreeSet;

/// From how many pairs on it is worth while to put them together.
const MANY: usize = 1000;

/// Pairs that can be looked up by their first half.
///
/// The default of the second half must be the least value of its type: a lookup starts there.
#[derive(Clone, Debug)]
pub struct Relation<A, B> {
    pairs: BTreeSet<(A, B)>,
    /// How many have been added since they were last put together.
    added: usize,
}

impl<A: Ord + Clone, B: Ord + Default> Relation<A, B> {
    /// Adds a pair; it may be there already.
    pub fn insert(&mut self, one: A, other: B) {
        self.added += usize::from(self.pairs.insert((one, other)));
    }

    /// Gives back the room that growing has left between pairs, if it has grown by most of what it holds: as it
    /// does when everything is read at once. To be called after every update.
    pub fn settle(&mut self) {
        if self.added > MANY && self.added > self.pairs.len() / 2 {
            self.pairs = std::mem::take(&mut self.pairs).into_iter().collect();
            self.added = 0;
        }
    }

    /// Takes a pair away; it may not be there.
    pub fn remove(&mut self, one: A, other: B) {
        self.pairs.remove(&(one, other));
    }

    /// Everything that belongs to `one`, in order.
    pub fn of<'a>(&'a self, one: &A) -> impl Iterator<Item = &'a B> + use<'a, A, B> {
        let wanted = one.clone();
        self.from(one).take_while(move |(found, _)| *found == wanted).map(|(_, other)| other)
    }

    /// Every pair from the first that belongs to `one`, in order.
    pub fn from<'a>(&'a self, one: &A) -> impl Iterator<Item = &'a (A, B)> + use<'a, A, B> {
        self.pairs.range((one.clone(), B::default())..)
    }
}

impl<A, B> Default for Relation<A, B> {
    fn default() -> Self {
        Self { pairs: BTreeSet::new(), added: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_by_their_first_half_alone() {
        let mut relation = Relation::default();
        for (one, other) in [("a", 2), ("b", 0), ("a", 1), ("a", 2), ("ab", 7)] {
            relation.insert(one, other);
        }
        assert_eq!(relation.of(&"a").collect::<Vec<_>>(), [&1, &2]);
        assert_eq!(relation.of(&"b").collect::<Vec<_>>(), [&0], "the least of its type is found, too");
        assert_eq!(relation.of(&"c").count(), 0);
        assert_eq!(relation.from(&"ab").collect::<Vec<_>>(), [&("ab", 7), &("b", 0)]);
        relation.remove("a", 2);
        relation.remove("a", 3);
        relation.settle();
        assert_eq!(relation.of(&"a").collect::<Vec<_>>(), [&1]);
    }

    #[test]
    fn nothing_is_lost_by_putting_pairs_together() {
        let mut relation = Relation::default();
        for number in 0..3 * MANY {
            relation.insert(number % 7, number);
        }
        let before: Vec<_> = relation.of(&3).copied().collect();
        relation.settle();
        assert_eq!((relation.of(&3).copied().collect::<Vec<_>>(), relation.added), (before, 0));
        relation.insert(3, 1);
        relation.settle();
        assert_eq!((relation.of(&3).next(), relation.added), (Some(&1), 1), "one more is not worth it");
    }
}
