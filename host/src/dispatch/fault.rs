//! What a panic of ours means here: a decision that was half made, on which nothing may build. The process
//! ends, and the next start loads what is durable, as after any crash.

/// Ends the process if its thread panics.
pub(super) struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end();
        }
    }
}

/// Ends the process after a panic, which was reported where it happened.
pub(super) fn end() -> ! {
    tracing::error!("a fault of the bus itself: ending, to start again from what is durable");
    std::process::abort()
}
