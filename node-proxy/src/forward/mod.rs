//! Copying bytes both ways, ends kept as ends.

pub mod copy;

use std::time::Duration;

use tokio::net::TcpStream;

pub use copy::{CopyError, copy_both};

/// Makes the closing of a connection a reset: its peer must not take what it got for the whole.
pub fn reset(stream: &TcpStream) {
    // Only a socket that is gone already can refuse.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
