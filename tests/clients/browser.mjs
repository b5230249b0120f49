// A browser for the tests: reads one JSON command a line on stdin, and answers each with one line on stdout.
// Environment: CHROMIUM, the program. It notes every complaint of the page and every request that it makes.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: quiet });
let page;
let session;
let complaints = [];
let requests = [];

const commands = {
  async open({ url, width, height, scheme, password }) {
    await page?.context().close();
    const context = await browser.newContext({
      viewport: { width, height },
      colorScheme: scheme,
      locale: "en-GB",
      ignoreHTTPSErrors: true, // the services of tests make their own certificates
      ...(password && { httpCredentials: { username: "anyone", password } }),
    });
    page = await context.newPage();
    [complaints, requests] = [[], []];
    page.on("console", message => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
    page.on("pageerror", error => complaints.push(String(error)));
    page.on("request", request => requests.push(request.url()));
    session = await context.newCDPSession(page);
    return (await page.goto(url)).status();
  },
  // Through the debugger: the page's own policy forbids eval.
  async eval({ script }) {
    const answer = await session.send("Runtime.evaluate", { expression: script, returnByValue: true, awaitPromise: true });
    if (answer.exceptionDetails) throw new Error(answer.exceptionDetails.exception?.description ?? answer.exceptionDetails.text);
    return answer.result.value ?? null;
  },
  reload: async () => (await page.reload()).status(),
  click: ({ selector }) => page.click(selector),
  hover: ({ selector, x, y }) => page.hover(selector, { position: { x, y } }),
  focus: ({ selector }) => page.focus(selector),
  key: ({ key }) => page.keyboard.press(key),
  size: ({ width, height }) => page.setViewportSize({ width, height }),
  scheme: ({ scheme }) => page.emulateMedia({ colorScheme: scheme }),
  shot: ({ path, whole }) => page.screenshot({ path, fullPage: whole }),
  complaints: () => complaints.splice(0),
  requests: () => requests,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...given } = JSON.parse(line);
  let answer;
  try {
    const value = await commands[command](given);
    answer = { value: Buffer.isBuffer(value) || value === undefined ? null : value };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
