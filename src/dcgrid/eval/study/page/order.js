// What a rater sees in which order and on which side. The same steps as order.py, which checks
// answers against them: change both or neither.

function raterSeed(studyId, rater) {
  let value = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(`${studyId}:${rater}`)) {
    value = Math.imul(value ^ byte, 0x01000193) >>> 0;
  }
  return value;
}

function makeDraw(seed) {
  let state = seed >>> 0;
  function below(count) {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) * count) / 4294967296);
  }
  function shuffled(things) {
    const order = [...things];
    for (let last = order.length - 1; last > 0; last -= 1) {
      const other = below(last + 1);
      [order[last], order[other]] = [order[other], order[last]];
    }
    return order;
  }
  return { below, shuffled };
}

function dealPairs(pairs, draw) {
  const numbers = [...new Set(pairs.map((pair) => pair.deck))].sort((one, two) => one - two);
  const decks = new Map();
  for (const number of numbers) {
    decks.set(number, draw.shuffled(pairs.filter((pair) => pair.deck === number)));
  }
  const dealt = [];
  for (;;) {
    const left = numbers.filter((number) => decks.get(number).length > 0);
    if (left.length === 0) return dealt;
    for (const number of draw.shuffled(left)) dealt.push(decks.get(number).shift());
  }
}

function makeSession(study, rater) {
  const draw = makeDraw(raterSeed(study.id, rater));
  const shown = dealPairs(study.pairs, draw).slice(0, study.per_rater);
  const extra = draw.shuffled(study.checks);
  const dealt = shown.length;
  for (let number = extra.length - 1; number >= 0; number -= 1) {
    const begin = Math.floor((number * dealt) / extra.length);
    const end = Math.floor(((number + 1) * dealt) / extra.length);
    shown.splice(begin + 1 + draw.below(Math.max(1, end - begin)), 0, extra[number]);
  }
  return shown.map((pair) => {
    const [left, right] = draw.below(2) === 0 ? pair.files : [...pair.files].reverse();
    return { pair, left, right };
  });
}
