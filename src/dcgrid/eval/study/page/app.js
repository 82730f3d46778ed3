// The three views: what it is about, a pair, the end.

const USUAL_S = 40;
const WAIT_MS = 10000;
const byId = (id) => document.getElementById(id);
const study = JSON.parse(byId("study").textContent);
const store = makeStore(study.id);
const watch = makeWatch();
const lessMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
let state = null;
let player = null;
let collects = false;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function show(view, heading) {
  for (const id of ["intro", "trial", "end"]) byId(id).hidden = id !== view;
  scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

function showProgress(text, done, total) {
  byId("progress-text").textContent = text;
  byId("progress-bar").firstElementChild.style.width = `${(100 * done) / total}%`;
}

// --- what it is about ---

function showIntro() {
  const count = Math.min(study.per_rater, study.pairs.length) + study.checks.length;
  const minutes = Math.max(1, Math.round((count * USUAL_S) / 60));
  byId("intro-count").textContent =
    `There ${count === 1 ? "is 1 step" : `are ${count} steps`}; reckon with about ${minutes} ` +
    `minute${minutes === 1 ? "" : "s"}. You can go back, and go on later in this browser.`;
  byId("intro-contact").textContent = study.contact ? `Questions: ${study.contact}.` : "";
  tellPrivacy();
  byId("rater").value = randomRaterName();
  const kept = store.load();
  if (isUsableState(kept, study)) offerResume(kept);
  show("intro", byId("intro-head"));
}

function tellPrivacy() {
  byId("intro-privacy").textContent = collects
    ? "All of it stays in this browser until you press “Send answers” at the end; then it goes to " +
      "the researcher’s computer, which this page came from. No address of yours is written down."
    : "All of it stays in this browser. At the end you download one file and hand it to the " +
      "researcher yourself; the page sends nothing.";
}

function offerResume(kept) {
  byId("resume").hidden = false;
  byId("start").hidden = true;
  const done = kept.trials.filter((trial) => isDone(study, trial)).length;
  byId("resume-text").textContent =
    `This browser holds answers of ${kept.rater}: ${done} of ${kept.trials.length} steps.`;
  byId("resume-go").onclick = () => { state = kept; goTo(state.at); };
  byId("resume-drop").onclick = () => {
    store.drop();
    byId("resume").hidden = true;
    byId("start").hidden = false;
    byId("rater").focus();
  };
}

byId("start").addEventListener("submit", (event) => {
  event.preventDefault();
  const rater = byId("rater").value.trim();
  const named = isRaterName(rater);
  const agreed = byId("consent").checked;
  byId("rater-error").textContent = named ? "" : "Use 1 to 40 letters, digits, “-” or “_”.";
  byId("consent-error").textContent = agreed ? "" : "Please tick the box to take part.";
  byId("rater").setAttribute("aria-invalid", String(!named));
  if (!named) byId("rater").focus();
  else if (!agreed) byId("consent").focus();
  else {
    state = newState(study, rater);
    goTo(0);
  }
});

// --- a pair ---

function goTo(index) {
  leaveTrial();
  state.at = index;
  store.save(state);
  byId("not-kept").hidden = store.isKept();
  if (index < state.trials.length) showTrial(index);
  else showEnd();
}

function leaveTrial() {
  if (player === null) return;
  state.trials[state.at].ms += watch.take();
  player.stop();
  player = null;
}

function showTrial(index) {
  const trial = state.trials[index];
  const total = state.trials.length;
  const pair = [...study.pairs, ...study.checks].find((one) => one.id === trial.pair);
  byId("trial-head").textContent = `Pair ${index + 1} of ${total}`;
  byId("trial-prompt").textContent = pair.prompt;
  byId("trial-error").textContent = "";
  byId("back").disabled = index === 0;
  byId("next").textContent = index + 1 === total ? "Finish" : "Next pair";
  showQuestions(trial);
  showVideos(pair, trial);
  showProgress(`${index + 1} of ${total}, about ${minutesLeft(state, USUAL_S)} min left`, index, total);
  watch.take();
  show("trial", byId("trial-head"));
}

function showVideos(pair, trial) {
  const shown = pair.originals.map((file, number) => ({
    file,
    place: "original",
    title: pair.originals.length > 1 ? `Original ${number + 1}` : "Original",
  }));
  shown.push({ file: trial.left, place: "left", title: "A" });
  shown.push({ file: trial.right, place: "right", title: "B" });
  const figures = shown.map((one) => makeFigure(one, trial));
  byId("videos").replaceChildren(...figures);
  byId("videos").classList.toggle("four", shown.length > 3);
  const videos = figures.map((figure) => figure.querySelector("video"));
  player = makePlayer(videos, {
    onTime: showClock,
    onSeen: (video) => noteSeen(trial, video, videos),
    onState: (playing) => { byId("play").textContent = playing ? "Pause" : "Play"; },
  });
  byId("slow").setAttribute("aria-pressed", "false");
  const mine = player;
  byId("play").textContent = "Play";
  if (!lessMotion) whenReady(videos, WAIT_MS).then(() => { if (player === mine) mine.play(); });
}

// Of a composition both originals count as one: the last that was seen decides.
function noteSeen(trial, video, videos) {
  const { place } = video.dataset;
  video.dataset.seen = "yes";
  if (trial.seen[place]) return;
  trial.seen[place] = videos.every((one) => one.dataset.place !== place || one.dataset.seen === "yes");
  if (trial.seen[place]) store.save(state);
}

function makeFigure({ file, place, title }, trial) {
  const video = make("video", { muted: true, playsInline: true, preload: "auto" });
  const spoken = place === "original" ? `${title} clip` : `Edit ${title}`;
  video.setAttribute("aria-label", `${spoken}, silent, played together with the others`);
  video.setAttribute("role", "img");
  video.disablePictureInPicture = true;
  video.dataset.place = place;
  const frame = make("div", { className: "frame" }, video);
  video.addEventListener("error", () => tellLost(frame, video, title, trial));
  video.addEventListener("loadeddata", () => forgetLost(frame, place, trial));
  video.src = `media/${file}`;
  const caption = make("figcaption", { textContent: title });
  return make("figure", { className: `video ${place}` }, caption, frame);
}

function tellLost(frame, video, title, trial) {
  const { place } = video.dataset;
  if (!video.hasAttribute("src")) return; // it was taken away when the pair was left
  if (!trial.failed.includes(place)) trial.failed.push(place);
  store.save(state);
  frame.querySelector(".lost")?.remove();
  const retry = make("button", { type: "button", className: "button", textContent: "Try again" });
  retry.setAttribute("aria-label", `Try again to load ${title}`);
  retry.onclick = () => video.load();
  const text = make("p", { textContent: `${title} could not be loaded.` });
  frame.append(make("div", { className: "lost" }, text, retry));
  byId("trial-error").textContent =
    "A video could not be loaded. Try again; if that does not help, go on: this pair will not count.";
}

function forgetLost(frame, place, trial) {
  const lost = frame.querySelector(".lost");
  if (lost === null && !trial.failed.includes(place)) return;
  if (lost !== null) player?.again();
  lost?.remove();
  const others = [...document.querySelectorAll(".lost")].map(
    (one) => one.parentElement.querySelector("video").dataset.place,
  );
  trial.failed = PLACES.filter((one) => others.includes(one));
  if (trial.failed.length === 0) byId("trial-error").textContent = "";
}

function showClock(now, length) {
  byId("clock").textContent = `${now.toFixed(1)} / ${length.toFixed(1)} s`;
  const seek = byId("seek");
  if (document.activeElement !== seek) seek.value = String(Math.round((1000 * now) / length));
  seek.setAttribute("aria-valuetext", `${now.toFixed(1)} of ${length.toFixed(1)} seconds`);
}

function showQuestions(trial) {
  const list = study.questions.map((question) => makeQuestion(question, trial));
  byId("question-list").replaceChildren(...list);
}

function makeQuestion(question, trial) {
  const choices = make("div", { className: "choices" });
  for (const [side, letter] of [["left", "A"], ["right", "B"]]) {
    const input = make("input", {
      type: "radio",
      name: question.key,
      value: side,
      required: true,
      id: `${question.key}-${side}`,
      checked: trial.answers[question.key] === side,
    });
    input.addEventListener("change", () => answer(trial, question.key, side));
    const face = make("span", { textContent: letter });
    choices.append(make("label", { className: "choice", htmlFor: input.id }, input, face));
  }
  const text = make("legend", { className: "hidden-text", textContent: `${question.topic}: ${question.text}` });
  const seen = make("div", { className: "question-text" });
  seen.setAttribute("aria-hidden", "true"); // the legend says the same
  seen.append(make("b", { textContent: question.topic }), make("span", { textContent: question.text }));
  const group = make("fieldset", { className: "question" }, text, seen, choices);
  group.dataset.key = question.key;
  return group;
}

function answer(trial, key, side) {
  trial.answers[key] = side;
  document.querySelector(`.question[data-key="${key}"]`).classList.remove("missing");
  if (isDone(study, trial) && trial.failed.length === 0) byId("trial-error").textContent = "";
  store.save(state);
}

byId("questions").addEventListener("submit", (event) => {
  event.preventDefault();
  const trial = state.trials[state.at];
  if (isDone(study, trial)) {
    goTo(state.at + 1);
    return;
  }
  const open = unanswered(study, trial);
  for (const one of open) {
    document.querySelector(`.question[data-key="${one.key}"]`).classList.add("missing");
  }
  byId("trial-error").textContent = `Still to answer: ${open.map((one) => one.topic).join(", ")}.`;
  byId(`${open[0].key}-left`).focus();
});

byId("back").onclick = () => goTo(state.at - 1);
byId("play").onclick = () => player.toggle();
byId("again").onclick = () => player.again();
byId("slow").onclick = () => {
  const slow = byId("slow").getAttribute("aria-pressed") !== "true";
  byId("slow").setAttribute("aria-pressed", String(slow));
  player.setRate(slow ? 0.5 : 1);
};
byId("seek").addEventListener("input", () => {
  player.pause();
  player.seekShare(Number(byId("seek").value) / 1000);
});

// --- keys ---

function answerByKey(side) {
  const trial = state.trials[state.at];
  const focused = document.activeElement.closest(".question")?.dataset.key;
  const key = focused ?? unanswered(study, trial)[0]?.key;
  if (key === undefined) return;
  const input = byId(`${key}-${side}`);
  input.checked = true;
  answer(trial, key, side);
  const next = unanswered(study, trial)[0];
  if (next === undefined) byId("next").focus();
  else byId(`${next.key}-left`).focus();
}

const KEYS = {
  a: () => answerByKey("left"),
  b: () => answerByKey("right"),
  p: () => byId("play").click(),
  r: () => byId("again").click(),
  s: () => byId("slow").click(),
};

document.addEventListener("keydown", (event) => {
  if (byId("trial").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const isControl = event.target.closest("button, input, summary, label, textarea") !== null;
  if (event.key === "Enter" && !isControl) {
    event.preventDefault();
    byId("questions").requestSubmit();
    return;
  }
  const work = byId("letters").checked ? KEYS[event.key.toLowerCase()] : undefined;
  if (work === undefined) return;
  event.preventDefault();
  work();
});

// --- the end ---

function showEnd() {
  if (state.finished === "") state.finished = new Date().toISOString();
  store.save(state);
  const text = JSON.stringify(answersOf(study, state), null, 1);
  const counted = state.trials.filter((trial) => trial.failed.length === 0).length;
  const minutes = state.trials.reduce((sum, trial) => sum + trial.ms, 0) / 60000;
  byId("end-summary").textContent =
    `${state.rater}: ${counted} of ${state.trials.length} steps answered in ${minutes.toFixed(1)} minutes.`;
  const whom = study.contact ? `: ${study.contact}` : "";
  byId("end-what").textContent = collects
    ? "Press “Send answers”: they go to the researcher’s computer, which this page came from."
    : `Nothing has been sent. Download the file and hand it to the researcher${whom}.`;
  byId("send").hidden = !collects;
  byId("download").classList.toggle("primary", !collects);
  byId("end-text").value = text;
  byId("end-status").textContent = "";
  showProgress("Finished", 1, 1);
  show("end", byId("end-head"));
}

byId("end-back").onclick = () => { state.finished = ""; goTo(state.trials.length - 1); };
byId("download").onclick = () => {
  const name = `answers-${study.id}-${state.rater}.json`;
  downloadText(name, byId("end-text").value);
  byId("end-status").textContent = `${name} is in your downloads.`;
};
byId("copy").onclick = async () => {
  const copied = await copyText(byId("end-text").value, byId("end-text"));
  byId("end-status").textContent = copied ? "Copied." : "Copy the marked text by hand.";
};
byId("send").onclick = async () => {
  byId("send").disabled = true;
  try {
    await postAnswers(byId("end-text").value);
    byId("end-status").textContent = "Sent. You can close the page.";
  } catch (error) {
    byId("end-status").textContent = `Not sent (${error.message}). Download the file instead.`;
    byId("send").disabled = false;
  }
};
byId("forget").onclick = () => {
  if (!confirm("Delete the answers from this browser? Download or send them first.")) return;
  store.drop();
  location.reload();
};

addEventListener("pagehide", () => {
  if (player === null) return;
  state.trials[state.at].ms += watch.take();
  store.save(state);
});

showIntro();
findCollector(study.id).then((found) => {
  collects = found;
  tellPrivacy();
});
