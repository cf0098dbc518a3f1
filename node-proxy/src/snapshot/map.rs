//! A hash map whose copies share all but what was changed since: what a snapshot's tables are made of.
//!
//! A tree over the bits of keys' hashes. A copy is one reference; the first change of a copy copies the few small
//! nodes on its way. Looking up is a handful of loads and never a lock.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// How many bits of a hash choose the next node.
const BITS: u32 = 6;
/// Children of a branch.
const WIDTH: usize = 1 << BITS;
/// Entries of a leaf, from which it becomes a branch.
const LEAF: usize = 16;

/// A map that is cheap to copy and to change one entry of, however many it has.
pub struct SharedMap<K, V> {
    root: Node<K, V>,
    len: usize,
    hasher: RandomState,
}

enum Node<K, V> {
    Branch(Arc<[Self; WIDTH]>),
    Leaf(Option<Arc<[Entry<K, V>]>>),
}

struct Entry<K, V> {
    hash: u64,
    key: K,
    value: V,
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        Entries { nodes: vec![&self.root], leaf: [].iter() }.map(|entry| (&entry.key, &entry.value))
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Hash + Eq, V> SharedMap<K, V> {
    /// The value of a key.
    #[inline]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let mut path = hash;
        let mut node = &self.root;
        loop {
            match node {
                Node::Branch(children) => {
                    node = &children[child(path)];
                    path >>= BITS;
                }
                Node::Leaf(None) => return None,
                Node::Leaf(Some(entries)) => {
                    let mut same = entries.iter().filter(|entry| entry.hash == hash);
                    return same.find(|entry| entry.key.borrow() == key).map(|entry| &entry.value);
                }
            }
        }
    }

    /// Whether there is a value for a key.
    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    /// Puts a value in its place. Copies made before keep what they have.
    pub fn insert(&mut self, key: K, value: V) {
        let hash = self.hasher.hash_one(&key);
        if self.root.insert(Entry { hash, key, value }, 0) {
            self.len += 1;
        }
    }

    /// Takes a key's value away. Copies made before keep what they have.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        // Nothing is copied for what is not there.
        if !self.contains_key(key) {
            return;
        }
        let hash = self.hasher.hash_one(key);
        self.root.remove(hash, key, 0);
        self.len -= 1;
    }
}

const fn child(path: u64) -> usize {
    (path & (WIDTH as u64 - 1)) as usize
}

const fn beyond(hash: u64, depth: u32) -> u64 {
    hash >> (depth * BITS)
}

impl<K: Eq + Clone, V: Clone> Node<K, V> {
    /// Whether the key is new.
    fn insert(&mut self, new: Entry<K, V>, depth: u32) -> bool {
        match self {
            Self::Branch(children) => {
                Arc::make_mut(children)[child(beyond(new.hash, depth))].insert(new, depth + 1)
            }
            Self::Leaf(known) => {
                let entries = known.as_deref().unwrap_or_default();
                let is_same = |entry: &Entry<K, V>| entry.hash == new.hash && entry.key == new.key;
                let is_new = !entries.iter().any(is_same);
                let all = entries.iter().filter(|entry| !is_same(entry)).cloned().chain([new.clone()]);
                if is_new && entries.len() >= LEAF && depth < u64::BITS / BITS {
                    *self = Self::split(all, depth);
                } else {
                    *known = Some(all.collect());
                }
                is_new
            }
        }
    }

    fn split(entries: impl Iterator<Item = Entry<K, V>>, depth: u32) -> Self {
        let mut children = [const { Self::Leaf(None) }; WIDTH];
        for entry in entries {
            children[child(beyond(entry.hash, depth))].insert(entry, depth + 1);
        }
        Self::Branch(Arc::new(children))
    }

