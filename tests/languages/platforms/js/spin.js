import store from "wasi:keyvalue/store@0.2.0-draft";
import { obey } from "./orders.js";

const keep = (key, value) => store.open("default").set(key, value);
const fail = () => {
  throw "error";
};

export const inboundRedis = {
  handleMessage(body) {
    if (!obey(body, keep, fail)) fail();
  },
};
