//! The contenders that no package has: given as paths to programs, or said not to have run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::contender::Entry;

/// What would take part if there were a program and a way to run it.
const KNOWN: [(&str, &[Entry]); 3] = [
    ("ztunnel", &[Entry::Http1, Entry::Opaque, Entry::Bulk]),
    ("linkerd2-proxy", &[Entry::Http1, Entry::Http2, Entry::Grpc, Entry::Opaque, Entry::Bulk]),
    ("agentgateway", &[Entry::Http1, Entry::Http2, Entry::Grpc]),
];

/// The programs that were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers(BTreeMap<String, PathBuf>);

/// One that does not run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absent {
    pub(crate) name: &'static str,
    pub(crate) entries: &'static [Entry],
    pub(crate) reason: &'static str,
}

/// Reads `NAME=PATH`.
///
/// # Errors
/// When the name is not known or there is no such program.
pub(crate) fn parse(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("not NAME=PATH")?;
    if !KNOWN.iter().any(|(known, _)| *known == name) {
        let names: Vec<_> = KNOWN.iter().map(|(known, _)| *known).collect();
        return Err(format!("no peer {name}; there are: {}", names.join(", ")));
    }
    // Pods have other folders to stand in.
    let path = std::path::absolute(path).map_err(|error| format!("{path}: {error}"))?;
    if path.is_file() {
        Ok((name.to_owned(), path))
    } else {
        Err(format!("{}: no such file", path.display()))
    }
}

impl Peers {
    pub(crate) fn new(given: &[(String, PathBuf)]) -> Self {
        Self(given.iter().cloned().collect())
    }

    /// The program of a peer that this benchmark can run.
    pub(crate) fn ztunnel(&self) -> Option<&Path> {
        self.0.get("ztunnel").map(PathBuf::as_path)
    }

    /// Those without a program, or without a way to run it.
    pub(crate) fn absent(&self) -> Vec<Absent> {
        let why = |name: &str| match (name, self.0.contains_key(name)) {
            ("ztunnel", true) => None,
            ("linkerd2-proxy", true) => {
                Some("it has no static configuration, and here is no control plane for it")
            }
            (_, true) => Some("its certificates come from a workload API, which is not here"),
            (_, false) => Some("no program was given with --peer"),
        };
        let absent = KNOWN
            .iter()
            .filter_map(|(name, entries)| why(name).map(|reason| Absent { name, entries, reason }));
        absent.collect()
    }
}
