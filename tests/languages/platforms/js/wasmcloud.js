import messaging from "wasmcloud:messaging/consumer@0.2.0";
import { decode, encode } from "../../../../sdk/js/utf8.js";
import { cut, obey } from "./orders.js";

const publish = (subject, body) => messaging.publish({ subject, body, replyTo: "inbox.1" });
const fail = (text) => {
  throw text;
};

export const handler = {
  handleMessage({ body }) {
    if (obey(body, publish, fail)) return;
    const [verb, rest] = cut(decode(body));
    if (verb !== "request") fail(`unknown order ${verb}`);
    try {
      messaging.request(rest, body, 1000);
    } catch (error) {
      publish("told", encode(String(error.payload ?? error)));
    }
  },
};
