// Elements of a page, and the controls of a figure: a slider, a choice or a tick, as lesson_lib.course.frames names them.

let named = 0;

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const row = (...children) => element("div", { class: "lesson-control" }, ...children);

/** A control {label, kind, texts, start}: calls `moved(place)` with the index of what was chosen. */
export function controlOf(control, moved) {
  const id = `control-${named += 1}`;
  return KINDS[control.kind](control, id, element("label", { for: id }, control.label), moved);
}

function slider({ texts, start }, id, label, moved) {
  const input = element("input", { id, type: "range", min: 0, max: texts.length - 1, step: 1, value: start });
  const output = element("output", { for: id });
  const tell = (place) => {
    output.textContent = texts[place];
    input.setAttribute("aria-valuetext", texts[place]);
  };
  input.addEventListener("input", () => { tell(Number(input.value)); moved(Number(input.value)); });
  tell(start);
  return row(label, input, output);
}

function tick({ start }, id, label, moved) {
  const input = element("input", { id, type: "checkbox" });
  input.checked = start === 1;
  input.addEventListener("change", () => moved(Number(input.checked)));
  return row(input, label);
}

function choice({ texts, start }, id, label, moved) {
  const select = element("select", { id }, ...texts.map((text, k) => element("option", { value: k }, text)));
  select.value = start;
  select.addEventListener("change", () => moved(Number(select.value)));
  return row(label, select);
}

const KINDS = { slider, tick, choice };
