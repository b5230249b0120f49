// Posts events with the CloudEvents SDK for JavaScript: node post.mjs URL structured|binary|batch|ndjson
//
// The key comes from UNPOLL_KEY. Each line of stdin is an event: its attributes and data as JSON. Prints the answers.

import fs from "node:fs";
import { CloudEvent, HTTP } from "cloudevents";

const [url, mode] = process.argv.slice(2);
// The SDK leaves it to us to percent-encode what a header cannot carry (CloudEvents HTTP binding, 3.1.3.2).
const encode = (text) => String(text).replace(/[^\x21-\x7e]|["%]/gu, encodeURIComponent);

async function post(headers, body) {
  const encoded = Object.entries(headers).map(([name, value]) => [name, name.startsWith("ce-") ? encode(value) : value]);
  const answer = await fetch(`${url}/v1/events`, {
    method: "POST",
    headers: { ...Object.fromEntries(encoded), authorization: `Bearer ${process.env.UNPOLL_KEY}` },
    body,
  });
  console.log(await answer.text());
  if (!answer.ok) process.exit(1);
}

const lines = fs.readFileSync(0, "utf8").trim().split("\n");
const events = lines.map((line) => JSON.parse(line)).map(({ attributes, data }) => new CloudEvent({ ...attributes, data }));
if (mode === "structured" || mode === "binary") {
  for (const { headers, body } of events.map((event) => HTTP[mode](event))) await post(headers, body);
} else {
  // The SDK writes no batches: they are its structured events, put together.
  const bodies = events.map((event) => HTTP.structured(event).body);
  if (mode === "batch") await post({ "content-type": "application/cloudevents-batch+json" }, `[${bodies.join(",")}]`);
  else await post({ "content-type": "application/x-ndjson" }, bodies.join("\n"));
}
