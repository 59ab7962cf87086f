// Trajectories as the canonical JSON holds them, and what the editor does to them. No DOM: node runs this file too.
// A box is [x0, y0, x1, y1] in fractions of the picture; a place between keyframes is linear, as in Python.

export const SMALLEST = 0.02;
const CLOSE = 0.0015;

const round = (value, digits) => Number(value.toFixed(digits));
const clone = (value) => JSON.parse(JSON.stringify(value));
const middle = (box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
const between = (a, b, share) => a.map((side, n) => side + (b[n] - side) * share);

/** A box of at least the smallest size, moved into the picture. */
export function inside(box) {
  const width = Math.min(1, Math.max(SMALLEST, box[2] - box[0]));
  const height = Math.min(1, Math.max(SMALLEST, box[3] - box[1]));
  const x = Math.min(1 - width, Math.max(0, box[0]));
  const y = Math.min(1 - height, Math.max(0, box[1]));
  return [x, y, x + width, y + height];
}

/** The box between two corners that were dragged, cut at the border. */
export function spanned(a, b) {
  const cut = (value) => Math.min(1, Math.max(0, value));
  return inside([
    cut(Math.min(a[0], b[0])), cut(Math.min(a[1], b[1])), cut(Math.max(a[0], b[0])), cut(Math.max(a[1], b[1])),
  ]);
}

/** Where an object is at a frame. */
export function boxAt(object, frame) {
  const keys = object.keyframes;
  const next = keys.findIndex((key) => key.frame >= frame);
  if (next === -1) return keys[keys.length - 1].box;
  if (next === 0 || keys[next].frame === frame) return keys[next].box;
  const [a, b] = [keys[next - 1], keys[next]];
  return between(a.box, b.box, (frame - a.frame) / (b.frame - a.frame));
}

/** Frames that the keyframes reach. */
export function framesOf(objects) {
  return 1 + Math.max(0, ...objects.flatMap((object) => object.keyframes.map((key) => key.frame)));
}

/** Make the box of a frame a keyframe. */
export function setBox(object, frame, box) {
  const kept = object.keyframes.filter((key) => key.frame !== frame);
  object.keyframes = [...kept, { frame, box: inside(box) }].sort((a, b) => a.frame - b.frame);
}

/** Drop a keyframe; the last one stays, for an object is somewhere. */
export function dropKey(object, frame) {
  if (object.keyframes.length > 1) object.keyframes = object.keyframes.filter((key) => key.frame !== frame);
}

/** Move a keyframe in time, onto a frame that has none. */
export function moveKey(object, from, to) {
  if (from === to || object.keyframes.some((key) => key.frame === to)) return from;
  object.keyframes.find((key) => key.frame === from).frame = to;
  object.keyframes.sort((a, b) => a.frame - b.frame);
  return to;
}

/** Move the whole path by as much as it can go. */
export function movePath(object, dx, dy) {
  const boxes = object.keyframes.map((key) => key.box);
  const bounded = (step, low, high) =>
    Math.min(1 - Math.max(...boxes.map((b) => b[high])), Math.max(-Math.min(...boxes.map((b) => b[low])), step));
  const [x, y] = [bounded(dx, 0, 2), bounded(dy, 1, 3)];
  for (const key of object.keyframes) key.box = [key.box[0] + x, key.box[1] + y, key.box[2] + x, key.box[3] + y];
}

/** Another object beside this one, a little lower to the right. */
export function duplicate(object, phrase) {
  const made = { ...clone(object), phrase };
  delete made.span;
  movePath(made, 0.05, 0.05);
  return made;
}

/** Back the way it came, in the same frames. */
export function reverse(object) {
  const frames = object.keyframes.map((key) => key.frame);
  const sum = Math.min(...frames) + Math.max(...frames);
  object.keyframes = object.keyframes.map((key) => ({ ...key, frame: sum - key.frame })).reverse();
}

const EASES = {
  in: (t) => t * t,
  out: (t) => t * (2 - t),
  "in-out": (t) => t * t * (3 - 2 * t),
  linear: (t) => t,
};
export const EASE_NAMES = Object.keys(EASES);

/** The same path from the first keyframe to the last at another speed, as keyframes that say so. */
export function ease(object, kind) {
  const first = object.keyframes[0].frame;
  const last = object.keyframes[object.keyframes.length - 1].frame;
  const path = clone(object);
  const even = alongPath(path, first, last);
  const keys = [];
  for (let frame = first; frame <= last; frame++) {
    const share = last > first ? EASES[kind]((frame - first) / (last - first)) : 0;
    keys.push({ frame, box: even(share) });
  }
  object.keyframes = thinned(keys);
}

/** A function from the share of the way that the middle has gone to the box there. */
function alongPath(object, first, last) {
  const boxes = [];
  for (let frame = first; frame <= last; frame++) boxes.push(boxAt(object, frame));
  const lengths = [0];
  for (let n = 1; n < boxes.length; n++) {
    const [a, b] = [middle(boxes[n - 1]), middle(boxes[n])];
    // A box that only grows has a way too: its sides count.
    const grown = Math.abs(boxes[n][2] - boxes[n][0] - boxes[n - 1][2] + boxes[n - 1][0]) / 2;
    lengths.push(lengths[n - 1] + Math.hypot(b[0] - a[0], b[1] - a[1]) + grown);
  }
  const whole = lengths[lengths.length - 1];
  return (share) => {
    const way = share * whole;
    let n = lengths.findIndex((length) => length >= way);
    if (n <= 0) return n === 0 ? boxes[0] : boxes[boxes.length - 1];
    const step = lengths[n] - lengths[n - 1];
    return between(boxes[n - 1], boxes[n], step ? (way - lengths[n - 1]) / step : 1);
  };
}

/** A spline through the keyframes (Catmull-Rom, in time), as keyframes. */
export function smooth(object) {
  const keys = object.keyframes;
  if (keys.length < 3) return;
  const made = [];
  for (let n = 0; n + 1 < keys.length; n++) {
    const [a, b] = [keys[n], keys[n + 1]];
    const slope = (i) => {
      const [low, high] = [keys[Math.max(0, i - 1)], keys[Math.min(keys.length - 1, i + 1)]];
      return low.box.map((side, s) => (high.box[s] - side) / (high.frame - low.frame));
    };
    const [before, after, long] = [slope(n), slope(n + 1), b.frame - a.frame];
    for (let frame = a.frame; frame < b.frame; frame++) {
      const t = (frame - a.frame) / long;
      const [h0, h1, h2, h3] = [2 * t ** 3 - 3 * t * t + 1, t ** 3 - 2 * t * t + t, 3 * t * t - 2 * t ** 3, t ** 3 - t * t];
      const box = a.box.map((side, s) => h0 * side + h1 * long * before[s] + h2 * b.box[s] + h3 * long * after[s]);
      made.push({ frame, box: inside(box) });
    }
  }
  made.push(keys[keys.length - 1]);
  object.keyframes = thinned(made);
}

/** Keyframes without those that the others say already, to a thousandth of the picture. */
export function thinned(keys) {
  if (keys.length < 3) return keys;
  const [first, last] = [keys[0], keys[keys.length - 1]];
  let worst = 0;
  let at = 0;
  for (let n = 1; n + 1 < keys.length; n++) {
    const said = between(first.box, last.box, (keys[n].frame - first.frame) / (last.frame - first.frame));
    const off = Math.max(...said.map((side, s) => Math.abs(side - keys[n].box[s])));
    if (off > worst) [worst, at] = [off, n];
  }
  if (worst <= CLOSE) return [first, last];
  return [...thinned(keys.slice(0, at + 1)).slice(0, -1), ...thinned(keys.slice(at))];
}

/** Let an object go along points evenly, from the first frame to the last, with the size of `box`. */
export function followPoints(object, points, frames, box) {
  const [w, h] = [(box[2] - box[0]) / 2, (box[3] - box[1]) / 2];
  const boxes = points.map(([x, y]) => inside([x - w, y - h, x + w, y + h]));
  if (boxes.length === 1 || frames === 1) {
    object.keyframes = [{ frame: 0, box: boxes[0] }];
    return;
  }
  const rough = { keyframes: boxes.map((one, frame) => ({ frame, box: one })) };
  const even = alongPath(rough, 0, boxes.length - 1);
  const keys = [];
  for (let frame = 0; frame < frames; frame++) keys.push({ frame, box: even(frame / (frames - 1)) });
  object.keyframes = thinned(keys);
}

/** How far the middle goes from each frame to the next, in fractions of the picture. */
export function speeds(object, frames) {
  const found = [];
  for (let frame = 0; frame + 1 < frames; frame++) {
    const [a, b] = [middle(boxAt(object, frame)), middle(boxAt(object, frame + 1))];
    found.push(Math.hypot(b[0] - a[0], b[1] - a[1]));
  }
  return found;
}

/** Frames in which the box is narrower or lower than a cell of the grid, so that it fills none. */
export function thinFrames(object, frames, [rows, columns]) {
  const found = [];
  for (let frame = 0; frame < frames; frame++) {
    const box = boxAt(object, frame);
    if ((box[2] - box[0]) * columns < 1 - 1e-6 || (box[3] - box[1]) * rows < 1 - 1e-6) found.push(frame);
  }
  return found;
}

/** The canonical JSON, in units of the canvas. */
export function write(objects, canvas) {
  const digits = Math.min(...canvas) > 2 ? 2 : 4;
  const listed = objects.map((object) => ({
    ...object,
    keyframes: object.keyframes.map((key) => ({
      frame: key.frame,
      box: key.box.map((side, n) => round(Math.min(1, Math.max(0, side)) * canvas[n % 2], digits)),
    })),
  }));
  const lines = listed.map((object) => {
    const { keyframes, ...rest } = object;
    const keys = keyframes.map((key) => `        ${JSON.stringify(key)}`).join(",\n");
    const fields = Object.entries(rest).map(([name, value]) => `      ${JSON.stringify(name)}: ${JSON.stringify(value)},\n`);
    return `    {\n${fields.join("")}      "keyframes": [\n${keys}\n      ]\n    }`;
  });
  return `{\n  "version": 1,\n  "canvas": ${JSON.stringify(canvas)},\n  "objects": [\n${lines.join(",\n")}\n  ]\n}`;
}
