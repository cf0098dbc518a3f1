//! Connections that many share: one dial for all who wait, and several connections where one is full.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::{ConnectError, Destination, Dialled, HopKey, is_forsaken};
use crate::hop::Hop;
use crate::snapshot::Snapshot;
use crate::snapshot::service::EndpointLoad;

/// A connection to an endpoint that carries more than one thing at a time. Clones are the same connection.
pub trait Shareable: Clone {
    /// Whether it is still good for anything new.
    fn is_usable(&self) -> bool;

    /// Whether it takes one more.
    fn has_room(&self) -> bool;

    /// Whether one more would have to wait for others there.
    fn is_crowded(&self) -> bool {
        false
    }

    /// Ends it after what it still carries.
    fn retire(&self);

    /// Ends it now.
    fn reset(&self);
}

/// For how long a connection is good for anything new.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    until: Instant,
    /// The hop below, if it is not in plain text.
    carrier: Option<Hop>,
}

impl Tenure {
    /// That of a connection which is there.
    pub(super) fn of(dialled: &Dialled) -> Self {
        Self { until: dialled.usable_until, carrier: dialled.transport.hop().cloned() }
    }

    /// Whether it lasts: on a hop that takes no new streams, and is about to end, nothing new begins.
    pub(super) fn lasts(&self) -> bool {
        Instant::now() < self.until && self.carrier.as_ref().is_none_or(Hop::is_open)
    }
}

/// The connections to one endpoint.
#[derive(Debug)]
struct Place<C> {
    open: RefCell<Vec<C>>,
    /// What is known of the endpoint, as of whoever came last.
    endpoint: RefCell<Option<Arc<EndpointLoad>>>,
    /// Whoever dials holds it, and the others wait for that one dial.
    dialling: tokio::sync::Mutex<()>,
    /// How many dials have failed, and how the last one did.
    failures: RefCell<(u64, Option<ConnectError>)>,
}

impl<C> Default for Place<C> {
    fn default() -> Self {
        Self {
            open: RefCell::default(),
            endpoint: RefCell::default(),
            dialling: tokio::sync::Mutex::default(),
            failures: RefCell::default(),
        }
    }
}

impl<C: Shareable> Place<C> {
    fn find_free(&self, suits: &impl Fn(&C) -> bool) -> Option<C> {
        let is_free =
            |connection: &&C| connection.has_room() && !connection.is_crowded() && suits(connection);
        self.open.borrow().iter().find(is_free).cloned()
    }

    fn find_crowded(&self, suits: &impl Fn(&C) -> bool) -> Option<C> {
        let has_room = |connection: &&C| connection.has_room() && suits(connection);
        self.open.borrow().iter().find(has_room).cloned()
    }

    fn failures(&self) -> u64 {
        self.failures.borrow().0
    }

    /// How the dial failed that this caller has waited for, if it did.
    fn failure_since(&self, failures: u64) -> Option<ConnectError> {
        let (count, last) = &*self.failures.borrow();
        last.clone().filter(|_| *count > failures)
    }

    fn keep(&self, outcome: &Result<C, ConnectError>) {
        match outcome {
            Ok(connection) => self.open.borrow_mut().push(connection.clone()),
            Err(error) => {
                let (count, last) = &mut *self.failures.borrow_mut();
                *count += 1;
                *last = Some(error.clone());
            }
        }
    }
}

/// The shared connections of one thread.
#[derive(Debug)]
pub struct SharedPool<C> {
    places: HashMap<HopKey, Rc<Place<C>>, foldhash::fast::RandomState>,
}

impl<C> Default for SharedPool<C> {
    fn default() -> Self {
        Self { places: HashMap::default() }
    }
}

impl<C: Shareable> SharedPool<C> {
    fn place(&mut self, key: &HopKey, destination: &Destination) -> Rc<Place<C>> {
        let place = match self.places.get(key) {
            Some(place) => Rc::clone(place),
            None => Rc::clone(self.places.entry(key.clone()).or_default()),
        };
        let mut endpoint = place.endpoint.borrow_mut();
        if destination.endpoint.is_some()
            && endpoint.as_ref().map(Arc::as_ptr) != destination.endpoint.as_ref().map(Arc::as_ptr)
        {
            endpoint.clone_from(&destination.endpoint);
        }
        drop(endpoint);
        place
    }

    /// Lets go of connections that have ended, are too old, or lead where nobody is sent any more; those in use end
    /// after their last use.
    pub fn sweep(&mut self, snapshot: &Snapshot) {
        self.places.retain(|key, place| {
            let mut open = place.open.borrow_mut();
            let is_forsaken = is_forsaken(snapshot, key, place.endpoint.borrow().as_ref());
            open.extract_if(.., |connection| is_forsaken || !connection.is_usable())
                .for_each(|connection| connection.retire());
            !open.is_empty() || Rc::strong_count(place) > 1
        });
    }

    /// Ends every connection after what it still carries.
    pub fn retire(&mut self) {
        for (_, place) in self.places.drain() {
            place.open.borrow_mut().drain(..).for_each(|connection| connection.retire());
        }
    }

    /// Ends every connection of a pod that has left: an end that waits for its acknowledgement would keep the
    /// pod's namespace alive.
    pub fn forget(&mut self, client: &str) {
        for (_, place) in self.places.extract_if(|key, _| &*key.client == client) {
            place.open.borrow().iter().for_each(Shareable::reset);
        }
    }
}

/// A connection for `key` that has room and suits, dialled now if there is none. Whoever has waited for a dial in vain fails
/// as that dial did: one by one, each would wait longer than the one before.
///
/// # Errors
/// When the endpoint cannot be reached.
pub(super) async fn open<C: Shareable>(
    pool: &RefCell<SharedPool<C>>,
    (key, destination): (&HopKey, &Destination),
    suits: impl Fn(&C) -> bool,
    dial: impl AsyncFnOnce() -> Result<C, ConnectError>,
) -> Result<C, ConnectError> {
    let place = pool.borrow_mut().place(key, destination);
    if let Some(open) = place.find_free(&suits) {
        return Ok(open);
    }
    let failures = place.failures();
    let _dialling = place.dialling.lock().await;
    if let Some(open) = place.find_free(&suits) {
        return Ok(open);
    }
    if let Some(error) = place.failure_since(failures) {
        return place.find_crowded(&suits).ok_or(error);
    }
    // Seldom, and large: whoever finds a connection need not carry it.
    let outcome = Box::pin(dial()).await;
    place.keep(&outcome);
    // Better to wait for others than to fail.
    outcome.or_else(|error| place.find_crowded(&suits).ok_or(error))
}
