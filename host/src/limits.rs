//! Every bound of the bus, in one place, with the reason for its value. What an operator can set is a
//! default here; the relations that the code relies on are asserted at compile time.

use std::time::Duration;

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

// --- Messages ---------------------------------------------------------------------------------

/// Default limit of one message's data. Larger payloads belong in an object store, with a `dataref`.
pub const MESSAGE_DATA_BYTES_MAX: usize = MIB;
/// Limit of everything in a message but its data: names, key and attributes.
pub const MESSAGE_ATTRIBUTES_BYTES_MAX: usize = 64 * KIB;
/// Limit of the number of attributes of one message.
pub const MESSAGE_ATTRIBUTES_MAX: usize = 128;
/// Limits of one batched publish: what one transaction may hold without stalling its neighbours.
pub const BATCH_MESSAGES_MAX: usize = 1_000;
pub const BATCH_BYTES_MAX: usize = 8 * MIB;
/// A topic's name, as NATS and SQS allow; it is stored once, so the length costs nothing per message.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;
pub const TOPIC_TOKENS_MAX: usize = 32;
/// A key is hashed in memory and stored with its message.
pub const KEY_BYTES_MAX: usize = 1024;
/// Integers that cross the contract stay below this, for languages whose numbers are doubles.
pub const INTEGER_MAX: u64 = 1 << 53;
/// A chain of staged publishes longer than this is taken for a loop.
pub const HOPS_MAX: u8 = 32;

/// How long a second event of the same topic, source and id is a duplicate, by default: as in JetStream. It
/// covers a producer that publishes again because it heard no answer.
pub const DEDUPE_WINDOW_DEFAULT: Duration = Duration::from_secs(120);
pub const DEDUPE_WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);
/// Names that are known at once, at about 100 bytes each: 50 MB. At more than 4,000 named events a second
/// the window is shorter than two minutes, which a metric tells.
pub const DEDUPE_NAMES_MAX: usize = 500_000;
/// Bytes of the log's end that are read at a start to know them again: a fraction of a second.
pub const DEDUPE_READ_BYTES_MAX: usize = 256 * MIB;
/// The latest delivery that may be asked for: a year.
pub const DELIVER_LATER_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// What becomes due is taken over in transactions of this size, so that others' publishes go on between.
pub const DUE_MESSAGES_MAX: usize = 1_000;
pub const DUE_BYTES_MAX: usize = 4 * MIB;

// --- The log ----------------------------------------------------------------------------------

/// Blocks above this waste space in redb: one 2.7 MB value a commit doubled the file when measured.
pub const BLOCK_BYTES_MAX: usize = 256 * KIB;
/// Bytes that may be sequenced and not yet synced before publishers are made to wait.
pub const UNSYNCED_BYTES_MAX: usize = 64 * MIB;
/// Bytes of the newest messages kept in memory, shared by all subscriptions.
pub const RECENT_BYTES_MAX: usize = 64 * MIB;
/// An acknowledgement that stages nothing causes no commit of its own; it rides with the next one,
/// this much later at most. It bounds what is delivered again after a crash.
pub const ACK_RIDE_MAX: Duration = Duration::from_millis(10);
/// redb's page cache; its own default of 1 GiB is far more than a bus with a message cache needs.
pub const REDB_CACHE_BYTES: usize = 64 * MIB;
/// Space that is preallocated and given up when the disk is full, so that settlements can go on.
pub const RESERVE_BYTES: u64 = 16 * MIB as u64;
/// Publishes from outside are refused below this much free space on the data folder's disk.
pub const FREE_BYTES_MIN: u64 = 64 * MIB as u64;
/// After the log found no room, messages from outside are refused for this long: to find out anew costs a second of
/// service.
pub const NO_ROOM_PAUSE: Duration = Duration::from_secs(10);
/// Offsets in one row of held messages: about 2 KiB when packed.
pub const HELD_ROW_OFFSETS_MAX: usize = 1_024;

