// The list of all items: filters, order, and a link from each to its videos.

// Why a column is blank as a whole stands in the summary; here it would only take room.
const MEASURED = DATA.metrics.filter((metric) => !metric.unavailable);
const PAGE_LENGTH = 200; // rows that are made at once; thousands would make every key slow
let listLength = PAGE_LENGTH;

const WORDS = new Map(DATA.items.map((item) => {
  const reasons = Object.values(item.scores).map((score) => score.reason);
  const task = TASKS.get(item.task);
  return [item, [labelOf(CLIPS, item.clip), task?.label, task?.prompt, labelOf(METHODS, item.method),
    item.key, item.status, item.error, ...reasons].join("\n").toLocaleLowerCase()];
}));

function listColumns() {
  const plain = [
    ["clip", "Clip", (item) => labelOf(CLIPS, item.clip)], ["task", "Task", (item) => labelOf(TASKS, item.task)],
    ["method", "Method", (item) => labelOf(METHODS, item.method)], ["seed", "Seed", (item) => item.seed],
    ["status", "Status", (item) => item.status], ["seconds", "Seconds", (item) => item.seconds],
  ].map(([key, text, value]) => ({ key, text, value, first: "ascending", title: `Sort by ${text.toLowerCase()}` }));
  const metrics = MEASURED.map((metric) => ({
    key: `m:${metric.key}`, text: `${metric.label} ${ARROWS[metric.better]}`, metric,
    value: (item) => valueOf(item, metric.key), first: bestFirst(metric.key), title: metric.title,
  }));
  return [...plain.slice(0, 5), ...metrics, plain[5]].filter(({ key }) => key !== "seed" || SEEDS.length > 1);
}
const COLUMNS = listColumns();

function startList() {
  const all = (text) => ["", `All ${text}`];
  const pairs = (list) => list.map((one) => [one.key, one.label]);
  fillSelect($("f-clip"), [all("clips"), ...pairs(DATA.clips)], "");
  fillSelect($("f-task"), [all("tasks"), ...pairs(DATA.tasks)], "");
  fillSelect($("f-method"), [all("methods"), ...pairs(DATA.methods)], "");
  fillSelect($("f-status"), [all("statuses"), ...["done", "failed", "missing"].map((one) => [one, one])], "");
  fillSelect($("f-sort"), [["", "as made"], ...COLUMNS.map((one) => [one.key, one.text])], "");
  const fields = { clip: "fclip", task: "ftask", method: "fmethod", status: "fstatus", sort: "sort" };
  for (const [name, key] of Object.entries(fields)) {
    $(`f-${name}`).onchange = (event) => update({ [key]: event.target.value }, { push: true });
  }
  $("f-text").oninput = (event) => update({ q: event.target.value });
  $("f-worst").onchange = (event) => update({ worst: event.target.checked ? "1" : "" }, { push: true });
  $("filters").onsubmit = (event) => event.preventDefault();
  $("filters").onreset = (event) => {
    event.preventDefault();
    update({ q: "", fclip: "", ftask: "", fmethod: "", fstatus: "", sort: "", worst: "" }, { push: true });
  };
  $("more").onclick = () => {
    listLength += PAGE_LENGTH;
    fillList(state);
  };
}

function showList(now, before) {
  if (now.view !== "items") return;
  const names = ["view", "q", "fclip", "ftask", "fmethod", "fstatus", "sort", "worst"];
  if (before && names.every((name) => now[name] === before[name])) return;
  listLength = PAGE_LENGTH;
  const fields = { clip: "fclip", task: "ftask", method: "fmethod", status: "fstatus", sort: "sort" };
  for (const [name, key] of Object.entries(fields)) $(`f-${name}`).value = now[key];
  if ($("f-text").value !== now.q) $("f-text").value = now.q;
  $("f-worst").checked = now.worst === "1";
  fillList(now);
}

function matching(now) {
  const words = now.q.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  return DATA.items.filter((item) =>
    (!now.fclip || item.clip === now.fclip) && (!now.ftask || item.task === now.ftask) &&
    (!now.fmethod || item.method === now.fmethod) && (!now.fstatus || item.status === now.fstatus) &&
    words.every((word) => WORDS.get(item).includes(word)));
}

function fillList(now) {
  const by = COLUMNS.find((column) => column.key === now.sort);
  const direction = by && (now.worst ? turned(by.first) : by.first);
  const found = matching(now);
  const rows = by ? sorted(found, by.value, direction) : found;
  const heads = COLUMNS.map((column) => sortHead(column.text, column.title,
    column === by ? direction : "none",
    () => update({ sort: column.key, worst: column === by && !now.worst ? "1" : "" }, { push: true })));
  const focused = [...$("list").querySelectorAll("th button")].indexOf(document.activeElement);
  $("list").replaceChildren(
    el("caption", { className: "hidden-label" }, "All videos of the evaluation"),
    el("thead", {}, el("tr", {}, ...heads)),
    el("tbody", {}, ...rows.slice(0, listLength).map(listRow)),
  );
  if (focused >= 0) $("list").querySelectorAll("th button")[focused].focus();
  $("found").textContent = `${found.length} of ${DATA.items.length} items`;
  $("more").hidden = rows.length <= listLength;
}

function listRow(item) {
  const place = { ...FIRST, view: "videos", clip: item.clip, task: item.task, seed: String(item.seed) };
  const link = el("a", { href: hashOf(place) }, labelOf(CLIPS, item.clip));
  const status = el("td", {}, el("span", { className: `status ${item.status}` }, item.status));
  if (item.error) status.append(el("span", { className: "why" }, item.error));
  return el("tr", { "data-key": item.key },
    el("th", { scope: "row" }, link),
    el("td", { className: "words" }, labelOf(TASKS, item.task)),
    el("td", { className: "words" }, labelOf(METHODS, item.method)),
    SEEDS.length > 1 ? el("td", { className: "figure" }, String(item.seed)) : null,
    status,
    ...MEASURED.map((metric) => listScore(item, metric)),
    el("td", { className: "figure" }, number(item.seconds, 1)));
}

function listScore(item, metric) {
  const value = valueOf(item, metric.key);
  if (value !== null) return el("td", { className: "figure" }, number(value, metric.digits));
  // Of a video that is not there its status says enough.
  const why = item.status === "done" ? lackOf(item, metric.key) : "";
  return el("td", { className: "figure none", title: lackOf(item, metric.key) }, "–",
    why ? el("span", { className: "why" }, why) : null);
}
