//! Who watches how a version's calls end.

use crate::message::Millis;

use super::Finished;

/// Told of the calls of a version. Called under the subscription's lock: it counts, hands over and returns.
pub trait Witness: Send + Sync {
    /// The version runs from now on.
    fn begins(&self, now_ms: Millis);

    /// A call of any version ended, and what was decided of it is sequenced.
    fn ended(&self, call: &Finished);
}
