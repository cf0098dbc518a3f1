//! What a round gives: figures by name, and which of several rounds stands for them.

use std::collections::BTreeMap;
use std::fmt;

/// What a program that makes load has said, its latencies in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) answers: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// CPU of both proxies for one answer, in microseconds.
    CpuPerAnswer,
    /// What both proxies carry in one second of their CPU, in MiB.
    MibPerCpuSecond,
    /// Connections that both proxies open and close in one second of their CPU.
    ConnectionsPerCpuSecond,
    /// Answers per second.
    PerSecond,
    /// MiB per second.
    MibPerSecond,
    /// Latency, in microseconds.
    P50,
    P99,
    P999,
    /// p99 of the innocent without a flood and in one, and how many times the first the second is.
    AloneP99,
    FloodedP99,
    TimesAlone,
    /// Answers per second of the flood.
    FloodPerSecond,
    /// Idle connections that were held.
    Connections,
    /// Growth by one idle connection, in KiB, of the client's side and of the server's.
    ClientKib,
    ServerKib,
    /// Memory of both ends after the round, in MiB.
    Resident,
    /// Memory of one proxy, in MiB.
    OneResident,
    /// Growth by one enrolled pod, in KiB.
    PodKib,
    /// Answers that were not 200, of all answers, while routes changed.
    NotGood,
    Answers,
    /// Changes that were in effect when the next one came.
    ChangesSeen,
}

impl Measure {
    /// The heading of its column.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::CpuPerAnswer => "CPU us per answer",
            Self::MibPerCpuSecond => "MiB per CPU s",
            Self::ConnectionsPerCpuSecond => "connections per CPU s",
            Self::PerSecond => "answers/s",
            Self::MibPerSecond => "MiB/s",
            Self::P50 => "p50 us",
            Self::P99 => "p99 us",
            Self::P999 => "p99.9 us",
            Self::AloneP99 => "p99 alone us",
            Self::FloodedP99 => "p99 flooded us",
            Self::TimesAlone => "flooded / alone",
            Self::FloodPerSecond => "flood answers/s",
            Self::Connections => "connections",
            Self::ClientKib => "KiB each, client's side",
            Self::ServerKib => "KiB each, server's side",
            Self::Resident => "MiB, both ends",
            Self::OneResident => "MiB, one proxy",
            Self::PodKib => "KiB per pod",
            Self::NotGood => "answers but 200",
            Self::Answers => "answers",
            Self::ChangesSeen => "changes seen",
        }
    }

    /// Its name in JSON.
    pub(crate) fn key(self) -> String {
        let words = format!("{self:?}");
        let mut key = String::new();
        for letter in words.chars() {
            if letter.is_ascii_uppercase() && !key.is_empty() {
                key.push('_');
            }
            key.push(letter.to_ascii_lowercase());
        }
        key
    }

    /// A figure of it as people read it.
    pub(crate) fn show(self, figure: f64) -> String {
        let digits = match self {
            Self::CpuPerAnswer | Self::ClientKib | Self::ServerKib | Self::PodKib | Self::OneResident => 1,
            Self::TimesAlone => 2,
            _ => 0,
        };
        format!("{figure:.digits$}")
    }
}

/// What one round gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(BTreeMap<Measure, f64>);

impl Figures {
    pub(crate) fn new(figures: impl IntoIterator<Item = (Measure, f64)>) -> Self {
        // Who has no proxy spends nothing, and what is divided by that is no figure.
        Self(figures.into_iter().filter(|(_, figure)| figure.is_finite()).collect())
    }

    pub(crate) fn of(&self, measure: Measure) -> Option<f64> {
        self.0.get(&measure).copied()
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = (Measure, f64)> {
        self.0.iter().map(|(measure, figure)| (*measure, *figure))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts =
            self.each().map(|(measure, figure)| format!("{} {}", measure.show(figure), measure.title()));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

/// The middle of several figures, and how far they lie apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of no figures there is none.
    pub(crate) fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len().is_multiple_of(2) {
            f64::midpoint(figures[middle - 1], figures[middle])
        } else {
            figures[middle]
        };
        Some(Self { median, least, most })
    }
}
