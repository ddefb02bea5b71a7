// Predictions in a page: a question with a field or with its choices as buttons, judged as lesson_lib.course.predictions
// judges. The answering cell and what it shows stay out of sight until somebody has guessed, or wants no guess.
// Guesses are kept in this browser alone, for whoever comes back.

import { element } from "./controls.js";

/** A number as people write it: "1,000", "0.5 %", "1e4"; NaN where it is none. */
export function numberOf(text) {
  const [word] = text.replace(/[,\u202f]/g, "").trim().replace(/%+$/, "").trim().split(/\s+/);
  return word && Number.isFinite(Number(word)) ? Number(word) : NaN;
}

/** A number with its unit, to so many significant digits: 8,732; 99.0 %; 0.12. */
export function shown(value, unit, digits) {
  const decimals = Number.isInteger(value) ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  const format = { minimumFractionDigits: decimals, maximumFractionDigits: decimals, roundingMode: "halfEven" };   // as Python rounds
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
  const tally = { asked: asked.length, guessed: 0, hit: 0, skipped: 0 };
  const questions = asked.map((box) => bringQuestion(box, folds.get(box.dataset.predict), (hit) => {
    if (hit === null) tally.skipped += 1;
    else tally.guessed += 1;
    tally.hit += Number(hit);
    showScore(tally);
  }));
  for (const cell of new Set(questions.map(({ fold }) => fold.closest(".cell")))) {
    veil(cell, questions.filter(({ fold }) => cell.contains(fold)));
  }
  showScore(tally);
  const before = kept();
  for (const question of questions) if (question.name in before) question.recall(before[question.name]);
}

// ----------------------------------------------------------------------------------------- what is kept in the browser

const KEPT = "lesson-guesses";

/** All guesses that this browser keeps: name -> what was said; null where no guess was wanted. */
function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {                                          // a browser that keeps nothing, or keeps something else
    return {};
  }
}

function keep(guesses) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(guesses));
  } catch { /* then they last as long as the page */ }
}

/** The page as on the first day; other pages keep theirs. */
function forget() {
  const names = new Set([...document.querySelectorAll(".predict")].map((box) => box.dataset.predict));
  keep(Object.fromEntries(Object.entries(kept()).filter(([name]) => !names.has(name))));
  location.reload();
}

// ------------------------------------------------------------------------------------------------------- one question

/** One question; `counted(hit)` is called once: for the first guess, or with null where none was wanted. */
function bringQuestion(box, fold, counted) {
  const answer = fold.querySelector("b").textContent;
  const said = element("output", { "aria-live": "polite" });
  const question = { name: box.dataset.predict, box, fold, done: false, whenDone: () => {} };
  const finish = (guess, hit) => {
    question.done = fold.open = true;
    counted(hit);
    keep({ ...kept(), [question.name]: guess });
    question.whenDone();
  };
  const answered = (guess, [hit, sentence]) => {
    said.textContent = sentence;
    if (question.done) return;
    box.dataset.guessed = String(hit);
    finish(guess, hit);
  };
  const choices = box.querySelector(".lesson-choices");
  const rule = [Number(fold.dataset.within ?? 0.1), Number(fold.dataset.digits ?? 3)];
  const asked = choices ? buttons(choices, (choice) => answered(choice, judgedChoice(choice, answer)))
    : field((text) => answered(text, judged(numberOf(text), answer, ...rule)), said);
  box.append(asked.place, said);
  question.skip = () => {
    if (question.done) return;
    asked.place.remove();
    said.textContent = "Shown without a guess.";
    finish(null, null);
  };
  question.recall = (guess) => (guess === null ? question.skip() : asked.say(guess));
  return question;
}

/** The choices as buttons: {place, say(choice)}. */
function buttons(place, chosen) {
  const all = [...place.children].map((choice) => element("button", { type: "button", "aria-pressed": "false" }, choice.textContent));
  for (const button of all) {
    button.addEventListener("click", () => {
      for (const one of all) one.setAttribute("aria-pressed", String(one === button));
      chosen(button.textContent);
    });
  }
  place.replaceChildren(...all);
  return { place, say: (choice) => all.find((button) => button.textContent === choice)?.click() };
}

/** A field for a number: {place, say(text)}; guessed(text) is called for what is one. */
function field(guessed, said) {
  const input = element("input", { type: "text", inputmode: "decimal", "aria-label": "Your guess", placeholder: "a number" });
  const form = element("form", {}, input, element("button", {}, "Guess"));
  const submit = () => {
    if (Number.isFinite(numberOf(input.value))) guessed(input.value);
    else said.textContent = "A number, please, such as 12, 0.5 or 1,000.";
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  const say = (text) => {
    input.value = text;
    submit();
  };
  return { place: form, say };
}

/** Keeps out of sight a cell's code, which works the answer out, what it shows and what stands right below, until each of
    the cell's questions has a guess, or somebody wants none. */
function veil(cell, questions) {
  const shows = cell.querySelector(".cell_output");
  const veiled = [...codeOf(cell, shows), shows, ...below(cell)];
  const show = element("button", { type: "button" }, "Show it without a guess");
  const ask = element("a", { href: `#${questions[0].box.id = `predict-${questions[0].box.dataset.predict}`}` }, "a question above");
  const note = element("p", { class: "lesson-veil" }, "Here stands what answers ", ask, ". ", show);
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

/** The code above what a cell shows, with its fold; none where a fold holds both, or the page leaves the code out. */
function codeOf(cell, shows) {
  const code = cell.querySelector(".cell_input");
  const fold = code?.closest("details");
  if (fold && cell.contains(fold)) return fold.contains(shows) ? [] : [fold];
  return code ? [code] : [];
}

/** The code cells right below one: without a word between, they draw its answer. */
function below(cell) {
  const found = [];
  const belongs = (node) => node?.matches(".cell:not(.tag_solution)") && !node.querySelector(".predict, .reveal");
  for (let next = cell.nextElementSibling; belongs(next); next = next.nextElementSibling) found.push(next);
  return found;
}

const several = (number, word) => `${number} ${word}${number === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;

/** How good the guesses were, where the lesson says it; else under the last answer. */
function showScore({ asked, guessed, hit, skipped }) {
  if (!asked) return;
  let place = document.querySelector(".lesson-score");
  if (!place) {
    place = element("p", { class: "lesson-score" });
    [...document.querySelectorAll(".reveal")].at(-1).closest(".cell").after(place);
  }
  place.setAttribute("aria-live", "polite");
  const unguessed = skipped ? `, ${skipped} shown without a guess` : "";
  place.textContent = `Your predictions on this page: ${several(hit, "hit")} of ${several(guessed, "guess")}, ${asked} asked${unguessed}.`;
  if (guessed + skipped && !document.querySelector(".lesson-forget")) {
    const button = element("button", { type: "button" }, "Forget those of this page");
    button.addEventListener("click", forget);
    place.after(element("p", { class: "lesson-forget" }, "They are kept in this browser alone, never sent. ", button));
  }
}
