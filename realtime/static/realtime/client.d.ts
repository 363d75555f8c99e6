/**
 * TypeScript declarations of `client.js`. docs/reference/client.md is the documentation for users.
 *
 * Owns the types only; tests compare them with the code in both directions.
 */

/**
 * `open`: the server has sent hello. `waiting`: lost and retrying, or suspended with its page. `closed`: not retrying.
 */
export type State = "connecting" | "open" | "waiting" | "closed";

export interface Publication<Data = any> {
  topic: string;
  offset?: number;
  /** As it was published. */
  data: Data;
}

/** The newest publication of a key. */
export interface Item<Data = any> {
  topic: string;
  key: string;
  offset: number;
  data: Data;
}

export interface ClientError {
  code: string;
  detail: string;
  /** Left out if the error is not about a topic. */
  topic?: string;
}

export interface Resync {
  topic: string;
  /** How many publications are lost, if that is known. */
  lost?: number;
}

export interface Options {
  /** Of the WebSocket; relative to the page, http becomes ws. Default "/ws/". */
  url?: string;
  /** The user for whom the page was rendered. With it, all tabs of the user share one connection. */
  user?: string | number;
  /** This and the following are for tests. */
  WebSocket?: typeof WebSocket;
  SharedWorker?: typeof SharedWorker | null;
  locks?: LockManager | null;
  clock?: {
    setTimeout(callback: () => void, ms: number): any;
    clearTimeout(timer: any): void;
    /** Milliseconds. */
    now(): number;
  };
  random?: () => number;
  page?: EventTarget & { document?: Document; location?: Location };
  /** Called with errors that listeners throw, and with errors that nobody listens to. */
  report?: (error: unknown) => void;
}

export type TagValue = string | number | boolean;

/** Conditions on the value of a tag; all of them must hold. */
export interface TagConditions {
  eq?: TagValue;
  ne?: TagValue;
  in?: readonly TagValue[];
  nin?: readonly TagValue[];
  /** The tag is present. */
  ex?: true;
  /** The tag is absent. */
  nex?: true;
  /** Starts with, ends with, contains. */
  sw?: string;
  ew?: string;
  ct?: string;
  gt?: number | string;
  gte?: number | string;
  lt?: number | string;
  lte?: number | string;
}

/** Tag → its value, several possible values, or conditions; all of them must hold. */
export interface TagFilter {
  $and?: readonly TagFilter[];
  $or?: readonly TagFilter[];
  $not?: TagFilter;
  [tag: string]: TagValue | readonly TagValue[] | TagConditions | TagFilter | readonly TagFilter[] | undefined;
}

/** What a subscription lets through; {} is everything. */
export interface Filter {
  /** West, south, east and north, in degrees. */
  bbox?: readonly [west: number, south: number, east: number, north: number] | null;
  /** Items of a higher level are left out. */
  zoom?: number | null;
  tags?: TagFilter | null;
}

export interface SubscriptionEvents<Data = any> {
  /** A later publication. Each arrives once, in order of offset. */
  message: Publication<Data>;
  /** Publications before this moment may have been missed: reload the state. It is always the first event. */
  resync: Resync;
  /** The server refuses the topic, or the user has lost the permission for it. */
  error: ClientError;
}

export interface LiveSubscriptionEvents<Data = any> {
  /** Once for each frame that changed something: first remove what left, then draw the new and changed items. */
  change: { items: Item<Data>[]; left: { topic: string; keys: string[] }[] };
  /** The answer to the subscription, a reconnect or a filter. The items are those that are new or have changed. */
  snapshot: { items: Item<Data>[]; isReset: boolean };
  /** A later publication. */
  message: Item<Data>;
  /** They no longer match the filter, were removed, were silent for too long, or may no longer be received. */
  left: { topic: string; keys: string[] };
  /** The server refuses a new filter, or refuses or ends the subscription. */
  error: ClientError;
}

export interface ConnectionEvents<Data = any> {
  /** A publication on the user's own topic. */
  message: Publication<Data>;
  /** As on a Subscription, for the user's own topic. */
  resync: Resync;
  state: State;
  /** The page's user is not signed in any more, or another user is: stop showing the user's data. */
  signedout: ClientError;
  error: ClientError;
}

/** The subscription of one part of a page to a topic. Created by `Connection.subscribe(topic)`. */
export class Subscription<Data = any> {
  private constructor();
  /** The name; null for the user's own topic until it is known. */
  topic: string | null;
  /** Add a listener. Returns a function that removes it. */
  on<Name extends keyof SubscriptionEvents>(
    name: Name,
    listener: (detail: SubscriptionEvents<Data>[Name]) => void,
  ): () => void;
  /** End the subscription. Idempotent. */
  unsubscribe(): void;
  /** Tell the server that everything up to `offset`, by default up to the last message, has been processed. */
  ack(offset?: number): void;
}

/** A subscription with a filter. Created by `Connection.subscribe(topic, { filter })`. */
export class LiveSubscription<Data = any> {
  private constructor();
  /** The topic or family. */
  topic: string;
  /** The present state, by `${topic} ${key}`. It is always the same Map. */
  get items(): ReadonlyMap<string, Item<Data>>;
  /** The newest filter. */
  get filter(): Filter;
  /** Add a listener. Returns a function that removes it. */
  on<Name extends keyof LiveSubscriptionEvents>(
    name: Name,
    listener: (detail: LiveSubscriptionEvents<Data>[Name]) => void,
  ): () => void;
  /** Change the filter. It may be called for each movement of a map: a newer filter replaces an unsent one. */
  setFilter(filter: Filter): void;
  /** End the subscription; `items` stay as they are. Idempotent. */
  unsubscribe(): void;
}

/** A page's connection to the server. Created by `connect()`. */
export class Connection {
  constructor(options?: Options);
  /** The absolute URL of the WebSocket. */
  url: string;
  get state(): State;
  /** Add a listener. Returns a function that removes it. */
  on<Name extends keyof ConnectionEvents>(name: Name, listener: (detail: ConnectionEvents[Name]) => void): () => void;
  /** Subscribe to a topic or a family with a filter, across reconnects. */
  subscribe<Data = any>(topic: string, options: { filter: Filter }): LiveSubscription<Data>;
  /** Subscribe to a topic, across reconnects. */
  subscribe<Data = any>(topic: string, options?: { filter?: undefined }): Subscription<Data>;
  /** Tell the server that the user has read these notifications. Returns whether it was sent. */
  read(ids: number[]): boolean;
  /** Connect now: ends a wait, and reopens a closed connection. */
  reconnect(): void;
  /** Close it for this page, until `reconnect()`; other tabs keep theirs. Idempotent. */
  close(): void;
}

/** Connect and stay connected. Throws a TypeError if the URL is invalid. */
export function connect(options?: Options): Connection;

/** Codes of errors after which the page must not show the user's data any more. */
export const SIGNED_OUT: Set<string>;

/** Why the server closed. A client reconnects after codes below 4500 only. */
export const CLOSE_CODES: Readonly<
  Record<
    | "SLOW"
    | "RESTART"
    | "UNAVAILABLE"
    | "AGED"
    | "PASSWORD_CHANGED"
    | "SESSION_ENDED"
    | "WRITE_FAILED"
    | "UNAUTHORISED"
    | "FORBIDDEN_ORIGIN"
    | "TOO_MANY_CONNECTIONS"
    | "PROTOCOL_ERROR"
    | "SIGNED_OUT"
    | "DEACTIVATED"
    | "DISCONNECTED"
    | "RATE_LIMITED",
    number
  >
>;
