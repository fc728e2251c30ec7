//! Values in order of their keys in one piece of memory: a tree of them takes more than twice the room, because what
//! comes in order leaves its nodes half empty.
//!
//! For what comes nearly in order and goes at its beginning, as memories do: their ids begin with the time. Such a step
//! costs a comparison; one in the middle moves what lies on its shorter side.

use std::collections::VecDeque;

/// What a value is found by.
pub(crate) trait Keyed {
    type Key: Ord + Copy;

    fn key(&self) -> Self::Key;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shelf<T>(VecDeque<T>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Keyed> Shelf<T> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.0.front()
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.0.back()
    }

    pub(crate) fn get(&self, key: T::Key) -> Option<&T> {
        self.place(key).ok().and_then(|place| self.0.get(place))
    }

    /// Puts it in its place; gives what was there with the same key.
    pub(crate) fn insert(&mut self, value: T) -> Option<T> {
        match self.place(value.key()) {
            Ok(place) => self
                .0
                .get_mut(place)
                .map(|held| std::mem::replace(held, value)),
            Err(place) => {
                self.0.insert(place, value);
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: T::Key) -> Option<T> {
        let place = self.place(key).ok()?;
        self.0.remove(place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    fn place(&self, key: T::Key) -> Result<usize, usize> {
        match self.0.back() {
            Some(last) if last.key() >= key => self.0.binary_search_by_key(&key, Keyed::key),
            Some(_) | None => Err(self.0.len()),
        }
    }
}

impl<T: Keyed> FromIterator<T> for Shelf<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut shelf = Self::default();
        for value in values {
            let _ = shelf.insert(value);
        }
        shelf
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Keyed for (u8, u16) {
        type Key = u8;

        fn key(&self) -> u8 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn a_shelf_holds_what_a_tree_holds_in_the_same_order(
            steps in prop::collection::vec((any::<bool>(), 0_u8..24, any::<u16>()), 0..200),
        ) {
            let (mut shelf, mut tree) = (Shelf::default(), BTreeMap::new());
            for (puts, key, value) in steps {
                if puts {
                    let before = shelf.insert((key, value)).map(|(_, value)| value);
                    prop_assert_eq!(before, tree.insert(key, value));
                } else {
                    prop_assert_eq!(shelf.remove(key).map(|(_, value)| value), tree.remove(&key));
                }
                prop_assert_eq!(shelf.get(key).map(|(_, value)| *value), tree.get(&key).copied());
                prop_assert_eq!(shelf.first().copied(), tree.first_key_value().map(|(k, v)| (*k, *v)));
                prop_assert_eq!(shelf.len(), tree.len());
            }
            let all = shelf.iter().copied().collect::<Vec<_>>();
            prop_assert_eq!(all, tree.into_iter().collect::<Vec<_>>());
        }
    }
}
