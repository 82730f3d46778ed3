// The head of the page, the table of methods with its published rows, notes and facts.

function showHead() {
  document.title = `${DATA.title} – dcgrid eval`;
  $("title").textContent = DATA.title;
  const counts = { done: 0, failed: 0, missing: 0 };
  for (const item of DATA.items) counts[item.status] += 1;
  const parts = [
    [DATA.clips.length, "clip"], [DATA.tasks.length, "task"], [DATA.methods.length, "method"],
    [DATA.items.length, "video"],
  ];
  const words = parts.map(([count, word]) => `${count} ${word}${count === 1 ? "" : "s"}`);
  $("subtitle").textContent = `Suite ${DATA.suite}: ${words.join(", ")}`;
  $("counts").replaceChildren(
    ...Object.entries(counts).map(([status, count]) =>
      el("a", { className: `count ${count ? status : ""}`, href: `#view=items&fstatus=${status}` },
        el("b", {}, String(count)), ` ${status}`)),
  );
}

function showFacts() {
  const pair = (name, ...text) => [el("dt", {}, name), el("dd", {}, ...text)];
  $("metrics").replaceChildren(...DATA.metrics.flatMap((metric) => pair(
    `${metric.label} ${ARROWS[metric.better]}`,
    [metric.title, metric.encoder && `measured with ${metric.encoder}`,
      metric.unavailable && `not measured: ${metric.unavailable}`].filter(Boolean).join("; "),
  )));
  $("methods").replaceChildren(...DATA.methods.flatMap((one) => pair(one.label, one.note || one.key)));
  $("made").replaceChildren(...Object.entries(DATA.made).flatMap(([name, text]) => pair(name, text)));
  $("notes").replaceChildren(...DATA.notes.map((note) => el("li", {}, note)));
  $("notes-block").hidden = DATA.notes.length === 0;
}

/** A head cell that sorts on click, Enter and Space; `order` is what aria-sort says. */
function sortHead(text, title, order, sort) {
  const button = el("button", { type: "button", title, onclick: sort }, text);
  return el("th", { scope: "col", "aria-sort": order }, button);
}

