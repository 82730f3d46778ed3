// Progress in this browser. Where storage is forbidden (some browsers, for pages opened as files)
// the study still works, but a reload begins anew: `kept` says which it is.

function makeStore(studyId) {
  const name = `dcgrid-study-${studyId}`;
  let kept = true;
  function guarded(work) {
    try {
      return work();
    } catch {
      kept = false;
      return null;
    }
  }
  return {
    load: () => guarded(() => JSON.parse(localStorage.getItem(name))),
    save: (state) => guarded(() => localStorage.setItem(name, JSON.stringify(state))),
    drop: () => guarded(() => localStorage.removeItem(name)),
    isKept: () => kept,
  };
}

// What was kept may be from a hand or another version: anything odd is as good as nothing.
function isUsableState(state, study) {
  if (state === null || typeof state !== "object" || !isRaterName(state.rater)) return false;
  if (!Array.isArray(state.trials) || !Number.isInteger(state.at)) return false;
  const session = makeSession(study, state.rater);
  return (
    state.trials.length === session.length &&
    state.at >= 0 &&
    state.at <= session.length &&
    state.trials.every((trial, index) => trial !== null && trial.pair === session[index].pair.id)
  );
}

function isRaterName(text) {
  return typeof text === "string" && /^[A-Za-z0-9_-]{1,40}$/.test(text);
}

function randomRaterName() {
  const letters = "abcdefghjkmnpqrstuvwxyz23456789";
  const numbers = crypto.getRandomValues(new Uint32Array(8));
  return `r-${[...numbers].map((number) => letters[number % letters.length]).join("")}`;
}
