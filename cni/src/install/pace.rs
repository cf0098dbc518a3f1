//! How often something is put back that somebody else keeps taking away.
//!
//! The first time at once. Each further time within a minute waits twice as long as the one before, up to half a minute:
//! two writers that undo each other's work must not keep a runtime reading its configuration for ever.

use std::time::{Duration, Instant};

const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// When nothing has been taken away for so long, it is peace again.
const PEACE: Duration = Duration::from_secs(60);

/// The rests between repairs of one thing.
#[derive(Debug, Default)]
pub(super) struct Pace {
    rest: Duration,
    last: Option<Instant>,
}

impl Pace {
    /// How long the next repair has to wait; nothing if it is due.
    pub(super) fn left(&self, now: Instant) -> Duration {
        let Some(last) = self.last else { return Duration::ZERO };
        self.rest.saturating_sub(now.saturating_duration_since(last))
    }

    /// Something has been put back.
    pub(super) fn repaired(&mut self, now: Instant) {
        let in_peace = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) > self.rest.saturating_add(PEACE));
        self.rest = if in_peace { FIRST_REST } else { (self.rest * 2).min(LONGEST_REST) };
        self.last = Some(now);
    }

    /// Is somebody else undoing what is done here?
    pub(super) fn is_fight(&self) -> bool {
        self.rest >= Duration::from_secs(3)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Pace;

    #[test]
    fn rests_grow_in_a_fight_and_end_with_it() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        assert_eq!(pace.left(now), Duration::ZERO);
        let mut rests = Vec::new();
        for _ in 0..12 {
            pace.repaired(now);
            let left = pace.left(now);
            rests.push(left.as_millis());
            now += left;
            assert_eq!(pace.left(now), Duration::ZERO);
        }
        assert_eq!(rests[..4], [100, 200, 400, 800]);
        assert_eq!(rests[9..], [30000, 30000, 30000]);
        assert!(pace.is_fight());
        now += Duration::from_secs(61);
        pace.repaired(now);
        assert_eq!(pace.left(now).as_millis(), 100);
        assert!(!pace.is_fight());
    }
}
