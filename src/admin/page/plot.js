// One plot over time: lines in SVG, a legend that switches them, a hair line that all plots share.

import { NONE, clock, draw, make, say } from "./text.js";

const EDGE = { left: 46, right: 8, top: 8, bottom: 18 };
/** Beyond this many steps between two points the line is broken: nobody knows what was there. */
const GAP_STEPS = 3;

export class Plot {
  /**
   * `lines`: `{ key, label, ink, area }`, where `key` names a value of a point; `form` writes a value with its unit, shorter
   * for an axis; `whole`: no fractions on the axis; `powers`: an axis of powers of ten, for what spreads widely;
   * `pick(time | null, spoken)` is called when a person points at a time.
   */
  constructor({ title, unit, lines, form, pick, whole = false, powers = false }) {
    this.lines = lines.map(line => ({ ...line, shown: true }));
    Object.assign(this, { title, form, pick, whole, powers, points: [], picked: null });
    this.legend = make("div", { class: "legend", role: "group", "aria-label": `lines of ${title}` });
    for (const line of this.lines) this.legend.append(this.entry(line));
    this.svg = draw("svg", { "aria-hidden": "true", focusable: "false" });
    this.canvas = make("div", { class: "canvas", tabindex: "0", role: "group", "aria-roledescription": "plot" }, this.svg);
    const heading = make("h3", {}, title, " ", make("small", {}, unit));
    this.element = make("section", { class: "panel plot", "aria-label": title }, heading, this.legend, this.canvas);
    this.listen();
  }

  entry(line) {
    const button = make("button", { type: "button", "aria-pressed": "true", class: line.ink });
    line.value = make("b", {}, NONE);
    button.append(make("i"), make("span", { class: "label" }, line.label), line.value);
    button.addEventListener("click", () => {
      line.shown = !line.shown;
      button.setAttribute("aria-pressed", String(line.shown));
      this.paint();
    });
    return button;
  }

  listen() {
    const point = event => this.pick(this.timeAt(event.clientX), false);
    this.canvas.addEventListener("pointermove", point);
    this.canvas.addEventListener("pointerdown", point);
    this.canvas.addEventListener("pointerleave", () => this.pick(null, false));
    this.canvas.addEventListener("blur", () => this.pick(null, false));
    this.canvas.addEventListener("keydown", event => {
      const seen = this.seen();
      if (seen.length === 0 || event.altKey || event.ctrlKey || event.metaKey) return;
      const last = seen.length - 1;
      const at = this.picked === null ? last + 1 : seen.findIndex(point => point.at >= this.picked);
      const far = event.shiftKey ? 15 : 1;
      const to = { ArrowLeft: at - far, ArrowRight: at + far, Home: 0, End: last }[event.key];
      if (event.key === "Escape") return this.pick(null, true);
      if (to === undefined) return;
      event.preventDefault();
      this.pick(seen[Math.min(Math.max(to, 0), last)].at, true);
    });
    new ResizeObserver(() => this.paint()).observe(this.canvas);
  }

  /** Shows `points` from `from` to `to`, milliseconds since 1970. */
  show(points, from, to, step) {
    Object.assign(this, { points, from, to, step });
    this.paint();
  }

  /** Puts the hair line at a time, or takes it away. */
  mark(time) {
    this.picked = time;
    this.paint();
  }

  seen() {
    return this.points.filter(point => point.at >= this.from && point.at <= this.to);
  }

  timeAt(x) {
    const box = this.canvas.getBoundingClientRect();
    const part = (x - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
    const time = this.from + Math.min(Math.max(part, 0), 1) * (this.to - this.from);
    const nearest = (best, point) => (Math.abs(point.at - time) < Math.abs(best.at - time) ? point : best);
    const seen = this.seen();
    return seen.length === 0 ? null : seen.reduce(nearest).at;
  }

  /** What is said of the point at the hair line, or of the newest. */
  words() {
    const point = this.current();
    if (!point) return `${this.title}: no figures yet`;
    return `${this.title}: ${this.lines.map(line => `${line.label} ${this.form(point[line.key])}`).join(", ")}`;
  }

  current() {
    if (this.picked === null) return this.points.at(-1);
    return this.points.find(point => point.at >= this.picked);
  }

  paint() {
    if (this.from === undefined) return;
    const current = this.current();
    for (const line of this.lines) say(line.value, this.form(current?.[line.key] ?? null));
    this.canvas.setAttribute("aria-label", `${this.words()}. Arrow keys move through time.`);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (width === 0 || height === 0) return;
    const seen = this.seen();
    const shown = this.lines.filter(line => line.shown);
    const scale = this.scale(seen, shown, width, height);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...this.axes(scale, width, height), ...shown.flatMap(line => this.line(line, seen, scale)), ...this.cross(shown, scale));
    if (scale.empty) {
      this.svg.append(draw("text", { class: "none", x: (width + EDGE.left) / 2, y: height / 2 }, seen.length ? "nothing to show in this time" : "no figures yet"));
    }
  }

