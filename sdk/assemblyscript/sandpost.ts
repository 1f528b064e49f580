// Sandpost for AssemblyScript. A consumer is a function that handles one message:
//
//   import { Bus, Message, Outcome, consumer } from "./sandpost/sandpost";
//   export { cabi_post_handle, cabi_realloc, handle } from "./sandpost/sandpost";
//
//   consumer((message: Message, bus: Bus): Outcome => {
//     bus.info(message.topic);
//     return Outcome.ack();
//   });
//
// It is built with
//
//   asc hello.ts -O3 --runtime incremental -o hello.wasm
//
// (not with `--runtime stub`, which never frees). `Outcome.ack()` acknowledges the message: what was published and written
// to the state commits in the same transaction. After any other outcome, and after `throw`, which ends the instance, none of
// it happened.

/** A CloudEvents 1.0 event, stored in a topic. */
export class Message {
  id: string = "";
  source: string = "";
  type: string = "";
  subject: string | null = null;
  topic: string = "";
  /** Messages of one key arrive in order, one at a time. */
  key: string | null = null;
  contentType: string | null = null;
  /** When the bus accepted it, in milliseconds since 1970. */
  acceptedMs: u64 = 0;
  /** `time`, `dataschema`, `traceparent` and extensions. */
  attributes: Attribute[] = [];
  data: Uint8Array = new Uint8Array(0);

  /** The data as text. */
  text(): string {
    return String.UTF8.decodeUnsafe(this.data.dataStart, this.data.length);
  }

  /** The value of one of the attributes. */
  attribute(name: string): string | null {
    for (let index = 0; index < this.attributes.length; index++) {
      if (this.attributes[index].name == name) return this.attributes[index].value;
    }
    return null;
  }
}

export class Attribute {
  constructor(
    public name: string,
    public value: string,
  ) {}
}

/** This offer of the message to this subscription. */
export class Delivery {
  subscription: string = "";
  /** The message's place in its topic, from 1. */
  sequence: u64 = 0;
  /** From 1; only the message's own failures are counted. */
  attempt: u32 = 0;
  maxAttempts: u32 = 0;
  redrives: u32 = 0;
  firstAttemptMs: u64 = 0;
  /** When this call is ended. */
  deadlineMs: u64 = 0;
  /** The same in every attempt. Hand it to services outside the bus. */
  idempotencyKey: string = "";
}

/** How a call ends. */
export class Outcome {
  private constructor(
    /** -1 of an acknowledgement, else the number of the failure in the contract. */
    readonly kind: i32,
    readonly reason: string,
    readonly afterMs: i64,
  ) {}

  static ack(): Outcome {
    return new Outcome(-1, "", -1);
  }

  /** It failed now, and may succeed later: charged as an attempt. The subscription's backoff decides when, without a time. */
  static retry(reason: string, afterMs: i64 = -1): Outcome {
    return new Outcome(0, reason, afterMs);
  }

  /** It can never succeed: the message becomes a dead letter at once. */
  static reject(reason: string): Outcome {
    return new Outcome(1, reason, -1);
  }

  /** Something that the handler depends on is down: not charged as an attempt. */
  static unavailable(reason: string, afterMs: i64 = -1): Outcome {
    return new Outcome(2, reason, afterMs);
  }
}

/** An event to be published. */
export class Event {
  /** The topic's name is used where it is empty. */
  type: string = "";
  key: string | null = null;
  /** Made from the idempotency key where there is none. */
  id: string | null = null;
  subject: string | null = null;
  contentType: string | null = null;
  /** Names are lower-case letters and digits. */
  attributes: Attribute[] = [];
  /** Not before this time; -1 for at once. */
  deliverAtMs: i64 = -1;
  /** Not after this time; -1 for never too late. */
  expiresMs: i64 = -1;

  constructor(
    /** Granted under `[grants] publish` in the manifest. */
    public topic: string,
    public data: Uint8Array = new Uint8Array(0),
  ) {}

  static text(topic: string, text: string): Event {
    return new Event(topic, utf8(text));
  }
}

/** Why an event or a key was not taken. Nothing else of the call is affected. */
export class Refused {
  constructor(
    /** `not-granted`, `invalid`, `too-large`, `too-many`, `invalid-key` or `full`. */
    public kind: string,
    public text: string,
  ) {}
}

export class Entry {
  constructor(
    public key: string,
    public value: Uint8Array,
  ) {}
}

export const enum Level {
  Trace,
  Debug,
  Info,
  Warn,
  Error,
}

/** What a handler may use. It is good until the handler returns. Where something is refused, `refused` says why. */
export class Bus {
  delivery: Delivery = new Delivery();
  /** Why the last call of `get` or `scan` answered nothing; null where it was not refused. */
  refused: Refused | null = null;

