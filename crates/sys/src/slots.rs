//! [`Slots`]: a table whose places are used again, and whose keys tell an old occupant from a new one.
//!
//! A key fits into the 64 bits that a ring carries with each operation. Steady state allocates nothing.

/// The key of one occupant: a place and how often the place was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// The largest index, so that [`Self::to_bits`] never collides with a ring's own marks.
    const INDEX_MAX: u32 = u32::MAX - 16;

    pub(crate) fn to_bits(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        let [low, high] =
            [bits & u64::from(u32::MAX), bits >> 32].map(|half| u32::try_from(half).unwrap_or(0));
        Self { index: low, generation: high }
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// How many places are taken.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.value = Some(value);
            return Key { index, generation: slot.generation };
        }
        let Some(index) = u32::try_from(self.slots.len()).ok().filter(|index| *index <= Key::INDEX_MAX)
        else {
            panic!("more than 2^32 operations at a time");
        };
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Key { index, generation: 0 }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// Some occupant's key.
    pub(crate) fn any(&self) -> Option<Key> {
        let (index, slot) = self.slots.iter().enumerate().find(|(_, slot)| slot.value.is_some())?;
        Some(Key { index: u32::try_from(index).ok()?, generation: slot.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_reach_the_new_occupant_of_its_place() {
        let mut slots = Slots::new();
        let old = slots.insert('a');
        assert_eq!(slots.remove(old), Some('a'));
        let new = slots.insert('b');
        assert!(slots.get_mut(old).is_none());
        assert!(slots.remove(old).is_none());
        assert_eq!(slots.get_mut(Key::from_bits(new.to_bits())), Some(&mut 'b'));
        assert_eq!(slots.len(), 1);
    }
}
