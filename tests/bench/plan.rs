//! What a run was asked to do.

/// Which works, how often and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
    pub(crate) is_quick: bool,
    pub(crate) only: Option<String>,
}

impl Plan {
    /// Whether a work was asked for, by its name.
    pub(crate) fn has(&self, work: &str) -> bool {
        self.only.as_ref().is_none_or(|only| work.contains(only.as_str()))
    }
}
