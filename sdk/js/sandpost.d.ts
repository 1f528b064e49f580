export type Level = "trace" | "debug" | "info" | "warn" | "error";
export type RefusedKind = "not-granted" | "invalid" | "too-large" | "too-many" | "invalid-key" | "full";

export interface FailureOptions {
  /** Milliseconds to wait before the next attempt; the subscription's backoff decides where it is left out. */
  afterMs?: number;
  cause?: unknown;
}

declare class Failure extends Error {
  constructor(reason: string, options?: FailureOptions);
  readonly afterMs?: number;
}
/** It failed now, and may succeed later: charged as an attempt. */
export class Retry extends Failure {}
/** It can never succeed: the message becomes a dead letter at once. */
export class Reject extends Failure {}
/** Something that the handler depends on is down: not charged as an attempt. */
export class Unavailable extends Failure {}

/** Why an event or a key was not taken. */
export class Refused extends Error {
  constructor(kind: RefusedKind, text: string);
  readonly kind: RefusedKind;
}

export interface MessageFields {
  id: string;
  source: string;
  type: string;
  subject?: string;
  topic: string;
  key?: string;
  contentType?: string;
  acceptedMs: number;
  attributes: Iterable<readonly [string, string]>;
  data: Uint8Array;
}

/** A CloudEvents 1.0 event, stored in a topic. */
export class Message {
  constructor(fields: MessageFields);
  readonly id: string;
  readonly source: string;
  readonly type: string;
  readonly subject?: string;
  readonly topic: string;
  /** Messages of one key arrive in order, one at a time. */
  readonly key?: string;
  readonly contentType?: string;
  /** When the bus accepted it, in milliseconds since 1970. */
  readonly acceptedMs: number;
  /** `time`, `dataschema`, `traceparent` and extensions. */
  readonly attributes: Map<string, string>;
  readonly data: Uint8Array;
  text(): string;
  /** The data as JSON. Data that is none is rejected. */
  json<T = any>(): T;
}

/** This offer of the message to this subscription. */
export interface Delivery {
  readonly subscription: string;
  readonly sequence: number;
  /** From 1; only the message's own failures are counted. */
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly redrives: number;
  readonly firstAttemptMs: number;
  readonly deadlineMs: number;
  /** The same in every attempt. Hand it to services outside the bus. */
  readonly idempotencyKey: string;
}

export interface OutgoingEvent {
  /** Granted under `[grants] publish` in the manifest. */
  topic: string;
  /** The topic's name where it is left out. */
  type?: string;
  key?: string;
  /** Made from the idempotency key where it is left out. */
  id?: string;
  subject?: string;
  contentType?: string;
  /** Names are lower-case letters and digits. */
  attributes?: Record<string, string> | Map<string, string> | ReadonlyArray<readonly [string, string]>;
  data?: string | Uint8Array;
  /** In place of `data`: anything, as JSON. */
  json?: unknown;
  /** Not before this time. */
  deliverAt?: Date | number;
  /** Not after this time. */
  expires?: Date | number;
}

export interface Entry {
  key: string;
  value: Uint8Array;
}

/** Durable keys and values of this consumer. Writes commit with the acknowledgement, or not at all. */
export interface State {
  get(key: string): Uint8Array | undefined;
  getText(key: string): string | undefined;
  getJson<T = any>(key: string): T | undefined;
  set(key: string, value: string | Uint8Array): void;
  setJson(key: string, value: unknown): void;
  delete(key: string): void;
  scan(prefix: string, options?: { after?: string; limit?: number }): Entry[];
  entries(prefix?: string): Generator<Entry>;
}

/** What a handler may use. It is good until the handler returns. */
export interface Bus {
  readonly delivery: Delivery;
  readonly state: State;
  /** Stages an event. It is published if, and only if, the message is acknowledged. */
  publish(event: OutgoingEvent): void;
  /** A value of the manifest's `[config]`. */
  config(name: string): string | undefined;
  log(level: Level, text: string): void;
}

export type Handler = (message: Message, bus: Bus) => void;

/** Text as UTF-8, and back. */
export function encode(text: string): Uint8Array;
export function decode(bytes: Uint8Array): string;
