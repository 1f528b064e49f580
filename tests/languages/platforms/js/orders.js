// What all three do alike, by the interfaces that all three have.
import atomics from "wasi:keyvalue/atomics@0.2.0-draft";
import batch from "wasi:keyvalue/batch@0.2.0-draft";
import runtime from "wasi:config/runtime@0.2.0-draft";
import logging from "wasi:logging/logging@0.1.0-draft";
import store from "wasi:keyvalue/store@0.2.0-draft";
import { decode, encode } from "../../../../sdk/js/utf8.js";

export const cut = (text) => {
  const space = text.indexOf(" ");
  return space < 0 ? [text, ""] : [text.slice(0, space), text.slice(space + 1)];
};

/** `tell` publishes, or what stands in for it; `fail` throws the platform's error. Answers whether it knew the order. */
export function obey(body, tell, fail) {
  const [verb, rest] = cut(decode(body));
  const bucket = () => store.open("default");
  switch (verb) {
    case "ack":
      return true;
    case "fail":
      return fail(rest);
    case "throw":
      throw new Error(rest);
    case "publish": {
      const [topic, text] = cut(rest);
      tell(topic, encode(text));
      return true;
    }
    case "set": {
      const [key, text] = cut(rest);
      bucket().set(key, encode(text));
      return true;
    }
    case "get":
      tell("told", bucket().get(rest) ?? encode("none"));
      return true;
    case "increment":
      tell("told", encode(String(atomics.increment(bucket(), rest, 2))));
      return true;
    case "keys": {
      const own = store.open(rest);
      batch.setMany(own, ["a", "b", "c"].map((key) => [key, encode(key)]));
      own.delete("b");
      const { keys } = own.listKeys(null);
      tell("told", encode(`${keys.join(" ")} ${own.exists("a")} ${own.exists("b")}`));
      return true;
    }
    case "config":
      tell("told", encode(runtime.get(rest) ?? "none"));
      return true;
    case "log":
      logging.log("warn", "context", rest);
      return true;
  }
  return false;
}
