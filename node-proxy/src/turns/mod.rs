//! Who runs next on a thread of the data path.
//!
//! What a thread has to do belongs to *shares*: one for each pod, one for each hop that has arrived. Shares take
//! turns, a step of one task each, however much one of them has to do; so the neighbour of a pod that floods waits
//! for single steps of it and not for its whole queue (design D9). Between a few steps the thread looks at its
//! sockets, and no step carries more than so many bytes. What buffers hold is held for the pod whose share it is
//! ([`memory`]).

pub mod memory;
mod until;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_task::{Builder, Runnable, Task};
use tokio::task::coop;

use memory::Part;
pub use memory::{Holding, Memory};
pub use until::Until;

/// Steps between two looks at the sockets: a look is a system call, and who has just become ready waits for it.
const STEPS: usize = 16;
/// What a step may carry, in bytes: one of the largest reads. The last may go beyond.
const STEP_BYTES: usize = 256 * 1024;

thread_local! {
    /// Whose step is being run.
    static CURRENT: RefCell<Option<Share>> = const { RefCell::new(None) };
    /// What the step that is being run may still carry.
    static BYTES_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The shares of one thread.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<Line>>);

/// The shares that have something to do, in the order of their turns.
#[derive(Debug, Default)]
struct Line {
    shares: VecDeque<Share>,
    /// Wakes the thread that found nobody in line.
    asleep: Option<Waker>,
}

/// A part of what a thread has to do, as entitled to its turn as any other.
#[derive(Clone, Debug)]
pub struct Share(Arc<ShareState>);

#[derive(Debug)]
struct ShareState {
    turns: Turns,
    /// The tasks that can go on. The share is in line exactly while there are any.
    ready: Mutex<VecDeque<Runnable>>,
    /// The thread's part of the memory of its pod.
    part: Arc<Part>,
}

/// Nothing that is done under these locks can panic half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    /// A new share of this thread, which is no pod's.
    #[must_use]
    pub fn share(&self) -> Share {
        self.share_of(&Memory::default())
    }

    /// A new share of this thread, of the pod that has this memory.
    #[must_use]
    pub fn share_of(&self, memory: &Memory) -> Share {
        Share::new(self.clone(), memory.part())
    }

    /// Runs all shares' tasks, forever. Only one may run on a thread, on the one where the tasks are spawned.
    pub async fn run(self) {
        poll_fn(|cx| self.poll_steps(cx)).await
    }

    fn poll_steps(&self, cx: &Context<'_>) -> Poll<()> {
        for _ in 0..STEPS {
            let Some((share, step)) = self.next(cx) else { return Poll::Pending };
            share.run_step(step);
            // All steps of a look live on one budget. When it is spent, tokio's sockets only feign to be busy.
            if !coop::has_budget_remaining() {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The next in line with its step; or the thread is to be woken when there is one.
    fn next(&self, cx: &Context<'_>) -> Option<(Share, Runnable)> {
        let mut line = lock(&self.0);
        while let Some(share) = line.shares.pop_front() {
            let mut ready = lock(&share.0.ready);
            if let Some(step) = ready.pop_front() {
                if !ready.is_empty() {
                    line.shares.push_back(share.clone());
                }
                drop(ready);
                return Some((share, step));
            }
        }
        line.asleep = Some(cx.waker().clone());
        None
    }
}

impl Share {
    fn new(turns: Turns, part: Arc<Part>) -> Self {
        Self(Arc::new(ShareState { turns, ready: Mutex::default(), part }))
    }

    /// Another share of the same thread and the same memory.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.0.turns.clone(), Arc::clone(&self.0.part))
    }

    /// Runs a task of this share on its thread, which must be the caller's. Dropping what is returned cancels it.
    pub fn run<F>(&self, task: F) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let share = self.clone();
        let build = Builder::new().propagate_panic(true);
        let (first, task) = build.spawn_local(|()| task, move |step| share.queue(step));
        first.schedule();
        task
    }

    fn run_step(self, step: Runnable) {
        CURRENT.set(Some(self));
        BYTES_LEFT.set(STEP_BYTES);
        // A panic ends its own task alone; the process's hook has told it.
        let _wants_another = step.run();
        BYTES_LEFT.set(usize::MAX);
        CURRENT.set(None);
    }

    fn queue(&self, step: Runnable) {
        let is_first = {
            let mut ready = lock(&self.0.ready);
            ready.push_back(step);
            ready.len() == 1
        };
        if is_first {
            let mut line = lock(&self.0.turns.0);
            line.shares.push_back(self.clone());
            let asleep = line.asleep.take();
            drop(line);
            if let Some(waker) = asleep {
                waker.wake();
            }
        }
    }
}

