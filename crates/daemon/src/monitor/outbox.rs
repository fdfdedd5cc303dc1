//! [`Outbox`]: what is to be sent to a client.
//!
//! | what | if the client does not listen |
//! |---|---|
//! | answers | its next command waits until less than [`ANSWERS_BYTES_MAX`] are left |
//! | events | past [`EVENTS_BYTES_MAX`] in all, its connection is closed: it can tell that from silence, not a gap |

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A client with more than this to read gets no further answer.
const ANSWERS_BYTES_MAX: usize = 1 << 20;
/// A client with more than this to read has its connection closed at the next event.
const EVENTS_BYTES_MAX: usize = 16 << 20;

/// What is to be sent. One thread.
#[derive(Default)]
pub(super) struct Outbox(RefCell<State>);

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// Taken by the writer and not sent yet.
    sending_bytes: usize,
    is_closed: bool,
    writer: Option<Waker>,
    waiting: Vec<Waker>,
}

impl State {
    fn left(&self) -> usize {
        self.bytes.len() + self.sending_bytes
    }
}

impl Outbox {
    /// Adds bytes, unless it is closed. An answer is as long as there are things, and mostly the first to be sent: it is
    /// not copied then.
    pub(super) fn push(&self, bytes: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        if state.is_closed {
            return;
        }
        if state.bytes.is_empty() {
            state.bytes = bytes;
        } else {
            state.bytes.extend_from_slice(&bytes);
        }
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Whether the client is so far behind that it gets no further event.
    pub(super) fn is_overfull(&self) -> bool {
        self.0.borrow().left() > EVENTS_BYTES_MAX
    }

    /// Drops what is left and takes nothing more.
    pub(super) fn close(&self) {
        let mut state = self.0.borrow_mut();
        state.is_closed = true;
        state.bytes.clear();
        state.sending_bytes = 0;
        let wakers: Vec<Waker> = state.writer.take().into_iter().chain(state.waiting.drain(..)).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until an answer may be added; `false` if it is closed.
    pub(super) async fn room(&self) -> bool {
        self.at_most(ANSWERS_BYTES_MAX).await
    }

    /// Waits until everything was sent; `false` if it is closed.
    pub(super) async fn sent(&self) -> bool {
        self.at_most(0).await
    }

    async fn at_most(&self, max_bytes: usize) -> bool {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.is_closed || state.left() <= max_bytes {
                return Poll::Ready(!state.is_closed);
            }
            state.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    // The writer's side.

    /// What is to be sent next; `None` when it is closed.
    pub(super) async fn next(&self) -> Option<Vec<u8>> {
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.is_closed {
                return Poll::Ready(None);
            }
            if state.bytes.is_empty() {
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let bytes = std::mem::take(&mut state.bytes);
            state.sending_bytes = bytes.len();
            Poll::Ready(Some(bytes))
        })
        .await
    }

    /// What the writer took was sent.
    pub(super) fn done(&self) {
        let mut state = self.0.borrow_mut();
        state.sending_bytes = 0;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn answers_wait_for_a_client_that_does_not_read() {
        let outbox = Outbox::default();
        assert_eq!((ready(outbox.next()), ready(outbox.room())), (None, Some(true)));
        outbox.push(vec![0; ANSWERS_BYTES_MAX]);
        assert_eq!(ready(outbox.room()), Some(true));
        outbox.push(b"x".to_vec());
        assert_eq!((ready(outbox.room()), ready(outbox.sent())), (None, None));
        let taken = ready(outbox.next()).flatten().unwrap();
        assert_eq!(taken.len(), ANSWERS_BYTES_MAX + 1);
        assert_eq!(ready(outbox.room()), None, "what is on its way counts");
        outbox.done();
        assert_eq!((ready(outbox.room()), ready(outbox.sent())), (Some(true), Some(true)));
    }

    #[test]
    fn a_client_that_is_far_behind_is_found_out() {
        let outbox = Outbox::default();
        outbox.push(vec![0; EVENTS_BYTES_MAX]);
        assert!(!outbox.is_overfull());
        drop(ready(outbox.next()));
        outbox.push(b"x".to_vec());
        assert!(outbox.is_overfull());
        outbox.close();
        outbox.push(b"x".to_vec());
        assert_eq!((ready(outbox.next()), ready(outbox.room())), (Some(None), Some(false)));
    }
}
