//! The hop between nodes in real namespaces: who is let in, who is refused, and how connections end.

mod ca;
mod ends;
mod families;
mod foreign;
mod limits;
mod outage;
mod peer;
mod permissive;
mod refused;
mod rig;
mod same_node;
mod strict;