/// Runs a task of the share whose step this is, by itself.
///
/// # Panics
/// Outside of a share's task.
pub fn spawn<F>(task: F)
where
    F: Future + 'static,
    F::Output: 'static,
{
    accompany(task).detach();
}

/// Runs a task of the share whose step this is, by itself, until what is returned is dropped.
///
/// # Panics
/// Outside of a share's task.
pub fn accompany<F>(task: F) -> Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    CURRENT.with_borrow(|share| share.as_ref().expect("only a share's task starts others").run(task))
}

/// Notes that the step has carried so many bytes.
pub fn carry(bytes: usize) {
    BYTES_LEFT.set(BYTES_LEFT.get().saturating_sub(bytes));
}

/// Whether the step may carry any more.
#[must_use]
pub fn may_carry() -> bool {
    BYTES_LEFT.get() > 0
}

/// Pending when the step has carried what it may: the task goes on with its next one.
pub fn poll_may_carry(cx: &Context<'_>) -> Poll<()> {
    if may_carry() {
        return Poll::Ready(());
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::thread;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    /// Runs the shares' tasks until one more, of a share of its own, has come to its end.
    async fn run_until<T: 'static>(turns: &Turns, last: impl Future<Output = T> + 'static) -> T {
        let last = turns.share().run(last);
        tokio::select! {
            outcome = last => outcome,
            () = turns.clone().run() => unreachable!("it never ends"),
        }
    }

    /// Ends a step of a task that could go on.
    async fn pause() {
        let mut has_paused = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut has_paused, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    async fn count_steps(steps: usize, counter: Rc<Cell<usize>>) {
        for _ in 0..steps {
            counter.set(counter.get() + 1);
            pause().await;
        }
    }

    #[tokio::test]
    async fn the_neighbour_of_a_busy_share_has_every_other_step() {
        let (turns, busy, own) = (Turns::default(), Rc::default(), Rc::default());
        let counter = Rc::clone(&busy);
        // What a task starts is of its share: a hundred tasks have one turn between them.
        let starting = async move { (0..100).for_each(|_| spawn(count_steps(50, Rc::clone(&counter)))) };
        turns.share().run(starting).detach();
        run_until(&turns, count_steps(20, Rc::clone(&own))).await;
        assert_eq!(own.get(), 20);
        // A look is gone through to its end, and there is one before and one after.
        assert!((15..20 + 2 * STEPS).contains(&busy.get()), "{} steps of the busy share", busy.get());
    }

    #[tokio::test]
    async fn another_thread_wakes_a_task_while_nothing_else_is_to_be_done() {
        let turns = Turns::default();
        let (sender, receiver) = oneshot::channel();
        let elsewhere = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            sender.send("word")
        });
        assert_eq!(run_until(&turns, receiver).await, Ok("word"));
        assert_eq!(elsewhere.join().expect("no panic"), Ok(()));
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_task_alone() {
        let (turns, counter) = (Turns::default(), Rc::default());
        let share = turns.share();
        share.run(async { std::panic::panic_any("on purpose") }).detach();
        share.run(count_steps(3, Rc::clone(&counter))).detach();
        run_until(&turns, count_steps(10, Rc::default())).await;
        assert_eq!(counter.get(), 3);
    }

    #[tokio::test]
    async fn a_dropped_handle_cancels_its_task() {
        let (turns, counter) = (Turns::default(), Rc::default());
        drop(turns.share().run(count_steps(3, Rc::clone(&counter))));
        run_until(&turns, pause()).await;
        assert_eq!((counter.get(), Rc::strong_count(&counter)), (0, 1));
    }

    #[tokio::test]
    async fn a_step_that_has_carried_its_bytes_is_over_and_the_next_may_carry_again() {
        let (turns, other) = (Turns::default(), Rc::default());
        turns.share().run(count_steps(50, Rc::clone(&other))).detach();
        let carrying = async move {
            poll_fn(|cx| poll_may_carry(cx)).await;
            let before = other.get();
            carry(STEP_BYTES + 1);
            poll_fn(|cx| poll_may_carry(cx)).await;
            other.get() - before
        };
        assert_eq!(run_until(&turns, carrying).await, 1);
    }
}