  scale(seen, shown, width, height) {
    const values = seen.flatMap(point => shown.map(line => point[line.key])).filter(value => value !== null);
    const ticks = this.powers ? tens(values) : niceTicks(Math.min(0, ...values), Math.max(0, ...values), 3, this.whole ? 1 : 0);
    const along = this.powers ? value => Math.log10(Math.max(value, ticks[0])) : value => value;
    const [low, high] = [along(ticks[0]), along(ticks.at(-1))];
    const bottom = height - EDGE.bottom;
    return {
      ticks,
      bottom,
      empty: values.length === 0,
      x: at => EDGE.left + ((at - this.from) / (this.to - this.from)) * (width - EDGE.left - EDGE.right),
      y: value => bottom - ((along(value) - low) / (high - low)) * (bottom - EDGE.top),
    };
  }

  axes(scale, width, height) {
    const parts = [];
    for (const tick of scale.empty ? scale.ticks.slice(0, 1) : scale.ticks) {
      const y = Math.round(scale.y(tick)) + 0.5;
      parts.push(draw("line", { class: tick === 0 ? "rule zero" : "rule", x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }));
      if (!scale.empty) parts.push(draw("text", { x: EDGE.left - 6, y: y + 3.5, "text-anchor": "end" }, this.form(tick, true)));
    }
    const span = this.to - this.from;
    const every = span > 6e5 ? 300000 : span > 2e5 ? 60000 : 30000;
    for (let at = Math.ceil(this.from / every) * every; at <= this.to; at += every) {
      const x = scale.x(at);
      const anchor = x > width - 32 ? "end" : x < EDGE.left + 16 ? "start" : "middle";
      parts.push(draw("text", { x: anchor === "end" ? width - EDGE.right : x, y: height - 4, "text-anchor": anchor }, clock(at, every < 60000)));
    }
    return parts;
  }

  /** The line, broken where figures are missing; a lonely point is a dot. */
  line({ key, ink, area }, seen, { x, y, bottom }) {
    const runs = [];
    let before = null;
    for (const point of seen) {
      if (point[key] === null) {
        before = null;
        continue;
      }
      const at = [x(point.at), y(point[key])];
      if (before !== null && point.at - before <= GAP_STEPS * this.step) runs.at(-1).push(at);
      else runs.push([at]);
      before = point.at;
    }
    const text = run => run.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L");
    const path = runs.map(run => `M${text(run)}${run.length === 1 ? "h.01" : ""}`).join("");
    const parts = [];
    if (area) {
      const floor = Math.min(bottom, y(0)).toFixed(1);
      const under = runs.filter(run => run.length > 1).map(run => `M${run[0][0].toFixed(1)} ${floor}L${text(run)}V${floor}Z`);
      parts.push(draw("path", { class: `area ${ink}`, d: under.join("") }));
    }
    parts.push(draw("path", { class: ink, d: path }));
    return parts;
  }

  cross(shown, { x, y, bottom }) {
    const point = this.picked === null ? null : this.current();
    if (!point || point.at < this.from || point.at > this.to) return [];
    const at = x(point.at);
    const dots = shown.filter(line => point[line.key] !== null).map(line => draw("circle", { class: line.ink, cx: at, cy: y(point[line.key]), r: 3.5 }));
    return [draw("line", { class: "cross", x1: at, x2: at, y1: EDGE.top, y2: bottom }), ...dots];
  }
}

/** About `wanted` round numbers from at most `low` to at least `high`, not closer than `least`. */
export function niceTicks(low, high, wanted, least) {
  if (low === high) return [low, low + 1];
  const raw = Math.max((high - low) / wanted, least);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find(factor => factor * power >= raw * 0.999 && !(least && factor * power % 1)) * power;
  const ticks = [];
  for (let index = Math.floor(low / step + 1e-9); index <= Math.ceil(high / step - 1e-9); index += 1) ticks.push(index * step);
  return ticks;
}

/** Powers of ten around all values; at least two decades. */
export function tens(values) {
  const some = values.filter(value => value > 0);
  if (some.length === 0) return [1e-3, 1e-2, 1e-1];
  const low = Math.floor(Math.log10(Math.min(...some)) + 1e-9);
  const high = Math.max(Math.ceil(Math.log10(Math.max(...some)) - 1e-9), low + 2);
  return Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index));
}
