//! x

pub mod orig_dst;
