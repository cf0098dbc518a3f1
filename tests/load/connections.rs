//! Opaque connections: some held open from beginning to end, and new ones all the time.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::source::{Source, Turn};

/// Declared as opaque, and one whose protocol is for whoever speaks first to say.
const PORTS: [u16; 2] = [9000, 9001];

/// One pod's opaque client.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    source: Rc<Source>,
    turn: Turn,
}

/// A connection that stays, with the words that were said on it.
#[derive(Debug)]
pub(crate) struct Held {
    stream: TcpStream,
    words: u32,
}

impl Connections {
    pub(crate) fn new(source: &Rc<Source>) -> Self {
        Self { source: Rc::clone(source), turn: Turn::default() }
    }

    /// A connection for one word: opened, spoken on, ended on both sides.
    pub(crate) async fn open_and_end(self) -> Result<(), String> {
        let number = self.turn.next();
        let address = self.source.web[number / PORTS.len() % self.source.web.len()];
        let destination = SocketAddr::new(address, PORTS[number % PORTS.len()]);
        let failed = |what: &'static str| move |error| format!("{destination}: {what}: {error}");
        let mut stream = self.source.connect(destination).await.map_err(failed("connecting"))?;
        let word = format!("connection {number}\n");
        stream.write_all(word.as_bytes()).await.map_err(failed("writing"))?;
        stream.shutdown().await.map_err(failed("ending its half"))?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.map_err(failed("reading"))?;
        if heard != word.as_bytes() {
            return Err(format!(
                "{destination}: {word:?} came back as {:?}",
                String::from_utf8_lossy(&heard)
            ));
        }
        Ok(())
    }

    /// A connection that stays.
    pub(crate) async fn hold(&self) -> Result<Held, String> {
        let number = self.turn.next();
        let address = self.source.steady[number / PORTS.len() % self.source.steady.len()];
        let destination = SocketAddr::new(address, PORTS[number % PORTS.len()]);
        let stream = self.source.connect(destination).await;
        let stream = stream.map_err(|error| format!("connecting to {destination}: {error}"))?;
        let mut held = Held { stream, words: 0 };
        held.say().await?;
        Ok(held)
    }
}

impl Held {
    /// Says a word and hears it back.
    pub(crate) async fn say(&mut self) -> Result<(), String> {
        self.words += 1;
        let word = format!("word {:08}\n", self.words);
        let failed = |what: &'static str| move |error| format!("{what} a held connection: {error}");
        self.stream.write_all(word.as_bytes()).await.map_err(failed("writing to"))?;
        let mut heard = vec![0; word.len()];
        self.stream.read_exact(&mut heard).await.map_err(failed("reading from"))?;
        if heard != word.as_bytes() {
            return Err(format!("{word:?} came back as {:?}", String::from_utf8_lossy(&heard)));
        }
        Ok(())
    }

    /// Ends it, and hears nothing more but its end.
    pub(crate) async fn end(mut self) -> Result<(), String> {
        self.stream.shutdown().await.map_err(|error| format!("ending a held connection: {error}"))?;
        let mut rest = Vec::new();
        let read = self.stream.read_to_end(&mut rest).await;
        read.map_err(|error| format!("the end of a held connection: {error}"))?;
        if rest.is_empty() { Ok(()) } else { Err(format!("{rest:?} at the end of a held connection")) }
    }
}
