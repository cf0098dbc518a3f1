//! The labels and annotations that users set, each read in one place for judging and compiling.

/// Namespace: `enabled` makes its pods part of the mesh. Pod: `disabled` opts it out.
pub const MESH_LABEL: &str = "gammarus.io/mesh";
/// Namespace: `strict` takes mTLS only; anything else takes plain text, too.
pub const MTLS_LABEL: &str = "gammarus.io/mtls";
/// Pod: ports, separated by commas, where strict mode takes plain text.
pub const PLAINTEXT_PORTS_ANNOTATION: &str = "gammarus.io/plaintext-ports";

/// A list of ports, and the entries of it that are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaintextPorts {
    /// The ports, in order, each once.
    pub ports: Vec<u16>,
    /// Entries that are not port numbers.
    pub refused: Vec<String>,
}

/// Reads the value of [`PLAINTEXT_PORTS_ANNOTATION`]. An entry that is not a port from 1 to 65535 opens
/// nothing.
#[must_use]
pub fn parse_plaintext_ports(text: &str) -> PlaintextPorts {
    let mut parsed = PlaintextPorts::default();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry.parse::<u16>() {
            Ok(port) if port != 0 => parsed.ports.push(port),
            _ => parsed.refused.push(entry.to_owned()),
        }
    }
    parsed.ports.sort_unstable();
    parsed.ports.dedup();
    parsed
}
