//! The data path's threads: each has its own runtime, pools and timers (design D9).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_task::Task;
use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Incoming, JoinedPod, Mesh, listener};
use crate::balance::RetryBudget;
use crate::connect::exchanges::ExchangeConnection;
use crate::connect::idle::IdlePool;
use crate::connect::streams::Stream;
use crate::connect::{PooledHop, SharedPool};
use crate::forward::Socket;
use crate::ingress::datagrams::{self, PortSocket};
use crate::pod::{Direction, PodListener};
use crate::snapshot::service::ServicePortKey;
use crate::turns::{Memory, Share, Turns};
use crate::{inbound, ingress, outbound};

/// How often what is kept open is looked through.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// For how long an address is known as a silent one.
const SILENCE_COUNTS: Duration = Duration::from_secs(60);

/// What a thread is told.
#[derive(Debug)]
enum Message {
    Accept(Arc<JoinedPod>, PodListener),
    Forget(Arc<str>),
    /// Serves a port of UDP.
    Hear(Arc<JoinedPod>, PortSocket),
    /// Ends what is kept open for later.
    Retire,
    Serve(Incoming<std::net::TcpStream>),
}

/// Where a thread takes its messages, and how busy it is.
#[derive(Clone, Debug)]
struct Inbox {
    messages: mpsc::UnboundedSender<Message>,
    connections: Arc<AtomicUsize>,
    turns: Turns,
}

/// Counts as a connection of a thread while it lives: also a task that panics has ended.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One thread of the data path, seen from inside.
#[derive(Debug)]
pub struct Worker {
    /// What all threads share.
    pub mesh: Arc<Mesh>,
    /// Open hops.
    pub hops: RefCell<SharedPool<PooledHop>>,
    /// Idle HTTP/1.1 connections.
    pub idle: RefCell<IdlePool>,
    /// Open HTTP/2 connections.
    pub streams: RefCell<SharedPool<Stream>>,
    /// HTTP/1.1 connections for requests that come by HTTP/2.
    pub exchanges: RefCell<SharedPool<ExchangeConnection>>,
    /// Addresses where pods are from which a client of a Gateway was waited for in vain, and when.
    pub silent: RefCell<HashMap<IpAddr, Instant>>,
    /// What is left for retries, by Service port.
    retries: RefCell<HashMap<ServicePortKey, RetryBudget>>,
    inboxes: Arc<[Inbox]>,
    index: usize,
}

impl Worker {
    /// Notes a request to a Service port that may have to be tried again.
    pub fn deposit_retry(&self, port: &ServicePortKey) {
        let mut retries = self.retries.borrow_mut();
        match retries.get_mut(port) {
            Some(budget) => budget.deposit(),
            None => drop(retries.insert(port.clone(), RetryBudget::new(Instant::now()))),
        }
    }

    /// Takes a retry to a Service port, if there is one left.
    pub fn withdraw_retry(&self, port: &ServicePortKey) -> bool {
        self.retries.borrow_mut().get_mut(port).is_some_and(|budget| budget.withdraw(Instant::now()))
    }

    /// Gives a connection to the thread that has the fewest, this one if it is among them.
    pub(super) fn deal(self: &Rc<Self>, incoming: Incoming) {
        let load = |inbox: &Inbox| inbox.connections.load(Ordering::Relaxed);
        let own = load(&self.inboxes[self.index]);
        let other = self.inboxes.iter().min_by_key(|inbox| load(inbox)).filter(|inbox| load(inbox) < own);
        match other {
            // A thread only goes with the whole process, and its connections with it.
            Some(inbox) => {
                if let Ok(incoming) = incoming.try_map(Socket::into_std) {
                    let _ = inbox.messages.send(Message::Serve(incoming));
                }
            }
            None => self.serve(incoming),
        }
    }

    fn serve(self: &Rc<Self>, incoming: Incoming) {
        let worker = Rc::clone(self);
        let pod = Arc::clone(&incoming.pod);
        self.run((&pod, pod.share(self.index)), async move {
            match incoming.direction {
                Direction::Inbound => Box::pin(inbound::serve(worker, incoming)).await,
                Direction::Ingress => Box::pin(ingress::serve(worker, incoming)).await,
                Direction::Outbound => Box::pin(outbound::serve(worker, incoming)).await,
            }
        });
    }

    /// Runs what serves one connection of a pod on this thread, as long as the pod is there.
    pub fn run(&self, (pod, share): (&JoinedPod, &Share), serving: impl Future<Output = ()> + 'static) {
        let counted = Counted::new(&self.inboxes[self.index].connections);
        share.run(pod.while_there(serving).map(|()| drop(counted))).detach();
    }

    /// Runs what is a connection of a pod to others, on this thread, until what is returned is dropped.
    pub fn run_beside(&self, pod: &JoinedPod, serving: impl Future<Output = ()> + 'static) -> Task<()> {
        let counted = Counted::new(&self.inboxes[self.index].connections);
        pod.share(self.index).run(serving.map(|()| drop(counted)))
    }

    /// A share of this thread beside the pod's own; what it holds is the pod's.
    #[must_use]
    pub fn share_beside(&self, pod: &JoinedPod) -> Share {
        pod.share(self.index).another()
    }

