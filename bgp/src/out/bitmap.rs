//! One bit for each destination.

use crate::rib::DestId;

/// A growing set of destinations.
#[derive(Clone, Debug, Default)]
pub struct Bitmap {
    words: Vec<u64>,
    count: usize,
}

impl Bitmap {
    /// Whether a destination is in the set.
    pub fn contains(&self, id: DestId) -> bool {
        let (word, bit) = place(id);
        self.words.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Puts a destination in or takes it out; whether it was in before.
    pub fn set(&mut self, id: DestId, present: bool) -> bool {
        let (word, bit) = place(id);
        if word >= self.words.len() {
            if !present {
                return false;
            }
            self.words.resize(word + 1, 0);
        }
        let Some(bits) = self.words.get_mut(word) else {
            return false;
        };
        let before = *bits & bit != 0;
        match (before, present) {
            (false, true) => {
                *bits |= bit;
                self.count += 1;
            }
            (true, false) => {
                *bits &= !bit;
                self.count -= 1;
            }
            (true, true) | (false, false) => {}
        }
        before
    }

    /// Number of destinations in the set.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn place(id: DestId) -> (usize, u64) {
    (id.0 as usize / 64, 1 << (id.0 % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_once() {
        let mut bitmap = Bitmap::default();
        assert!(!bitmap.set(DestId(70), false));
        assert!(!bitmap.set(DestId(70), true));
        assert!(bitmap.set(DestId(70), true));
        assert_eq!(bitmap.len(), 1);
        assert!(bitmap.contains(DestId(70)) && !bitmap.contains(DestId(6)));
        assert!(bitmap.set(DestId(70), false));
        assert!(bitmap.is_empty());
    }
}
