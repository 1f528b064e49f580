// A bus in memory, for tests in Node. It keeps the contract: what a failed call did is undone.
//
//   const bus = new TestBus({ publish: ["invoice.due"] });
//   bus.deliver(handle, message("order.placed", { id: "o-1" }));
//   assert.deepEqual(bus.published[0].json(), ...);

import { Bus, Message, Refused, decode, encode, failureOf } from "./sandpost.js";

/** A message of a topic with this data (text, bytes, or anything else as JSON), and other fields of one's choice. */
export function message(topic, data = "", fields = {}) {
  const plain = typeof data === "string" || data instanceof Uint8Array;
  return new Message({
    id: "test-1",
    source: "/test",
    type: topic,
    topic,
    contentType: plain ? undefined : "application/json",
    acceptedMs: 1767225600000,
    attributes: [],
    ...fields,
    data: data instanceof Uint8Array ? data : encode(plain ? data : JSON.stringify(data)),
  });
}

export class TestBus {
  /** `publish` are the granted topics, without wildcards; `config` is the manifest's. */
  constructor({ publish = [], config = {} } = {}) {
    this.granted = publish;
    this.config = config;
    /** What acknowledged calls left, and published. */
    this.state = new Map();
    this.published = [];
    this.lines = [];
  }

  /** Has the handler handle a message. Answers `{ tag: "ack" }`, or the failure that it threw, as the bus has it. */
  deliver(handler, given, delivery = {}) {
    const state = new Map(this.state);
    const staged = [];
    const host = this.#host(state, staged);
    const bus = new Bus(host, {
      subscription: "test",
      sequence: 1,
      attempt: 1,
      maxAttempts: 6,
      redrives: 0,
      firstAttemptMs: given.acceptedMs,
      deadlineMs: given.acceptedMs + 5000,
      idempotencyKey: "test-key",
      ...delivery,
    });
    try {
      const answer = handler(given, bus);
      if (typeof answer?.then === "function") throw new TypeError("a handler is synchronous; this one returned a promise");
    } catch (error) {
      return failureOf(error);
    }
    this.state = state;
    this.published.push(...staged);
    return { tag: "ack" };
  }

  /** The value of a key of the state as text. */
  stored(key) {
    const value = this.state.get(key);
    return value === undefined ? undefined : decode(value);
  }

  #host(state, staged) {
    const checkKey = (key) => {
      const { length } = encode(key);
      if (length < 1 || length > 1024) throw new Refused("invalid-key", `a key has 1 to 1024 bytes, and this one ${length}`);
    };
    return {
      publish: (event) => {
        if (!this.granted.includes(event.topic)) {
          throw new Refused("not-granted", `the manifest does not grant publishing to \`${event.topic}\``);
        }
        if (event.data.length > 1 << 20) throw new Refused("too-large", `the data has ${event.data.length} bytes`);
        if (staged.length === 1000) throw new Refused("too-many", "one call publishes at most 1000 events");
        staged.push({ ...event, text: () => decode(event.data), json: () => JSON.parse(decode(event.data)) });
      },
      get: (key) => {
        checkKey(key);
        return state.get(key);
      },
      set: (key, value) => {
        checkKey(key);
        state.set(key, value.slice());
      },
      delete: (key) => {
        checkKey(key);
        state.delete(key);
      },
      scan: (prefix, after, limit) =>
        [...state]
          .map(([key, value]) => ({ key, value }))
          .filter(({ key }) => key.startsWith(prefix) && (after === undefined || compare(key, after) > 0))
          .sort((one, other) => compare(one.key, other.key))
          .slice(0, Math.min(limit, 1000)),
      config: (name) => this.config[name],
      log: (level, text) => this.lines.push({ level, text }),
    };
  }
}

/** By the bytes of UTF-8, which is the order of code points. */
function compare(one, other) {
  const [a, b] = [encode(one), encode(other)];
  for (let at = 0; at < Math.min(a.length, b.length); at++) {
    if (a[at] !== b[at]) return a[at] - b[at];
  }
  return a.length - b.length;
}
