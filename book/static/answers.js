// What a lesson's Python answers when its boxes are dragged, for the page: (boxes, values of the controls, tensors that the
// Python function reads) -> [sentence, shapes]. Each has the name of the function in the lesson; tests/browser/test_drags.py
// drags in the page and asks both.

import * as course from "./boxes.js";
import { fixed, offsetShapes, overlapShapes, shape } from "./shapes.js";

const count = (list, wanted) => list.reduce((number, one) => number + (one === wanted ? 1 : 0), 0);

// ---------------------------------------------------------------------------------------------------------- lesson 1

function overlapReadout([a, b]) {
  const shared = fixed(course.intersection(a, b));
  const union = fixed(Math.fround(course.area(a) + course.area(b)) - course.intersection(a, b));
  const words = `shared ${shared} of ${union} px²: ${fixed(course.iou(a, b), 3)}`;
  return [words, overlapShapes([a, b])];
}

function offsetsReadout([anchor, cell]) {
  const offsets = course.encode(cell, anchor, [1, 1]);
  const words = [..."xywh"].map((name, k) => `t_${name} ${fixed(offsets[k], 2, "always")}`).join(", ");
  return [words, offsetShapes(anchor, cell)];
}

// ---------------------------------------------------------------------------------------------------------- lesson 3

const THIN = { width: 0.8, casing: "" };              // `matching_pictures.THIN`
const RULES = { "SSD, best pairs first": "bipartite", "SSD, last claim wins": "overwrite", RetinaNet: null };

function decide(boxes, anchors, { rule, threshold, forced_match: forced }) {
  if (RULES[rule]) return course.matchSSD(boxes, anchors, threshold, forced ? RULES[rule] : "none");
  return course.matchRetinaNet(boxes, anchors, threshold, Math.min(0.4, threshold), forced);
}

function matchReadout(boxes, values, { anchors }) {
  const { index, label } = decide(boxes, anchors, values);
  const counts = boxes.map((_, g) => count(index, g));
  const lost = count(counts, 0);
  const words = `Anchors of each: ${counts.join(", ")}. ${count(label, course.POSITIVE)} positive, `
    + `${count(label, course.IGNORE)} ignored, ${fixed(count(label, course.NEGATIVE))} background.`;
  const theirs = (list, wanted) => anchors.filter((_, a) => list[a] === wanted);
  const owned = (box, g) => {
    if (!counts[g]) return [shape("shared", [box])];
    const mine = theirs(index, g);
    const fits = mine.map((anchor) => course.iou(box, anchor));
    const best = mine[fits.indexOf(Math.max(...fits))];
    return [{ ...shape("matched", mine, { owner: g }), ...THIN }, shape("positive", [best], { owner: g })];
  };
  return [words + (lost ? ` ${lost} without any!` : ""),
    [shape("ignored", theirs(label, course.IGNORE)), ...boxes.flatMap(owned)]];
}

// ---------------------------------------------------------------------------------------------------------- lesson 6

function whoStays(boxes, { iou_threshold: threshold }, { four_scores: scores }) {
  const stays = course.nms(boxes, scores, threshold);
  const dropped = boxes.map((_, i) => i).filter((i) => !stays.includes(i)).map((i) => {
    const by = stays.find((j) => course.iou(boxes[j], boxes[i]) > threshold);
    return `${"ABCD"[by]} drops ${"ABCD"[i]} (IoU ${fixed(course.iou(boxes[by], boxes[i]), 2)})`;
  });
  const words = `${stays.length} of 4 stay: ${stays.map((i) => "ABCD"[i]).join(", ")}. `
    + `${dropped.join("; ") || "Nobody is dropped"}.`;
  return [words, [shape("kept", stays.map((i) => boxes[i]))]];
}

function grade(boxes, _, { five_scores: scores, cells }) {
  const hits = course.verdicts(boxes, scores, cells);
  const words = `${hits.map((hit, i) => `${i + 1} ${hit ? "true" : "false"}`).join(", ")}.`;
  return [words, [shape("truth", cells), shape("kept", boxes.filter((_box, i) => hits[i]))]];
}

function gradeCurve(boxes, values, { five_scores: scores, cells }) {
  const [, shapes] = grade(boxes, values, { five_scores: scores, cells });
  const hits = course.verdicts(boxes, scores, cells);
  const inOrder = course.ranked(scores).map((i) => hits[i]);
  const { recall, precision } = course.precisionRecall(inOrder, cells.length);
  const area = course.averagePrecision(inOrder, cells.length, "voc-all");
  const words = `Recall ${fixed(recall.at(-1), 2)}, precision ${fixed(precision.at(-1), 2)}; `
    + `all-point AP ${fixed(area, 3)}.`;
  return [words, shapes];
}

export const ANSWERS = {
  overlap_readout: overlapReadout,
  offsets_readout: offsetsReadout,
  match_readout: matchReadout,
  who_stays: whoStays,
  grade,
  grade_curve: gradeCurve,
};
