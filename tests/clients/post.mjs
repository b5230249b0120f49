// Posts one event with the CloudEvents SDK for JavaScript: node post.mjs URL structured|binary
//
// The key comes from UNPOLL_KEY, the event's attributes and data as JSON from stdin. Prints the answer.

import fs from "node:fs";
import { CloudEvent, HTTP } from "cloudevents";

const [url, mode] = process.argv.slice(2);
const { attributes, data } = JSON.parse(fs.readFileSync(0, "utf8"));
const message = HTTP[mode](new CloudEvent({ ...attributes, data }));
// The SDK leaves it to us to percent-encode what a header cannot carry (CloudEvents HTTP binding, 3.1.3.2).
const encode = (text) => String(text).replace(/[^\x21-\x7e]|["%]/gu, encodeURIComponent);
const headers = Object.fromEntries(
  Object.entries(message.headers).map(([name, value]) => [name, name.startsWith("ce-") ? encode(value) : value]),
);
const answer = await fetch(`${url}/v1/events`, {
  method: "POST",
  headers: { ...headers, authorization: `Bearer ${process.env.UNPOLL_KEY}` },
  body: message.body,
});
console.log(await answer.text());
process.exit(answer.ok ? 0 : 1);
