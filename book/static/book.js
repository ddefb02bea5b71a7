// What moves on a page of the book. A slider chooses among pictures that the lesson's own Python drew ahead
// (frames/NN.js), boxes are dragged (drags.js), and a prediction compares a guess with the number that the lesson worked out.

import { controlOf, element } from "./controls.js";
import { bringPlayground, setMoving } from "./drags.js";

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

// ------------------------------------------------------------------------------------------------ predictions

/** A number as people write it: "1,000", "0.5 %", "1e4"; NaN where it is none. */
export const numberOf = (text) => Number.parseFloat(text.replace(/[,\u202f]/g, "").trim());

/** Whether a guess is a hit, and the sentence that says how far off it was; as lesson_lib.course.predictions says it. */
export function judged(guess, answer, within) {
  const value = numberOf(answer);
  const off = Math.abs(guess - value);
  if (off <= within * (Math.abs(value) || 1)) return [true, `You said ${guess}, it is ${answer}: a hit.`];
  const ratio = Math.max(guess / value, value / guess);
  if (guess > 0 && value > 0 && ratio > 2)
    return [false, `You said ${guess}, it is ${answer}: ${ratio.toPrecision(3)} times too ${guess > value ? "large" : "small"}.`];
  return [false, `You said ${guess}, it is ${answer}: ${Number(off.toPrecision(3))} off.`];
}

const hits = { asked: 0, guessed: 0, hit: 0 };

function bringPredictions() {
  const folds = new Map([...document.querySelectorAll(".reveal")].map((node) => [node.dataset.predict, node]));
  for (const box of document.querySelectorAll(".predict")) {
    const fold = folds.get(box.dataset.predict);
    if (!fold) continue;
    hits.asked += 1;
    const answer = fold.querySelector("b").textContent;
    const said = element("output", { "aria-live": "polite" });
    const answered = ([hit, sentence]) => {
      if (!box.dataset.guessed) { hits.guessed += 1; hits.hit += Number(hit); }
      box.dataset.guessed = String(hit);
      said.textContent = sentence;
      fold.open = true;
      showScore();
    };
    box.append(box.dataset.choices ? choices(box, answer, answered) : field(fold, answer, answered), said);
  }
  showScore();
}

function choices(box, answer, answered) {
  const buttons = JSON.parse(box.dataset.choices).map((choice) => {
    const button = element("button", { type: "button" }, choice);
    button.addEventListener("click", () => answered(
      choice === answer ? [true, `You said ${choice}: right.`] : [false, `You said ${choice}; it is ${answer}.`]));
    return button;
  });
  return element("div", { class: "lesson-choices" }, ...buttons);
}

function field(fold, answer, answered) {
  const input = element("input", { type: "text", inputmode: "decimal", "aria-label": "Your guess", placeholder: "a number" });
  const form = element("form", {}, input, element("button", {}, "Guess"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const guess = numberOf(input.value);
    if (Number.isFinite(guess)) answered(judged(guess, answer, Number(fold.dataset.within ?? 0.1)));
  });
  return form;
}

/** Under the last prediction of a page, how good the guesses were. */
function showScore() {
  if (!hits.asked) return;
  let place = document.querySelector(".lesson-score");
  if (!place) {
    place = element("p", { class: "lesson-score", "aria-live": "polite" });
    [...document.querySelectorAll(".reveal")].at(-1).after(place);
  }
  place.textContent = `Your predictions on this page: ${hits.hit} hits of ${hits.guessed} guesses, ${hits.asked} asked.`;
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

bringFigures();
bringPredictions();
printFolds();
nameFolds();
document.querySelectorAll("[data-detector]").forEach(bringDetector);
