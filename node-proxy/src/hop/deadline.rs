//! Until when a hop may live: at first until the first of its two leaves ends, and later if a newer hop continues it.

use std::time::SystemTime;

use tokio::sync::watch;

use super::Hop;
use crate::tls::clock::{FirstEnd, sleep_until};

/// The end of a hop that may be put off. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Deadline(watch::Sender<FirstEnd>);

impl Deadline {
    /// The end of a hop of which no more is known than its own leaves.
    #[must_use]
    pub fn new(end: FirstEnd) -> Self {
        Self(watch::Sender::new(end))
    }

    /// When it is, as of now.
    #[must_use]
    pub fn end(&self) -> FirstEnd {
        *self.0.borrow()
    }

    /// Puts it off until `end`; an earlier one changes nothing. False when it is over: what has ended stays ended.
    #[must_use]
    pub fn put_off(&self, end: FirstEnd) -> bool {
        let mut is_live = false;
        self.0.send_if_modified(|current| {
            is_live = !current.is_over();
            let is_later = is_live && *current < end;
            if is_later {
                *current = end;
            }
            is_later
        });
        is_live
    }

    /// Ends the hop then, however many streams it has. Runs until that, or until it is dropped.
    pub async fn enforce(self, hop: Hop) {
        let mut ends = self.0.subscribe();
        loop {
            let end = *ends.borrow_and_update();
            tokio::select! {
                () = sleep_until(end.time()) => {
                    tracing::info!(
                        ended = %end, clock = %FirstEnd::from(SystemTime::now()),
                        "a certificate of a hop has expired, and the hop with it"
                    );
                    return hop.expire();
                }
                // Its sender is here.
                _ = ends.changed() => {}
            }
        }
    }
}
