// What the editor draws: the picture, the grid, paths and boxes; below, a timeline with a row for each object.

import { boxAt, speeds, thinFrames } from "./model.js";

export const ROW = 18;
export const LABEL = 96;
export const HANDLE = 5;
const GHOSTS = 3;

/** One colour for each phrase: equal phrases are the same thing. */
export function colourOf(objects, index) {
  const phrases = [...new Set(objects.map((object) => object.phrase))];
  const n = phrases.indexOf(objects[index].phrase);
  return `hsl(${(205 + n * 137.5) % 360} 75% 52%)`;
}

/** Fit a canvas to the screen's pixels; returns its context in CSS pixels. */
export function fitted(canvas, width, height) {
  const ratio = Math.max(1, window.devicePixelRatio || 1);
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** The stage: everything of one frame, with its neighbours as ghosts. */
export function drawStage(canvas, state, style) {
  const { width, height } = state.stage;
  const c = fitted(canvas, width, height);
  if (state.picture) c.drawImage(state.picture, 0, 0, width, height);
  drawGrid(c, state, style);
  state.objects.forEach((object, index) => {
    const colour = colourOf(state.objects, index);
    drawPath(c, object, state, colour, index === state.selected);
    for (let step = GHOSTS; step >= 1; step--) {
      for (const frame of [state.frame - step, state.frame + step]) {
        if (frame < 0 || frame >= state.frames) continue;
        c.globalAlpha = 0.28 / step;
        outline(c, boxAt(object, frame), width, height, colour, 1);
      }
    }
    c.globalAlpha = 1;
    drawBox(c, object, index, state, colour, style);
  });
  if (state.drawn) outline(c, state.drawn, width, height, style.text, 1.5);
  if (state.stroke) stroke(c, state.stroke, width, height, style.text);
}

function drawGrid(c, { stage, grid }, style) {
  const [rows, columns] = grid;
  c.strokeStyle = style.border;
  c.globalAlpha = 0.55;
  c.lineWidth = 1;
  c.beginPath();
  for (let n = 1; n < columns; n++) {
    c.moveTo((n / columns) * stage.width, 0);
    c.lineTo((n / columns) * stage.width, stage.height);
  }
  for (let n = 1; n < rows; n++) {
    c.moveTo(0, (n / rows) * stage.height);
    c.lineTo(stage.width, (n / rows) * stage.height);
  }
  c.stroke();
  c.globalAlpha = 1;
}

/** The way of the middle: a dot for each frame, so that close dots are slow; keyframes are squares. */
function drawPath(c, object, { stage, frames }, colour, selected) {
  const keys = new Set(object.keyframes.map((key) => key.frame));
  const at = (frame) => {
    const box = boxAt(object, frame);
    return [((box[0] + box[2]) / 2) * stage.width, ((box[1] + box[3]) / 2) * stage.height];
  };
  c.strokeStyle = c.fillStyle = colour;
  c.globalAlpha = selected ? 1 : 0.55;
  c.lineWidth = selected ? 2 : 1.2;
  c.beginPath();
  for (let frame = 0; frame < frames; frame++) c.lineTo(...at(frame));
  c.stroke();
  for (let frame = 0; frame < frames; frame++) {
    const [x, y] = at(frame);
    const size = keys.has(frame) ? 3.5 : 1.6;
    c.fillRect(x - size, y - size, 2 * size, 2 * size);
  }
  c.globalAlpha = 1;
}

function drawBox(c, object, index, state, colour, style) {
  const { width, height } = state.stage;
  const box = boxAt(object, state.frame);
  const thin = thinFrames(object, state.frames, state.grid).includes(state.frame);
  c.fillStyle = colour;
  c.globalAlpha = index === state.selected ? 0.24 : 0.12;
  c.fillRect(box[0] * width, box[1] * height, (box[2] - box[0]) * width, (box[3] - box[1]) * height);
  c.globalAlpha = 1;
  c.setLineDash(thin ? [4, 3] : []);
  outline(c, box, width, height, colour, index === state.selected ? 2.5 : 1.5);
  c.setLineDash([]);
  const label = thin ? `${object.phrase}: thinner than a cell` : object.phrase;
  c.font = "600 11px sans-serif";
  const wide = c.measureText(label).width + 8;
  const x = Math.min(Math.max(0, box[0] * width), Math.max(0, width - wide));
  const y = box[1] * height >= 15 ? box[1] * height - 15 : Math.min(box[3] * height, height - 15);
  c.fillStyle = thin ? style.warning : colour;
  c.fillRect(x, y, wide, 15);
  c.fillStyle = "#fff";
  c.fillText(label, x + 4, y + 11);
  if (index !== state.selected) return;
  for (const [hx, hy] of handles(box)) {
    c.fillStyle = "#fff";
    c.strokeStyle = colour;
    c.lineWidth = 1.5;
    c.beginPath();
    c.arc(hx * width, hy * height, HANDLE, 0, 2 * Math.PI);
    c.fill();
    c.stroke();
  }
}

function outline(c, box, width, height, colour, line) {
  c.strokeStyle = colour;
  c.lineWidth = line;
  c.strokeRect(box[0] * width, box[1] * height, (box[2] - box[0]) * width, (box[3] - box[1]) * height);
}

function stroke(c, points, width, height, colour) {
  c.strokeStyle = c.fillStyle = colour;
  c.lineWidth = 1.5;
  c.beginPath();
  for (const [x, y] of points) c.lineTo(x * width, y * height);
  c.stroke();
  for (const [x, y] of points.length < 40 ? points : []) c.fillRect(x * width - 2.5, y * height - 2.5, 5, 5);
}

/** Corners and middles of the sides, with the sides of the box that each one moves. */
export function handles([x0, y0, x1, y1]) {
  const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
  return [
    [x0, y0, [0, 1]], [x1, y0, [2, 1]], [x0, y1, [0, 3]], [x1, y1, [2, 3]],
    [x, y0, [1]], [x, y1, [3]], [x0, y, [0]], [x1, y, [2]],
  ];
}

/** Where a frame lies on the timeline. */
export function timeX(frame, frames, width) {
  return LABEL + ((frame + 0.5) / frames) * (width - LABEL);
}

/** Rows with keyframes, the speed behind them, thin frames, and the frame that is shown. */
export function drawTimeline(canvas, state, style) {
  const width = state.stage.full;
  const height = (state.objects.length + 1) * ROW;
  const c = fitted(canvas, width, height);
  const cell = (width - LABEL) / state.frames;
  c.font = "10px sans-serif";
  c.fillStyle = style.dim;
  const every = Math.max(1, Math.ceil(state.frames / 12));
  for (let frame = 0; frame < state.frames; frame += every) {
    c.fillText(String(frame), timeX(frame, state.frames, width) - 4, 12);
  }
  const fastest = Math.max(1e-6, ...state.objects.flatMap((object) => speeds(object, state.frames)));
  state.objects.forEach((object, index) => {
    const top = (index + 1) * ROW;
    const colour = colourOf(state.objects, index);
    if (index === state.selected) {
      c.fillStyle = style.border;
      c.globalAlpha = 0.35;
      c.fillRect(0, top, width, ROW);
      c.globalAlpha = 1;
    }
    c.fillStyle = colour;
    c.fillRect(4, top + 5, 8, 8);
    c.fillStyle = style.text;
    c.fillText(shortened(c, object.phrase, LABEL - 22), 16, top + 12);
    c.fillStyle = colour;
    c.globalAlpha = 0.45;
    speeds(object, state.frames).forEach((speed, frame) => {
      const tall = (speed / fastest) * (ROW - 5);
      c.fillRect(timeX(frame, state.frames, width), top + ROW - 2 - tall, Math.max(1, cell - 1), tall);
    });
    c.globalAlpha = 1;
    c.fillStyle = style.warning;
    for (const frame of thinFrames(object, state.frames, state.grid)) {
      c.fillRect(LABEL + frame * cell, top + ROW - 2, cell, 2);
    }
    for (const key of object.keyframes) {
      const x = timeX(key.frame, state.frames, width);
      const y = top + ROW / 2;
      c.fillStyle = key.frame === state.frame && index === state.selected ? style.text : colour;
      c.beginPath();
      c.moveTo(x, y - 5);
      c.lineTo(x + 5, y);
      c.lineTo(x, y + 5);
      c.lineTo(x - 5, y);
      c.fill();
    }
  });
  c.strokeStyle = style.text;
  c.lineWidth = 1;
  const now = timeX(state.frame, state.frames, width);
  c.strokeRect(now, 2, 0.01, height - 4);
}

function shortened(c, text, most) {
  if (c.measureText(text).width <= most) return text;
  let kept = text;
  while (kept && c.measureText(`${kept}…`).width > most) kept = kept.slice(0, -1);
  return `${kept}…`;
}
