// A bus in memory for a consumer that is a core module, under `node --test`. It lowers and lifts what crosses the boundary
// as the bus does, and keeps the contract: what a failed call did is undone. Text alone is shown of what is published and kept.

import { readFile } from "node:fs/promises";

const encode = (text) => new TextEncoder().encode(text);
const decode = (bytes) => new TextDecoder().decode(bytes);

/** A message of a topic with this text as its data, and other fields of one's choice. */
export function message(topic, data = "", fields = {}) {
  return { id: "test-1", source: "/test", type: topic, topic, acceptedMs: 1767225600000, attributes: [], data, ...fields };
}

export class TestBus {
  /** `publish` are the granted topics, without wildcards; `config` is the manifest's. */
  static async of(wasm, { publish = [], config = {} } = {}) {
    const bus = new TestBus();
    bus.granted = publish;
    bus.config = config;
    /** What acknowledged calls left, and published. */
    bus.state = new Map();
    bus.published = [];
    bus.lines = [];
    const { instance } = await WebAssembly.instantiate(await readFile(wasm), bus.#imports());
    bus.exports = instance.exports;
    return bus;
  }

  /** Has the consumer handle a message. Answers `{ tag: "ack" }` or its failure; what traps is thrown. */
  deliver(given, delivery = {}) {
    const { exports } = this;
    this.working = new Map(this.state);
    this.staged = [];
    const call = this.#take(152, 8);
    const texts = { 0: given.id, 8: given.source, 16: given.type, 36: given.topic, 88: given.data };
    for (const [at, text] of Object.entries(texts)) this.#lower(call + Number(at), text);
    for (const [at, text] of [[24, given.subject], [44, given.key], [56, given.contentType]]) this.#option(call + at, text);
    const rows = this.#take(16 * given.attributes.length, 4);
    given.attributes.forEach(([name, value], index) => {
      this.#lower(rows + 16 * index, name);
      this.#lower(rows + 16 * index + 8, value);
    });
    const memory = this.#view();
    memory.setBigUint64(call + 72, BigInt(given.acceptedMs), true);
    memory.setUint32(call + 80, rows, true);
    memory.setUint32(call + 84, given.attributes.length, true);
    memory.setBigUint64(call + 104, BigInt(delivery.sequence ?? 1), true);
    memory.setUint32(call + 112, delivery.attempt ?? 1, true);
    memory.setUint32(call + 116, delivery.maxAttempts ?? 6, true);
    memory.setUint32(call + 120, delivery.redrives ?? 0, true);
    memory.setBigUint64(call + 128, BigInt(given.acceptedMs), true);
    memory.setBigUint64(call + 136, BigInt(given.acceptedMs + 5000), true);
    this.#lower(call + 96, delivery.subscription ?? "test");
    this.#lower(call + 144, delivery.idempotencyKey ?? "test-key");

    const result = exports.handle(call);
    const answer = this.#outcome(result);
    exports.cabi_post_handle?.(result);
    if (answer.tag === "ack") {
      this.state = this.working;
      this.published.push(...this.staged);
    }
    return answer;
  }

  #outcome(result) {
    const memory = this.#view();
    if (!memory.getUint8(result)) return { tag: "ack" };
    const tag = ["retry", "reject", "unavailable"][memory.getUint8(result + 8)];
    const reason = this.#lift(result + 16);
    if (tag === "reject") return { tag, val: reason };
    const afterMs = memory.getUint8(result + 24) ? Number(memory.getBigUint64(result + 32, true)) : null;
    return { tag, val: { reason, afterMs } };
  }

