/** TypeScript declarations of `bell.js`, for scripts that subscribe on the connection of the bell. */

import type { Connection } from "../realtime/client.js";

/** The connection of the page; null while there is no bell in it. */
export let connection: Connection | null;

/** The bell in the page, for element.js. @internal */
export class Bell {
  constructor(root: HTMLElement);
  follow(connection: Connection, options: { isNew: boolean }): void;
  stop(): void;
  refresh(): Promise<void>;
  renew(): Promise<{ outcome: string; token: string }>;
  serverIsAway(isAway: boolean): void;
  acted(action: string, form: HTMLFormElement): Promise<void>;
  failed(outcome: string): void;
}