  /** Stages an event. It is published if, and only if, the message is acknowledged. Null where it was taken. */
  publish(event: Event): Refused | null {
    const record = take(112);
    lower(record, 0, event.topic);
    lower(record, 8, event.type);
    lowerOption(record, 16, event.key);
    lowerOption(record, 28, event.id);
    lowerOption(record, 40, event.subject);
    lowerOption(record, 52, event.contentType);
    const count = event.attributes.length;
    const rows = take(16 * count);
    for (let index = 0; index < count; index++) {
      lower(rows, 16 * index, event.attributes[index].name);
      lower(rows, 16 * index + 8, event.attributes[index].value);
    }
    store<u32>(record, rows as u32, 64);
    store<u32>(record, count, 68);
    lowerBytes(record, 72, event.data);
    lowerTime(record, 80, event.deliverAtMs);
    lowerTime(record, 96, event.expiresMs);
    const answer = take(16);
    importPublish(record, answer);
    return refusal(answer, PUBLISH_KINDS);
  }

  /** The value of a key of the state; null where there is none. */
  get(key: string): Uint8Array | null {
    const at = take(8);
    const answer = take(16);
    lower(at, 0, key);
    importGet(load<u32>(at), load<u32>(at, 4), answer);
    this.refused = refusal(answer, STATE_KINDS);
    if (this.refused || !load<u8>(answer, 4)) return null;
    return liftBytes(answer, 8);
  }

  /** The value of a key as text. */
  getText(key: string): string | null {
    const value = this.get(key);
    return value ? String.UTF8.decodeUnsafe(value.dataStart, value.length) : null;
  }

  set(key: string, value: Uint8Array): Refused | null {
    const at = take(16);
    const answer = take(16);
    lower(at, 0, key);
    lowerBytes(at, 8, value);
    importSet(load<u32>(at), load<u32>(at, 4), load<u32>(at, 8), load<u32>(at, 12), answer);
    return refusal(answer, STATE_KINDS);
  }

  setText(key: string, value: string): Refused | null {
    return this.set(key, utf8(value));
  }

  /** Removes a key. One that is not there is no error. */
  delete(key: string): Refused | null {
    const at = take(8);
    const answer = take(16);
    lower(at, 0, key);
    importDelete(load<u32>(at), load<u32>(at, 4), answer);
    return refusal(answer, STATE_KINDS);
  }

  /** Entries whose keys begin with a prefix and come after another key, by their bytes; 1,000 at most. */
  scan(prefix: string, after: string | null = null, limit: u32 = 1000): Entry[] {
    const at = take(20);
    const answer = take(16);
    lower(at, 0, prefix);
    lowerOption(at, 8, after);
    importScan(load<u32>(at), load<u32>(at, 4), load<u8>(at, 8), load<u32>(at, 12), load<u32>(at, 16), limit, answer);
    const entries: Entry[] = [];
    this.refused = refusal(answer, STATE_KINDS);
    if (this.refused) return entries;
    const rows: usize = load<u32>(answer, 4);
    const count = load<u32>(answer, 8);
    for (let index: u32 = 0; index < count; index++) {
      const row = rows + 16 * index;
      entries.push(new Entry(lift(row, 0), liftBytes(row, 8)));
    }
    return entries;
  }

  /** A value of the manifest's `[config]`; null where it has none. */
  config(name: string): string | null {
    const at = take(8);
    const answer = take(12);
    lower(at, 0, name);
    importConfig(load<u32>(at), load<u32>(at, 4), answer);
    return liftOption(answer, 0);
  }

  /** Writes a line to the log of the bus. */
  log(level: Level, text: string): void {
    const at = take(8);
    lower(at, 0, text);
    importLog(level, load<u32>(at), load<u32>(at, 4));
  }

  debug(text: string): void {
    this.log(Level.Debug, text);
  }

  info(text: string): void {
    this.log(Level.Info, text);
  }

  warn(text: string): void {
    this.log(Level.Warn, text);
  }

  error(text: string): void {
    this.log(Level.Error, text);
  }
}

/** Text as UTF-8. A surrogate that stands alone becomes U+FFFD. */
export function utf8(text: string): Uint8Array {
  return Uint8Array.wrap(String.UTF8.encode(text, false, String.UTF8.ErrorMode.REPLACE));
}

let handler: ((message: Message, bus: Bus) => Outcome) | null = null;

/** Says which function handles messages. Call it once, at the top level of the entry file. */
export function consumer(handle: (message: Message, bus: Bus) => Outcome): void {
  handler = handle;
}

// How it works: what crosses the boundary lies in blocks of raw memory, which the collector does not see, and which are
// given back when the answer was read. Offsets are those of the canonical ABI.

@external("sandpost:consumer/bus@0.1.0", "publish")
declare function importPublish(event: usize, answer: usize): void;
@external("sandpost:consumer/state@0.1.0", "get")
declare function importGet(key: u32, length: u32, answer: usize): void;
@external("sandpost:consumer/state@0.1.0", "set")
declare function importSet(key: u32, length: u32, value: u32, valueLength: u32, answer: usize): void;
@external("sandpost:consumer/state@0.1.0", "delete")
declare function importDelete(key: u32, length: u32, answer: usize): void;
@external("sandpost:consumer/state@0.1.0", "scan")
declare function importScan(
  prefix: u32,
  length: u32,
  some: u32,
  after: u32,
  afterLength: u32,
  limit: u32,
  answer: usize,
): void;
@external("sandpost:consumer/config@0.1.0", "get")
declare function importConfig(name: u32, length: u32, answer: usize): void;
@external("sandpost:consumer/log@0.1.0", "write")
declare function importLog(level: u32, text: u32, length: u32): void;