    /// Takes away what is there.
    fn remove<Q: Eq + ?Sized>(&mut self, hash: u64, key: &Q, depth: u32)
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Branch(children) => {
                let children = Arc::make_mut(children);
                children[child(beyond(hash, depth))].remove(hash, key, depth + 1);
                if children.iter().all(|child| matches!(child, Self::Leaf(None))) {
                    *self = Self::Leaf(None);
                }
            }
            Self::Leaf(None) => {}
            Self::Leaf(Some(entries)) => {
                let is_left = |entry: &&Entry<K, V>| entry.hash != hash || entry.key.borrow() != key;
                let left: Vec<_> = entries.iter().filter(is_left).cloned().collect();
                *self = Self::Leaf((!left.is_empty()).then(|| left.into()));
            }
        }
    }
}

/// Goes through the leaves of some nodes.
struct Entries<'a, K, V> {
    nodes: Vec<&'a Node<K, V>>,
    leaf: std::slice::Iter<'a, Entry<K, V>>,
}

impl<'a, K, V> Iterator for Entries<'a, K, V> {
    type Item = &'a Entry<K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(entry);
            }
            match self.nodes.pop()? {
                Node::Branch(children) => self.nodes.extend(children.iter()),
                Node::Leaf(None) => {}
                Node::Leaf(Some(entries)) => self.leaf = entries.iter(),
            }
        }
    }
}

// Derived, these would ask of keys and values what only their references need.
impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len, hasher: self.hasher.clone() }
    }
}

impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Branch(children) => Self::Branch(Arc::clone(children)),
            Self::Leaf(entries) => Self::Leaf(entries.clone()),
        }
    }
}

impl<K: Clone, V: Clone> Clone for Entry<K, V> {
    fn clone(&self) -> Self {
        Self { hash: self.hash, key: self.key.clone(), value: self.value.clone() }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { root: Node::Leaf(None), len: 0, hasher: RandomState::new() }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A key that collides with all others of its remainder.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Colliding(u32);

    impl Hash for Colliding {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            (self.0 % 3).hash(state);
        }
    }

    /// Plays the same steps on both kinds of map, and keeps copies that must not change.
    fn check<K: Hash + Eq + Clone + fmt::Debug>(make: impl Fn(u32) -> K) {
        let (mut ours, mut plain) = (SharedMap::default(), HashMap::new());
        let mut copies = Vec::new();
        let mut dice = 0x2545_f491_u32;
        for step in 0..6000_u32 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = make(dice >> 22);
            // Fills up first and is emptied later.
            if (dice >> 8) % 6000 > step {
                ours.insert(key.clone(), step);
                plain.insert(key, step);
            } else {
                ours.remove(&key);
                plain.remove(&key);
            }
            if step % 500 == 0 {
                copies.push((ours.clone(), plain.clone()));
            }
        }
        copies.push((ours, plain));
        for (ours, plain) in copies {
            assert_eq!(ours.len(), plain.len());
            assert_eq!(
                ours.iter().map(|(key, value)| (key.clone(), *value)).collect::<HashMap<_, _>>(),
                plain
            );
            for key in (0..1024).map(&make) {
                assert_eq!(ours.get(&key), plain.get(&key), "{key:?}");
            }
        }
    }

    #[test]
    fn it_holds_what_a_plain_map_holds_and_copies_keep_what_they_had() {
        check(|number| number);
        check(|number| number.to_string());
        check(|number| number % 17);
    }

    #[test]
    fn keys_of_one_hash_are_told_apart() {
        check(Colliding);
    }

    #[test]
    fn a_change_copies_little_of_a_large_map() {
        let mut map: SharedMap<u32, Arc<u32>> =
            (0..50_000).map(|number| (number, Arc::new(number))).collect();
        let before = map.clone();
        map.insert(7, Arc::new(0));
        let copied = before.values().filter(|value| Arc::strong_count(value) > 1).count();
        assert!(copied <= LEAF, "{copied} entries were copied");
    }

    #[test]
    fn what_is_emptied_takes_no_memory_for_what_it_held() {
        let mut map: SharedMap<u32, ()> = (0..5000).map(|number| (number, ())).collect();
        for number in 0..5000 {
            map.remove(&number);
        }
        assert!(map.is_empty() && matches!(map.root, Node::Leaf(None)));
    }
}
