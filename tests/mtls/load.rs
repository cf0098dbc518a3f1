//! Requests without end from a pod, each on a connection of its own, that are counted: not one may fail.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;

use super::rig::{PATIENCE, netns, service};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(20);

/// What came of them.
#[derive(Debug, Default)]
pub(crate) struct Count {
    /// Answered as they should be.
    pub(crate) good: usize,
    /// Of all others, when they came and what happened.
    pub(crate) bad: Vec<String>,
}

/// Requests under way.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Count>,
}

impl Load {
    /// Begins to ask a Service from a pod.
    #[track_caller]
    pub(crate) fn start(world: &World, pod: &str, name: &str) -> Self {
        let (netns, address) = (netns(world, pod), service(world, name, 80));
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut count = Count::default();
            while !told.load(Ordering::Relaxed) {
                match ask(&netns, address) {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => count.good += 1,
                    Ok(answer) => count.bad.push(format!("after {}: {answer:?}", count.good)),
                    Err(error) => count.bad.push(format!("after {}: {error}", count.good)),
                }
                thread::sleep(PAUSE);
            }
            count
        });
        Self { stop, thread }
    }

    /// Ends it. Prints and returns how many were answered; one that was not fails the test.
    #[track_caller]
    pub(crate) fn finish(self, what: &str) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.thread.join().unwrap();
        println!("{what}: {} requests answered, {} failed", count.good, count.bad.len());
        assert!(count.bad.is_empty(), "{what}: {} of {}: {:?}", count.bad.len(), count.good, count.bad);
        count.good
    }
}

fn ask(netns: &NetnsFd, address: SocketAddr) -> std::io::Result<String> {
    let mut stream = netns.run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /load HTTP/1.1\r\nhost: server.shop\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
