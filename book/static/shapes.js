// What is drawn over a picture: the functions of lesson_lib/course/svg.py that boxes under a finger need, giving the same
// text. How each kind looks is written into looks.js by tools/book.py, from LOOKS there.

import { centre } from "./boxes.js";
import { LOOKS, STROKE } from "./looks.js";

const FORMATS = new Map();

/** A number as Python's f"{value:,.{digits}f}" writes it: exact halves go to the even digit. sign "always": f"{value:+}". */
export function fixed(value, digits = 0, sign = "auto") {
  const key = `${digits} ${sign}`;
  if (!FORMATS.has(key)) FORMATS.set(key, new Intl.NumberFormat("en", {
    minimumFractionDigits: digits, maximumFractionDigits: digits, roundingMode: "halfEven", signDisplay: sign,
  }));
  return FORMATS.get(key).format(value);
}

/** The nearest whole number, exact halves to the even one. */
function even(value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 ? near - 1 : near;
}

/** The different boxes to half a pixel, in ascending order. */
function distinct(boxes) {
  const halves = new Map(boxes.map((box) => box.map((side) => even(2 * side))).map((box) => [box.join(), box]));
  const before = (a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2] || a[3] - b[3];
  return [...halves.values()].sort(before).map((box) => box.map((side) => side / 2));
}

/** Boxes of one kind as one path; `svg.shape`. changes: {colour, owner} */
export function shape(kind, boxes, { colour, owner } = {}) {
  const rows = boxes.length > 1 ? distinct(boxes) : boxes;
  const tenths = rows.map((box) => box.map((side) => even(10 * side) / 10));
  const look = LOOKS[kind];
  return {
    ...look,
    d: tenths.map(([x1, y1, x2, y2]) => `M${x1} ${y1}H${x2}V${y2}H${x1}Z`).join(""),
    stroke: colour ?? look.stroke,
    fill: look.fill === "none" ? "none" : colour ?? look.fill,
    ...(owner === undefined ? {} : { owner }),
  };
}

/** A coordinate with one decimal at most, without minus zero; `svg.number`. */
function number(value) {
  const digits = fixed(value, 1).replaceAll(",", "").replace(/\.0$/, "");
  return digits === "-0" ? "0" : digits;
}

const stroke = (d, changes = {}) => ({ ...STROKE, d, ...changes });

function dot(x, y, radius = 3) {
  const arc = (way) => `a${radius} ${radius} 0 1 0 ${way * 2 * radius} 0`;
  return stroke(`M${number(x - radius)} ${number(y)}${arc(1)}${arc(-1)}Z`, { width: 1, fill: STROKE.stroke });
}

function arrow([x, y], [a, b], head = 7) {
  const length = Math.hypot(a - x, b - y);
  let path = `M${number(x)} ${number(y)}L${number(a)} ${number(b)}`;
  if (length > 0) {
    const size = Math.min(head, length / 2);
    const along = [(a - x) / length * size, (b - y) / length * size];
    const across = size / 2 / length;
    for (const side of [-across, across]) {
      const back = [a - along[0] - side * (b - y), b - along[1] + side * (a - x)];
      path += `M${number(a)} ${number(b)}L${number(back[0])} ${number(back[1])}`;
    }
  }
  return stroke(path);
}

/** t_x and t_y in strokes; `overlays.T_X`, `overlays.T_Y`. */
const T_X = "m1.5 -7v5.5q0 1.5 1.7 1.5m-3.2 -4.8h3.4m1.2 3.3l3.2 4m0 -4l-3.2 4";
const T_Y = "m1.5 -7v5.5q0 1.5 1.7 1.5m-3.2 -4.8h3.4m1.2 3.3l1.7 2.4m1.9 -2.4l-3.1 4.8";

/** An arrow from the centre of an anchor to the centre of a box, its legs and their names; `overlays.offset_shapes`. */
export function offsetShapes(anchor, box) {
  const [[x, y], [a, b]] = [centre(anchor), centre(box)];
  const legs = stroke(`M${number(x)} ${number(y)}H${number(a)}V${number(b)}`, { width: 1.6, dash: "4 3" });
  const names = [
    [(x + 3 * a) / 4 - 4, b > y ? y - 6 : y + 12, T_X],
    [a < x ? a - 13 : a + 5, (y + b) / 2 + 2, T_Y],
  ].map(([left, line, name]) => stroke(`M${number(left)} ${number(line)}${name}`, { width: 1.2 }));
  return [dot(x, y), arrow([x, y], [a, b]), legs, ...names];
}

/** What two boxes cover together, and over it what they share; `overlays.overlap_shapes`. */
export function overlapShapes([a, b]) {
  const shared = [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
  const together = shape("union", [a, b]);
  return shared[2] <= shared[0] || shared[3] <= shared[1] ? [together] : [together, shape("shared", [shared])];
}
