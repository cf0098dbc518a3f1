//! What the data path pays for a snapshot's tables being cheap to change: a lookup, beside the standard library's map.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use node_proxy::snapshot::map::SharedMap;

use crate::meter::{Moment, median};

type Key = (IpAddr, u16);

fn key(at: usize) -> Key {
    (Ipv4Addr::from(0x0a00_0000 + u32::try_from(at).unwrap()).into(), 80)
}

/// What one lookup takes when every key is as likely.
fn measure<'m>(size: usize, find: impl Fn(&Key) -> Option<&'m Arc<usize>>) -> Duration {
    let keys: Vec<Key> = (0..4096).map(|time| key((time * 7919) % size)).collect();
    let rounds = if cfg!(debug_assertions) { 3 } else { 51 };
    let spent = (0..rounds).map(|_| {
        let began = Moment::now();
        for key in &keys {
            assert!(black_box(find(black_box(key))).is_some());
        }
        began.spent().cpu / 4096
    });
    median(spent.collect())
}

pub(crate) fn run() {
    println!("| entries | HashMap | SharedMap |");
    println!("|---|---|---|");
    for size in [100, 10_000, 50_000] {
        let plain: HashMap<Key, Arc<usize>> = (0..size).map(|at| (key(at), Arc::new(at))).collect();
        let shared: SharedMap<Key, Arc<usize>> =
            plain.iter().map(|(key, at)| (*key, Arc::clone(at))).collect();
        let nanos = |time: Duration| time.as_secs_f64() * 1e9;
        let (one, other) = (measure(size, |key| plain.get(key)), measure(size, |key| shared.get(key)));
        println!("| {size} | {:.0} ns | {:.0} ns |", nanos(one), nanos(other));
    }
}
