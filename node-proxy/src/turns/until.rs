//! A task with an end that comes from outside.

use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

pin_project! {
    /// A task until it is done or `end` is.
    ///
    /// An `async` block would hold the task twice, as what it was given and as what it waits for, and so would each block
    /// around it: four times the memory of a connection.
    #[derive(Debug)]
    pub struct Until<T, E> {
        #[pin]
        task: T,
        #[pin]
        end: E,
    }
}

impl<T, E> Until<T, E> {
    /// The task, at most until `end`.
    pub const fn new(task: T, end: E) -> Self {
        Self { task, end }
    }
}

impl<T: Future<Output = ()>, E: Future<Output = ()>> Future for Until<T, E> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let parts = self.project();
        if parts.task.poll(cx).is_ready() { Poll::Ready(()) } else { parts.end.poll(cx) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::mem::size_of_val;
    use std::task::Waker;

    use super::*;

    #[test]
    fn the_first_of_both_ends_it() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut is_over =
            |mut until: Pin<Box<dyn Future<Output = ()>>>| until.as_mut().poll(&mut cx).is_ready();
        assert!(is_over(Box::pin(Until::new(ready(()), pending()))));
        assert!(is_over(Box::pin(Until::new(pending(), ready(())))));
        assert!(!is_over(Box::pin(Until::new(pending(), pending()))));
    }

    #[test]
    fn it_holds_its_task_once() {
        let block = [0_u8; 1000];
        let task = async move {
            pending::<()>().await;
            assert_eq!(block.len(), 1000);
        };
        let size = size_of_val(&task);
        assert_eq!(size_of_val(&Until::new(task, ready(()))), size + size_of_val(&ready(())));
    }
}
