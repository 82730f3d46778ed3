// Tiles and players of `dcgrid ui`; `Player` and `Transport` are the report's and stand above this.
// Names come from recipes and files: they only ever become text nodes.

window.dcgrid = (() => {
  const SPEEDS = [0.25, 0.5, 1, 2];
  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** Make an element; `props` are properties, `aria-*` and `role` attributes, `on*` handlers. */
  function el(tag, props = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (name.includes("-") || name === "role") made.setAttribute(name, value);
      else made[name] = value;
    }
    made.append(...children);
    return made;
  }

  const inView = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) target.pause();
      else if (!still()) target.play().catch(() => {}); // refused by a browser's power saving
    }
  });

  /** Show what can be chosen: checks (many), radio buttons (one) or buttons that add (add). */
  function tiles(element, props, trigger) {
    const group = el("fieldset", {}, el("legend", { textContent: props.title }));
    const kind = { many: "checkbox", one: "radio" }[props.kind];
    const chosen = () => [...group.querySelectorAll("input:checked")].map((one) => one.value);
    const name = `dc-${Math.random()}`;
    for (const tile of props.tiles) {
      const picture = tile.link
        ? el("video", { src: tile.link, muted: true, loop: true, playsInline: true, preload: "metadata", tabIndex: -1, "aria-hidden": "true" })
        : el("span", { className: "dc-blank" });
      if (tile.link) inView.observe(picture);
      const title = el("span", { textContent: tile.title });
      if (kind) {
        const input = el("input", { type: kind, name, value: tile.name });
        input.onchange = () => { props.value = chosen(); trigger("change"); };
        group.append(el("label", { className: "dc-tile" }, input, picture, title));
      } else {
        const add = el("button", { type: "button", className: "dc-tile" }, picture, title);
        add.onclick = () => trigger("click", { name: tile.name });
        group.append(add);
      }
    }
    element.querySelector(".dc-tiles").replaceChildren(group);
  }

  /** Show videos that keep together, and show others whenever the value changes. */
  function player(element, props, watch) {
    const box = element.querySelector(".dc-player");
    let transport = null;
    const show = () => {
      transport?.pause();
      transport?.clear();
      box.replaceChildren();
      if (props.value?.cells) transport = fill(box, props.value);
    };
    watch("value", show);
    show();
  }

  function fill(box, { fps, frames, cells }) {
    const play = el("button", { type: "button" });
    const scrub = el("input", { type: "range", min: 0, step: 1, "aria-label": "Frame" });
    const clock = el("output");
    const transport = new Transport(({ frame, frames: all, frameTime, playing }) => {
      scrub.max = all - 1;
      scrub.value = frame;
      clock.textContent = `${frame} / ${all - 1} · ${((frame + 0.5) * frameTime).toFixed(2)} s`;
      play.textContent = playing ? "Pause" : "Play";
    });
    transport.load(fps, frames);
    play.onclick = () => (transport.playing ? transport.pause() : transport.play());
    scrub.oninput = () => { const frame = Number(scrub.value); transport.pause(); transport.seekFrame(frame); };
    const speed = el("select", { "aria-label": "Speed", onchange: () => { transport.speed = Number(speed.value); } },
      ...SPEEDS.map((one) => el("option", { value: one, textContent: `${one}×`, selected: one === 1 })));
    const step = (by, label, text) => el("button", { type: "button", "aria-label": label, textContent: text, onclick: () => transport.step(by) });
    const bar = el("div", { className: "dc-bar", role: "group", "aria-label": "Player" },
      play, step(-1, "One frame back", "−1"), step(1, "One frame on", "+1"), speed, scrub, clock);
    box.append(el("div", { className: "dc-cells" }, ...cells.map((one) => cell(one, transport))), bar);
    transport.seek(0);
    if (!still()) transport.play();
    return transport;
  }

  function cell({ label, link, begin, seconds }, transport) {
    const video = el("video", { tabIndex: -1, "aria-label": label });
    const words = el("p", { hidden: true, textContent: "This browser cannot play the file; it can be downloaded." });
    video.addEventListener("error", () => {
      if (!video.hasAttribute("src")) return; // it was closed, which some browsers call an error
      words.hidden = false;
      video.hidden = true;
    });
    const made = new Player(video, link, transport, { begin, seconds });
    transport.players.add(made);
    made.show(true);
    return el("figure", {}, el("figcaption", { textContent: label }), video, words);
  }

  return { tiles, player };
})();
