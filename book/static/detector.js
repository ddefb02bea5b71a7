// A shipped detector in the page, by ONNX Runtime's WebAssembly: on a smear, or on a picture of the reader's own, which
// never leaves the page. The network's raw boxes and scores are kept, so that both sliders answer at once.

import { detections } from "./boxes.js";

const HERE = new URL(".", import.meta.url);
const NS = "http://www.w3.org/2000/svg";
const COLOURS = ["#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00"];
const DASHES = ["", "9 4", "2 3", "12 3 2 3", "6 2"];

let session = null;

/** The network, loaded once: {run, facts}. facts = {size, classes, rules}. */
export function network() {
  session ??= (async () => {
    const ort = await import(new URL("ort/ort.wasm.min.mjs", HERE).href);
    ort.env.wasm.wasmPaths = new URL("ort/", HERE).href;
    ort.env.wasm.numThreads = 1;
    const facts = await (await fetch(new URL("detector.json", HERE))).json();
    const model = await ort.InferenceSession.create(new URL("detector.onnx", HERE).href, { executionProviders: ["wasm"] });
    return { facts, run: (pixels) => outputs(ort, model, facts, pixels) };
  })();
  return session;
}

/** Pixels (size x size x RGBA, as a canvas gives them) -> {boxes, scores} of every anchor. */
async function outputs(ort, model, { size }, pixels) {
  const plane = size * size;
  const values = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i += 1)
    for (let channel = 0; channel < 3; channel += 1) values[channel * plane + i] = pixels[4 * i + channel] / 255;
  const found = await model.run({ images: new ort.Tensor("float32", values, [1, 3, size, size]) });
  const rows = ({ data, dims }) => Array.from({ length: dims[1] }, (_, a) => Array.from(data.slice(a * dims[2], (a + 1) * dims[2])));
  return { boxes: rows(found.boxes), scores: rows(found.scores) };
}

/** A picture drawn into a square of the network's size -> its pixels. */
export function squeezed(picture, size) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, size, size);
  return { pixels: context.getImageData(0, 0, size, size).data, address: canvas.toDataURL("image/png") };
}

function node(name, attributes, ...children) {
  const made = ["svg", "rect", "path", "image", "text", "title"].includes(name) ? document.createElementNS(NS, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function slider(label, start, moved) {
  const id = `detector-${label.replace(/\W+/g, "-")}`;
  const output = node("output", { for: id }, start.toFixed(2));
  const input = node("input", { id, type: "range", min: 0, max: 0.99, step: 0.01, value: start });
  input.addEventListener("input", () => { output.textContent = Number(input.value).toFixed(2); moved(); });
  return { row: node("div", { class: "lesson-control" }, node("label", { for: id }, label), input, output),
    value: () => Number(input.value) };
}

/** Whose boxes have which line. */
function legend(classes) {
  const line = (k) => node("svg", { class: "detector-line", viewBox: "0 0 30 8", width: 30, height: 8, "aria-hidden": "true" },
    node("path", { d: "M1 4H29", stroke: COLOURS[k % 5], "stroke-width": 3, "stroke-dasharray": DASHES[k % 5] }));
  return node("p", { class: "detector-legend" }, ...classes.map((name, k) => node("span", {}, line(k), ` ${name}`)));
}

/** The playground inside `place`. */
export async function show(place) {
  const svg = node("svg", { role: "img", class: "detector-picture" });
  const said = node("output", { "aria-live": "polite" }, "The detector is being loaded (about 20 MB, once) ...");
  place.replaceChildren(svg, said);
  const { facts, run } = await network();
  const { size } = facts;
  svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
  let raw = null;
  let address = "";
  let squeeze = "";                                  // what was done to a picture that is no square

  const draw = () => {
    if (!raw) return;
    const least = score.value();
    const every = unsuppressed.checked;
    const found = detections(raw.boxes, raw.scores,
      { ...facts.rules, score: least, overlap: every ? 1 : overlap.value(), topk: every ? Infinity : facts.rules.topk,
        most: every ? Infinity : facts.rules.most });
    const shapes = found.map(({ box: [x1, y1, x2, y2], score: s, label }) =>
      node("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, fill: "none", stroke: COLOURS[label % 5],
        "stroke-width": every ? 0.5 : 2, "stroke-dasharray": every ? "" : DASHES[label % 5], "data-score": s },
      node("title", {}, `${facts.classes[label]} ${s.toFixed(2)}`)));
    const counts = facts.classes.map((name, k) => `${found.filter(({ label }) => label === k).length} ${name}`);
    const words = `${found.length.toLocaleString("en")} boxes: ${counts.join(", ")}.${squeeze}`;
    svg.replaceChildren(node("title", {}, words), node("image", { href: address, width: size, height: size }), ...shapes);
    said.textContent = words;
    place.dataset.found = JSON.stringify(found);
  };
  const score = slider("lowest score", 0.4, draw);
  const overlap = slider("NMS: largest overlap", facts.rules.overlap, draw);
  const unsuppressed = node("input", { type: "checkbox", id: "detector-raw" });
  unsuppressed.addEventListener("change", draw);
  const own = node("input", { type: "file", accept: "image/*", id: "detector-file" });

  const look = async (picture) => {
    const square = squeezed(picture, size);
    const { naturalWidth: width, naturalHeight: height } = picture;
    address = square.address;
    squeeze = width === height ? "" : ` Your ${width} × ${height} px were squeezed into a square, as the command line does it.`;
    raw = await run(square.pixels);
    draw();
    place.dataset.ready = String(Number(place.dataset.ready ?? 0) + 1);
  };
  const open = async (url) => {
    const picture = new Image();
    picture.src = url;
    try {
      await picture.decode();
    } catch {
      said.textContent = "This file is no picture that the browser can open: choose a JPEG or PNG.";
      return;
    }
    await look(picture);
  };
  own.addEventListener("change", () => {
    if (!own.files[0]) return;
    smears.selectedIndex = -1;                       // so that the same smear can be chosen again
    open(URL.createObjectURL(own.files[0]));
  });
  const smears = node("select", { id: "detector-smear" },
    ...facts.smears.map((name, k) => node("option", { value: name }, `smear ${k + 1}`)));
  smears.addEventListener("change", () => open(new URL(smears.value, HERE).href));
  place.prepend(
    node("div", { class: "lesson-control" }, node("label", { for: "detector-smear" }, "picture"), smears,
      node("label", { for: "detector-file" }, "or your own (it stays in this page)"), own),
    legend(facts.classes), score.row, overlap.row,
    node("div", { class: "lesson-control" }, unsuppressed, node("label", { for: "detector-raw" }, "every raw box, before NMS")));
  await open(new URL(facts.smears[0], HERE).href);
}
