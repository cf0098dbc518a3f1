//! Copying bytes both ways, ends kept as ends.

pub mod copy;
pub mod socket;
pub mod source;
pub mod tap;

pub use copy::{CopyError, copy_both};
pub use socket::{OpenSocket, Reset, Socket};
pub use source::Source;
pub(crate) use source::read_behind;
