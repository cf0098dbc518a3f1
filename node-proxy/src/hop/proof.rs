//! What both ends of a hop know and nobody else: how a newer hop says which older one it continues.
//!
//! It is made of the older hop's secrets by the exporter of TLS 1.3 (RFC 8446 section 7.5), so that whoever shows it
//! holds that very session. It goes on no other wire than that of a newer hop between the same two pods, whose
//! handshake has just proven who they are; there it proves nothing but which session is meant.

use std::fmt;

use rustls::{Connection, Error};

/// What the exporter is asked for. Private use needs no registration (RFC 5705 section 4).
pub const LABEL: &[u8] = b"EXPERIMENTAL gammarus hop continued";

/// The proof of holding one hop.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proof([u8; Self::LENGTH]);

impl Proof {
    /// How many bytes it has.
    pub const LENGTH: usize = 32;

    /// Of a connection whose handshake is done.
    ///
    /// # Errors
    /// When it is not done, or the connection has failed.
    pub fn of(tls: &Connection) -> Result<Self, Error> {
        tls.export_keying_material([0; Self::LENGTH], LABEL, None).map(Self)
    }

    pub(super) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<[u8; Self::LENGTH]> for Proof {
    fn from(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }
}

/// It is a secret.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").finish_non_exhaustive()
    }
}
