// A small chart for each metric that has a value a frame: a line a method, told apart by colour,
// dashes and its name at the end; a cursor stands at the frame that is shown.

const CHART = { width: 480, height: 170, left: 46, right: 166, top: 10, bottom: 22 };
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "5 2", "1 2", "12 4", "6 2 1 2 1 2"];
const INKS = 8;
let charts = [];

function showPlots(now, cells) {
  const made = cells.filter((cell) => cell.item && isShown(now, cell.id));
  charts = DATA.metrics.map((metric) => chart(metric, made)).filter((one) => one !== null);
  $("plots").replaceChildren(...charts.map((one) => one.figure));
  showCursor();
}

function chart(metric, cells) {
  const lines = cells.map((cell) => ({ cell, score: scoreOf(cell.item, metric.key) }))
    .filter(({ score }) => score?.series.some((value) => value !== null));
  if (!lines.length) return null;
  const last = Math.max(transport.frames - 1, 1, ...lines.flatMap(({ score }) => score.frames));
  const values = lines.flatMap(({ score }) => score.series.filter((value) => value !== null));
  const [low, high] = room(values, PAGE.bounds[metric.key]);
  const { width, height, left, right, top, bottom } = CHART;
  const x = (frame) => left + (frame / last) * (width - left - right);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom });
  const drawn = lines.map((line) => drawLine(line, x, y));
  spread(drawn.map((line) => line.label), top + 4, height - bottom);
  const names = lines.map(({ cell }) => cell.label).join(", ");
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${metric.label} by frame: ${names}` },
    ...axes(metric, low, high, last, x, y), ...drawn.flatMap((line) => [line.path, line.text]), cursor);
  picture.onclick = (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    transport.pause();
    transport.seekFrame(Math.round(((at - left) / (width - left - right)) * last));
    rememberFrame();
  };
  const figure = el("figure", { className: "plot", "data-metric": metric.key },
    el("figcaption", { title: metric.title }, el("b", {}, `${metric.label} ${ARROWS[metric.better]}`), " by frame"), picture);
  return { figure, cursor, x, last, drawn, metric };
}

/** The range of the values with a little room; a flat line stands in the middle. What has a largest
 * value ends there, and a share, which has a smallest too, is shown whole. */
function room(values, bounds) {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const more = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  if (!bounds) return [low - more, high + more];
  const [least, most] = bounds;
  return least === null ? [low - more, Math.min(high + more, most)] : [least, most];
}

function axes(metric, low, high, last, x, y) {
  const { width, height, left, right, bottom } = CHART;
  const ends = PAGE.bounds[metric.key]?.[1] === high;
  const ticks = (ends ? [0, 0.5, 1] : [1 / 6, 0.5, 5 / 6]).map((part) => low + (high - low) * part);
  // Near values need more digits than the table shows, else all ticks read the same.
  const digits = Math.min(8, Math.max(0, 1 - Math.floor(Math.log10((high - low) / 3))));
  return [
    ...ticks.map((tick) => svg("line", { class: "rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick) })),
    ...ticks.map((tick) => svg("text", { class: "tick", x: left - 5, y: y(tick) + 3.5, "text-anchor": "end" }, tick.toFixed(digits))),
    ...[0, last].map((frame, index) => svg("text", { class: "tick", x: x(frame), y: height - bottom + 14,
      "text-anchor": index ? "end" : "start" }, index ? `frame ${frame}` : "0")),
  ];
}

/** One path a method; it breaks off where nothing could be measured. */
function drawLine({ cell, score }, x, y) {
  const order = DATA.methods.findIndex((method) => method.key === cell.item.method);
  let drawing = false;
  let end = null;
  const steps = score.series.map((value, index) => {
    if (value === null) {
      drawing = false;
      return "";
    }
    end = [x(score.frames[index]), y(value)];
    const place = end.map((part) => part.toFixed(2)).join(" ");
    const alone = !drawing && (score.series[index + 1] ?? null) === null;
    const step = drawing ? `L${place}` : alone ? `M${place}h0.01` : `M${place}`;
    drawing = true;
    return step;
  });
  const ink = `ink ink-${order % INKS}`;
  const path = svg("path", { class: ink, d: steps.join(""), "data-method": cell.item.method,
    "stroke-dasharray": DASHES[order % DASHES.length] });
  const at = svg("tspan", { class: "now" });
  const words = svg("text", { class: "name" }, shortened(cell.label), " ", at);
  const lead = svg("path", { class: `${ink} lead` });
  const text = svg("g", {}, lead, words);
  const byFrame = new Map(score.frames.map((frame, index) => [frame, score.series[index]]));
  return { path, text, at, byFrame, label: { from: end, y: end[1], words, lead } };
}

const shortened = (text) => (text.length > 16 ? `${text.slice(0, 15)}…` : text);

/** Push names at the ends of lines apart, keeping their order. */
function spread(labels, top, bottom) {
  const gap = 13;
  const order = [...labels].sort((a, b) => a.y - b.y);
  order.forEach((label, index) => {
    label.y = Math.max(label.y, index ? order[index - 1].y + gap : top);
  });
  for (let index = order.length - 1, limit = bottom; index >= 0; index -= 1, limit -= gap) {
    order[index].y = Math.min(order[index].y, limit);
  }
  const start = CHART.width - CHART.right + 18;
  for (const { from, y, words, lead } of order) {
    words.setAttribute("x", start);
    words.setAttribute("y", y + 3.5);
    lead.setAttribute("d", `M${from[0] + 3} ${from[1]}L${start - 9} ${y}H${start - 3}`);
  }
}

function showCursor() {
  const frame = transport.frame;
  for (const one of charts) {
    // Videos may turn out to be longer than what was measured.
    const at = one.x(Math.min(frame, one.last));
    one.cursor.setAttribute("x1", at);
    one.cursor.setAttribute("x2", at);
    for (const line of one.drawn) {
      line.at.textContent = number(line.byFrame.get(frame), Math.min(one.metric.digits, 3));
    }
  }
}
