//! Ports for processes that a test starts.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports of the loopback address that nobody has, and that no other call gives soon. They are none of those that the kernel
/// gives to whoever takes any: such a one may be a connection's before a process that was told of it listens there.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Tests of several suites run at once: each begins elsewhere.
    let start = std::process::id().wrapping_mul(997);
    let next = || {
        let place = start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        u16::try_from(FIRST + place).unwrap()
    };
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    [(); N].map(|()| std::iter::repeat_with(next).find(is_free).unwrap())
}
