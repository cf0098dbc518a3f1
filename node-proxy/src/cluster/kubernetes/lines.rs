//! The lines of an answer, as they come: each is an event of a watch.

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;

/// No object of the API server is that long: etcd takes 1.5 MiB.
const LONGEST: usize = 16 * 1024 * 1024;

/// Why there are no more lines.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// The connection broke.
    #[error("the answer broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No line ends.
    #[error("an event has more than {LONGEST} bytes")]
    Endless,
}

/// Splits the body of an answer into lines.
#[derive(Debug)]
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer has no end of a line in it.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line, without its end; `None` when the answer is over, and what came behind its last line is no line.
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, LineError> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.buffer.len() > LONGEST {
                return Err(LineError::Endless);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(LineError::Broken(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(at) = found else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + at).freeze();
        self.buffer.advance(1);
        self.searched = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_whole_whatever_they_came_in() {
        let mut lines = Lines::new(Body::from(b"{\"a\":1}\n\n{\"b\":2}\n{\"c\":".to_vec()));
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push(String::from_utf8(line.to_vec()).unwrap());
        }
        assert_eq!(found, ["{\"a\":1}", "", "{\"b\":2}"], "and not the one that is cut off");
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_given_up() {
        let mut lines = Lines::new(Body::from(vec![b'x'; LONGEST + 1]));
        assert!(matches!(lines.next().await, Err(LineError::Endless)));
    }
}