/// A start returns free space to the disk where the file has at least this many bytes, and half of them are
/// free: below it is not worth the wait.
pub const COMPACT_BYTES_MIN: u64 = 256 * MIB as u64;
/// Settled messages stay this long by default.
pub const RETAIN_AGE_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
pub const RETAIN_AGE_MIN: Duration = Duration::from_secs(1);
/// An age past this is none: a hundred years.
pub const RETAIN_AGE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Settled messages stay until the log holds this many bytes of messages, by default.
pub const RETAIN_BYTES_DEFAULT: u64 = 10 << 30;
/// Less than this would remove what was only just settled.
pub const RETAIN_BYTES_MIN: u64 = 64 * KIB as u64;
/// Tables `[[topic]]` in the settings; each is tried for every new topic.
pub const TOPIC_RULES_MAX: usize = 1_000;
/// How often is looked for what is no longer retained: often enough that a full topic empties soon.
pub const RETENTION_LOOK: Duration = Duration::from_secs(1);
/// Blocks whose messages go in one transaction: 8 MiB, which is rewritten in some tens of milliseconds.
pub const RETENTION_PIECE_STRETCHES: usize = 32;
/// Blocks that are looked at while operators' commands wait.
pub const RETENTION_TURN_STRETCHES: usize = 256;

// --- Dispatch ---------------------------------------------------------------------------------

/// Unsettled messages that a dispatcher keeps in memory.
pub const WINDOW_MESSAGES_MAX: usize = 8_192;
pub const WINDOW_BYTES_MAX: usize = 16 * MIB;
/// Messages that are fetched from the log at a time.
pub const FETCH_MESSAGES_MAX: usize = 1_024;
/// Messages that a worker takes at a time, when calls are short.
pub const RUN_MESSAGES_MAX: usize = 64;
/// What a run should last: long enough to share the cost of settling, short enough to be fair.
pub const RUN_TARGET: Duration = Duration::from_millis(1);
/// Conflicts of one message in a row after which it is run alone: a few happen to anyone.
pub const CONFLICTS_MAX: u32 = 3;
/// Uncharged reruns of one message, past which each further one is charged: nothing runs for ever.
pub const UNCHARGED_RERUNS_MAX: u32 = 100;
/// Messages of which a breaker remembers that they failed in a row. Those of one poison key may be many.
pub const BREAKER_STREAK_MESSAGES_MAX: usize = 1_024;
/// Failures that a breaker shows, and characters of each one's text.
pub const BREAKER_EVIDENCE_MAX: usize = 5;
pub const BREAKER_EVIDENCE_TEXT_CHARACTERS_MAX: usize = 200;
/// Rows that a refund reads at a time, under its subscription's lock: a few milliseconds of it.
pub const REFUND_ROWS_MAX: usize = 256;
/// Attempts that a dead letter keeps: the first ones and the last ones. The rest are counted.
pub const EVIDENCE_FIRST_MAX: usize = 4;
pub const EVIDENCE_LAST_MAX: usize = 28;
/// Bytes of error text or backtrace that one attempt keeps.
pub const EVIDENCE_TEXT_BYTES_MAX: usize = 4 * KIB;
/// Bytes of a dead letter's last error that the event about it carries; the dead letter has the rest.
pub const EVENT_ERROR_BYTES_MAX: usize = 512;
/// The longest delay that a guest or a backoff may ask for: 30 days.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

// --- The sandbox ------------------------------------------------------------------------------

