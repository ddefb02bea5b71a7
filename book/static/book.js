// What moves on a page of the book. A slider chooses among pictures that the lesson's own Python drew ahead
// (frames/NN.js), boxes are dragged (drags.js), and a prediction compares a guess with what the lesson worked out (predictions.js).

import { controlOf, element } from "./controls.js";
import { bringPlayground, setMoving } from "./drags.js";
import { bringPredictions } from "./predictions.js";

const HERE = new URL(".", import.meta.url);
const frames = {};

window.lessonFrames = (lesson, figures) => { frames[lesson] = figures; };

function loadFrames(lesson) {
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = new URL(`frames/${lesson}.js`, HERE);
    script.onload = () => done(frames[lesson]);
    script.onerror = () => failed(new Error(`The drawings of lesson ${lesson} are missing.`));
    document.head.append(script);
  });
}

/** The drawing at these places of the controls; the last control changes fastest. */
export function frameAt(figure, places) {
  const number = figure.controls.reduce((sum, control, k) => sum * control.texts.length + places[k], 0);
  return figure.frames[number].map((piece) => figure.pieces[piece]).join("");
}

function bringFigure(node, figure) {
  const places = figure.controls.map((control) => control.start);
  const drawing = element("div", { class: "lesson-drawing" });
  const draw = () => {
    drawing.innerHTML = frameAt(figure, places);
    node.dataset.places = places.join(" ");
  };
  const controls = figure.controls.map((control, k) => controlOf(control, (place) => { places[k] = place; draw(); }));
  node.replaceChildren(...controls, drawing);
  draw();
  node.dataset.live = "true";
}

async function bringFigures() {
  const nodes = [...document.querySelectorAll(".lesson-figure")];
  for (const lesson of new Set(nodes.map((node) => node.dataset.lesson))) {
    const figures = await loadFrames(lesson);
    for (const node of nodes.filter((one) => one.dataset.lesson === lesson)) {
      const figure = figures[node.dataset.cell];
      if (figure.frames) bringFigure(node, figure);
      else bringBoxes(node, figure);
    }
  }
}

function bringBoxes(node, state) {
  const model = bringPlayground(node, state);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (node.dataset.moves && !still) setMoving(node, model, Number(node.dataset.moves));
}

// ------------------------------------------------------------------------------------------------ the whole page

/** On paper every fold is open. */
function printFolds() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const fold of closed) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of closed) fold.open = false; });
}

/** A fold is called what is written on it: MyST-NB gives all of them one other name. */
function nameFolds() {
  for (const summary of document.querySelectorAll("details.hide > summary")) summary.removeAttribute("aria-label");
}

/** The detector is 20 MB: it comes when its place comes into view. */
function bringDetector(place) {
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    watch.disconnect();
    import("./detector.js").then(({ show }) => show(place)).catch((error) => {
      place.textContent = `The detector could not be loaded: ${error.message}`;
    });
  });
  watch.observe(place);
}

bringPredictions();                                  // first: nobody should see an answer before it is veiled
bringFigures();
printFolds();
nameFolds();
document.querySelectorAll("[data-detector]").forEach(bringDetector);
