// What the page shows, as results.json has it, and small helpers to build elements.
// Names, prompts and errors come from files that others wrote: they only ever become text nodes.

const PAGE = JSON.parse(document.getElementById("data").textContent);
const DATA = PAGE.results;
const byKey = (list) => new Map(list.map((one) => [one.key, one]));
const METRICS = byKey(DATA.metrics);
const METHODS = byKey(DATA.methods);
const CLIPS = byKey(DATA.clips);
const TASKS = byKey(DATA.tasks);
const SEEDS = [...new Set(DATA.items.map((item) => item.seed))].sort((a, b) => a - b);
const ITEMS_AT = new Map();
for (const item of DATA.items) {
  const place = JSON.stringify([item.clip, item.task, item.seed]);
  ITEMS_AT.set(place, [...(ITEMS_AT.get(place) ?? []), item]);
}

const $ = (id) => document.getElementById(id);

/** Make an element; `props` are properties, `aria-*`, `data-*` and `role` attributes, `on*` handlers. */
function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.includes("-") || name === "role" || name === "scope") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const labelOf = (map, key) => map.get(key)?.label ?? key;
const scoreOf = (item, metric) => (Object.hasOwn(item.scores, metric) ? item.scores[metric] : null);
const valueOf = (item, metric) => scoreOf(item, metric)?.value ?? null;
const itemsAt = (clip, task, seed) => ITEMS_AT.get(JSON.stringify([clip, task, seed])) ?? [];
const ARROWS = { higher: "↑", lower: "↓", neither: "" };

/** Write a score; what is missing is a dash, never NaN. */
const number = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));

/** Why an item lacks a score, in words; empty where it has one. */
function lackOf(item, metric) {
  const score = scoreOf(item, metric);
  if (score !== null) return score.value === null ? score.reason : "";
  return item.status === "done" ? "not measured" : `video ${item.status}`;
}

/** Turn a path beside the page into a link: a # or % in a file's name is part of the name. */
function mediaLink(path) {
  try {
    return path.split(/[\\/]/).map(encodeURIComponent).join("/");
  } catch {
    return ""; // half a surrogate pair: no file has such a name
  }
}

function fillSelect(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value, textContent: text })));
  select.value = chosen;
}

/** Tell screen readers, without moving the focus. */
function say(text) {
  $("said").textContent = text;
}
