//! Copying bytes both ways, ends kept as ends.

pub mod copy;
pub mod socket;

pub use copy::{CopyError, copy_both};
pub use socket::{Reset, Socket};
