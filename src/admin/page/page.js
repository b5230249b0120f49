// The page: takes the figures from the stream and hands them to the parts that show them.

import { follow } from "./feed.js";
import { Plot } from "./plot.js";
import { showProof } from "./proof.js";
import { showReport, showService } from "./service.js";
import { bytes, clock, count, find, rate, say, show, span } from "./text.js";

const chosen = remembered({ theme: "auto", baseline: "", period: "" });
let service = null; // what does not change: version, names, columns
let points = []; // of the plots, the oldest first
let snapshot = null;
let report = null;
let picked = null; // the time under the hair line

const plots = [
  { title: "Polls", unit: "a second, mean of 60 s", form: rate, lines: [
    { key: "polls", label: "avoided", ink: "saved-ink", area: true },
    { key: "polls_made", label: "really made", ink: "spent-ink" },
  ] },
  { title: "Bytes", unit: "a second, mean of 60 s", form: bytes, lines: [
    { key: "bytes", label: "saved, gross", ink: "saved-ink", area: true },
    { key: "bytes_cost", label: "push cost", ink: "spent-ink" },
  ] },
  { title: "Events", unit: "a second, mean of 10 s", form: rate, lines: [
    { key: "accepted", label: "accepted", ink: "blue-ink" },
    { key: "delivered", label: "delivered", ink: "saved-ink" },
  ] },
  { title: "Delivery latency", unit: "of the last 10 s", form: span, powers: true, lines: [
    { key: "p50", label: "p50", ink: "blue-ink" },
    { key: "p99", label: "p99", ink: "violet-ink" },
  ] },
  { title: "Sessions", unit: "connected devices", form: count, whole: true, lines: [
    { key: "sessions", label: "sessions", ink: "blue-ink", area: true },
  ] },
].map(plot => new Plot({ ...plot, pick }));
find("plots").prepend(...plots.map(plot => plot.element));

follow({
  hello(known) {
    if (service && service.version !== known.version) location.reload(); // an upgrade brings its own page
    service = known;
    for (const name of ["domain", "node", "version"]) show(name, known[name]);
    // After a restart the server begins anew; what this page saw before it stays, with a gap.
    const fresh = known.points.map(named);
    const begin = fresh[0]?.at ?? Date.now();
    const kept = points.filter(point => point.at < begin);
    if (kept.length > 0) kept.push(named([begin - 1]));
    points = [...kept, ...fresh].slice(-known.points_max);
    showPlots();
  },
  snapshot(next) {
    snapshot = next;
    const point = next.point && named(next.point);
    if (point && !(points.at(-1)?.at >= point.at)) {
      points.push(point);
      points = points.slice(-service.points_max);
      showPlots();
    }
    showFigures();
  },
  report(next) {
    report = next;
    showReport(next, snapshot?.at ?? Date.now());
    if (snapshot) showFigures();
  },
  state: showState,
});

function named(row) {
  return Object.fromEntries(service.columns.map((name, index) => [name, row[index] ?? null]));
}

/** The chosen baseline; until somebody chooses, the measured one as soon as there is one. */
function baseline() {
  if (chosen.baseline) return chosen.baseline;
  return snapshot?.baselines.measured.polls > 0 ? "measured" : "declared";
}

/** The chosen period; until somebody chooses, the one that what there is fills best. */
function period(known) {
  return chosen.period || ["2", "5"].find(minutes => known <= minutes * 90000) || "15";
}

function showFigures() {
  const name = baseline();
  document.querySelector(`#baseline [value="${name}"]`).checked = true;
  const latest = points.at(-1);
  showProof(snapshot, latest, name, report);
  showService(snapshot, latest);
  const ready = find("ready");
  ready.hidden = false;
  ready.className = `pill ${snapshot.ready ? "good" : "bad"}`;
  say(ready, snapshot.ready ? "ready" : "not ready");
}

function showPlots() {
  const to = points.at(-1)?.at ?? Date.now();
  const minutes = period(to - (points[0]?.at ?? to));
  find("period").querySelector(`[value="${minutes}"]`).checked = true;
  const from = to - Number(minutes) * 60000;
  const name = baseline();
  const shown = points.map(point => ({ ...point, polls: point[`polls_${name}`], bytes: point[`bytes_${name}`] }));
  for (const plot of plots) plot.show(shown, from, to, service?.step_ms ?? 2000);
}

function pick(time, spoken) {
  if (time === picked) return;
  picked = time;
  for (const plot of plots) plot.mark(time);
  say(find("picked"), time === null ? "now" : `at ${clock(time)}`);
  if (!spoken) return;
  const focused = plots.find(plot => plot.canvas === document.activeElement);
  say(find("spoken"), time === null || !focused ? "now" : `${clock(time)}. ${focused.words()}`);
}

function showState(state, age, why) {
  document.body.dataset.state = state;
  const old = age === null ? "no figures yet" : `figures are ${age < 119500 ? `${Math.round(age / 1000)} s` : span(Math.round(age / 60000) * 60)} old`;
  const words = { connecting: "connecting", live: "live", silent: `no news: ${old}`, lost: `reconnecting: ${old}` };
  say(find("state").querySelector("span"), words[state]);
  const failed = (snapshot?.checks ?? []).filter(check => !check.ok).map(check => `${check.name}: ${check.detail}`);
  const notice = find("notice");
  const gone = state === "lost" || state === "silent";
  notice.hidden = !gone && failed.length === 0;
  notice.className = gone ? "notice" : "notice bad";
  const since = snapshot ? ` Everything below is as it was at ${clock(snapshot.at)}.` : "";
  if (gone) say(notice, `${why ? `No figures: ${why}.` : "The connection to the service is lost."}${since} Trying again.`);
  else if (failed.length) say(notice, `Not ready. ${failed.join("; ")}.`);
  const domain = service ? service.domain : "unpoll";
  document.title = gone ? `lost · ${domain}` : snapshot && !snapshot.ready ? `not ready · ${domain}` : `unpoll · ${domain}`;
}

for (const name of ["baseline", "period"]) {
  const group = find(name);
  group.addEventListener("change", event => {
    remember(name, event.target.value);
    if (snapshot) showFigures();
    showPlots();
  });
}

const THEMES = { auto: "as the system has them", light: "light", dark: "dark" };
function showTheme() {
  if (chosen.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen.theme;
  say(find("theme"), chosen.theme);
  find("theme").setAttribute("aria-label", `Colours: ${THEMES[chosen.theme]}`);
}
find("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  remember("theme", names[(names.indexOf(chosen.theme) + 1) % names.length]);
  showTheme();
});
showTheme();
showPlots();

/** What a person chose before, as far as the browser keeps it and it is still a choice. */
function remembered(defaults) {
  const choices = { theme: /^(auto|light|dark)$/, baseline: /^(measured|declared|efficient)$/, period: /^(2|5|15)$/ };
  const kept = name => {
    try {
      return localStorage.getItem(`unpoll.${name}`) ?? "";
    } catch {
      return ""; // storage may be forbidden
    }
  };
  return Object.fromEntries(Object.entries(defaults).map(([name, value]) => [name, choices[name].test(kept(name)) ? kept(name) : value]));
}

function remember(name, value) {
  chosen[name] = value;
  try {
    localStorage.setItem(`unpoll.${name}`, value);
  } catch {
    // it holds for this visit
  }
}
