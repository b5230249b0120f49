// Posts one event with the CloudEvents SDK for JavaScript: node post.mjs URL structured|binary
//
// The key comes from UNPOLL_KEY, the event's attributes and data as JSON from stdin. Prints the answer.

import fs from "node:fs";
import { CloudEvent, HTTP } from "cloudevents";

const [url, mode] = process.argv.slice(2);
const { attributes, data } = JSON.parse(fs.readFileSync(0, "utf8"));
const message = HTTP[mode](new CloudEvent({ ...attributes, data }));
const answer = await fetch(`${url}/v1/events`, {
  method: "POST",
  headers: { ...message.headers, authorization: `Bearer ${process.env.UNPOLL_KEY}` },
  body: message.body,
});
console.log(await answer.text());
process.exit(answer.ok ? 0 : 1);
