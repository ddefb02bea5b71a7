// Predictions in a page: a question with a field or with its choices as buttons, judged as lesson_lib.course.predictions
// judges. What the answering cell shows stays out of sight until somebody has guessed, or wants no guess.

import { element } from "./controls.js";

/** A number as people write it: "1,000", "0.5 %", "1e4"; NaN where it is none. */
export function numberOf(text) {
  const [word] = text.replace(/[,\u202f]/g, "").trim().replace(/%+$/, "").trim().split(/\s+/);
  return word && Number.isFinite(Number(word)) ? Number(word) : NaN;
}

/** A number with its unit, to so many significant digits: 8,732; 99.0 %; 0.12. */
export function shown(value, unit, digits) {
  const decimals = Number.isInteger(value) ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  const format = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return `${value.toLocaleString("en-US", format)} ${unit}`.trim();
}

/** Whether a number is a hit, and the sentence that says how far off it was; `answer` as the lesson shows it. */
export function judged(guess, answer, within, digits) {
  const [, number, unit] = answer.match(/^(\S+)\s*(.*)$/);
  const value = numberOf(number);
  const [said, right, off] = [guess, value, Math.abs(guess - value)].map((one) => shown(one, unit, digits));
  if (Math.abs(guess - value) <= within * (Math.abs(value) || 1)) return [true, `You said ${said}, it is ${right}: a hit.`];
  const ratio = guess / value;
  if (guess > 0 && value > 0 && !(0.5 < ratio && ratio < 2)) {
    const times = Number(Math.max(ratio, 1 / ratio).toPrecision(3));
    return [false, `You said ${said}, it is ${right}: ${shown(times, "", 3)} times too ${ratio > 1 ? "large" : "small"}.`];
  }
  return [false, `You said ${said}, it is ${right}: ${off} off.`];
}

/** The same for a choice. */
export const judgedChoice = (guess, answer) =>
  guess === answer ? [true, `You said ${guess}: right.`] : [false, `You said ${guess}; it is ${answer}.`];

/** Brings every question of the page to life that the page answers. */
export function bringPredictions() {
  const folds = new Map([...document.querySelectorAll(".reveal")].map((node) => [node.dataset.predict, node]));
  const asked = [...document.querySelectorAll(".predict")].filter((box) => folds.has(box.dataset.predict));
  const tally = { asked: asked.length, guessed: 0, hit: 0 };
  const questions = asked.map((box) => bringQuestion(box, folds.get(box.dataset.predict), (hit) => {
    tally.guessed += 1;
    tally.hit += Number(hit);
    showScore(tally);
  }));
  for (const cell of new Set(questions.map(({ fold }) => fold.closest(".cell")))) {
    veil(cell, questions.filter(({ fold }) => cell.contains(fold)));
  }
  showScore(tally);
}

/** One question; `counted(hit)` is called for the first guess. */
function bringQuestion(box, fold, counted) {
  const answer = fold.querySelector("b").textContent;
  const said = element("output", { "aria-live": "polite" });
  const question = { box, fold, done: false, whenDone: () => {} };
  const finish = () => {
    question.done = fold.open = true;
    question.whenDone();
  };
  const answered = ([hit, sentence]) => {
    said.textContent = sentence;
    if (question.done) return;
    box.dataset.guessed = String(hit);
    counted(hit);
    finish();
  };
  const choices = box.querySelector(".lesson-choices");
  const asked = choices ? buttons(choices, (choice) => answered(judgedChoice(choice, answer)))
    : field((guess) => answered(judged(guess, answer, Number(fold.dataset.within ?? 0.1), Number(fold.dataset.digits ?? 3))), said);
  box.append(asked, said);
  question.skip = () => {
    if (question.done) return;
    asked.remove();
    said.textContent = "Shown without a guess.";
    finish();
  };
  return question;
}

/** The choices as buttons. */
function buttons(place, chosen) {
  const all = [...place.children].map((choice) => element("button", { type: "button", "aria-pressed": "false" }, choice.textContent));
  for (const button of all) {
    button.addEventListener("click", () => {
      for (const one of all) one.setAttribute("aria-pressed", String(one === button));
      chosen(button.textContent);
    });
  }
  place.replaceChildren(...all);
  return place;
}

/** A field for a number. */
function field(guessed, said) {
  const input = element("input", { type: "text", inputmode: "decimal", "aria-label": "Your guess", placeholder: "a number" });
  const form = element("form", {}, input, element("button", {}, "Guess"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const guess = numberOf(input.value);
    if (Number.isFinite(guess)) guessed(guess);
    else said.textContent = "A number, please, such as 12, 0.5 or 1,000.";
  });
  return form;
}

/** Keeps out of sight what a cell shows and what stands right below, until each of the cell's questions has a guess, or
    somebody wants none. */
function veil(cell, questions) {
  const shows = cell.querySelector(".cell_output");
  const veiled = [shows, ...below(cell)];
  const show = element("button", { type: "button" }, "Show it without a guess");
  const ask = element("a", { href: `#${questions[0].box.id = `predict-${questions[0].box.dataset.predict}`}` }, "a question above");
  const note = element("p", { class: "lesson-veil" }, "What this cell shows answers ", ask, ". ", show);
  const open = () => {
    if (!questions.every(({ done }) => done)) return;
    note.remove();
    for (const node of veiled) node.classList.remove("lesson-veiled");
  };
  for (const question of questions) question.whenDone = open;
  show.addEventListener("click", () => {
    for (const question of questions) question.skip();
    shows.tabIndex = -1;                             // the button that had the focus is gone
    shows.focus({ preventScroll: true });
  });
  for (const node of veiled) node.classList.add("lesson-veiled");
  shows.before(note);
}

/** The code cells right below one: without a word between, they draw its answer. */
function below(cell) {
  const found = [];
  const belongs = (node) => node?.matches(".cell:not(.tag_solution)") && !node.querySelector(".predict, .reveal");
  for (let next = cell.nextElementSibling; belongs(next); next = next.nextElementSibling) found.push(next);
  return found;
}

/** How good the guesses were, where the lesson says it; else under the last answer. */
function showScore({ asked, guessed, hit }) {
  if (!asked) return;
  let place = document.querySelector(".lesson-score");
  if (!place) {
    place = element("p", { class: "lesson-score" });
    [...document.querySelectorAll(".reveal")].at(-1).closest(".cell").after(place);
  }
  place.setAttribute("aria-live", "polite");
  place.textContent = `Your predictions on this page: ${hit} hits of ${guessed} guesses, ${asked} asked.`;
}
