// What is shown stands in the address behind the #, so that a copied link shows the same.
// Steps that a reader would want to take back are new entries of the history, the rest replace it.

const FIRST = {
  view: "summary", clip: "", task: "", seed: "", show: [], frame: "", left: "", right: "", wipe: "50",
  loop: "1", speed: "1", q: "", fclip: "", ftask: "", fmethod: "", fstatus: "", sort: "", worst: "",
  tsort: "", tdir: "", blank: "",
};
const OVER = "m:"; // before a method's key, so that one named "source" is not taken for the source
const VIEWS = ["summary", "videos", "items"];
const WATCHERS = [];
let state = { ...FIRST };

/** Call a function after every change, with the state now and the one before. */
const watch = (changed) => WATCHERS.push(changed);

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  const read = { ...FIRST };
  for (const name of Object.keys(FIRST)) {
    if (given.has(name)) read[name] = name === "show" ? given.getAll(name) : given.get(name);
  }
  return sane(read);
}

/** Replace what this report does not have: a link may be old, or of another report. */
function sane(read) {
  if (!VIEWS.includes(read.view)) read.view = FIRST.view;
  if (!CLIPS.has(read.clip)) read.clip = DATA.clips[0]?.key ?? "";
  if (!TASKS.has(read.task) || !hasItems(read)) {
    const tasks = DATA.tasks.filter((task) => hasItems({ ...read, task: task.key }));
    read.task = (tasks[0] ?? DATA.tasks[0])?.key ?? "";
  }
  const seeds = SEEDS.filter((seed) => itemsAt(read.clip, read.task, seed).length);
  if (!seeds.includes(Number(read.seed)) || read.seed === "") read.seed = String(seeds[0] ?? "");
  read.show = read.show.filter((id) => ["none", "source", "second", "truth"].includes(id)
    || (id.startsWith(OVER) && METHODS.has(id.slice(OVER.length))));
  const wipe = Number.parseFloat(read.wipe);
  read.wipe = String(Number.isFinite(wipe) ? Math.min(100, Math.max(0, wipe)) : 50);
  if (!(Number(read.speed) >= 0.25 && Number(read.speed) <= 2)) read.speed = "1";
  if (read.frame !== "") read.frame = String(Math.max(0, Math.trunc(Number(read.frame) || 0)));
  return read;
}

const hasItems = ({ clip, task }) => SEEDS.some((seed) => itemsAt(clip, task, seed).length);

function hashOf(shown) {
  const parts = new URLSearchParams();
  const inVideos = ["clip", "task", "seed", "show", "frame", "left", "right", "wipe"];
  for (const [name, first] of Object.entries(FIRST)) {
    if (inVideos.includes(name) && shown.view !== "videos") continue;
    if (name === "seed" && SEEDS.length < 2) continue;
    if (name === "show") shown.show.forEach((one) => parts.append("show", one));
    else if (shown[name] !== first || name === "view") parts.set(name, shown[name]);
  }
  return `#${parts}`;
}

/** Change what is shown; `push` makes it an entry of the history. */
function update(changes, { push = false } = {}) {
  const next = sane({ ...state, ...changes });
  const hash = hashOf(next);
  if (hash !== location.hash) {
    // A sandbox may forbid it; the page works on without a link.
    try {
      history[push ? "pushState" : "replaceState"](null, "", hash);
    } catch { /* nothing to do */ }
  }
  settle(next);
}

function settle(next) {
  const before = state;
  state = next;
  for (const changed of WATCHERS) changed(state, before);
}

function startState() {
  const again = () => settle(readHash());
  addEventListener("popstate", again);
  addEventListener("hashchange", again);
  state = readHash();
  for (const changed of WATCHERS) changed(state, null);
}
