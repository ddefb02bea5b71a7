// Boxes over a picture, dragged or moved with the arrow keys. Coordinates are the picture's pixels throughout.
// Python is asked for the readout and the shapes of every position; while it is busy only the newest waits.

const NS = "http://www.w3.org/2000/svg";
const CORNERS = [[0, 1], [2, 1], [2, 3], [0, 3]];   // which of x1, y1, x2, y2 a corner moves

function make(name, attributes, parent) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent?.appendChild(node);
  return node;
}

function outline(d, stroke, width, dash, parent, extra = {}) {
  return make("path", { d, stroke, "stroke-width": width, "stroke-dasharray": dash, fill: "none",
    "vector-effect": "non-scaling-stroke", ...extra }, parent);
}

const pathOf = ([x1, y1, x2, y2]) => `M${x1} ${y1}H${x2}V${y2}H${x1}Z`;
const round = (value) => Math.round(value * 10) / 10;

/** Move a box by (dx, dy), stopped by the picture's border. */
function moved(box, dx, dy, [width, height]) {
  dx = Math.min(Math.max(dx, -box[0]), width - box[2]);
  dy = Math.min(Math.max(dy, -box[1]), height - box[3]);
  return [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy].map(round);
}

/** Pull one corner by (dx, dy); a side is never shorter than a pixel. */
function resized(box, corner, dx, dy, [width, height]) {
  const [ix, iy] = CORNERS[corner];
  const out = [...box];
  out[ix] = ix === 0 ? Math.min(Math.max(0, box[0] + dx), box[2] - 1) : Math.max(Math.min(width, box[2] + dx), box[0] + 1);
  out[iy] = iy === 1 ? Math.min(Math.max(0, box[1] + dy), box[3] - 1) : Math.max(Math.min(height, box[3] + dy), box[1] + 1);
  return out.map(round);
}

