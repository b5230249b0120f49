//! Buffers of the thread: whoever reads or writes borrows one, so that a quiet connection owns none.

use std::cell::RefCell;

use super::wire::READ_BUFFER;
use crate::xmpp::ServerStream;

/// A buffer that grew beyond this is not kept.
const KEPT_MAX: usize = 256 * 1024;
/// Buffers kept by one thread: output and sealed bytes, twice, because an end of one session can be part of another's work.
const KEPT: usize = 4;

thread_local! {
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Works with a read buffer of [`READ_BUFFER`] bytes.
pub(super) fn reading<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = READ.with(RefCell::take);
    buffer.resize(READ_BUFFER, 0);
    let result = work(&mut buffer);
    READ.with(|place| *place.borrow_mut() = buffer);
    result
}

/// An empty buffer, with memory if this thread has one to spare.
pub(super) fn take() -> Vec<u8> {
    SPARE.with(|spare| spare.borrow_mut().pop()).unwrap_or_default()
}

/// Gives a buffer back.
pub(super) fn keep(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > KEPT_MAX {
        return;
    }
    buffer.clear();
    SPARE.with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            spare.push(buffer);
        }
    });
}

/// Lends a stream a buffer for its output, unless it has one.
pub(super) fn lend(stream: &mut ServerStream) {
    let output = stream.output();
    if output.capacity() == 0 {
        *output = take();
    }
}

/// Takes the buffer of an empty output back.
pub(super) fn give_back(stream: &mut ServerStream) {
    let output = stream.output();
    if output.is_empty() {
        keep(std::mem::take(output));
    }
}
