// Figures as people read them: numbers with their units, times, and the small ways to put text on the page.

export const NONE = "–";
const MINUS = "\u2212";

const known = value => typeof value === "number" && Number.isFinite(value);

/** `1,234,567`; a decimal only below 100. */
export function count(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  const digits = size < 100 && !Number.isInteger(value) ? (size < 1 ? 2 : 1) : 0;
  return sign(value, size.toFixed(digits).replace(/\B(?=(\d{3})+(?!\d))/g, ","));
}

/** A number a second: three digits are enough. */
export function rate(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e6) return sign(value, `${(size / 1e6).toPrecision(3)} M`);
  if (size >= 100) return count(Math.round(value));
  if (size === 0) return "0";
  return sign(value, trimmed(size < 0.01 ? size.toPrecision(1) : size.toFixed(size < 10 ? 2 : 1)));
}

/** Bytes in decimal units; `short` for an axis. */
export function bytes(value, short = false) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  const [unit, name] = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]].find(([least]) => size >= least * 0.9995) ?? [1, "B"];
  const shown = size / unit;
  const digits = unit === 1 || shown >= 100 ? 0 : shown < 10 ? 2 : 1;
  return sign(value, `${short ? trimmed(shown.toFixed(digits)) : shown.toFixed(digits)} ${name}`);
}

/** Seconds in the unit that fits, from microseconds to days. */
export function span(seconds) {
  if (!known(seconds)) return NONE;
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.9995e-3) return sign(seconds, `${three(size * 1e6)} µs`);
  if (size < 0.9995) return sign(seconds, `${three(size * 1e3)} ms`);
  if (size < 120) return sign(seconds, `${three(size)} s`);
  if (size < 7200) return sign(seconds, `${three(size / 60)} min`);
  if (size < 172800) return sign(seconds, `${three(size / 3600)} h`);
  return sign(seconds, `${three(size / 86400)} d`);
}

const three = value => trimmed(value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2));

/** Without zeros at the end of a decimal. */
const trimmed = text => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

const sign = (value, text) => (value < 0 && /[1-9]/.test(text) ? MINUS + text : text);

/** How long it runs: `3 d 4 h`, `12 min`. */
export function uptime(seconds) {
  if (!known(seconds)) return NONE;
  const [d, h, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${m} min`;
  return m > 0 ? `${m} min` : `${Math.floor(seconds)} s`;
}

/** A part of one, in percent. */
export const percent = part => (known(part) ? `${(part * 100).toFixed(part > 0.995 && part < 1 ? 2 : 1).replace(/\.0+$/, "")} %` : NONE);

/** The time of day, of milliseconds since 1970. */
export const clock = (ms, seconds = true) =>
  new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });

/** A figure on the page: its text for people, its value for whoever checks it against /metrics. */
export function show(name, text, value) {
  for (const place of document.querySelectorAll(`[data-figure="${name}"]`)) {
    say(place, text);
    if (known(value)) place.dataset.value = value;
    else delete place.dataset.value;
  }
}

/** Sets a text, if it is another one: what has not changed is not said again by a screen reader. */
export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

export const find = id => document.getElementById(id);

/** An element of HTML with attributes and what is in it. */
export function make(name, attributes = {}, ...inside) {
  return fill(document.createElement(name), attributes, inside);
}

/** The same of SVG. */
export function draw(name, attributes = {}, ...inside) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, inside);
}

function fill(element, attributes, inside) {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inside);
  return element;
}
