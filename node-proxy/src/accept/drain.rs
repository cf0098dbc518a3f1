//! The end of a proxy that another one has superseded: it accepts no more, asks its clients and peers to go, and
//! serves those who stay (design D8).
//!
//! Who is asked how: an HTTP/2 client by GOAWAY, an HTTP/1.1 client by `Connection: close` on its next answer, a hop
//! by its own frame of that meaning ([`crate::hop::frame::Kind::GoAway`]). Opaque connections cannot be asked.

use std::sync::Arc;

use tokio::sync::watch;

/// Begins the drain.
#[derive(Clone, Debug)]
pub struct Drainer(Arc<watch::Sender<()>>);

/// Whether the drain has begun.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Keeps the channel open: its end would look like a beginning.
    _drainer: Drainer,
    begins: watch::Receiver<()>,
}

impl Drainer {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> (Self, Drain) {
        let (sender, begins) = watch::channel(());
        let drainer = Self(Arc::new(sender));
        (drainer.clone(), Drain { _drainer: drainer, begins })
    }

    /// Begins it, or says again that nothing may be accepted that has come to be accepted since.
    pub fn begin(&self) {
        self.0.send_replace(());
    }
}

impl Drain {
    /// Whether it has begun. Asked for each request: two loads, and no lock.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begins.has_changed().unwrap_or(true)
    }

    /// Resolves when it begins; at once when it has.
    pub fn begun(&self) -> impl Future<Output = ()> + use<> {
        let mut begins = self.begins.clone();
        async move {
            let _ = begins.changed().await;
        }
    }

    /// Resolves the next time that it is said: what is accepted while the drain goes on is accepted until then.
    pub fn begins_again(&self) -> impl Future<Output = ()> + use<> {
        let mut begins = self.begins.clone();
        begins.mark_unchanged();
        async move {
            let _ = begins.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn it_begins_once_for_connections_and_again_for_listeners() {
        let (drainer, drain) = Drainer::new();
        let mut early = Box::pin(drain.begins_again());
        let mut connection = Box::pin(drain.begun());
        let mut context = Context::from_waker(Waker::noop());
        assert!(connection.as_mut().poll(&mut context).is_pending() && !drain.has_begun());
        drainer.begin();
        assert!(drain.has_begun() && drain.clone().has_begun());
        connection.await;
        early.as_mut().await;
        drain.begun().await;
        let mut late = Box::pin(drain.begins_again());
        assert!(late.as_mut().poll(&mut context).is_pending());
        drainer.begin();
        late.await;
    }
}
