// The obedient guest in AssemblyScript: it does what the subject of its message says.
import { Bus, Delivery, Entry, Event, Level, Message, Outcome, Refused, consumer, utf8 } from "../../../sdk/assemblyscript/sandpost";
export { cabi_post_handle, cabi_realloc, handle } from "../../../sdk/assemblyscript/sandpost";

const hoard: Uint8Array[] = [];

function done(refused: Refused | null): Outcome {
  return refused ? Outcome.retry(refused.text) : Outcome.ack();
}

function kindOf(refused: Refused | null): string {
  return refused ? refused.kind : "none";
}

function tell(message: Message, bus: Bus, data: Uint8Array): Outcome {
  const event = new Event("told", data);
  event.key = message.key;
  event.contentType = "text/plain";
  return done(bus.publish(event));
}

function optional(name: string, value: string | null): string {
  return value === null ? name + "\n" : name + "=" + value + "\n";
}

function describe(message: Message, delivery: Delivery): string {
  let text = optional("id", message.id) + optional("source", message.source) + optional("type", message.type);
  text += optional("subject", message.subject) + optional("topic", message.topic) + optional("key", message.key);
  text += optional("content-type", message.contentType) + optional("accepted-ms", message.acceptedMs.toString());
  for (let index = 0; index < message.attributes.length; index++) {
    text += "attribute " + message.attributes[index].name + "=" + message.attributes[index].value + "\n";
  }
  text += optional("data-bytes", message.data.length.toString()) + optional("subscription", delivery.subscription);
  text += optional("sequence", delivery.sequence.toString()) + optional("attempt", delivery.attempt.toString());
  text += optional("max-attempts", delivery.maxAttempts.toString()) + optional("redrives", delivery.redrives.toString());
  text += optional("first-attempt-ms", delivery.firstAttemptMs.toString());
  text += optional("deadline-ms", delivery.deadlineMs.toString());
  return text + optional("idempotency-key", delivery.idempotencyKey);
}

function scan(message: Message, bus: Bus, prefix: string): Outcome {
  let lines = "";
  let after: string | null = null;
  let full = true;
  while (full) {
    const page: Entry[] = bus.scan(prefix, after, 2);
    if (bus.refused) return done(bus.refused);
    for (let index = 0; index < page.length; index++) {
      const value = page[index].value;
      lines += page[index].key + "=" + String.UTF8.decodeUnsafe(value.dataStart, value.length) + "\n";
      after = page[index].key;
    }
    full = page.length == 2;
  }
  return tell(message, bus, utf8(lines));
}

consumer((message: Message, bus: Bus): Outcome => {
  const subject = message.subject;
  const order = subject === null ? "" : subject;
  const space = order.indexOf(" ");
  const verb = space < 0 ? order : order.substring(0, space);
  const rest = space < 0 ? "" : order.substring(space + 1);
  const next = rest.indexOf(" ");
  const first = next < 0 ? rest : rest.substring(0, next);
  const second = next < 0 ? "" : rest.substring(next + 1);

  if (verb == "ack") return Outcome.ack();
  if (verb == "retry") return Outcome.retry(rest);
  if (verb == "retry-after") return Outcome.retry(second, i64.parse(first));
  if (verb == "reject") return Outcome.reject(rest);
  if (verb == "unavailable") return Outcome.unavailable(rest);
  if (verb == "unavailable-after") return Outcome.unavailable(second, i64.parse(first));
  if (verb == "throw") throw new Error(rest);
  if (verb == "loop") {
    let turns: u32 = 0;
    for (;;) store<u32>(1024, turns++);
  }
  if (verb == "hog") for (;;) hoard.push(new Uint8Array(1 << 20).fill(1));
  if (verb == "publish") {
    const event = new Event(rest, message.data);
    event.type = message.type;
    event.key = message.key;
    event.subject = message.id;
    event.contentType = message.contentType;
    event.attributes = message.attributes;
    return done(bus.publish(event));
  }
  if (verb == "publish-later") {
    const event = new Event(rest, message.data);
    event.id = "later-" + message.id;
    event.deliverAtMs = (message.acceptedMs + 3600000) as i64;
    event.expiresMs = (message.acceptedMs + 7200000) as i64;
    return done(bus.publish(event));
  }
  if (verb == "publish-error") return tell(message, bus, utf8(kindOf(bus.publish(new Event(rest)))));
  if (verb == "describe") return tell(message, bus, utf8(describe(message, bus.delivery)));
  if (verb == "set") return done(bus.set(rest, message.data));
  if (verb == "get") {
    const value = bus.get(rest);
    if (bus.refused) return done(bus.refused);
    return value ? tell(message, bus, value) : Outcome.reject("no " + rest);
  }
  if (verb == "delete") return done(bus.delete(rest));
  if (verb == "scan") return scan(message, bus, rest);
  if (verb == "count") {
    const value = bus.getText(rest);
    if (bus.refused) return done(bus.refused);
    return done(bus.setText(rest, ((value === null ? 0 : i32.parse(value)) + 1).toString()));
  }
  if (verb == "state-error") return tell(message, bus, utf8(kindOf(bus.set("", message.data))));
  if (verb == "config") {
    const value = bus.config(rest);
    return value === null ? Outcome.reject("no " + rest) : tell(message, bus, utf8(value));
  }
  if (verb == "log") {
    const levels = ["trace", "debug", "info", "warn", "error"];
    bus.log(levels.indexOf(first) as Level, second);
    return Outcome.ack();
  }
  if (verb == "garbage") {
    for (let left = i32.parse(rest); left >= 1024; left -= 1024) new Uint8Array(1024).fill(1);
    return Outcome.ack();
  }
  return Outcome.reject("unknown order " + order);
});
