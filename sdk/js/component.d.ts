import type { Handler } from "./sandpost.js";

/** Makes what a component exports of a handler: `export const handle = consumer(handler)`. */
export function consumer(handler: Handler): (message: unknown, delivery: unknown) => void;
