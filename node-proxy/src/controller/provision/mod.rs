//! What a Gateway of ours needs beside its status: its own proxies, and how they are reached.

pub mod name;

pub use name::{label_of, name_of};