  #view() {
    return new DataView(this.exports.memory.buffer);
  }

  #take(bytes, align = 1) {
    return this.exports.cabi_realloc(0, 0, align, bytes);
  }

  #lower(at, text) {
    const bytes = encode(text);
    const place = this.#take(bytes.length);
    new Uint8Array(this.exports.memory.buffer, place, bytes.length).set(bytes);
    this.#view().setUint32(at, place, true);
    this.#view().setUint32(at + 4, bytes.length, true);
  }

  #option(at, text) {
    this.#view().setUint8(at, text === undefined ? 0 : 1);
    if (text !== undefined) this.#lower(at + 4, text);
  }

  #text(pointer, length) {
    return decode(new Uint8Array(this.exports.memory.buffer, pointer, length));
  }

  #lift(at) {
    return this.#text(this.#view().getUint32(at, true), this.#view().getUint32(at + 4, true));
  }

  #liftOption(at) {
    return this.#view().getUint8(at) ? this.#lift(at + 4) : undefined;
  }

  #refuse(answer, kind, text) {
    this.#view().setUint8(answer, 1);
    this.#view().setUint8(answer + 4, kind);
    this.#lower(answer + 8, text);
  }

  /** Answers whether a key is one, and says so where it is none. */
  #isKey(key, answer) {
    const { length } = encode(key);
    const good = length >= 1 && length <= 1024;
    if (!good) this.#refuse(answer, 0, `a key has 1 to 1024 bytes, and this one ${length}`);
    return good;
  }

  #imports() {
    const ok = (answer) => this.#view().setUint8(answer, 0);
    return {
      env: {
        abort: (message) => {
          const length = new DataView(this.exports.memory.buffer).getUint32(message - 4, true);
          throw new Error(new TextDecoder("utf-16le").decode(new Uint8Array(this.exports.memory.buffer, message, length)));
        },
      },
      "sandpost:consumer/bus@0.1.0": {
        publish: (event, answer) => {
          const topic = this.#lift(event);
          if (!this.granted.includes(topic)) {
            return this.#refuse(answer, 0, `the manifest does not grant publishing to \`${topic}\``);
          }
          this.staged.push({
            topic,
            type: this.#lift(event + 8) || topic,
            key: this.#liftOption(event + 16),
            id: this.#liftOption(event + 28),
            subject: this.#liftOption(event + 40),
            contentType: this.#liftOption(event + 52),
            data: this.#lift(event + 72),
          });
          ok(answer);
        },
      },
      "sandpost:consumer/state@0.1.0": {
        get: (pointer, length, answer) => {
          const key = this.#text(pointer, length);
          if (!this.#isKey(key, answer)) return;
          ok(answer);
          this.#option(answer + 4, this.working.get(key));
        },
        set: (pointer, length, value, valueLength, answer) => {
          const key = this.#text(pointer, length);
          if (!this.#isKey(key, answer)) return;
          this.working.set(key, this.#text(value, valueLength));
          ok(answer);
        },
        delete: (pointer, length, answer) => {
          const key = this.#text(pointer, length);
          if (!this.#isKey(key, answer)) return;
          this.working.delete(key);
          ok(answer);
        },
        scan: (pointer, length, some, after, afterLength, limit, answer) => {
          const [prefix, last] = [this.#text(pointer, length), some ? this.#text(after, afterLength) : undefined];
          const rows = [...this.working]
            .filter(([key]) => key.startsWith(prefix) && (last === undefined || key > last))
            .sort(([one], [other]) => (one < other ? -1 : 1))
            .slice(0, Math.min(limit, 1000));
          const place = this.#take(16 * rows.length, 4);
          rows.forEach(([key, value], index) => {
            this.#lower(place + 16 * index, key);
            this.#lower(place + 16 * index + 8, value);
          });
          ok(answer);
          this.#view().setUint32(answer + 4, place, true);
          this.#view().setUint32(answer + 8, rows.length, true);
        },
      },
      "sandpost:consumer/config@0.1.0": {
        get: (pointer, length, answer) => this.#option(answer, this.config[this.#text(pointer, length)]),
      },
      "sandpost:consumer/log@0.1.0": {
        write: (level, pointer, length) =>
          this.lines.push({ level: ["trace", "debug", "info", "warn", "error"][level], text: this.#text(pointer, length) }),
      },
    };
  }
}
