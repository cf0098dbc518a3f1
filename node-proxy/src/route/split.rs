//! A rule's backends by weight.

use super::Backend;

/// Backends with their weights; invalid ones keep their share.
#[derive(Clone, Debug, Default)]
pub struct Split {
    backends: Vec<(Backend, u32)>,
}

impl Split {
    /// The backend for a uniformly random number; `None` when no weight is above zero.
    #[must_use]
    pub fn pick(&self, random: u64) -> Option<&Backend> {
        let total: u64 = self.backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut place = random.checked_rem(total)?;
        for (backend, weight) in &self.backends {
            match place.checked_sub(u64::from(*weight)) {
                Some(rest) => place = rest,
                None => return Some(backend),
            }
        }
        None
    }
}
