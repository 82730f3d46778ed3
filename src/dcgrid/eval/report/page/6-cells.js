// What was given, what each method made of it, and the truth: a cell each, side by side.

/** List the cells of a clip and task: { id, label, path, item }. */
function cellsOf({ clip, task, seed }) {
  const items = itemsAt(clip, task, Number(seed));
  const entry = CLIPS.get(clip);
  const truth = items.find((item) => item.truth)?.truth ?? "";
  const cells = [];
  if (entry) cells.push({ id: "source", label: "Source", path: entry.video, item: null });
  if (entry?.second) cells.push({ id: "second", label: "Second input", path: entry.second, item: null });
  for (const method of DATA.methods) {
    for (const item of items.filter((one) => one.method === method.key)) {
      cells.push({ id: OVER + method.key, label: method.label, path: item.video, item });
    }
  }
  if (truth) cells.push({ id: "truth", label: "Truth", path: truth, item: null });
  return cells;
}

const isShown = (now, id) => now.show.length === 0 || now.show.includes(id);

const transport = new Transport(transportChanged);
const eyes = new IntersectionObserver((entries) => {
  for (const entry of entries) PLAYER_AT.get(entry.target)?.show(entry.isIntersecting);
}, { rootMargin: "100px" });
const PLAYER_AT = new Map();

/** Make the box of a video: the picture, or words where there is none. */
function videoBox(cell) {
  const box = el("div", { className: "picture" });
  const words = el("p", { className: "instead", hidden: true });
  if (cell.item && cell.item.status !== "done") {
    words.textContent = cell.item.error || (cell.item.status === "failed" ? "Failed." : "No video was handed in.");
    words.hidden = false;
    words.classList.add(cell.item.status);
    box.append(words);
    return box;
  }
  const video = el("video", { "aria-label": cell.label, tabIndex: -1 });
  const player = new Player(video, mediaLink(cell.path), transport);
  video.addEventListener("loadedmetadata", () => {
    // Cells keep the shape of their own video: a place in one is the same place in all.
    if (!video.videoWidth) return;
    box.style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
    box.parentElement?.style.setProperty("--ratio", video.videoWidth / video.videoHeight);
  });
  video.addEventListener("error", () => {
    if (!video.hasAttribute("src")) return; // it was closed, which some browsers call an error
    words.textContent = cell.path ? `${cell.path} cannot be played: it is not beside this page, or damaged.`
      : "No file is named.";
    words.hidden = false;
    video.hidden = true;
  });
  box.append(video, words);
  transport.players.add(player);
  PLAYER_AT.set(box, player);
  eyes.observe(box);
  return box;
}

function scoreList(item) {
  const list = el("dl", { className: "scores" });
  for (const metric of MEASURED) {
    const value = valueOf(item, metric.key);
    const why = lackOf(item, metric.key);
    list.append(el("div", { className: why ? "lack" : "" },
      el("dt", { title: metric.title }, metric.label),
      el("dd", {}, value === null ? why : number(value, metric.digits))));
  }
  return list;
}

function cellFigure(cell) {
  const box = videoBox(cell);
  if (PLAYER_AT.has(box)) zoomable(box);
  const seconds = cell.item?.seconds ?? null;
  const head = el("figcaption", {}, el("b", {}, cell.label),
    seconds === null ? null : el("span", { className: "spread" }, `${number(seconds, 1)} s`));
  const scores = cell.item?.status === "done" ? scoreList(cell.item) : null;
  return el("figure", { className: "cell", "data-cell": cell.id }, head, box, scores);
}

function showPicks(now) {
  const tasks = DATA.tasks.filter((task) => hasItems({ clip: now.clip, task: task.key }));
  fillSelect($("pick-clip"), DATA.clips.map((one) => [one.key, one.label]), now.clip);
  fillSelect($("pick-task"), tasks.map((one) => [one.key, one.label]), now.task);
  fillSelect($("pick-seed"), SEEDS.map((seed) => [String(seed), String(seed)]), now.seed);
  $("pick-seed-label").hidden = SEEDS.length < 2;
  $("prompt").textContent = TASKS.get(now.task)?.prompt ?? "";
}

function showChips(now, cells) {
  const chips = cells.map((cell) => el("label", { className: "chip" },
    el("input", {
      type: "checkbox", checked: isShown(now, cell.id), value: cell.id,
      onchange: (event) => toggleShown(cells, cell.id, event.target.checked),
    }), cell.label));
  $("shown").replaceChildren(el("legend", {}, "Shown"), ...chips);
}

function toggleShown(cells, id, on) {
  const ids = cells.map((cell) => cell.id);
  const kept = ids.filter((one) => (one === id ? on : isShown(state, one)));
  // A list with nothing in it would read as all.
  const show = kept.length === ids.length ? [] : kept.length ? kept : ["none"];
  update({ show }, { push: true });
  $("shown").querySelector(`input[value="${CSS.escape(id)}"]`)?.focus();
}

function showCells(now, before) {
  if (now.view !== "videos") {
    transport.pause();
    return;
  }
  const names = ["view", "clip", "task", "seed", "left", "right"];
  const same = before && names.every((name) => now[name] === before[name])
    && now.show.join("\n") === before.show.join("\n");
  if (!same) makeCells(now, before);
  if (now.frame !== "" && Number(now.frame) !== transport.frame && now.frame !== before?.frame) {
    transport.pause();
    transport.seekFrame(Number(now.frame));
  }
}

function makeCells(now, before) {
  const moved = !before || ["view", "clip", "task", "seed"].some((name) => now[name] !== before[name]);
  const wasPlaying = transport.playing;
  const frame = moved ? Number(now.frame) : transport.frame;
  transport.playing = false;
  eyes.disconnect();
  transport.clear();
  PLAYER_AT.clear();
  const entry = CLIPS.get(now.clip);
  if (moved) transport.load(entry?.fps ?? 1, entry?.frames ?? 1);
  const cells = cellsOf(now);
  showPicks(now);
  showChips(now, cells);
  const comparing = showCompare(now, cells);
  $("cells").hidden = comparing;
  $("shown").hidden = comparing;
  $("cells").replaceChildren(...(comparing ? []
    : cells.filter((cell) => isShown(now, cell.id)).map(cellFigure)));
  showPlots(now, cells);
  showZoom();
  transport.seekFrame(frame);
  // A link to a frame shows that frame; else it plays, unless moving pictures are not wanted.
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (moved ? now.frame === "" && !still && !pausedByHand : wasPlaying) transport.play();
}
