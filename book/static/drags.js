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
