//! What the writer writes in one redb transaction.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Counts, HeldAt, HeldRow, PluginRecord, Position, Removal, RetryRow, SharedMessage, SubscriptionId};
use super::{SubscriptionRecord, SyncWaiter, TopicId, TopicInfo, TxnNumber};
use crate::log::{DeadRow, Parks, Scheduled, ScheduledAt};
use crate::message::Offset;

/// By how many bytes consumers' states grow, as far as is known before it is written.
pub(crate) type StateGrowth = HashMap<Arc<str>, i64>;

/// Consecutive transactions, folded into what they leave behind. Rows, accounts and topics stand here
/// once, as the last transaction left them.
#[derive(Default)]
pub(crate) struct Group {
    /// The last transaction in it.
    pub last: TxnNumber,
    pub messages: Vec<SharedMessage>,
    /// What goes into the schedule, and what leaves it: nothing does both in one group, for what leaves was
    /// synced before.
    pub scheduled: Vec<Scheduled>,
    pub released: Vec<ScheduledAt>,
    pub topics: Vec<TopicInfo>,
    pub accounts: Vec<(SubscriptionId, AccountState)>,
    pub retries: HashMap<(SubscriptionId, Offset), Option<Arc<RetryRow>>>,
    pub held: HashMap<HeldAt, Option<Arc<HeldRow>>>,
    pub dead: HashMap<(SubscriptionId, Offset), Option<Arc<DeadRow>>>,
    pub parks: HashMap<(SubscriptionId, Offset), Option<Parks>>,
    /// By consumer and key.
    pub state: HashMap<(Arc<str>, Arc<str>), Option<Bytes>>,
    pub state_growth: StateGrowth,
    /// In order: a subscription that is created and removed leaves nothing.
    pub subscriptions: Vec<(SubscriptionId, SubscriptionChange)>,
    pub plugins: Vec<(String, Option<PluginRecord>)>,
    /// Messages of earlier groups that go. In order.
    pub removals: Vec<Removal>,
    /// The id of the next subscription to be created.
    pub next_subscription: u32,
    /// The number of the next message that has to wait for its time.
    pub next_scheduled: u64,
    pub waiters: Vec<SyncWaiter>,
    /// Bytes of the transactions, as they count against what may be unsynced.
    pub bytes: usize,
    /// Whether somebody waits for its sync.
    pub(super) urgent: bool,
    /// Topics and accounts that are copied when the group is closed.
    pub(super) noted_topics: Vec<TopicId>,
    pub(super) noted_accounts: Vec<SubscriptionId>,
}

/// What is durable of a subscription's progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountState {
    pub position: Position,
    pub counts: Counts,
}

/// What becomes of a subscription's record.
#[derive(Debug)]
pub(crate) enum SubscriptionChange {
    Put {
        name: String,
        record: SubscriptionRecord,
    },
    /// Its retry and held rows go: they are of earlier groups.
    Seek {
        name: String,
        record: SubscriptionRecord,
    },
    /// Its record, account and rows go.
    Remove,
}

impl Group {
    /// Whether no transaction is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// Whether it leaves nothing to be written: its transactions read, or only wait for those before.
    pub(crate) fn writes_nothing(&self) -> bool {
        self.messages.is_empty()
            && self.scheduled.is_empty()
            && self.released.is_empty()
            && self.topics.is_empty()
            && self.accounts.is_empty()
            && self.retries.is_empty()
            && self.held.is_empty()
            && self.dead.is_empty()
            && self.parks.is_empty()
            && self.state.is_empty()
            && self.subscriptions.is_empty()
            && self.plugins.is_empty()
            && self.removals.is_empty()
    }
}
