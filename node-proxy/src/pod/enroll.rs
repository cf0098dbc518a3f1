//! The enrolment socket: what the CNI plugin asks, answered by the registry.
//!
//! One request and one reply per connection, each on a task of its own. Only root can connect: the socket sits
//! in a directory that nobody else may enter. Must never keep a plugin waiting longer than it was told to.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gammarus_cni::protocol::code;
use gammarus_cni::{Command, Outcome, ProtocolError, Reply, Request, read_request, write_reply};
use tokio::net::UnixListener;

use super::netns::NetnsFd;
use super::registry::PodRegistry;

/// How long a plugin may take to say what it wants, and to take the answer.
const EXCHANGE: Duration = Duration::from_secs(2);
/// After an accept that failed (out of descriptors): trying at once would only burn the processor.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Binds the enrolment socket. One that a dead proxy left behind is replaced.
///
/// # Errors
/// When the directory cannot be made, something else is at that path, or the socket cannot be bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    make_way(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Makes way for a socket at this path, where only root may come. One that a dead process left behind goes.
///
/// # Errors
/// When the directory cannot be made, or something else is at that path.
pub fn make_way(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => {
            let text = format!("{} is there and no socket", path.display());
            Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The enrolment socket that another proxy has bound at the same path.
///
/// # Errors
/// When it cannot be watched.
pub fn adopt(socket: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Answers plugins until it is dropped. What is under way then goes on.
pub async fn serve(registry: Arc<PodRegistry>, listener: UnixListener) {
    loop {
        let stream = match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a plugin's connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let registry = registry.clone();
        tokio::spawn(async move {
            if let Err(error) = exchange(&registry, stream).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a plugin did not take its answer");
            }
        });
    }
}

async fn exchange(registry: &Arc<PodRegistry>, stream: UnixStream) -> Result<(), ProtocolError> {
    let (stream, request) = on_thread(move || {
        let request = read_request(&stream, EXCHANGE);
        Ok((stream, request))
    })
    .await?;
    let reply = match request {
        Ok((request, netns)) => {
            let outcome = answer(registry, &request, netns).await;
            tracing::debug!(outcome = outcome.as_label(), command = ?request.command, "answering a plugin");
            request.reply(outcome)
        }
        Err(error) => Reply::refusing(&error),
    };
    on_thread(move || write_reply(&stream, &reply, EXCHANGE)).await
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProtocolError> + Send + 'static,
) -> Result<T, ProtocolError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ProtocolError::Io(io::Error::other(error)))?
}

async fn answer(registry: &Arc<PodRegistry>, request: &Request, netns: Option<OwnedFd>) -> Outcome {
    match &request.command {
        Command::Enrol(attachment) => match netns {
            Some(netns) => registry.enrol(attachment.clone(), NetnsFd::new(netns)).await,
            None => Outcome::Failed {
                code: code::MALFORMED,
                msg: ProtocolError::MissingNamespace.to_string(),
                details: String::new(),
            },
        },
        Command::Check(attachment) => registry.check(attachment, netns.map(NetnsFd::new)).await,
        Command::Gc { network, valid } => {
            registry.collect_garbage(network, valid).await;
            Outcome::Done
        }
        Command::Status => registry.status(),
        Command::Withdraw(id) => {
            registry.withdraw(id).await;
            registry.forget_unseen(id);
            Outcome::Done
        }
    }
}