/// A guest is made to yield this often, so that an endless loop takes its fair share and no thread.
pub const EPOCH_TICK: Duration = Duration::from_millis(5);
pub const GUEST_MEMORY_BYTES_DEFAULT: usize = 64 * MIB;
pub const GUEST_MEMORY_BYTES_MAX: usize = 4096 * MIB - 64 * KIB;
pub const GUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
pub const GUEST_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
pub const GUEST_CONCURRENCY_DEFAULT: u32 = 8;
/// A call that waits for an answer from outside costs an instance and no thread.
pub const GUEST_CONCURRENCY_MAX: u32 = 1_000;
pub const GUEST_STACK_BYTES: usize = MIB;
pub const GUEST_TABLE_ELEMENTS_MAX: usize = 100_000;
/// stdout and stderr that are kept of one call; the rest is dropped.
pub const GUEST_OUTPUT_BYTES_MAX: usize = 64 * KIB;
pub const GUEST_LOG_BYTES_MAX: usize = 64 * KIB;
/// Bytes that a guest may hand to the host in one call of an import, before any other limit is looked at.
pub const GUEST_HANDOVER_BYTES_MAX: usize = 32 * MIB;
/// Random bytes that a guest may ask for at once.
pub const GUEST_RANDOM_BYTES_MAX: u64 = MIB as u64;
/// Host resources (streams, timers) that one instance may hold.
pub const GUEST_RESOURCES_MAX: usize = 4_096;
/// Parts that one component may be made of. Python's runtime, linked from libraries, has about twenty.
pub const GUEST_CORE_INSTANCES_MAX: u32 = 128;
pub const GUEST_MEMORIES_MAX: u32 = 8;
pub const GUEST_TABLES_MAX: u32 = 32;
pub const STAGED_MESSAGES_MAX: usize = 1_000;
pub const STAGED_BYTES_MAX: usize = 8 * MIB;
pub const STATE_KEY_BYTES_MAX: usize = 1024;
pub const STATE_VALUE_BYTES_MAX: usize = MIB;
pub const STATE_SCAN_ENTRIES_MAX: usize = 1_000;
/// What one consumer's state may hold by default, and what all may together. It is for figures and stock, not
/// for archives; and who recovers a bus waits for its file.
pub const STATE_CONSUMER_BYTES_DEFAULT: u64 = 1 << 30;
pub const STATE_BYTES_DEFAULT: u64 = 4 << 30;
/// Less could not take one large value.
pub const STATE_BOUND_BYTES_MIN: u64 = 2 * MIB as u64;
/// Bytes of keys (each with [`STATE_READ_BYTES`] on top) that one call may read: the host remembers what
/// was read until the call is settled.
pub const STATE_READS_BYTES_MAX: usize = 4 * MIB;
pub const STATE_READ_BYTES: usize = 64;
/// Instances alive at once over all subscriptions: the size of the pooling allocator.
/// Room for one subscription that waits with all the concurrency it may have, and for others beside it.
pub const INSTANCES_MAX: u32 = 2_000;
/// An instance without work for this long is dropped.
pub const INSTANCE_IDLE_MAX: Duration = Duration::from_secs(30);
/// Messages after which a reused instance is replaced, so that slow leaks of a guest do no harm.
pub const INSTANCE_CALLS_MAX: u32 = 100_000;
/// A component or module larger than this is refused before it is compiled.
pub const COMPONENT_BYTES_MAX: usize = 128 * MIB;
/// Compiled components that are kept in the data folder, the ones used last.
pub const ARTIFACTS_MAX: usize = 200;
/// Of `[command] args`.
pub const COMMAND_ARGS_MAX: usize = 100;
/// Of `[build] watch`.
pub const BUILD_PATHS_MAX: usize = 100;
pub const MANIFEST_BYTES_MAX: usize = 256 * KIB;

// --- The HTTP edge ----------------------------------------------------------------------------

/// Connections that are served at once, or half of the files that the process may open where that is less. Each costs
/// a file descriptor, some 20 KiB, and as much of a head as its client sends.
pub const HTTP_SERVED_CONNECTIONS_MAX: usize = 1_024;
/// A head holds all attributes of a message in binary mode, whose text may take three times its bytes. What is read
/// at a time is as much again, so one that is a little longer may be taken.
pub const HTTP_SERVED_HEAD_BYTES_MAX: usize = 256 * KIB;
/// Each attribute is a header; the rest is for HTTP and what stands between.
pub const HTTP_SERVED_HEADERS_MAX: usize = MESSAGE_ATTRIBUTES_MAX + 64;

// --- Outbound HTTP ----------------------------------------------------------------------------

