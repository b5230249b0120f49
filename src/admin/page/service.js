// The service itself: its tiles, its lists, and the report of the last 24 hours.

import { NONE, bytes, clock, count, find, make, percent, rate, say, show, span, uptime } from "./text.js";

let before = null; // CPU time and when, to make a share of it

export function showService(snapshot, point) {
  const { store, process, latency } = snapshot;
  show("uptime_seconds", uptime(snapshot.uptime_seconds), snapshot.uptime_seconds);
  show("sessions", count(snapshot.sessions), snapshot.sessions);
  const away = snapshot.sessions_hibernating > 0 ? `, ${count(snapshot.sessions_hibernating)} away` : "";
  say(find("sessions-note"), `of ${count(snapshot.devices)} ${snapshot.devices === 1 ? "device" : "devices"}${away}`);
  show("accepted", count(snapshot.accepted), snapshot.accepted);
  show("accepted_rate", rate(point?.accepted ?? null));
  const { delivered, processed } = snapshot.ends; // what the device has done is delivered, too
  const arrived = delivered === undefined ? undefined : delivered + (processed ?? 0);
  show("delivered", count(arrived ?? null), arrived);
  show("delivered_rate", rate(point?.delivered ?? null));
  show("p50", span(point?.p50 ?? latency.p50));
  find("p50-unit").hidden = !latency.count;
  const p99 = point?.p99 ?? latency.p99;
  say(find("latency-note"), latency.count ? `p99 ${span(p99)}${(point?.p50 ?? null) === null ? ", since the start" : ""}` : "no delivery yet");
  show("queued", count(snapshot.queued), snapshot.queued);
  const oldest = snapshot.queued > 0 ? `the oldest for ${span(snapshot.oldest_seconds)}` : "nothing waits";
  say(find("queued-note"), snapshot.queued === null ? "being counted" : oldest);
  const refused = Object.values(snapshot.refusals).reduce((sum, value) => sum + value, 0);
  show("refused", count(refused), refused);
  show("disk_bytes", bytes(store.disk_bytes), store.disk_bytes);
  say(find("store-note"), `${bytes(store.free_bytes)} free`);
  show("resident_bytes", bytes(process.resident_bytes), process.resident_bytes);
  const share = cpuShare(snapshot);
  say(find("process-note"), `CPU ${percent(share)}, ${count(process.open_files)} files`);
  showLists(snapshot);
}

function cpuShare({ at, process }) {
  const now = { at, cpu: process.cpu_seconds };
  if (before === null || at < before.at || now.cpu < before.cpu) before = now;
  const share = at - before.at >= 1000 ? (now.cpu - before.cpu) / ((at - before.at) / 1000) : (before.share ?? null);
  // Ticks are a hundredth of a second: the mean of some seconds is steadier.
  if (at - before.at >= 5000) before = { ...now, share };
  return share;
}

function showLists(snapshot) {
  list("checks", snapshot.checks.map(({ name, ok, detail }) => [name, detail, ok ? "good" : "bad"]), "none");
  const largest = entries => Object.entries(entries ?? {}).sort(([, a], [, b]) => b - a).map(([name, value]) => [name, count(value), ""]);
  list("refusals", largest(snapshot.refusals), "none");
  list("ends", largest(snapshot.ends).filter(([, value]) => value !== "0"), "none yet");
  const cohorts = snapshot.cohorts ?? {};
  list("cohorts", Object.entries(cohorts).map(([name, value]) => [name, count(value), ""]), "not counted");
}

function list(id, rows, empty) {
  const lines = rows.slice(0, 8).map(([name, value, mark]) => make("li", {}, make("span", {}, name), make("span", { class: mark }, value)));
  find(id).replaceChildren(...(lines.length ? lines : [make("li", { class: "empty" }, empty)]));
}

/** The report of the last 24 hours, as `GET /v1/reports/polling-avoided` gives it. */
export function showReport(report, at) {
  const { baselines, latency_saved: sooner } = report;
  say(find("day-period"), `${clock(Date.parse(report.from), false)} yesterday to ${clock(Date.parse(report.to), false)}, over restarts; as of ${clock(at)}`);
  const rows = ["measured", "declared", "efficient"].filter(name => name in baselines).map(name => reportRow(name, baselines[name]));
  find("day-rows").replaceChildren(...rows);
  find("day-table").hidden = false;
  find("day-empty").hidden = true;
  const parts = [];
  if (report.residual_polls > 0) parts.push(`Push devices made ${count(report.residual_polls)} polls all the same; they are not taken off here.`);
  if (sooner.mean_seconds !== null) {
    const parts_of = ["p50", "p95", "p99"].filter(name => typeof sooner[`${name}_seconds`] === "number").map(name => `${name} ${span(sooner[`${name}_seconds`])}`);
    parts.push(`${count(sooner.deliveries)} deliveries came ${span(sooner.mean_seconds)} sooner on average${parts_of.length ? ` (${parts_of.join(", ")})` : ""}.`);
  }
  if (report.coverage !== null) parts.push(`${percent(report.coverage)} of the connected time earned credit.`);
  if (report.events_saved_from_expiry > 0) parts.push(`${count(report.events_saved_from_expiry)} events would have expired before the next poll.`);
  say(find("day-note"), parts.join(" "));
  find("assumptions").hidden = report.assumptions.length === 0;
  find("assumptions").querySelector("ul").replaceChildren(...report.assumptions.map(text => make("li", {}, text)));
}

function reportRow(name, baseline) {
  const row = make("tr", {}, make("th", { scope: "row" }, name));
  const cell = (label, text, mark = "") => make("td", { "data-label": label, class: mark }, text);
  if (baseline === null) {
    row.append(cell("polls avoided", "no control cohort"), ...Array.from({ length: 4 }, () => make("td", { class: "bare" }, NONE)));
    return row;
  }
  const gross = baseline.gross_bytes.in + baseline.gross_bytes.out;
  row.append(
    cell("polls avoided", count(baseline.requests_avoided)),
    cell("bytes, gross", bytes(gross)),
    cell("push cost", bytes(baseline.overhead_bytes)),
    cell("net", bytes(baseline.net_bytes), baseline.net_bytes < 0 ? "minus" : ""),
    cell("break-even keepalive", span(baseline.break_even_keepalive_seconds ?? null)),
  );
  return row;
}
