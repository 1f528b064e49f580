import type { Delivery, Handler, Level, Message, MessageFields } from "./sandpost.js";

/** A message of a topic with this data (text, bytes, or anything else as JSON), and other fields of one's choice. */
export function message(topic: string, data?: unknown, fields?: Partial<MessageFields>): Message;

export interface Published {
  topic: string;
  type: string;
  key?: string;
  id?: string;
  subject?: string;
  contentType?: string;
  attributes: [string, string][];
  data: Uint8Array;
  deliverAtMs?: number;
  expiresMs?: number;
  text(): string;
  json<T = any>(): T;
}

export type Outcome =
  | { tag: "ack" }
  | { tag: "reject"; val: string }
  | { tag: "retry" | "unavailable"; val: { reason: string; afterMs: number | null } };

/** A bus in memory. What a failed call did is undone. */
export class TestBus {
  constructor(manifest?: { publish?: string[]; config?: Record<string, string> });
  readonly state: Map<string, Uint8Array>;
  readonly published: Published[];
  readonly lines: { level: Level; text: string }[];
  deliver(handler: Handler, message: Message, delivery?: Partial<Delivery>): Outcome;
  stored(key: string): string | undefined;
}
