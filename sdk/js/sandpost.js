// Sandpost for JavaScript. A consumer is a function that handles one message:
//
//   import { Reject } from "sandpost";
//
//   export function handle(message, bus) {
//     const order = message.json();
//     if (!order.id) throw new Reject("an order needs an id");
//     bus.publish({ topic: "invoice.due", key: order.id, json: order });
//   }
//
// Returning acknowledges the message: what was published and written to the state commits in the same transaction. Throwing
// means that none of it happened. An error of one's own means to try again later, and stands in the dead letter with its
// stack; `Reject` and `Unavailable` say otherwise.
//
// This file imports nothing of the bus, so that handlers run in Node too, under test (see testing.js).

import { decode, encode } from "./utf8.js";

export { decode, encode };

/** What an error says about the message. */
class Failure extends Error {
  constructor(reason, options = {}) {
    super(reason, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.afterMs = options.afterMs;
  }
}

/** It failed now, and may succeed later: charged as an attempt. */
export class Retry extends Failure {}

/** It can never succeed: the message becomes a dead letter at once. */
export class Reject extends Failure {}

/** Something that the handler depends on is down: not charged as an attempt. */
export class Unavailable extends Failure {}

/** Why an event or a key was not taken: its `kind` is `not-granted`, `invalid`, `too-large`, `too-many`, `invalid-key` or `full`. */
export class Refused extends Error {
  constructor(kind, text) {
    super(text);
    this.name = "Refused";
    this.kind = kind;
  }
}

/** A CloudEvents 1.0 event, stored in a topic. Optional attributes that are absent are undefined. */
export class Message {
  constructor(fields) {
    this.id = fields.id;
    this.source = fields.source;
    this.type = fields.type;
    this.subject = fields.subject ?? undefined;
    this.topic = fields.topic;
    this.key = fields.key ?? undefined;
    this.contentType = fields.contentType ?? undefined;
    this.acceptedMs = fields.acceptedMs;
    this.attributes = new Map(fields.attributes);
    this.data = fields.data;
  }

  /** The data as text. */
  text() {
    return decode(this.data);
  }

  /** The data as JSON. Data that is none is rejected. */
  json() {
    try {
      return JSON.parse(this.text());
    } catch (error) {
      throw new Reject(`the data is no JSON: ${error.message}`, { cause: error });
    }
  }
}

/** Durable keys and values of this consumer. Writes commit with the acknowledgement, or not at all. */
export class State {
  #host;

  constructor(host) {
    this.#host = host;
  }

  /** The value of a key as bytes; undefined where there is none. */
  get(key) {
    return this.#host.get(key);
  }

  getText(key) {
    const value = this.get(key);
    return value === undefined ? undefined : decode(value);
  }

  getJson(key) {
    const text = this.getText(key);
    return text === undefined ? undefined : JSON.parse(text);
  }

  /** Sets the value of a key: text or bytes. */
  set(key, value) {
    this.#host.set(key, bytes(value));
  }

  setJson(key, value) {
    this.set(key, JSON.stringify(value));
  }

  /** Removes a key. One that is not there is no error. */
  delete(key) {
    this.#host.delete(key);
  }

  /** Entries whose keys begin with a prefix and come after another key, by their bytes; 1,000 at most. */
  scan(prefix, { after, limit = 1000 } = {}) {
    return this.#host.scan(prefix, after, limit);
  }

  /** All entries whose keys begin with a prefix, read a page at a time. */
  *entries(prefix = "") {
    const limit = 100;
    for (let after; ; ) {
      const page = this.scan(prefix, { after, limit });
      yield* page;
      if (page.length < limit) return;
      after = page[page.length - 1].key;
    }
  }
}

/** What a handler may use. It is good until the handler returns. */
export class Bus {
  #host;

  constructor(host, delivery) {
    this.#host = host;
    this.delivery = delivery;
    this.state = new State(host);
  }

  /** Stages an event. It is published if, and only if, the message is acknowledged. */
  publish(event) {
    const { topic, type = "", key, id, subject, attributes = [], deliverAt, expires } = event;
    const json = event.json !== undefined;
    const contentType = event.contentType ?? (json ? "application/json" : undefined);
    this.#host.publish({
      topic,
      type,
      key,
      id,
      subject,
      contentType,
      attributes: attributes instanceof Map || Array.isArray(attributes) ? [...attributes] : Object.entries(attributes),
      data: json ? encode(JSON.stringify(event.json)) : bytes(event.data ?? ""),
      deliverAtMs: deliverAt === undefined ? undefined : Number(deliverAt),
      expiresMs: expires === undefined ? undefined : Number(expires),
    });
  }

  /** A value of the manifest's [config]; undefined where it has none. */
  config(name) {
    return this.#host.config(name);
  }

  /** Writes a line to the log of the bus: trace, debug, info, warn or error. */
  log(level, text) {
    this.#host.log(level, String(text));
  }
}

function bytes(value) {
  if (typeof value === "string") return encode(value);
  if (value instanceof Uint8Array) return value;
  throw new TypeError(`text or a Uint8Array is needed, not ${value === null ? "null" : typeof value}`);
}

/** What an error that a handler threw says, in the words of the contract. */
export function failureOf(error) {
  // What is no time leaves it to the policy.
  const afterMs = Number.isFinite(error?.afterMs) ? Math.max(0, Math.round(error.afterMs)) : null;
  if (error instanceof Reject) return { tag: "reject", val: error.message };
  if (error instanceof Unavailable) return { tag: "unavailable", val: { reason: error.message, afterMs } };
  if (error instanceof Retry) return { tag: "retry", val: { reason: error.message, afterMs } };
  return { tag: "retry", val: { reason: describe(error), afterMs: null } };
}

/** An error as JavaScript prints it. */
export function describe(error) {
  if (!(error instanceof Error)) return `uncaught ${String(error)}`;
  const head = String(error);
  const stack = typeof error.stack === "string" ? error.stack.trimEnd() : "";
  const text = stack.startsWith(head) || stack === "" ? stack || head : `${head}\n${stack}`;
  return error.cause === undefined ? text : `${text}\ncaused by ${describe(error.cause)}`;
}