function render({ model, el }) {
  const size = model.get("size");
  const boxes = model.get("request").boxes.map((box) => [...box]);
  const scale = size[0] / 460;                       // picture pixels for one pixel of the usual page width
  let seq = model.get("request").seq, busy = false, newest = false;

  const root = document.createElement("div");
  root.className = "box-playground";
  root.style.cssText = "contain:layout paint style;max-width:460px;font-family:var(--jp-ui-font-family,sans-serif);color:var(--jp-content-font-color1,currentColor)";
  const svg = make("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, role: "group",
    "aria-label": "Picture with boxes to move: Tab chooses a box, arrow keys move it" });
  svg.style.cssText = "width:100%;display:block;user-select:none;border-radius:4px";   // bare picture scrolls the page
  make("image", { href: model.get("image"), width: size[0], height: size[1] }, svg);
  const shapes = make("g", { "pointer-events": "none" }, svg);
  const out = document.createElement("output");
  out.setAttribute("aria-live", "polite");
  out.style.cssText = "display:block;padding:.4em 0;font-size:14px;font-variant-numeric:tabular-nums;min-height:1.4em";
  const help = document.createElement("small");
  help.textContent = "Drag a box or a corner · arrow keys move 1 px, with Shift 10 px, with Alt they resize";
  help.style.opacity = ".75";
  root.append(svg, out, help);
  el.appendChild(root);

  const names = make("g", { "pointer-events": "none" }, null);      // above all boxes, so that no line strikes a name
  const views = boxes.map((_, i) => {
    const name = model.get("names")[i];
    const group = make("g", { tabindex: 0, role: "application", "data-box": i, cursor: "move", style: "outline:none" }, svg);
    const look = model.get("looks")[i];
    const halo = outline("", look.casing || "white", look.width + 2, "", group, { "stroke-opacity": 0.85 });
    const line = outline("", look.stroke, look.width, look.dash, group);
    const area = make("path", { fill: "transparent" }, group);
    const label = make("text", { "font-size": 13 * scale, fill: "#111", stroke: "white", "stroke-width": 3 * scale,
      "paint-order": "stroke" }, names);
    label.textContent = name;
    const handles = CORNERS.map((_, corner) => make("circle", { r: 5.5 * scale, fill: "white", stroke: "black",
      "stroke-width": 1.2 * scale, cursor: corner % 2 ? "nesw-resize" : "nwse-resize" }, group));
    for (const part of [area, ...handles]) {
      // A finger on it drags, and does not scroll; Chromium knows no touch-action inside an SVG.
      part.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
      part.addEventListener("pointermove", (event) => { if (!event.buttons) fade(part === area ? meant(toPicture(event)) : i); });
      part.addEventListener("pointerleave", () => fade(null));
    }
    group.addEventListener("focus", () => halo.setAttribute("stroke", "#E69F00"));
    group.addEventListener("blur", () => halo.setAttribute("stroke", look.casing || "white"));
    grab(area, meant, (start, dx, dy) => moved(start, dx, dy, size));
    handles.forEach((handle, corner) => grab(handle, () => i, (start, dx, dy) => resized(start, corner, dx, dy, size)));
    group.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 10 : 1;
      const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? [];
      if (dx === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      place(i, event.altKey || event.ctrlKey ? resized(boxes[i], 2, dx, dy, size) : moved(boxes[i], dx, dy, size));
    });
    return { group, halo, line, area, label, handles, name };
  });
  svg.appendChild(names);

  /** Of the boxes under a place, that in whose middle it lies most: two that overlap are told apart, one in another is found. */
  function meant({ x, y }) {
    const off = ([x1, y1, x2, y2]) => Math.max(Math.abs(2 * x - x1 - x2) / (x2 - x1), Math.abs(2 * y - y1 - y2) / (y2 - y1));
    const far = boxes.map(off);
    return far.indexOf(Math.min(...far));
  }

  /** Lets a hand move or pull a box by `node`; whose(place) says which. */
  function grab(node, whose, change) {
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      event.stopPropagation();
      const from = toPicture(event), i = whose(from), start = [...boxes[i]];
      views[i].group.focus({ preventScroll: true });
      node.setPointerCapture(event.pointerId);
      const move = (e) => { const to = toPicture(e); place(i, change(start, to.x - from.x, to.y - from.y)); };
      node.addEventListener("pointermove", move);
      const stop = () => node.removeEventListener("pointermove", move);
      node.addEventListener("pointerup", stop, { once: true });
      node.addEventListener("pointercancel", stop, { once: true });
    });
  }

  function toPicture(event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  }

  function draw(i) {
    const { group, halo, line, area, label, handles, name } = views[i], box = boxes[i];
    for (const path of [halo, line, area]) path.setAttribute("d", pathOf(box));
    group.setAttribute("aria-label", `${name}: left ${box[0]}, top ${box[1]}, right ${box[2]}, bottom ${box[3]}`);
    label.setAttribute("x", box[0]);
    label.setAttribute("y", box[1] > 16 * scale ? box[1] - 7 * scale : box[3] + 15 * scale);
    handles.forEach((handle, corner) => {
      handle.setAttribute("cx", box[CORNERS[corner][0]]);
      handle.setAttribute("cy", box[CORNERS[corner][1]]);
    });
    root.dataset.boxes = JSON.stringify(boxes);
  }

  function place(i, box) {
    boxes[i] = box;
    draw(i);
    newest = true;
    ask();
  }

  function ask() {
    if (busy || !newest) return;
    busy = true;
    newest = false;
    seq += 1;
    model.set("request", { seq, boxes: boxes.map((box) => [...box]) });
    model.save_changes();
  }

  let pointed = null;
  /** Pointing at box i fades the shapes that belong to other boxes. */
  function fade(i, again = false) {
    if (i === pointed && !again) return;
    pointed = i;
    for (const node of shapes.children) {
      const owner = node.dataset.owner;
      node.style.opacity = i === null || owner === undefined || Number(owner) === i ? "" : "0.12";
    }
  }

  function show() {
    const answer = model.get("answer");
    out.textContent = answer.readout ?? "";
    shapes.replaceChildren(...(answer.shapes ?? []).flatMap((s) => {
      const owned = s.owner === undefined ? {} : { "data-owner": s.owner };
      const casing = s.casing ? [outline(s.d, s.casing, s.width + 2, "", null, { "stroke-opacity": 0.85, ...owned })] : [];
      return [...casing, outline(s.d, s.stroke, s.width, s.dash, null,
        { fill: s.fill, "fill-opacity": s.opacity, "data-kind": s.kind, ...owned })];
    }));
    fade(pointed, true);
    root.dataset.seq = answer.seq;
    if (answer.seq >= seq) busy = false;
    ask();
  }

  function takeOver() {                              // another view, or Python, moved the boxes
    const request = model.get("request");
    if (request.seq <= seq) return;
    seq = request.seq;
    request.boxes.forEach((box, i) => { boxes[i] = [...box]; draw(i); });
  }

  model.on("change:answer", show);
  model.on("change:request", takeOver);
  boxes.forEach((_, i) => draw(i));
  show();
  return () => { model.off("change:answer", show); model.off("change:request", takeOver); };
}

export default { render };
