// The trajectory editor: a stage, a timeline, and the pointer and keys that move what they show.
// It holds no second copy of the truth: every change is handed out as canonical JSON, and comes in through `show`.

import { enclose, isTyped } from "../shared/elements.js";
import { History } from "../shared/history.js";
import * as model from "./model.js";
import { build } from "./panel.js";
import * as view from "./view.js";

const PLAY_MS = 125;
const NUDGE = 0.01;

const clone = (value) => JSON.parse(JSON.stringify(value));

export class TrajectoryEditor {
  /**
   * @param {{frames: () => number, write: (text: string) => void, paste: (text: string) => void}} hooks
   */
  constructor(hooks) {
    this.hooks = hooks;
    this.objects = [];
    this.canvas = [1, 1];
    this.selected = 0;
    this.frame = 0;
    this.grid = [8, 8];
    this.tool = "move";
    this.pictures = [];
    this.history = new History();
    this.panel = build(this);
    this.element = this.panel.root;
    this.#listen();
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.element);
    this.setTool("move");
  }

  focus() {
    this.panel.keys.focus({ preventScroll: true });
  }

  get frames() {
    return Math.max(1, this.hooks.frames() || 0, model.framesOf(this.objects));
  }

  get object() {
    return this.objects[this.selected];
  }

  /** What the server read; `fresh` forgets what could be undone. */
  show({ objects, canvas }, fresh = false) {
    if (fresh) this.history.clear();
    else if (!this.unread) this.history.keep(this.objects);
    this.unread = false;
    [this.objects, this.canvas] = [objects, canvas];
    this.select(Math.min(this.selected, objects.length - 1));
    this.say("");
  }

  /** A message in place of the hint; an error leaves the stage empty, for nothing was read. Undo takes it back. */
  say(text, error = false) {
    this.panel.status.textContent = text;
    this.panel.status.classList.toggle("wm-error", error);
    if (error && !this.unread) this.history.keep(this.objects);
    if (error) [this.objects, this.unread] = [[], true];
    this.draw();
  }

  /** Pictures behind the stage, spread over the frames. */
  setBackground(urls) {
    this.pictures = urls.map((url) => {
      const picture = new Image();
      picture.onload = () => this.draw();
      picture.src = url;
      return picture;
    });
    this.draw();
  }

  select(index) {
    this.selected = Math.max(0, index);
    if (this.panel.phrase !== document.activeElement) this.panel.phrase.value = this.object?.phrase ?? "";
    this.draw();
  }

  goto(frame) {
    this.frame = Math.min(this.frames - 1, Math.max(0, Math.round(frame)));
    this.draw();
  }

  setTool(tool) {
    this.finishPoints();
    this.tool = tool;
    for (const [name, button] of Object.entries(this.panel.tools)) {
      button.setAttribute("aria-pressed", String(name === tool));
    }
    this.draw();
  }

  /** Do something that can be undone, and hand the result out. */
  change(act) {
    this.history.keep(this.objects);
    act();
    this.handOut();
  }

  handOut() {
    this.selected = Math.max(0, Math.min(this.selected, this.objects.length - 1));
    this.select(this.selected);
    if (this.objects.length) this.hooks.write(model.write(this.objects, this.canvas));
  }

  undo() {
    this.#restore(this.history.undo(this.objects));
  }

  redo() {
    this.#restore(this.history.redo(this.objects));
  }

  #restore(objects) {
    if (!objects) return;
    [this.objects, this.unread] = [objects, false];
    this.say("");
    this.handOut();
  }

  add(box = [0.35, 0.35, 0.65, 0.65]) {
    this.change(() => {
      const taken = new Set(this.objects.map((object) => object.phrase));
      let n = this.objects.length + 1;
      while (taken.has(`object ${n}`)) n++;
      this.objects.push({ phrase: `object ${n}`, keyframes: [{ frame: 0, box: model.inside(box) }] });
      this.selected = this.objects.length - 1;
    });
    this.say("Name it by words of the prompt.");
    this.panel.phrase.focus();
    this.panel.phrase.select();
  }

  /** Acts on the selected object: duplicate, reverse, smooth, an ease, drop a keyframe, remove. */
  act(name) {
    const object = this.object;
    if (!object) return;
    this.change(() => {
      if (name === "duplicate") {
        this.objects.splice(this.selected + 1, 0, model.duplicate(object, object.phrase));
        this.selected += 1;
      } else if (name === "reverse") model.reverse(object);
      else if (name === "smooth") model.smooth(object);
      else if (name === "drop") model.dropKey(object, this.frame);
      else if (name === "remove") {
        if (this.objects.length > 1) this.objects.splice(this.selected, 1);
      } else model.ease(object, name);
    });
  }

  rename(phrase) {
    if (this.object && phrase.trim() && phrase.trim() !== this.object.phrase) {
      this.change(() => {
        this.object.phrase = phrase.trim();
        delete this.object.span;
      });
      this.say("");
    }
  }

  play() {
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = null;
    } else {
      this.timer = setInterval(() => this.goto((this.frame + 1) % this.frames), PLAY_MS);
    }
    this.panel.play.setAttribute("aria-pressed", String(Boolean(this.timer)));
  }

  /** The end of a path of single points. */
  finishPoints() {
    const points = this.points;
    this.points = null;
    if (points?.length && this.object) {
      const box = model.boxAt(this.object, this.frame);
      this.change(() => model.followPoints(this.object, points, this.frames, box));
    }
  }

  draw() {
    const { stage, timeline, root } = this.panel;
    const full = root.clientWidth - 8;
    if (full <= 0) return;
    const picture = this.pictures[Math.floor((this.frame / this.frames) * this.pictures.length)];
    const loaded = picture?.complete && picture.naturalWidth ? picture : null;
    const plain = this.canvas[0] === 1 && this.canvas[1] === 1 && loaded;
    const aspect = plain ? loaded.naturalWidth / loaded.naturalHeight : this.canvas[0] / this.canvas[1];
    const rows = (this.objects.length + 1) * view.ROW;
    const room = Math.max(120, root.clientHeight - rows - this.panel.fixed() - 14);
    const width = Math.min(full, room * aspect);
    const size = { width, height: width / aspect, full };
    Object.assign(stage.style, { width: `${size.width}px`, height: `${size.height}px` });
    Object.assign(timeline.style, { width: `${full}px`, height: `${rows}px` });
    const state = {
      objects: this.objects, selected: this.selected, frame: this.frame, frames: this.frames, grid: this.grid,
      picture: loaded, stage: size, drawn: this.drag?.box, stroke: this.drag?.points ?? this.points,
    };
    view.drawStage(stage, state, this.panel.colours());
    view.drawTimeline(timeline, state, this.panel.colours());
    this.shownFrames = this.frames;
    this.panel.frame.textContent = `frame ${this.frame} of ${this.frames}`;
  }

  #listen() {
    const { stage, timeline, root } = this.panel;
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("dblclick", () => this.finishPoints());
    for (const canvas of [stage, timeline]) {
      for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => this.#up());
    }
    timeline.addEventListener("pointerdown", (event) => this.#timeDown(event));
    timeline.addEventListener("pointermove", (event) => this.#timeMove(event));
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("paste", (event) => this.#paste(event));
    enclose(root, this.panel.keys);
  }

  #place(event) {
    const rect = this.panel.stage.getBoundingClientRect();
    return [(event.clientX - rect.left) / rect.width, (event.clientY - rect.top) / rect.height];
  }

  /** What lies under a place: a handle of the selected box, else the topmost box, the selected one first. */
  #hit([x, y], touch) {
    const { clientWidth: w, clientHeight: h } = this.panel.stage;
    const near = touch ? 18 : 8;
    if (this.object) {
      for (const [hx, hy, sides] of view.handles(model.boxAt(this.object, this.frame))) {
        if (Math.hypot((hx - x) * w, (hy - y) * h) <= near) return { index: this.selected, sides };
      }
    }
    const order = [this.selected, ...this.objects.keys()].reverse();
    const index = [this.selected, ...order].find((n) => {
      const box = this.objects[n] && model.boxAt(this.objects[n], this.frame);
      return box && x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3];
    });
    return index === undefined ? null : { index, sides: null };
  }

  #down(event) {
    if (event.button) return;
    this.focus();
    this.panel.stage.setPointerCapture(event.pointerId);
    const at = this.#place(event);
    if (this.tool === "points") {
      this.points = [...(this.points ?? []), at];
      this.draw();
      return;
    }
    const before = clone(this.objects);
    if (this.tool === "path" && this.object) {
      this.drag = { kind: "path", before, points: [at] };
    } else if (this.tool === "box") {
      this.drag = { kind: "box", before, from: at, box: model.spanned(at, at) };
    } else {
      const hit = this.#hit(at, event.pointerType === "touch");
      if (hit) {
        this.select(hit.index);
        const start = model.boxAt(this.object, this.frame);
        this.drag = { kind: event.shiftKey ? "all" : "move", before, from: at, start, sides: hit.sides };
      }
    }
    this.draw();
  }

  #move(event) {
    const drag = this.drag;
    if (!drag || drag.kind === "time") return;
    const at = this.#place(event);
    if (drag.kind === "path") drag.points.push(at);
    else if (drag.kind === "box") drag.box = model.spanned(drag.from, at);
    else {
      const [dx, dy] = [at[0] - drag.from[0], at[1] - drag.from[1]];
      this.objects = clone(drag.before);
      if (drag.kind === "all") model.movePath(this.object, dx, dy);
      else model.setBox(this.object, this.frame, moved(drag, dx, dy));
    }
    this.draw();
  }

  #up() {
    const drag = this.drag;
    this.drag = null;
    if (!drag) return;
    const now = this.objects;
    if (drag.kind === "box") {
      if (drag.box[2] - drag.box[0] > model.SMALLEST || drag.box[3] - drag.box[1] > model.SMALLEST) this.add(drag.box);
      this.setTool("move");
      return;
    }
    if (drag.kind === "path" && drag.points.length > 1) {
      const box = model.boxAt(this.object, this.frame);
      this.change(() => model.followPoints(this.object, drag.points, this.frames, box));
    } else if (JSON.stringify(now) !== JSON.stringify(drag.before)) {
      this.objects = drag.before;
      this.change(() => {
        this.objects = now;
      });
    }
    this.draw();
  }

  #time(event) {
    const rect = this.panel.timeline.getBoundingClientRect();
    const x = ((event.clientX - rect.left) / rect.width) * this.panel.timeline.clientWidth;
    const y = ((event.clientY - rect.top) / rect.height) * this.panel.timeline.clientHeight;
    const share = (x - view.LABEL) / (this.panel.timeline.clientWidth - view.LABEL);
    const frame = Math.min(this.frames - 1, Math.max(0, Math.floor(share * this.frames)));
    return { frame, index: Math.floor(y / view.ROW) - 1, label: x < view.LABEL };
  }

  #timeDown(event) {
    if (event.button) return;
    this.focus();
    this.panel.timeline.setPointerCapture(event.pointerId);
    const at = this.#time(event);
    if (at.index >= 0 && this.objects[at.index]) this.select(at.index);
    if (at.label) return;
    const key = at.index >= 0 && this.object?.keyframes.some((one) => one.frame === at.frame);
    this.drag = { kind: "time", before: clone(this.objects), key: key ? at.frame : null };
    this.goto(at.frame);
  }

  #timeMove(event) {
    if (this.drag?.kind !== "time") return;
    const { frame } = this.#time(event);
    if (this.drag.key !== null && frame !== this.drag.key) {
      this.drag.key = model.moveKey(this.object, this.drag.key, frame);
    }
    this.goto(frame);
  }

  #paste(event) {
    event.stopPropagation();
    if (isTyped(event, this.panel.keys)) return;
    const text = event.clipboardData?.getData("text/plain");
    if (text) this.hooks.paste(text);
    event.preventDefault();
  }

  #key(event) {
    event.stopPropagation();
    if (isTyped(event, this.panel.keys)) return;
    const act = keyAct(event, this);
    if (!act) return;
    event.preventDefault();
    act();
  }

  /** Move or grow the selected box at this frame. */
  nudge(dx, dy, grow = 0) {
    if (!this.object) return;
    this.change(() => {
      const [x0, y0, x1, y1] = model.boxAt(this.object, this.frame);
      model.setBox(this.object, this.frame, [x0 + dx - grow, y0 + dy - grow, x1 + dx + grow, y1 + dy + grow]);
    });
  }

  /** The number of frames is a widget's: draw again when it changed. */
  tick() {
    if (this.shownFrames !== this.frames) this.goto(this.frame);
  }

  close() {
    clearInterval(this.timer);
    this.resized.disconnect();
  }
}

