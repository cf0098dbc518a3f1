//! Gammarus' node proxy: how a connection travels, folder by folder.
//!
//! A pod joins in [`pod`]: its network namespace gets redirect rules and listening sockets. From then on a
//! connection that the pod opens goes `accept → outbound → route → balance → connect → hop`, and one
//! that reaches the pod goes `accept → inbound → hop → forward`. What these stages read is one immutable
//! [`snapshot`], made from what the cluster says by `cluster → attach → compile`.
//!
//! | folder | stage |
//! |---|---|
//! | [`pod`] | a pod joins: namespace, rules, sockets, proof, mark |
//! | [`accept`] | accept, original destination, protocol by the first speaker |
//! | [`outbound`] | pod → Service: target, plan, HTTP or opaque |
//! | [`inbound`] | peer → pod: handshake, authorize, local connect |
//! | [`http1`], [`http2`] | the two HTTP wires |
//! | [`route`] | pure: which rule matches a request |
//! | [`balance`] | which endpoint takes it |
//! | [`connect`] | dial; the pools of hops and of idle connections |
//! | [`hop`] | many streams on one mTLS connection between two pods |
//! | [`tls`] | certificates of local identities, verification of SPIFFE peers |
//! | [`forward`] | copying bytes both ways, ends kept as ends |
//! | [`turns`] | which pod's step a thread takes next |
//! | [`cluster`] | what the cluster says: objects from a directory of YAML |
//! | [`attach`] | pure: which route holds where, and with which conditions |
//! | [`check`] | pure: what attach says of objects that are not applied yet |
//! | [`compile`] | pure: objects and attachments → snapshot |
//! | [`snapshot`] | what the data path reads |
//! | [`controller`] | what is judged, written into the status of routes and Gateways; a Gateway's own proxies |
//! | [`feed`] | what the controller tells the proxies of Gateways |
//! | [`holder`] | what a node keeps from one proxy to the next |
//! | [`admin`], [`telemetry`] | health, dump, metrics, the access log |
//! | [`demo`] | two nodes of network namespaces, and the story played on them |
//!
//! # Invariants
//! 1. `route`, `attach`, `compile` and `snapshot` never do I/O and know no runtime.
//! 2. Status and traffic come from one evaluation: `attach` alone decides.
//! 3. A pod is acknowledged only when its listeners accept; its mark is written only when that was proven.
//! 4. A private key is given to nobody but the node's holder, and never touches a disk.
//! 5. Nothing from an enrolled pod reaches an enrolled peer in plain text.
//! 6. No stage of the data path waits for the cluster, and none holds a lock across an await.

pub mod accept;
pub mod admin;
pub mod app;
pub mod attach;
pub mod balance;
pub mod check;
pub mod cluster;
pub mod compile;
pub mod config;
pub mod connect;
pub mod controller;
pub mod demo;
#[cfg(test)]
mod dice;
pub mod error;
pub mod feed;
pub mod forward;
pub mod holder;
pub mod hop;
pub mod http1;
pub mod http2;
pub mod inbound;
pub mod ingress;
pub mod outbound;
pub mod pod;
pub mod route;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod turns;