/** Sort a copy: what has no value stands last in both directions. */
function sorted(rows, valueFor, direction) {
  const sign = direction === "descending" ? -1 : 1;
  const order = (a, b) => {
    const [x, y] = [valueFor(a), valueFor(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
  };
  return [...rows].sort(order);
}

const bestFirst = (metric) => (METRICS.get(metric)?.better === "lower" ? "ascending" : "descending");
const turned = (direction) => (direction === "ascending" ? "descending" : "ascending");

// Columns in which neither a method nor a published row has a value are folded away.
const BLANK = DATA.metrics.filter(({ key }) =>
  DATA.table.every((row) => (row.scores[key]?.mean ?? null) === null)
  && !DATA.references.some((row) => Object.hasOwn(row.scores, key)));
const shownMetrics = (now) => (now.blank ? DATA.metrics : DATA.metrics.filter((one) => !BLANK.includes(one)));

function showFold(now) {
  const names = BLANK.map((one) => one.label).join(", ");
  const what = BLANK.length === 1 ? "1 blank column" : `${BLANK.length} blank columns`;
  $("fold").hidden = BLANK.length === 0;
  $("fold").textContent = `${now.blank ? "Fold" : "Show"} ${what}: ${names}`;
  $("fold").setAttribute("aria-pressed", now.blank !== "");
  $("fold").onclick = () => update({ blank: now.blank ? "" : "1" }, { push: true });
}

function showTable(now, before) {
  if (before && ["tsort", "tdir", "blank"].every((name) => now[name] === before[name])) return;
  const metrics = shownMetrics(now);
  showFold(now);
  const columns = [
    { key: "method", text: "Method", title: "Sort by name", first: "ascending",
      value: (row) => labelOf(METHODS, row.method) },
    ...metrics.map((metric) => ({
      key: `m:${metric.key}`, text: `${metric.label} ${ARROWS[metric.better]}`, title: metric.title,
      first: bestFirst(metric.key), value: (row) => row.scores[metric.key]?.mean ?? null,
    })),
    ...["done", "failed", "missing"].map((name) => ({
      key: name, text: name, title: `Videos ${name}`, first: "descending", value: (row) => row[name],
    })),
  ];
  const by = columns.find((column) => column.key === now.tsort);
  const direction = ["ascending", "descending"].includes(now.tdir) ? now.tdir : by?.first;
  const heads = columns.map((column) => sortHead(column.text, column.title,
    column === by ? direction : "none",
    () => update({ tsort: column.key, tdir: column === by ? turned(direction) : column.first })));
  const notes = new Map();
  const rows = by ? sorted(DATA.table, by.value, direction) : DATA.table;
  const focused = [...$("table").querySelectorAll("th button")].indexOf(document.activeElement);
  $("table").replaceChildren(
    el("caption", { className: "hidden-label" }, "Scores of every method"),
    el("thead", {}, el("tr", {}, ...heads)),
    el("tbody", {}, ...rows.map((row) => tableRow(row, metrics, notes))),
    ...references(metrics),
  );
  // Why a folded column is blank is told all the same.
  for (const metric of now.blank ? [] : BLANK) {
    for (const row of DATA.table) noteOf(gapNote(metric, row).replace(/ \(\d+ of \d+\)$/, ""), notes);
  }
  // The heads are made anew: the keyboard stays where it was.
  if (focused >= 0) $("table").querySelectorAll("th button")[focused].focus();
  $("footnotes").replaceChildren(...[...notes.keys()].map((note) => el("li", {}, note)));
}

function tableRow(row, metrics, notes) {
  const cells = metrics.map((metric) => scoreCell(row, metric, notes));
  const counts = ["done", "failed", "missing"].map((name) =>
    el("td", { className: `figure ${row[name] ? name : "none"}` }, String(row[name])));
  const name = el("th", { scope: "row", title: METHODS.get(row.method)?.note ?? "" }, labelOf(METHODS, row.method));
  return el("tr", { "data-method": row.method }, name, ...cells, ...counts);
}

function scoreCell(row, metric, notes) {
  const score = row.scores[metric.key];
  const gap = PAGE.gaps[metric.key]?.[row.method] ?? "";
  if (!score || score.mean === null) {
    const note = gapNote(metric, row);
    return el("td", { className: "figure none", title: note }, "–", footnote(note, notes));
  }
  const mark = PAGE.marks[metric.key]?.[row.method];
  const tag = { best: "b", second: "u" }[mark] ?? "span";
  const spoken = mark ? el("span", { className: "hidden-label" }, mark === "best" ? " best" : " second best") : null;
  const between = score.std === null ? "" : `± ${number(score.std, metric.digits)} `;
  return el("td", { className: "figure", title: gap },
    el(tag, { className: "mean" }, number(score.mean, metric.digits)), spoken,
    el("span", { className: "spread" }, ` ${between}(${score.measured}/${score.items})`),
    gap ? footnote(gap, notes) : null,
    PAGE.remarks[metric.key]?.[row.method] ? footnote(PAGE.remarks[metric.key][row.method], notes) : null);
}

const gapNote = (metric, row) => `${metric.label}: ${PAGE.gaps[metric.key]?.[row.method] || "not measured"}`;

/** Number a reason; cells of one reason share it. */
function noteOf(note, notes) {
  if (!notes.has(note)) notes.set(note, notes.size + 1);
  return notes.get(note);
}

const footnote = (note, notes) => el("sup", {}, String(noteOf(note, notes)));

/** Published rows stand under a rule and are neither sorted nor marked: other data, other models. */
function references(metrics) {
  if (!DATA.references.length) return [];
  const width = metrics.length + 4;
  const rule = el("tr", {}, el("th", { colSpan: width, scope: "colgroup" }, PAGE.references_title));
  const rows = DATA.references.map((row) => el("tr", {},
    el("th", { scope: "row" }, row.label, el("span", { className: "spread" }, ` ${row.table}`)),
    ...metrics.map((metric) => el("td", { className: "figure" },
      Object.hasOwn(row.scores, metric.key) ? number(row.scores[metric.key], metric.digits) : "")),
    el("td", { colSpan: 3 })));
  return [el("tbody", { className: "references" }, rule, ...rows)];
}
