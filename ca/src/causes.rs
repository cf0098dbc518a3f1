//! Errors in words: what a person reads in a log of the CA or of a node's proxy, and how often.

/// An error with all its causes on one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What is wrong, as it was told last. Whoever tries again and again tells the same trouble once.
#[derive(Debug, Default)]
pub struct Complaint(Option<String>);

impl Complaint {
    /// Takes what is wrong now. Gives its words, unless they are those that were told last.
    pub fn raise(&mut self, trouble: impl ToString) -> Option<&str> {
        let words = trouble.to_string();
        if self.0.as_ref() == Some(&words) {
            return None;
        }
        Some(self.0.insert(words))
    }

    /// All is well: the next trouble is told, whatever it is.
    pub fn settle(&mut self) {
        self.0 = None;
    }

    /// What is wrong, if anything is.
    #[must_use]
    pub fn words(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_told_once_until_all_was_well() {
        let mut complaint = Complaint::default();
        assert_eq!(complaint.raise("away"), Some("away"));
        assert_eq!(complaint.raise("away"), None);
        assert_eq!(complaint.raise("refused"), Some("refused"));
        assert_eq!(complaint.raise("away"), Some("away"), "it is not what was told last");
        assert_eq!(complaint.words(), Some("away"));
        complaint.settle();
        assert_eq!(complaint.words(), None);
        assert_eq!(complaint.raise("away"), Some("away"));
    }
}
