import producer from "wasi:messaging/producer@0.2.0-draft";
import types from "wasi:messaging/types@0.2.0-draft";
import { decode, encode } from "../../../../sdk/js/utf8.js";
import { cut, obey } from "./orders.js";

const publish = (topic, body, metadata = []) => {
  const message = new types.Message(body);
  message.setContentType("text/plain");
  for (const [name, value] of metadata) message.addMetadata(name, value);
  producer.send(types.Client.connect("default"), topic, message);
};
const fail = (val) => {
  throw { tag: "other", val };
};

export const incomingHandler = {
  handle(message) {
    const body = message.data();
    if (obey(body, publish, fail)) return;
    const [verb, rest] = cut(decode(body));
    if (verb !== "metadata") fail(`unknown order ${verb}`);
    const [, value] = (message.metadata() ?? []).find(([name]) => name === rest) ?? [];
    publish("told", encode(`${message.topic()} ${value}`), [
      ["partitionkey", "another"],
      ["extra", "more"],
    ]);
  },
};
