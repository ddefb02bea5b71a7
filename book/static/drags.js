// Boxes that are dragged in a page without Python. The widget's own code (playground.js, the file that JupyterLab runs)
// draws and drags; where it would ask Python, the page answers.

import { ANSWERS } from "./answers.js";
import { rounded } from "./boxes.js";
import { controlOf, element } from "./controls.js";
import playground from "./playground.js";

const tensors = (data) =>
  Object.fromEntries(Object.entries(data).map(([name, rows]) => [name, rows.map((row) => (row.map ? rounded(row) : Math.fround(row)))]));

/** Python's side of the widget: what anywidget gives playground.js, with an answer from this page. */
export class Model {
  constructor({ answers, data, controls, ...canvas }) {
    this.canvas = canvas;
    this.read = ANSWERS[answers];
    this.data = tensors(data);
    this.values = Object.fromEntries(controls.map(({ name, values, start }) => [name, values[start]]));
    this.listeners = new Map();
  }

  get(name) { return this.canvas[name]; }

  set(name, value) { this.canvas[name] = value; }

  on(event, listener) { this.listeners.set(event, listener); }

  off(event) { this.listeners.delete(event); }

  /** Called when boxes were moved. */
  save_changes() {
    const { seq, boxes } = this.canvas.request;
    const [readout, shapes] = this.read(boxes.map(rounded), this.values, this.data);
    this.canvas.answer = { seq, readout, shapes };
    this.listeners.get("change:answer")?.();
  }

  /** Puts the boxes elsewhere, as another view of the widget would. */
  move(boxes) {
    this.canvas.request = { seq: this.canvas.request.seq + 1, boxes };
    this.listeners.get("change:request")?.();
    this.save_changes();
  }

  /** Called when a control was moved. */
  choose(name, value) {
    this.values[name] = value;
    this.save_changes();
  }
}

/** A playground {answers, data, controls, image, size, names, looks, request, answer} inside a node; its model. */
export function bringPlayground(node, state) {
  const model = new Model(state);
  const controls = state.controls.map((control) =>
    controlOf(control, (place) => model.choose(control.name, control.values[place])));
  const place = element("div", { class: "lesson-drawing" });
  node.replaceChildren(...controls, place);
  playground.render({ model, el: place });
  node.dataset.live = "true";
  return model;
}

/** Lets box `number` go round by itself, until somebody touches the playground or presses the button that stops it. */
export function setMoving(node, model, number) {
  const start = model.get("request").boxes.map((box) => [...box]);
  const said = node.querySelector("output");
  const button = element("button", { type: "button", class: "lesson-stop" }, "Stop the motion");
  let moving = true;
  const stop = () => {
    moving = false;
    button.remove();
    said.setAttribute("aria-live", "polite");
    delete node.dataset.moving;
  };
  const step = (time) => {
    if (!moving) return;
    model.move(start.map((box, i) => (i === number ? around(box, time / 4000, model.get("size")) : box)));
    requestAnimationFrame(step);
  };
  node.prepend(button);
  said.setAttribute("aria-live", "off");            // nobody wants sixty sentences a second read out
  button.addEventListener("click", stop);
  for (const touch of ["pointerdown", "keydown", "focusin"]) node.addEventListener(touch, stop, { once: true });
  node.dataset.moving = "true";
  requestAnimationFrame(step);
}

/** A box on its way round the picture: `turns` since it left, always inside. */
function around([x1, y1, x2, y2], turns, [width, height]) {
  const [w, h] = [x2 - x1, y2 - y1];
  const place = (start, room, angle) => Math.min(Math.max(start + 0.22 * room * Math.sin(angle), 0), room);
  const left = place(x1, width - w, 2 * Math.PI * turns / 3);
  const top = place(y1, height - h, 2 * Math.PI * turns / 2);
  return [left, top, left + w, top + h].map((side) => Math.round(10 * side) / 10);
}
