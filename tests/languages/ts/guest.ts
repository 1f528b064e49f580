// The obedient guest in TypeScript: it does what the subject of its message says.
import { consumer } from "../../../sdk/js/component.js";
import { type Bus, type Delivery, type Level, type Message, Refused, Reject, Retry, Unavailable, decode } from "../../../sdk/js/sandpost.js";

const cut = (text: string): [string, string] => {
  const space = text.indexOf(" ");
  return space < 0 ? [text, ""] : [text.slice(0, space), text.slice(space + 1)];
};

const hoard: Uint8Array[] = [];

function kindOf(call: () => void): string {
  try {
    call();
    return "none";
  } catch (error) {
    if (error instanceof Refused) return error.kind;
    throw error;
  }
}

function describe(message: Message, delivery: Delivery): string {
  const optional = (name: string, value?: string) => (value === undefined ? name : `${name}=${value}`);
  const attributes = [...message.attributes].map(([name, value]) => `attribute ${name}=${value}`);
  const lines = [
    `id=${message.id}`,
    `source=${message.source}`,
    `type=${message.type}`,
    optional("subject", message.subject),
    `topic=${message.topic}`,
    optional("key", message.key),
    optional("content-type", message.contentType),
    `accepted-ms=${message.acceptedMs}`,
    ...attributes,
    `data-bytes=${message.data.length}`,
    `subscription=${delivery.subscription}`,
    `sequence=${delivery.sequence}`,
    `attempt=${delivery.attempt}`,
    `max-attempts=${delivery.maxAttempts}`,
    `redrives=${delivery.redrives}`,
    `first-attempt-ms=${delivery.firstAttemptMs}`,
    `deadline-ms=${delivery.deadlineMs}`,
    `idempotency-key=${delivery.idempotencyKey}`,
  ];
  return lines.join("\n") + "\n";
}

export const handle = consumer((message: Message, bus: Bus): void => {
  const order = message.subject ?? "";
  const [verb, rest] = cut(order);
  const tell = (data: string | Uint8Array) => bus.publish({ topic: "told", key: message.key, contentType: "text/plain", data });
  switch (verb) {
    case "ack":
      return;
    case "retry":
      throw new Retry(rest);
    case "retry-after":
    case "unavailable-after": {
      const [ms, reason] = cut(rest);
      const Failure = verb === "retry-after" ? Retry : Unavailable;
      throw new Failure(reason, { afterMs: Number(ms) });
    }
    case "reject":
      throw new Reject(rest);
    case "unavailable":
      throw new Unavailable(rest);
    case "throw":
      throw new RangeError(rest);
    case "loop":
      for (;;);
    case "hog":
      for (;;) hoard.push(new Uint8Array(1 << 20).fill(1));
    case "publish":
      return bus.publish({
        topic: rest,
        type: message.type,
        key: message.key,
        subject: message.id,
        contentType: message.contentType,
        attributes: message.attributes,
        data: message.data,
      });
    case "publish-later":
      return bus.publish({
        topic: rest,
        id: `later-${message.id}`,
        deliverAt: message.acceptedMs + 3600000,
        expires: new Date(message.acceptedMs + 7200000),
        data: message.data,
      });
    case "publish-error":
      return tell(kindOf(() => bus.publish({ topic: rest })));
    case "describe":
      return tell(describe(message, bus.delivery));
    case "set":
      return bus.state.set(rest, message.data);
    case "get": {
      const value = bus.state.get(rest);
      if (value === undefined) throw new Reject(`no ${rest}`);
      return tell(value);
    }
    case "delete":
      return bus.state.delete(rest);
    case "scan": {
      let lines = "";
      for (let after: string | undefined; ; ) {
        const page = bus.state.scan(rest, { after, limit: 2 });
        for (const { key, value } of page) {
          lines += `${key}=${decode(value)}\n`;
          after = key;
        }
        if (page.length < 2) return tell(lines);
      }
    }
    case "count":
      return bus.state.set(rest, String(Number(bus.state.getText(rest) ?? 0) + 1));
    case "state-error":
      return tell(kindOf(() => bus.state.set("", message.data)));
    case "config": {
      const value = bus.config(rest);
      if (value === undefined) throw new Reject(`no ${rest}`);
      return tell(value);
    }
    case "log": {
      const [level, text] = cut(rest);
      return bus.log(level as Level, text);
    }
    case "garbage":
      for (let left = Number(rest); left >= 1024; left -= 1024) new Uint8Array(1024).fill(1);
      return;
  }
  throw new Reject(`unknown order ${order}`);
});