/// Default limit of a request's or response's body. It passes through; what the guest keeps of it counts
/// toward its memory.
pub const HTTP_BODY_BYTES_DEFAULT: u64 = 16 * MIB as u64;
pub const HTTP_BODY_BYTES_MAX: u64 = 1024 * MIB as u64;
/// Limits of a head: what servers commonly take, several times over. Memory of the host's holds it.
pub const HTTP_HEAD_BYTES_MAX: usize = 64 * KIB;
pub const HTTP_HEADERS_MAX: usize = 128;
/// Requests that one call may have open at once, for each is a connection.
pub const HTTP_REQUESTS_OPEN_MAX: usize = 16;
/// Connections at once, over all consumers; each costs a file descriptor.
pub const HTTP_CONNECTIONS_MAX: usize = 4_096;
/// From looking the name up to the end of TLS's handshake, over all of a host's addresses.
pub const HTTP_CONNECT_MAX: Duration = Duration::from_secs(10);
/// Connections that are kept for the next request: as many as a busy consumer has at once, and for less long
/// than servers commonly keep them, so that few requests meet one that is just being closed.
pub const HTTP_IDLE_CONNECTIONS_MAX: usize = 64;
pub const HTTP_IDLE_MAX: Duration = Duration::from_secs(4);
/// Names that are looked up at once: each holds one of the threads that requests to the bus need too.
pub const HTTP_LOOKUPS_MAX: usize = 32;
/// Addresses of a host that are tried.
pub const HTTP_ADDRESSES_MAX: usize = 8;
pub const HTTP_GRANTS_MAX: usize = 100;
pub const SECRETS_MAX: usize = 100;
/// A secret is a header's value or a part of it.
pub const SECRET_BYTES_MAX: usize = 8 * KIB;
/// Refused requests that one call may have a line in the log for.
pub const HTTP_REFUSALS_LOGGED_MAX: u32 = 16;

/// What the calls of a rehearsal may take together; what did not run until then is left out.
pub const REHEARSAL_MAX: Duration = Duration::from_secs(30);

// --- Subscriptions ----------------------------------------------------------------------------

pub const MAX_ATTEMPTS_DEFAULT: u32 = 6;
pub const MAX_ATTEMPTS_MAX: u32 = 1_000;
pub const BACKOFF_INITIAL_DEFAULT: Duration = Duration::from_secs(1);
pub const BACKOFF_FACTOR_DEFAULT: f64 = 2.0;
pub const BACKOFF_MAX_DEFAULT: Duration = Duration::from_secs(300);
pub const BACKOFF_FACTOR_MAX: f64 = 100.0;
pub const LAG_WARN_DEFAULT: Duration = Duration::from_secs(300);
/// Different keys (or messages without one) that fail in a row before a breaker opens: more than a few
/// poison messages side by side, fewer than an outage makes fail in a second.
pub const BREAKER_FAILURES_DEFAULT: u32 = 10;
pub const BREAKER_FAILURES_MAX: u32 = 1_000;
/// The first pause: most restarts of what a consumer depends on take longer, and nobody notices it.
pub const BREAKER_PAUSE_DEFAULT: Duration = Duration::from_secs(5);
/// The longest one: after an outage of hours, work goes on within this.
pub const BREAKER_PAUSE_MAX_DEFAULT: Duration = Duration::from_secs(300);
/// Calls of a rate: more in a second than one subscription makes.
pub const RATE_COUNT_MAX: u32 = 1_000_000;
/// A rate's burst is what it lets through in this part of a second, and one call at least.
pub const RATE_BURSTS_PER_SECOND: u32 = 10;
/// A lag past this is nothing to be warned about in time: 30 days.
pub const LAG_WARN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Durations of a manifest are kept in milliseconds in many places, so none is shorter.
pub const DURATION_MIN: Duration = Duration::from_millis(1);
/// A consumer's or subscription's name becomes a file name, a topic token and a label of metrics.
pub const NAME_BYTES_MAX: usize = 100;
/// Each subscription has a dispatcher of its own.
pub const CONSUMER_SUBSCRIPTIONS_MAX: usize = 100;
/// Every filter is tried on every new topic, and stored with an offset.
pub const SUBSCRIPTION_FILTERS_MAX: usize = 100;