/** The box that a drag by (dx, dy) leaves: moved whole, or by the sides of its handle. */
function moved({ start, sides }, dx, dy) {
  if (!sides) return [start[0] + dx, start[1] + dy, start[2] + dx, start[3] + dy];
  const box = start.slice();
  for (const side of sides) {
    const low = side < 2;
    const value = Math.min(1, Math.max(0, box[side] + (side % 2 ? dy : dx)));
    const other = start[low ? side + 2 : side - 2];
    box[side] = low ? Math.min(value, other - model.SMALLEST) : Math.max(value, other + model.SMALLEST);
  }
  return box;
}

/** What a key does, or undefined. */
function keyAct(event, editor) {
  const step = event.shiftKey ? 5 * NUDGE : NUDGE;
  if (event.ctrlKey || event.metaKey) {
    return {
      z: () => (event.shiftKey ? editor.redo() : editor.undo()),
      y: () => editor.redo(),
      d: () => editor.act("duplicate"),
    }[event.key.toLowerCase()];
  }
  return {
    ArrowLeft: () => editor.nudge(-step, 0),
    ArrowRight: () => editor.nudge(step, 0),
    ArrowUp: () => editor.nudge(0, -step),
    ArrowDown: () => editor.nudge(0, step),
    "+": () => editor.nudge(0, 0, NUDGE / 2),
    "-": () => editor.nudge(0, 0, -NUDGE / 2),
    ",": () => editor.goto(editor.frame - 1),
    ".": () => editor.goto(editor.frame + 1),
    Home: () => editor.goto(0),
    End: () => editor.goto(editor.frames - 1),
    " ": () => editor.play(),
    "[": () => editor.select((editor.selected + editor.objects.length - 1) % Math.max(1, editor.objects.length)),
    "]": () => editor.select((editor.selected + 1) % Math.max(1, editor.objects.length)),
    n: () => editor.add(),
    r: () => editor.act("reverse"),
    s: () => editor.act("smooth"),
    Delete: () => editor.act(event.shiftKey ? "remove" : "drop"),
    Backspace: () => editor.act("drop"),
    Enter: () => editor.finishPoints(),
    Escape: () => {
      editor.points = null;
      editor.setTool("move");
    },
  }[event.key];
}
