//! How the story looks in a terminal: narration, commands as typed, answers, and a mark for each claim.

use std::io::{IsTerminal, stdout};

/// The terminal, and the count of what was checked.
#[derive(Debug)]
pub(crate) struct Screen {
    ink: Ink,
    passed: usize,
    failed: Vec<String>,
}

/// Whether colours are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ink {
    Colour,
    Plain,
}

impl Screen {
    /// Colours only where somebody looks.
    pub(crate) fn new() -> Self {
        let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let ink = if colours { Ink::Colour } else { Ink::Plain };
        Self { ink, passed: 0, failed: Vec::new() }
    }

    /// A scene begins.
    pub(crate) fn scene(&self, title: &str) {
        println!("\n{}", self.paint("1", &format!("== {title} ==")));
    }

    /// What is about to be seen, and why.
    pub(crate) fn say(&self, text: &str) {
        println!("{text}");
    }

    /// A command as it is typed in a pod or on a node.
    pub(crate) fn typed(&self, place: &str, command: &str) {
        println!("  {} {command}", self.paint("36", &format!("{place}$")));
    }

    /// What was answered, at most `lines` of it.
    pub(crate) fn shown(&self, answer: &str, lines: usize) {
        let all = answer.lines().collect::<Vec<_>>();
        for line in all.iter().take(lines) {
            println!("  {line}");
        }
        if all.len() > lines {
            println!("  ... ({} lines in all)", all.len());
        }
    }

    /// Counts a claim; `problem` is what was seen instead.
    pub(crate) fn check(&mut self, claim: &str, problem: Option<String>) {
        match problem {
            None => {
                self.passed += 1;
                println!("  {} {claim}", self.paint("32", "✓"));
            }
            Some(problem) => {
                println!("  {} {claim}: {problem}", self.paint("31", "✗"));
                self.failed.push(claim.to_owned());
            }
        }
    }

    /// The last line of the story; returns how many claims did not hold.
    pub(crate) fn summary(&self) -> usize {
        println!();
        for claim in &self.failed {
            println!("{} {claim}", self.paint("31", "✗"));
        }
        let line = format!("{} checks passed, {} failed", self.passed, self.failed.len());
        println!("{}", self.paint(if self.failed.is_empty() { "1;32" } else { "1;31" }, &line));
        self.failed.len()
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.ink {
            Ink::Colour => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Ink::Plain => text.to_owned(),
        }
    }
}

/// What to say when `seen` is not `expected`.
pub(crate) fn differs(expected: &str, seen: &str) -> Option<String> {
    (expected != seen).then(|| format!("expected {expected}, got {seen}"))
}

/// What to say when something does not hold.
pub(crate) fn unless<'s>(holds: bool, problem: impl Into<std::borrow::Cow<'s, str>>) -> Option<String> {
    (!holds).then(|| problem.into().into_owned())
}
