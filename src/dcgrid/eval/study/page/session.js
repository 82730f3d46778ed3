// What one rater has done so far, and the file that is made of it.

const PLACES = ["original", "left", "right"];

function newState(study, rater) {
  const trials = makeSession(study, rater).map((one) => ({
    pair: one.pair.id,
    left: one.left,
    right: one.right,
    answers: {},
    ms: 0,
    seen: { original: false, left: false, right: false },
    failed: [],
  }));
  return { rater, at: 0, started: new Date().toISOString(), finished: "", trials };
}

function answersOf(study, state) {
  return {
    format: "dcgrid-answers-1",
    study: study.id,
    rater: state.rater,
    seed: raterSeed(study.id, state.rater),
    started: state.started,
    finished: state.finished,
    trials: state.trials.map((trial) => ({ ...trial, ms: Math.round(trial.ms) })),
  };
}

function unanswered(study, trial) {
  return study.questions.filter((question) => !(question.key in trial.answers));
}

function isDone(study, trial) {
  return trial.failed.length > 0 || unanswered(study, trial).length === 0;
}

// Milliseconds in view: a page in the background does not count.
function makeWatch() {
  let since = document.hidden ? null : performance.now();
  let total = 0;
  function pause() {
    if (since !== null) total += performance.now() - since;
    since = null;
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) pause();
    else since = performance.now();
  });
  return {
    take: () => {
      const hidden = since === null;
      pause();
      const taken = total;
      total = 0;
      if (!hidden) since = performance.now();
      return taken;
    },
  };
}

function minutesLeft(state, usual_s) {
  const done = state.trials.slice(0, state.at).map((trial) => trial.ms).filter((ms) => ms > 0);
  const left = state.trials.length - state.at;
  const mean_s = done.length < 2 ? usual_s : done.reduce((one, two) => one + two) / done.length / 1000;
  return Math.max(1, Math.round((left * mean_s) / 60));
}