// --- Deployments ------------------------------------------------------------------------------

/// Files of the plugin folder are taken once they have not changed for this long: longer than the
/// pauses of a copy, shorter than a person's patience.
pub const DEPLOY_QUIET: Duration = Duration::from_millis(300);
/// The plugin folder is looked at this often, also where the system reports no change.
pub const DEPLOY_RESCAN: Duration = Duration::from_secs(30);
/// The same where the system cannot report changes at all.
pub const DEPLOY_RESCAN_UNWATCHED: Duration = Duration::from_secs(2);
/// What a probation asks for where the manifest only says that there is one.
pub const PROBATION_MESSAGES_DEFAULT: u64 = 200;
pub const PROBATION_FAILURES_DEFAULT: u64 = 5;
/// A probation that takes longer than this many messages is no probation any more.
pub const PROBATION_MESSAGES_MAX: u64 = 1_000_000;
/// The last failures of a version on probation that its history and the log tell of.
pub const PROBATION_TOLD_MAX: usize = 3;
pub const PROBATION_TOLD_BYTES_MAX: usize = 300;
/// Deployments that a consumer's history has: enough for a bad week.
pub const DEPLOYMENTS_TOLD_MAX: usize = 50;
/// Versions whose bytes are kept, the one that runs included: those that can be gone back to.
pub const VERSIONS_KEPT_MAX: usize = 5;
/// Versions that are remembered as rolled back.
pub const ROLLED_BACK_MAX: usize = 50;

const _: () = assert!(STAGED_BYTES_MAX <= BATCH_BYTES_MAX, "what one call stages must fit one transaction");
const _: () = assert!(STAGED_MESSAGES_MAX <= BATCH_MESSAGES_MAX, "what one call stages must fit one transaction");
const _: () = assert!(MESSAGE_DATA_BYTES_MAX <= WINDOW_BYTES_MAX, "a window must hold any one message");
const _: () = assert!(BATCH_BYTES_MAX <= UNSYNCED_BYTES_MAX, "a batch must be able to be sequenced at all");
const _: () = assert!(DUE_BYTES_MAX <= UNSYNCED_BYTES_MAX, "what is due at once must be able to be sequenced at all");
const _: () = assert!(FETCH_MESSAGES_MAX <= WINDOW_MESSAGES_MAX, "what is fetched must fit the window");
const _: () = assert!(RUN_MESSAGES_MAX <= FETCH_MESSAGES_MAX, "a run is taken from the window");
const _: () = assert!(
    BREAKER_FAILURES_MAX as usize <= BREAKER_STREAK_MESSAGES_MAX,
    "a streak that opens a breaker must be remembered whole"
);
const _: () = assert!(CONFLICTS_MAX < UNCHARGED_RERUNS_MAX, "a message is run alone before it is charged");
const _: () = assert!(RESERVE_BYTES < FREE_BYTES_MIN, "publishes must stop before the reserve is needed");
const _: () = assert!(GUEST_CONCURRENCY_MAX <= INSTANCES_MAX, "a subscription must be able to have its concurrency");
const _: () = assert!(
    3 * MESSAGE_ATTRIBUTES_BYTES_MAX < HTTP_SERVED_HEAD_BYTES_MAX,
    "a head must hold the attributes of any one message"
);
const _: () = assert!(SECRET_BYTES_MAX <= HTTP_HEAD_BYTES_MAX / 2, "a head must hold a secret and more");
const _: () =
    assert!(NAME_BYTES_MAX + 16 <= TOPIC_NAME_BYTES_MAX, "a name must fit a topic such as `$dead-letters.NAME`");
const _: () = assert!(PROBATION_FAILURES_DEFAULT < PROBATION_MESSAGES_DEFAULT, "it must be possible to fail");
const _: () = assert!(VERSIONS_KEPT_MAX >= 2, "there must be one to go back to");
