// The headline: what was avoided, what push cost, and how sure that is.

import { NONE, bytes, count, draw, find, make, percent, rate, say, show, span } from "./text.js";

const QUANTITIES = ["requests", "bytes", "empty", "latency"];
/** The interval in which a ratio counts as agreeing, and what the small scales span. */
const AGREES = [0.9, 1.1];
const SCALE = [0.75, 1.25];

/** `baseline` is the one chosen; `report` the last report, if there is one. */
export function showProof(snapshot, point, baseline, report) {
  const avoided = snapshot.baselines[baseline];
  showPolls(snapshot, point, avoided, baseline, report);
  showBytes(snapshot, avoided, baseline);
  showSooner(snapshot, avoided, baseline);
  showCost(snapshot);
  showValidation(snapshot, report);
}

function showPolls(snapshot, point, avoided, baseline, report) {
  const residual = snapshot.polls_residual;
  const net = avoided.polls === null ? null : avoided.polls - (residual ?? 0);
  show("polls_avoided", count(net), net);
  document.querySelector('[data-figure="polls_avoided"]').classList.toggle("none", !net);
  show("polls_rate", rate(point?.[`polls_${baseline}`] ?? null));
  const parts = [];
  if (!avoided.polls) {
    parts.push(baseline === "measured" ? "Nothing measured: no control cohort has polled." : "Nothing yet: no device has earned credit.");
  } else {
    parts.push(`${percent((avoided.polls - (avoided.with_events ?? 0)) / avoided.polls)} of them would have found nothing.`);
  }
  if (residual === null) avoided.polls && parts.push("Gross; polls that these devices still make are not known.");
  else if (residual > 0) parts.push(`${count(avoided.polls)} gross, less ${count(residual)} that these devices made all the same.`);
  // The measured baseline counts from the moment at which the control cohort had polled enough.
  const covered = report?.baselines?.[baseline]?.credited_seconds / report?.credited_seconds;
  if (avoided.polls && covered < 0.99) parts.push(`In the last 24 hours ${baseline} covers ${percent(covered)} of the time that earned.`);
  say(find("polls-note"), parts.join(" "));
}

function showBytes(snapshot, avoided, baseline) {
  const [saved, cost] = [avoided.bytes, snapshot.cost.bytes];
  const net = saved === null || cost === null ? null : saved - cost;
  show("net_bytes", net > 0 ? `+${bytes(net)}` : bytes(net), net);
  document.querySelector('[data-figure="net_bytes"]').classList.toggle("minus", net < 0);
  const note = find("bytes-note");
  if (net === null) say(note, "Not known.");
  else if (net < 0) say(note, `Push moved ${bytes(-net)} more than the polls would have: ${bytes(cost)} for push, ${bytes(saved)} for ${baseline} polls.`);
  else if (saved === 0 && cost === 0) say(note, "Nothing avoided, nothing spent.");
  else say(note, `${bytes(saved)} of polls avoided, less ${bytes(cost)} that push cost.`);
  document.querySelector(".balance").hidden = !saved && !cost;
  document.querySelector(".balance .saved").style.flexGrow = saved ?? 0;
  document.querySelector(".balance .spent").style.flexGrow = cost ?? 0;
}

function showSooner(snapshot, { sooner }, baseline) {
  show("sooner", span(sooner.mean), sooner.mean);
  const note = find("sooner-note");
  if (!sooner.count) return say(note, "No delivery to compare yet.");
  const later = sooner.mean < 0 ? "Polling would have been faster. " : "";
  // The wait is that of the declared polls; those of the control cohort come at other times.
  const wait = snapshot.poll_wait_mean === null || baseline === "measured" ? "" : `A poll would have brought them after ${span(snapshot.poll_wait_mean)}. `;
  say(note, `${later}On average of ${count(sooner.count)} deliveries. ${wait}All deliveries, polled ones too, took ${span(snapshot.latency.p50)} (p50).`);
}

function showCost({ cost }) {
  show("cost_bytes", bytes(cost.bytes), cost.bytes);
  const more = [];
  if (cost.cpu_seconds !== null) more.push(`${span(cost.cpu_seconds)} of CPU`);
  if (cost.memory_bytes !== null) more.push(`${bytes(cost.memory_bytes)} more memory than at the start`);
  say(find("cost-note"), more.length ? `and ${more.join(", ")}: all of the process` : "");
  const kinds = Object.entries(cost.kinds).sort(([, a], [, b]) => b - a);
  const some = cost.bytes > 0;
  find("cost-bar").hidden = !some;
  find("cost-bar").replaceChildren(...kinds.map(([, value], index) => {
    const part = make("span", { class: `shade-${index}` });
    part.style.flexGrow = value;
    return part;
  }));
  find("cost-kinds").replaceChildren(...(some ? kinds : []).map(([kind, value], index) => make("li", {}, make("i", { class: `shade-${index}` }), kind, " ", make("b", {}, bytes(value)))));
}

function showValidation(snapshot, report) {
  const ratios = QUANTITIES.map(quantity => [quantity, snapshot.calibration[quantity]]);
  const control = snapshot.cohorts?.control ?? report?.control?.devices ?? null;
  const valid = report?.validated === true;
  const some = ratios.some(([, ratio]) => ratio !== null);
  const verdict = find("verdict");
  say(verdict, valid ? "Validated" : "Not validated");
  verdict.classList.toggle("good", valid);
  say(find("verdict-note"), reason(report, control, some));
  find("ratios").replaceChildren(...(some ? ratios.map(row) : []));
}

/** The words of the report when there is one, without the verdict that stands above them. */
function reason(report, control, some) {
  const words = report?.validation?.replace(/^(not )?validated\s*[:,]?\s*/i, "");
  if (words) return words.charAt(0).toUpperCase() + words.slice(1) + (words.endsWith(".") ? "" : ".");
  if (!control) return "No control cohort polls, so nothing confirms these figures.";
  return some ? `Predicted over observed, from ${count(control)} control devices.` : `${count(control)} control devices have not polled enough to compare.`;
}

function row([quantity, ratio]) {
  if (ratio === null) return make("li", { class: "unknown" }, make("span", {}, quantity), make("span", {}, ""), make("span", {}, "not known"));
  const agrees = ratio.ratio >= AGREES[0] && ratio.ratio <= AGREES[1];
  const interval = ratio.low === null || ratio.high === null ? "" : ` (${ratio.low.toFixed(2)}${NONE}${ratio.high.toFixed(2)})`;
  const line = make("li", agrees ? {} : { class: "off" });
  line.append(make("span", {}, quantity), scale(ratio), make("span", {}, `${ratio.ratio.toFixed(2)}${interval}`));
  return line;
}

/** A ratio and its interval on a scale around one, with the band in which it agrees. */
function scale({ ratio, low, high }) {
  const x = value => ((Math.min(Math.max(value, SCALE[0]), SCALE[1]) - SCALE[0]) / (SCALE[1] - SCALE[0])) * 100;
  const parts = [
    draw("rect", { class: "band", x: x(AGREES[0]), width: x(AGREES[1]) - x(AGREES[0]), y: 2, height: 12 }),
    draw("line", { class: "one", x1: 50, x2: 50, y1: 2, y2: 14 }),
  ];
  if (low !== null && high !== null) parts.push(draw("line", { class: "whisker", x1: x(low), x2: Math.max(x(high), x(low) + 0.8), y1: 8, y2: 8 }));
  parts.push(draw("rect", { class: "dot", x: x(ratio) - 1.4, width: 2.8, y: 4, height: 8 }));
  return draw("svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" }, ...parts);
}
