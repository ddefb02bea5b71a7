// What the lessons compute, once more in JavaScript, for pages without Python. tests/browser/test_book.py runs both on
// a thousand random scenes each and asks for the same numbers. Boxes are [x1, y1, x2, y2] in pixels throughout.
//
// Overlaps and offsets are computed as Python does: in float32, each operation rounded (Math.fround) in the same order.
// Else an anchor whose overlap is the threshold itself, or two that overlap alike, would be decided otherwise here.

export const POSITIVE = 1;
export const NEGATIVE = 0;
export const IGNORE = -1;

const single = Math.fround;

/** A box with the numbers that a float32 tensor would hold of it. */
export const rounded = (box) => box.map(single);

export const area = ([x1, y1, x2, y2]) => single(single(x2 - x1) * single(y2 - y1));

export function intersection(a, b) {
  const width = single(Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  if (width <= 0) return 0;
  const height = single(Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  return height <= 0 ? 0 : single(width * height);
}

/** Jaccard overlap; 0 where both boxes are empty. */
export function iou(a, b) {
  const shared = intersection(a, b);
  return shared > 0 ? single(shared / single(single(area(a) + area(b)) - shared)) : 0;
}

export const centre = ([x1, y1, x2, y2]) =>
  [single(single(x1 + x2) / 2), single(single(y1 + y2) / 2), single(x2 - x1), single(y2 - y1)];
export const corners = ([cx, cy, w, h]) => [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2];

/** Offsets of a box from an anchor (SSD, equation 2), over the variances of its released code. */
export function encode(box, anchor, variances = [0.1, 0.2]) {
  const [vxy, vwh] = rounded(variances);
  const [gx, gy, gw, gh] = centre(box);
  const [dx, dy, dw, dh] = centre(anchor);
  const shift = (g, d, side) => single(single(single(g - d) / side) / vxy);
  const stretch = (g, d) => single(single(Math.log(single(g / d))) / vwh);
  return [shift(gx, dx, dw), shift(gy, dy, dh), stretch(gw, dw), stretch(gh, dh)];
}

export function decode(offsets, anchor, variances = [0.1, 0.2]) {
  const [dx, dy, dw, dh] = centre(anchor);
  const [tx, ty, tw, th] = offsets;
  return corners([dx + tx * variances[0] * dw, dy + ty * variances[0] * dh,
    dw * Math.exp(tw * variances[1]), dh * Math.exp(th * variances[1])]);
}

/** SSD's default boxes: {size: [height, width], grids, scales, ratios, strides}; order level, row, column, box. */
export function defaultBoxes({ size: [height, width], grids, scales, ratios, strides }) {
  const boxes = [];
  grids.forEach(([rows, columns], level) => {
    const extra = Math.sqrt(scales[level] * scales[level + 1]);
    const shapes = [[scales[level], scales[level]], [extra, extra]];
    for (const root of ratios[level].map(Math.sqrt))
      shapes.push([scales[level] * root, scales[level] / root], [scales[level] / root, scales[level] * root]);
    const [strideY, strideX] = strides ? [strides[level], strides[level]] : [height / rows, width / columns];
    for (let row = 0; row < rows; row += 1)
      for (let column = 0; column < columns; column += 1)
        for (const [w, h] of shapes)
          boxes.push(corners([(column + 0.5) * strideX, (row + 0.5) * strideY, w * width, h * height]));
  });
  return boxes;
}

/** The overlaps of the last drag: its anchors, its objects and their rows. A drag moves one object; the others' rows stay. */
let last = { anchors: null, objects: [], rows: [] };

const same = (a, b) => b !== undefined && a.every((side, k) => side === b[k]);

/** Overlap of every object with every anchor, one row an object. */
function overlapTable(objects, anchors) {
  const known = last.anchors === anchors ? last : { objects: [], rows: [] };
  const rows = objects.map((object, g) =>
    (same(object, known.objects[g]) ? known.rows[g] : Float32Array.from(anchors, (anchor) => iou(object, anchor))));
  last = { anchors, objects: objects.map((object) => [...object]), rows };
  return rows;
}

/** Overlap of every object with every anchor, and for each anchor the object that it overlaps most. */
function overlaps(objects, anchors) {
  const table = overlapTable(objects, anchors);
  const owner = new Array(anchors.length).fill(0);
  for (let g = 1; g < table.length; g += 1)
    for (let a = 0; a < owner.length; a += 1)
      if (table[g][a] > table[owner[a]][a]) owner[a] = g;
  return { table, owner };
}

/** The anchor of highest overlap in a row, the first of equals, among those for which `free` is true. */
function highest(row, free = () => true) {
  let best = -1;
  row.forEach((overlap, a) => {
    if ((best < 0 || overlap > row[best]) && free(a)) best = a;
  });
  return best;
}

/** The best pair of object and anchor, then the best of those still free, down to an overlap of 1e-6; of equal overlaps
 * the lower anchor, then the lower object. -> Map from object to anchor */
export function bestPairs(table) {
  const wishes = [];
  table.forEach((row, object) => {
    row.forEach((overlap, anchor) => { if (overlap > 1e-6) wishes.push({ overlap, anchor, object }); });
  });
  wishes.sort((p, q) => q.overlap - p.overlap || p.anchor - q.anchor || p.object - q.object);
  const pairs = new Map();
  const taken = new Set();
  for (const { anchor, object } of wishes) {
    if (pairs.has(object) || taken.has(anchor)) continue;
    pairs.set(object, anchor);
    taken.add(anchor);
  }
  return pairs;
}

/** How objects claim anchors before the threshold is asked: [object, anchor] in the order of their writing. */
const CLAIMS = {
  bipartite: (table) => [...bestPairs(table)],
  overwrite: (table) => table.map((row, object) => [object, highest(row)]),
  none: () => [],
};

/** SSD's rule: what objects claim, then every anchor of overlap >= threshold. -> {index, label}, one entry an anchor. */
export function matchSSD(objects, anchors, threshold = 0.5, best = "bipartite") {
  if (objects.length === 0) return nothing(anchors);
  const { table, owner } = overlaps(objects, anchors);
  const index = anchors.map((_, a) => (table[owner[a]][a] >= single(threshold) ? owner[a] : -1));
  for (const [object, anchor] of CLAIMS[best](table)) index[anchor] = object;
  return { index, label: index.map((object) => (object >= 0 ? POSITIVE : NEGATIVE)) };
}

/** RetinaNet's rule: positive from `high`, background below `low`, ignored between; then each object's best anchors. */
export function matchRetinaNet(objects, anchors, high = 0.5, low = 0.4, forceBest = true) {
  if (objects.length === 0) return nothing(anchors);
  const { table, owner } = overlaps(objects, anchors);
  const label = anchors.map((_, a) => {
    const overlap = table[owner[a]][a];
    return overlap >= single(high) ? POSITIVE : overlap < single(low) ? NEGATIVE : IGNORE;
  });
  if (forceBest) for (const row of table) {
    const most = row[highest(row)];
    if (most > 0) row.forEach((overlap, a) => { if (overlap === most) label[a] = POSITIVE; });
  }
  return { index: label.map((kind, a) => (kind === POSITIVE ? owner[a] : -1)), label };
}

const nothing = (anchors) => ({ index: anchors.map(() => -1), label: anchors.map(() => NEGATIVE) });

/** Indices by falling value, of equal values the lower index first. */
export const ranked = (values) => values.map((_, i) => i).sort((i, j) => values[j] - values[i] || i - j);

/** Hard negative mining: the `ratio` times as many negatives as positives that have the highest loss. -> booleans. */
export function hardNegatives(loss, positive, negative, ratio = 3) {
  const quota = Math.floor(ratio * positive.filter(Boolean).length);
  const chosen = new Set(ranked(loss).filter((a) => negative[a]).slice(0, quota));
  return loss.map((_, a) => chosen.has(a));
}

/** Non-maximum suppression: indices of what stays, by falling score. */
export function nms(boxes, scores, threshold) {
  const kept = [];
  for (const i of ranked(scores))
    if (kept.every((j) => iou(boxes[i], boxes[j]) <= single(threshold))) kept.push(i);
  return kept;
}

/** NMS among the boxes of each class. */
export function nmsByClass(boxes, scores, labels, threshold) {
  const kept = [];
  for (const i of ranked(scores))
    if (kept.every((j) => labels[i] !== labels[j] || iou(boxes[i], boxes[j]) <= threshold)) kept.push(i);
  return kept;
}

/** SSD's inference on decoded boxes (A) and scores (A, K) -> [{box, score, label}], best first. */
export function detections(boxes, scores, { score = 0.01, overlap = 0.45, topk = 400, most = 200, vote = 0 } = {}) {
  const found = [];
  scores[0].forEach((_, label) => {
    const over = boxes.map((_, a) => a).filter((a) => scores[a][label] > score);
    over.sort((a, b) => scores[b][label] - scores[a][label] || a - b);
    const best = over.slice(0, topk);
    const theirs = best.map((a) => boxes[a]);
    const marks = best.map((a) => scores[a][label]);
    for (const i of nms(theirs, marks, overlap))
      found.push({ box: vote ? voted(theirs[i], theirs, marks, vote) : theirs[i], score: marks[i], label });
  });
  return found.sort((p, q) => q.score - p.score).slice(0, most);
}

/** The mean of the boxes that overlap one by at least `least`, weighed by their scores. */
function voted(box, boxes, scores, least) {
  const sum = [0, 0, 0, 0];
  let weight = 0;
  boxes.forEach((other, i) => {
    if (iou(box, other) < least) return;
    weight += scores[i];
    other.forEach((side, k) => { sum[k] += scores[i] * side; });
  });
  return sum.map((side) => side / weight);
}

/** Which detections are true, by COCO's rule: best score first, each takes the free object that it overlaps most. */
export function verdicts(boxes, scores, objects, least = 0.5) {
  const hits = boxes.map(() => false);
  const free = new Set(objects.keys());
  for (const i of ranked(scores)) {
    const overlap = objects.map((object) => iou(boxes[i], object));
    const best = highest(overlap, (g) => free.has(g));
    if (best < 0 || overlap[best] < least) continue;
    hits[i] = true;
    free.delete(best);
  }
  return hits;
}

/** Recall and precision after each of some detections, marked true or false in falling order of score. */
export function precisionRecall(hits, objects) {
  let found = 0;
  const counts = hits.map((hit) => (found += Number(hit)));
  return { recall: counts.map((n) => n / objects), precision: counts.map((n, i) => n / (i + 1)) };
}

/** Average precision of detections marked true or false, in falling order of score; "coco101", "voc11" or "voc-all". */
export function averagePrecision(hits, objects, method = "coco101") {
  const { recall, precision } = precisionRecall(hits, objects);
  const envelope = [...precision, 0];
  for (let i = envelope.length - 2; i >= 0; i -= 1) envelope[i] = Math.max(envelope[i], envelope[i + 1]);
  if (method === "voc-all") return recall.reduce((sum, r, i) => sum + (r - (recall[i - 1] ?? 0)) * envelope[i], 0);
  const count = method === "voc11" ? 11 : 101;
  let sum = 0;
  for (let k = 0; k < count; k += 1) {
    const point = count === 11 ? k / 10 : k === 100 ? 1 : k * 0.01;   // rounded as the two kits round them
    const at = recall.findIndex((r) => r >= point);
    sum += at < 0 ? 0 : envelope[at];
  }
  return sum / count;
}