    fn handle(self: &Rc<Self>, message: Message) {
        match message {
            Message::Accept(pod, listener) => {
                let listening = listener::run(Rc::clone(self), Arc::clone(&pod), listener);
                pod.share(self.index).run(listening).detach();
            }
            Message::Hear(pod, socket) => {
                let hearing = datagrams::serve(Rc::clone(self), Arc::clone(&pod), socket);
                pod.share(self.index).run(hearing).detach();
            }
            Message::Forget(uid) => {
                self.idle.borrow_mut().forget(&uid);
                self.streams.borrow_mut().forget(&uid);
                self.exchanges.borrow_mut().forget(&uid);
                self.hops.borrow_mut().forget(&uid);
            }
            Message::Retire => {
                self.idle.borrow_mut().retire();
                self.streams.borrow_mut().retire();
                self.exchanges.borrow_mut().retire();
                self.hops.borrow_mut().retire();
            }
            Message::Serve(incoming) => match incoming.try_map(Socket::from_std) {
                Ok(incoming) => self.serve(incoming),
                Err(error) => tracing::warn!(%error, "cannot watch a connection"),
            },
        }
    }
}

/// All threads of the data path, seen from the control runtime.
#[derive(Clone, Debug)]
pub struct Workers {
    inboxes: Arc<[Inbox]>,
    next: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(mesh: &Arc<Mesh>, count: usize) -> io::Result<Self> {
        let mut receivers = Vec::with_capacity(count);
        let inboxes: Arc<[Inbox]> = (0..count)
            .map(|_| {
                let (messages, receiver) = mpsc::unbounded_channel();
                receivers.push(receiver);
                Inbox { messages, connections: Arc::default(), turns: Turns::default() }
            })
            .collect();
        for (index, receiver) in receivers.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mesh = Arc::clone(mesh);
            let inboxes = Arc::clone(&inboxes);
            std::thread::Builder::new().name(format!("data-{index}")).spawn(move || {
                let worker = Rc::new(Worker {
                    mesh,
                    hops: RefCell::default(),
                    idle: RefCell::default(),
                    streams: RefCell::default(),
                    exchanges: RefCell::default(),
                    silent: RefCell::default(),
                    retries: RefCell::default(),
                    inboxes,
                    index,
                });
                let turns = worker.inboxes[index].turns.clone();
                turns.share().run(run(worker, receiver)).detach();
                runtime.block_on(turns.run());
            })?;
        }
        Ok(Self { inboxes, next: Arc::default() })
    }

    /// A share of each thread, for a pod that joins; what they hold is of this memory.
    #[must_use]
    pub fn shares(&self, memory: &Memory) -> Box<[Share]> {
        self.inboxes.iter().map(|inbox| inbox.turns.share_of(memory)).collect()
    }

    /// Accepts on a pod's listeners from now on. The pod's listeners are spread over the threads.
    pub fn join(&self, pod: &Arc<JoinedPod>, listeners: Vec<PodListener>) {
        for listener in listeners {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.inboxes.len().max(1);
            let Some(inbox) = self.inboxes.get(turn) else { return };
            let _ = inbox.messages.send(Message::Accept(Arc::clone(pod), listener));
        }
    }

    /// How many threads there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inboxes.len()
    }

    /// Serves a pod's sockets for datagrams from now on, which are spread over the threads.
    pub fn hear(&self, pod: &Arc<JoinedPod>, sockets: impl IntoIterator<Item = PortSocket>) {
        for (inbox, socket) in self.inboxes.iter().cycle().zip(sockets) {
            let _ = inbox.messages.send(Message::Hear(Arc::clone(pod), socket));
        }
    }

    /// How many connections and streams are being served.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inboxes.iter().map(|inbox| inbox.connections.load(Ordering::Relaxed)).sum()
    }

    /// Ends everything in order that is kept open for later.
    pub fn retire(&self) {
        for inbox in self.inboxes.iter() {
            let _ = inbox.messages.send(Message::Retire);
        }
    }

    /// Closes the idle hops of a pod that has left.
    pub fn forget(&self, uid: &Arc<str>) {
        for inbox in self.inboxes.iter() {
            let _ = inbox.messages.send(Message::Forget(Arc::clone(uid)));
        }
    }
}

async fn run(worker: Rc<Worker>, mut messages: mpsc::UnboundedReceiver<Message>) {
    let mut sweep = tokio::time::interval(SWEEP_PERIOD);
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => worker.handle(message),
                None => return,
            },
            _ = sweep.tick() => {
                let snapshot = worker.mesh.snapshot.load();
                worker.idle.borrow_mut().sweep(&snapshot);
                worker.streams.borrow_mut().sweep(&snapshot);
                worker.exchanges.borrow_mut().sweep(&snapshot);
                worker.hops.borrow_mut().sweep(&snapshot);
                let now = Instant::now();
                worker.silent.borrow_mut().retain(|_, since| now - *since < SILENCE_COUNTS);
                worker.retries.borrow_mut().retain(|_, budget| !budget.is_idle(now));
            }
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