const PUBLISH_KINDS: StaticArray<string> = ["not-granted", "invalid", "too-large", "too-many"];
const STATE_KINDS: StaticArray<string> = ["invalid-key", "too-large", "full"];

/** The block that was taken last; each begins with the one before it. */
let blocks: usize = 0;
/** Keeps the alignment of the allocator. */
const HEADER: usize = 16;

/** Memory until the answer of the call was read, filled with zeros. */
function take(bytes: usize): usize {
  const block = heap.alloc(HEADER + bytes);
  store<usize>(block, blocks);
  blocks = block;
  memory.fill(block + HEADER, 0, bytes);
  return block + HEADER;
}

/** Where the bus puts messages, and what its functions return. */
export function cabi_realloc(old: usize, oldBytes: usize, align: usize, bytes: usize): usize {
  const place = take(bytes);
  if (oldBytes) memory.copy(place, old, min(oldBytes, bytes));
  return place;
}

export function cabi_post_handle(result: usize): void {
  while (blocks) {
    const before = load<usize>(blocks);
    heap.free(blocks);
    blocks = before;
  }
}

function lift(at: usize, offset: usize): string {
  return String.UTF8.decodeUnsafe(load<u32>(at + offset), load<u32>(at + offset, 4));
}

function liftOption(at: usize, offset: usize): string | null {
  return load<u8>(at + offset) ? lift(at, offset + 4) : null;
}

function liftBytes(at: usize, offset: usize): Uint8Array {
  const length = load<u32>(at + offset, 4);
  const bytes = new Uint8Array(length);
  memory.copy(bytes.dataStart, load<u32>(at + offset), length);
  return bytes;
}

function lower(at: usize, offset: usize, text: string): void {
  const length = String.UTF8.byteLength(text);
  const place = take(length);
  String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, place, false, String.UTF8.ErrorMode.REPLACE);
  store<u32>(at + offset, place as u32);
  store<u32>(at + offset, length, 4);
}

function lowerOption(at: usize, offset: usize, text: string | null): void {
  if (text === null) return;
  store<u8>(at + offset, 1);
  lower(at, offset + 4, text);
}

function lowerBytes(at: usize, offset: usize, bytes: Uint8Array): void {
  const place = take(bytes.length);
  memory.copy(place, bytes.dataStart, bytes.length);
  store<u32>(at + offset, place as u32);
  store<u32>(at + offset, bytes.length, 4);
}

function lowerTime(at: usize, offset: usize, ms: i64): void {
  if (ms < 0) return;
  store<u8>(at + offset, 1);
  store<u64>(at + offset, ms, 8);
}

function refusal(answer: usize, kinds: StaticArray<string>): Refused | null {
  return load<u8>(answer) ? new Refused(kinds[load<u8>(answer, 4)], lift(answer, 8)) : null;
}

/** The export of every consumer: it takes the lowered message and delivery, and gives the lowered result. */
export function handle(call: usize): usize {
  const message = new Message();
  message.id = lift(call, 0);
  message.source = lift(call, 8);
  message.type = lift(call, 16);
  message.subject = liftOption(call, 24);
  message.topic = lift(call, 36);
  message.key = liftOption(call, 44);
  message.contentType = liftOption(call, 56);
  message.acceptedMs = load<u64>(call, 72);
  const rows: usize = load<u32>(call, 80);
  const count = load<u32>(call, 84);
  for (let index: u32 = 0; index < count; index++) {
    const row = rows + 16 * index;
    message.attributes.push(new Attribute(lift(row, 0), lift(row, 8)));
  }
  message.data = liftBytes(call, 88);

  const bus = new Bus();
  bus.delivery.subscription = lift(call, 96);
  bus.delivery.sequence = load<u64>(call, 104);
  bus.delivery.attempt = load<u32>(call, 112);
  bus.delivery.maxAttempts = load<u32>(call, 116);
  bus.delivery.redrives = load<u32>(call, 120);
  bus.delivery.firstAttemptMs = load<u64>(call, 128);
  bus.delivery.deadlineMs = load<u64>(call, 136);
  bus.delivery.idempotencyKey = lift(call, 144);

  const handle = handler;
  if (!handle) throw new Error("no handler: call consumer() at the top level of the entry file");
  const outcome = handle(message, bus);
  const result = take(40);
  if (outcome.kind >= 0) {
    store<u8>(result, 1);
    store<u8>(result, outcome.kind as u8, 8);
    lower(result, 16, outcome.reason);
    lowerTime(result, 24, outcome.afterMs);
  }
  return result;
}
