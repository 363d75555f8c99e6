/** What a site's TypeScript may say to the client, and what it may not: `tsc` must find exactly the marked mistakes. */

import { connection as ofBell } from "/static/notifications/bell.js";
import {
  CLOSE_CODES,
  connect,
  SIGNED_OUT,
  type Filter,
  type Item,
  type LiveSubscription,
  type Subscription,
} from "/static/realtime/client.js";

interface Vehicle {
  line: string;
  speed: number;
}

const connection = connect({ user: 42 });
const stop: () => void = connection.on("state", (state) => state === "open" && console.log(connection.url));
connection.on("message", ({ data, offset, topic }) => console.log(data.title, offset?.toFixed(), topic.length));
connection.on("signedout", ({ code }) => SIGNED_OUT.has(code));
const isSent: boolean = connection.read([1, 2]);

const news: Subscription<{ title: string }> = connection.subscribe<{ title: string }>("news.sport");
news.on("message", ({ data }) => data.title.trim());
news.on("resync", ({ lost }) => lost !== undefined && lost > 0);
news.ack();
news.unsubscribe();

const filter: Filter = {
  bbox: [5.9, 45.8, 10.5, 47.8],
  zoom: 9.5,
  tags: { mode: ["rail", "tram"], speed: { gte: 10, lt: 30 }, $or: [{ late: true }, { $not: { line: { sw: "S" } } }] },
};
const live: LiveSubscription<Vehicle> = connection.subscribe<Vehicle>("vehicles.*", { filter });
live.on("change", ({ items, left }) => {
  for (const { topic, keys } of left) for (const key of keys) console.log(topic, key.length);
  for (const { key, data } of items) console.log(key, data.speed + 1);
});
live.on("snapshot", ({ items, isReset }) => isReset && items.length);
live.setFilter({ ...live.filter, zoom: 3 });
const tram: Item<Vehicle> | undefined = live.items.get("vehicles.sbb tram-7");
ofBell?.subscribe("news.sport").on("error", ({ detail, topic = "" }) => console.log(detail, topic));
console.log(stop, isSent, tram?.data.line, CLOSE_CODES.SLOW + 1);

// @ts-expect-error
connection.on("mesage", () => {});
// @ts-expect-error
connection.subscribe("vehicles.*", { filter: { bbox: [1, 2, 3] } });
// @ts-expect-error
connection.subscribe("vehicles.*", { filter: { box: [1, 2, 3, 4] } });
// @ts-expect-error
news.setFilter(filter);
// @ts-expect-error
live.ack();
// @ts-expect-error
live.items.clear();
// @ts-expect-error
live.on("change", ({ items }) => items[0].data.title);
// @ts-expect-error
connect({ user: 42, uri: "/ws/" });
// @ts-expect-error
new (live.constructor as typeof LiveSubscription)();
// @ts-expect-error
CLOSE_CODES.SLOWEST;
