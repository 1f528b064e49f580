// The side of the SDK that is WebAssembly: it imports the bus. The entry file of a consumer is
//
//   import { consumer } from "sandpost/component";
//   import { handle as handler } from "./consumer.js";
//
//   export const handle = consumer(handler);
//
// It is the same on both engines, QuickJS (componentize-qjs) and StarlingMonkey (componentize-js).

import * as busImport from "sandpost:consumer/bus@0.1.0";
import * as configImport from "sandpost:consumer/config@0.1.0";
import * as logImport from "sandpost:consumer/log@0.1.0";
import * as stateImport from "sandpost:consumer/state@0.1.0";
import { Bus, Message, Refused, failureOf } from "./sandpost.js";

// QuickJS has an interface's functions in its default export, StarlingMonkey has each under its name.
const [bus, config, log, state] = [busImport, configImport, logImport, stateImport].map((found) => found.default ?? found);

// 64-bit integers are numbers in QuickJS and BigInts in StarlingMonkey. All of the contract are below 2^53.
let isBig = false;

function toHost(integer) {
  return integer !== null && isBig ? BigInt(Math.trunc(integer)) : integer;
}

function toNumbers(record) {
  const numbers = { ...record };
  for (const [name, value] of Object.entries(numbers)) {
    if (typeof value === "bigint") numbers[name] = Number(value);
  }
  return numbers;
}

/** What an import throws carries `{ tag, val }`: one of the errors of the contract. */
function refused(call) {
  try {
    return call();
  } catch (error) {
    const failure = error?.payload ?? error;
    throw typeof failure?.tag === "string" ? new Refused(failure.tag, failure.val) : error;
  }
}

const host = {
  publish: (event) =>
    refused(() =>
      bus.publish({
        ...event,
        key: event.key ?? null,
        id: event.id ?? null,
        subject: event.subject ?? null,
        contentType: event.contentType ?? null,
        deliverAtMs: toHost(event.deliverAtMs ?? null),
        expiresMs: toHost(event.expiresMs ?? null),
      }),
    ),
  get: (key) => {
    const value = refused(() => state.get(key));
    return value === null || value === undefined ? undefined : bytes(value);
  },
  set: (key, value) => refused(() => state.set(key, value)),
  delete: (key) => refused(() => state.delete(key)),
  scan: (prefix, after, limit) =>
    refused(() => state.scan(prefix, after ?? null, limit)).map(({ key, value }) => ({ key, value: bytes(value) })),
  config: (name) => config.get(name) ?? undefined,
  log: (level, text) => log.write(level, text),
};

function bytes(value) {
  return value instanceof Uint8Array ? value : new Uint8Array(value);
}

function print(level) {
  return (...values) => host.log(level, values.map(shown).join(" "));
}

function shown(value) {
  if (typeof value === "string") return value;
  if (value instanceof Error) return `${value}\n${value.stack ?? ""}`.trimEnd();
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}

globalThis.console = {
  trace: print("trace"),
  debug: print("debug"),
  log: print("info"),
  info: print("info"),
  warn: print("warn"),
  error: print("error"),
};

/** Makes what a component exports of a handler. */
export function consumer(handler) {
  return (message, delivery) => {
    isBig = typeof message.acceptedMs === "bigint";
    try {
      const given = new Message({ ...toNumbers(message), data: bytes(message.data) });
      const answer = handler(given, new Bus(host, toNumbers(delivery)));
      // A promise would be settled when the call is long over, and what it stages be lost.
      if (typeof answer?.then === "function") throw new TypeError("a handler is synchronous; this one returned a promise");
    } catch (error) {
      const failure = failureOf(error);
      if (failure.tag !== "reject") failure.val.afterMs = toHost(failure.val.afterMs);
      throw failure;
    }
  };
}
