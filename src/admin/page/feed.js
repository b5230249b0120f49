// The stream of figures: connected, silent or lost, and back again.

/** Without a message for this long the figures count as old, and after the second span the stream is opened anew. */
const SILENT_AFTER = 3500;
const REOPEN_AFTER = 10000;
/** How long to wait before the next attempt when the server refused one. */
const REFUSED_WAIT = 5000;

/**
 * Opens the stream and keeps it open. `on.hello`, `on.snapshot` and `on.report` get what comes; `on.state(state, age, why)` is
 * told `connecting`, `live`, `silent` or `lost` with the age of the figures in milliseconds (null: there are none).
 */
export function follow(on) {
  let source = null;
  let heard = null; // when the last message came
  let tried = 0; // when the stream was last opened
  let refused = "";

  const receive = handle => event => {
    heard = performance.now();
    refused = "";
    handle(JSON.parse(event.data));
    tell();
  };

  function open() {
    source?.close();
    tried = performance.now();
    source = new EventSource("/live");
    source.addEventListener("hello", receive(on.hello));
    source.addEventListener("snapshot", receive(on.snapshot));
    source.addEventListener("report", receive(on.report));
    source.addEventListener("error", () => {
      // A browser tries again by itself, but not when it was refused: then ask why, and try later.
      if (source.readyState === EventSource.CLOSED) ask();
      tell();
    });
  }

  async function ask() {
    const mine = source;
    const stop = new AbortController();
    try {
      const answer = await fetch("/live", { signal: stop.signal, cache: "no-store" });
      const problem = answer.ok ? null : await answer.json().catch(() => null);
      refused = answer.ok ? "" : (problem?.detail ?? `the service answers ${answer.status}`);
    } catch {
      refused = "";
    }
    stop.abort();
    tell();
    setTimeout(() => mine === source && open(), REFUSED_WAIT);
  }

  function tell() {
    const age = heard === null ? null : performance.now() - heard;
    const open = source.readyState === EventSource.OPEN;
    if (open && age !== null && age < SILENT_AFTER) on.state("live", age, "");
    else if (heard === null && !refused && performance.now() < 4 * SILENT_AFTER) on.state("connecting", null, "");
    else on.state(open ? "silent" : "lost", age, refused);
  }

  open();
  setInterval(() => {
    const now = performance.now();
    // A connection that died without a word stays "open" for hours.
    if (source.readyState === EventSource.OPEN && now - Math.max(heard ?? 0, tried) > REOPEN_AFTER) open();
    tell();
  }, 500);
}
