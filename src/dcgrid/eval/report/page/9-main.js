// What ties it together: views, the player's bar, keys, colours.

const SPEEDS = [0.25, 0.5, 0.75, 1, 1.5, 2];
let pausedByHand = false;

function showView(now, before) {
  if (before && now.view === before.view) return;
  for (const view of VIEWS) {
    $(view).hidden = view !== now.view;
    if (view === now.view) $(`tab-${view}`).setAttribute("aria-current", "page");
    else $(`tab-${view}`).removeAttribute("aria-current");
  }
  if (before) scrollTo(0, 0);
}

function showPlayer(now) {
  transport.loop = now.loop === "1";
  transport.speed = Number(now.speed);
  $("loop").checked = transport.loop;
  $("speed").value = SPEEDS.includes(transport.speed) ? now.speed : "1";
  if (!$("compare").hidden) showWipe(now);
}

function transportChanged({ frame, frames, frameTime, playing }) {
  $("scrub").max = frames - 1;
  $("scrub").value = frame;
  $("scrub").setAttribute("aria-valuetext", `frame ${frame} of ${frames}`);
  $("clock").textContent = `${frame} / ${frames - 1} · ${((frame + 0.5) * frameTime).toFixed(2)} s`;
  const word = playing ? "Pause" : "Play";
  if ($("play").textContent !== word) $("play").textContent = word;
  showCursor();
}

// Browsers refuse many changes of the address in a short time, as scrubbing would make.
let remembering = 0;
function rememberFrame() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    if (!transport.playing && state.view === "videos") update({ frame: String(transport.frame) });
  }, 250);
}

function togglePlay() {
  pausedByHand = transport.playing;
  if (transport.playing) transport.pause();
  else transport.play();
  if (!transport.playing) rememberFrame();
  else if (state.frame !== "") update({ frame: "" });
}

function step(frames) {
  pausedByHand = true;
  transport.step(frames);
  rememberFrame();
}

/** Go to the next clip or task that has items, round and round. */
function move(by) {
  const places = DATA.clips.flatMap((clip) => DATA.tasks.map((task) => ({ clip: clip.key, task: task.key }))).filter(hasItems);
  const here = places.findIndex(({ clip, task }) => clip === state.clip && task === state.task);
  if (places.length) update({ ...places[(here + by + places.length) % places.length], frame: "" }, { push: true });
}

function changeSpeed(by) {
  const here = SPEEDS.indexOf(transport.speed);
  update({ speed: String(SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, here + by))]) });
  say(`Speed ${state.speed}`);
}

function startPlayer() {
  fillSelect($("speed"), SPEEDS.map((speed) => [String(speed), `${speed}×`]), "1");
  $("play").onclick = togglePlay;
  $("back").onclick = () => step(-1);
  $("forward").onclick = () => step(1);
  $("scrub").oninput = (event) => {
    pausedByHand = true;
    const frame = Number(event.target.value);
    transport.pause();
    transport.seekFrame(frame);
    rememberFrame();
  };
  $("speed").onchange = (event) => update({ speed: event.target.value });
  $("loop").onchange = (event) => update({ loop: event.target.checked ? "1" : "0" });
  $("zoom").onclick = () => setZoom(zoomAt ? null : [50, 50]);
  $("previous").onclick = () => move(-1);
  $("next").onclick = () => move(1);
  for (const name of ["clip", "task", "seed"]) {
    $(`pick-${name}`).onchange = (event) => update({ [name]: event.target.value, frame: "" }, { push: true });
  }
}

const VIDEO_KEYS = {
  " ": togglePlay, ",": () => step(-1), ".": () => step(1),
  Home: () => step(-transport.frames), End: () => step(transport.frames),
  "-": () => changeSpeed(-1), "+": () => changeSpeed(1), "=": () => changeSpeed(1),
  l: () => update({ loop: state.loop === "1" ? "0" : "1" }), p: () => move(-1), n: () => move(1),
  w: toggleCompare, z: () => setZoom(zoomAt ? null : [50, 50]), Escape: () => setZoom(null),
};
const PAN = { ArrowLeft: [-5, 0], ArrowRight: [5, 0], ArrowUp: [0, -5], ArrowDown: [0, 5] };
const PAGE_KEYS = {
  1: () => update({ view: "summary" }, { push: true }),
  2: () => update({ view: "videos" }, { push: true }),
  3: () => update({ view: "items" }, { push: true }),
  "/": () => { update({ view: "items" }, { push: true }); $("f-text").focus(); },
  t: () => nextTheme(), "?": () => $("help").showModal(),
};

/** Keys belong to the page unless a field, a button or the browser has a use for them. */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const field = event.target.closest("input, select, textarea");
  if (field && !["checkbox", "range"].includes(field.type)) return;
  if (event.key === " " && event.target.closest("button, a, [type=checkbox]")) return;
  const find = (keys) => (Object.hasOwn(keys, event.key) ? keys[event.key] : null);
  const inVideos = state.view === "videos";
  const pan = inVideos && zoomAt && !field ? find(PAN) : null;
  if (event.key === "Escape" && !zoomAt) return;
  const action = (inVideos ? find(VIDEO_KEYS) : null) ?? find(PAGE_KEYS);
  if (pan) setZoom(zoomAt.map((part, axis) => part + pan[axis]));
  else if (action) action();
  if (pan || action) event.preventDefault();
}

const THEMES = { "": "System", light: "Light", dark: "Dark" };
let theme = "";

function setTheme(name) {
  theme = Object.hasOwn(THEMES, name) ? name : "";
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = `◐ ${THEMES[theme]}`;
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[theme].toLowerCase()}`);
}

// A browser may keep nothing for files, or for anyone: then the choice lasts as long as the page.
function nextTheme() {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(theme) + 1) % names.length]);
  try { localStorage.setItem("dcgrid-theme", theme); } catch { /* see above */ }
}

function startTheme() {
  let kept = "";
  try { kept = localStorage.getItem("dcgrid-theme") ?? ""; } catch { /* see above */ }
  setTheme(kept);
  $("theme").onclick = nextTheme;
}

async function copyLink() {
  if (state.view === "videos" && !transport.playing) update({ frame: String(transport.frame) });
  try {
    await navigator.clipboard.writeText(location.href);
    say("Link copied");
    $("copy").textContent = "Copied";
  } catch {
    say("The address of this page is the link");
    $("copy").textContent = "See address";
  }
  setTimeout(() => { $("copy").textContent = "Copy link"; }, 1500);
}

/** Show at which sides a table goes on beyond its box. */
function showEdges(box) {
  const look = () => {
    const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.parentElement.classList.toggle("more-right", rest > 1);
    box.parentElement.classList.toggle("more-left", box.scrollLeft > 1);
    box.parentElement.style.setProperty("--tall", `${box.clientHeight}px`);
  };
  box.addEventListener("scroll", look, { passive: true });
  const watched = new ResizeObserver(look);
  watched.observe(box);
  watched.observe(box.firstElementChild);
}

function startPage() {
  startTheme();
  showHead();
  showFacts();
  startList();
  startPlayer();
  startCompare();
  $("copy").onclick = copyLink;
  $("help-open").onclick = () => $("help").showModal();
  $("skip").onclick = (event) => { event.preventDefault(); $("main").focus(); };
  for (const view of VIEWS) {
    $(`tab-${view}`).onclick = (event) => { event.preventDefault(); update({ view }, { push: true }); };
  }
  addEventListener("keydown", pressed);
  for (const changed of [showView, showPlayer, showTable, showList, showCells]) watch(changed);
  startState();
  document.querySelectorAll(".scroll").forEach(showEdges);
}

startPage();
