// Two videos over each other with a divider between them, and zoom into the same place everywhere.

const ZOOM = 3;
let zoomAt = null; // per cent of the picture from its left and top edge; null: no zoom

function showCompare(now, cells) {
  const comparing = now.left !== "" && now.right !== "" && cells.length > 1;
  $("compare").hidden = !comparing;
  $("compare-toggle").setAttribute("aria-pressed", comparing);
  $("stage").querySelectorAll(".picture").forEach((box) => box.remove());
  if (!comparing) return false;
  const find = (id, other) => cells.find((cell) => cell.id === id) ?? cells.find((cell) => cell.id !== other);
  const left = find(now.left, now.right);
  const right = find(now.right, left.id);
  const pairs = cells.map((cell) => [cell.id, cell.label]);
  fillSelect($("pick-left"), pairs, left.id);
  fillSelect($("pick-right"), pairs, right.id);
  for (const [cell, side] of [[right, "right"], [left, "left"]]) {
    const box = videoBox(cell);
    box.classList.add(side);
    box.append(el("span", { className: "tag" }, cell.label));
    $("stage").insertBefore(box, $("divider"));
  }
  showWipe(now);
  return true;
}

function showWipe(now) {
  $("stage").style.setProperty("--wipe", `${now.wipe}%`);
  $("divider").setAttribute("aria-valuenow", Math.round(Number(now.wipe)));
  $("divider").setAttribute("aria-valuetext", `${Math.round(Number(now.wipe))} per cent`);
}

function toggleCompare() {
  const on = state.left !== "" && state.right !== "";
  const cells = cellsOf(state);
  if (on || cells.length < 2) {
    update({ left: "", right: "" }, { push: true });
    return;
  }
  const made = cells.filter((cell) => cell.item?.status === "done" && isShown(state, cell.id));
  const left = cells[0].id;
  update({ left, right: (made[0] ?? cells[1]).id }, { push: true });
}

function startCompare() {
  $("compare-toggle").onclick = toggleCompare;
  $("pick-left").onchange = (event) => update({ left: event.target.value }, { push: true });
  $("pick-right").onchange = (event) => update({ right: event.target.value }, { push: true });
  const divider = $("divider");
  const toPointer = (event) => {
    const box = $("stage").getBoundingClientRect();
    update({ wipe: String(Math.round(((event.clientX - box.left) / box.width) * 1000) / 10) });
  };
  $("stage").onpointerdown = (event) => {
    $("stage").setPointerCapture(event.pointerId);
    $("stage").onpointermove = toPointer;
    toPointer(event);
    divider.focus();
    event.preventDefault();
  };
  // A drag moves the divider here, so it takes two clicks to zoom.
  $("stage").ondblclick = (event) => setZoom(zoomAt ? null : placeIn($("stage"), event));
  $("stage").onpointerup = $("stage").onpointercancel = () => { $("stage").onpointermove = null; };
  divider.onkeydown = (event) => {
    const now = Number(state.wipe);
    const steps = { ArrowLeft: now - 2, ArrowRight: now + 2, PageDown: now - 10, PageUp: now + 10, Home: 0, End: 100 };
    if (!(event.key in steps)) return;
    update({ wipe: String(steps[event.key]) });
    event.preventDefault();
    event.stopPropagation();
  };
}

function placeIn(box, event) {
  const edge = box.getBoundingClientRect();
  return [(event.clientX - edge.left) / edge.width, (event.clientY - edge.top) / edge.height].map((part) => part * 100);
}

function zoomable(box) {
  box.onclick = (event) => setZoom(zoomAt ? null : placeIn(box, event));
  box.onpointermove = (event) => {
    if (zoomAt && event.pointerType === "mouse") setZoom(placeIn(box, event));
  };
}

function setZoom(at) {
  zoomAt = at && at.map((part) => Math.min(100, Math.max(0, part)));
  showZoom();
}

function showZoom() {
  const [x, y] = zoomAt ?? [50, 50];
  $("zoom").setAttribute("aria-pressed", zoomAt !== null);
  $("videos").style.setProperty("--zoom", zoomAt ? ZOOM : 1);
  $("videos").style.setProperty("--zoom-at", `${x}% ${y}%`);
  $("videos").classList.toggle("zoomed", zoomAt !== null);
}
