// The graph editor: things, their attributes and relations, and where they come to lie, which the server says at once.

import { button, coloursOf, enclose, isTyped, keysInput, make, makeStyle } from "../shared/elements.js";
import { History } from "../shared/history.js";
import { changed, freeId, sayable, write } from "./model.js";

const SMALLEST = 0.05;

const clone = (value) => JSON.parse(JSON.stringify(value));
const cut = (value) => Math.min(1, Math.max(0, value));

export class GraphEditor {
  /** @param {(text: string) => void} hand takes the JSON of the graph */
  constructor(hand) {
    makeStyle();
    this.hand = hand;
    this.graph = { nodes: [], edges: [] };
    this.boxes = [];
    this.order = [];
    this.predicates = [];
    this.history = new History();
    this.#build();
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.element);
  }

  show({ nodes, edges, boxes, order, predicates, caption, problem }, fresh = false) {
    if (fresh) this.history.clear();
    else if (!this.mine && !this.unread) this.history.keep(this.graph);
    this.mine = this.unread = false;
    this.graph = { nodes, edges };
    Object.assign(this, { boxes, order, predicates });
    this.list();
    this.tell(problem ?? caption, Boolean(problem));
  }

  /** A message in place of the caption; an error leaves nothing, for nothing was read. */
  say(text, error = false) {
    if (error) {
      if (!this.unread) this.history.keep(this.graph);
      [this.graph, this.unread] = [{ nodes: [], edges: [] }, true];
      this.list();
    }
    this.tell(text, error);
  }

  /** A message beside what is shown. */
  tell(text, problem = false) {
    this.status.textContent = text;
    this.status.classList.toggle("wm-error", problem);
    this.draw();
  }

  /** Do something that can be undone, and hand the result out; the server then says where things lie. */
  change(act) {
    const before = clone(this.graph);
    act(this.graph);
    if (JSON.stringify(before) === JSON.stringify(this.graph)) return;
    this.history.keep(before);
    this.handOut();
  }

  handOut() {
    this.list();
    this.draw();
    this.mine = true;
    this.hand(write(this.graph));
  }

  undo(redo = false) {
    const graph = redo ? this.history.redo(this.graph) : this.history.undo(this.graph);
    if (!graph) return;
    [this.graph, this.unread] = [graph, false];
    this.handOut();
  }

  /** The rows of things and relations. */
  list() {
    const typing = this.things.contains(document.activeElement) && document.activeElement.dataset.field;
    this.things.replaceChildren(...this.graph.nodes.map((node, n) => this.#thing(node, n)));
    this.relations.replaceChildren(...this.graph.edges.map((edge, n) => this.#relation(edge, n)));
    if (typing) this.things.querySelector(`[data-field="${typing}"]`)?.focus();
  }

  draw() {
    const full = this.element.clientWidth - 8;
    if (full <= 0) return;
    const side = Math.min(full, 220);
    Object.assign(this.stage.style, { width: `${side}px`, height: `${side}px` });
    const ratio = Math.max(1, window.devicePixelRatio || 1);
    [this.stage.width, this.stage.height] = [Math.round(side * ratio), Math.round(side * ratio)];
    const c = this.stage.getContext("2d");
    c.scale(ratio, ratio);
    const style = coloursOf(this.element);
    c.font = "600 11px sans-serif";
    for (const n of [...this.order].reverse()) {
      const box = this.drag?.index === n ? this.drag.box : this.boxes[n];
      const node = this.graph.nodes[n];
      if (!box || !node) continue;
      const [x, y, w, h] = [box[0] * side, box[1] * side, (box[2] - box[0]) * side, (box[3] - box[1]) * side];
      const said = (node.attributes ?? []).find((word) => CSS.supports("color", word));
      const colour = said ?? `hsl(${(205 + n * 137.5) % 360} 65% 48%)`;
      c.globalAlpha = 0.75;
      c.fillStyle = colour;
      c.fillRect(x, y, w, h);
      c.globalAlpha = 1;
      c.setLineDash(node.box ? [] : [4, 3]);
      c.strokeStyle = style.text;
      c.strokeRect(x, y, w, h);
      c.setLineDash([]);
      c.fillStyle = "#fff";
      c.shadowColor = "#000";
      c.shadowBlur = 3;
      c.fillText([...(node.attributes ?? []), node.name].join(" "), x + 4, y + 14, Math.max(10, w - 8));
      c.shadowBlur = 0;
    }
  }

  close() {
    this.resized.disconnect();
  }

  #build() {
    this.keys = keysInput("Keys of the graph editor");
    this.things = make("div", { class: "wm-rows" });
    this.relations = make("div", { class: "wm-rows" });
    this.stage = make("canvas", { class: "wm-stage", role: "img", "aria-label": "Where the things come to lie" });
    this.status = make("span", { class: "wm-status", role: "status" });
    const bar = make("div", { class: "wm-bar" },
      button("+ Thing", "Another thing", () => this.change((graph) => {
        graph.nodes.push({ id: freeId(graph), name: "thing" });
      })),
      button("+ Relation", "Another relation", () => this.change((graph) => {
        const [a, b] = graph.nodes;
        const free = this.predicates.find((predicate) => !graph.edges.some(
          (edge) => edge.subject === a?.id && edge.object === b?.id && edge.predicate === predicate));
        if (b && free) graph.edges.push({ subject: a.id, predicate: free, object: b.id });
      })),
      button("↶", "Undo (Ctrl+Z)", () => this.undo(), "Undo"),
      button("↷", "Redo (Ctrl+Y)", () => this.undo(true), "Redo"));
    this.element = make("div", { class: "wm-editor wm-graph", role: "group", "aria-label": "Graph editor" },
      this.keys, bar, this.things, this.relations, this.stage, make("div", { class: "wm-bar" }, this.status));
    this.element.style.overflow = "auto";
    this.stage.addEventListener("pointerdown", (event) => this.#down(event));
    this.stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const kind of ["pointerup", "pointercancel"]) this.stage.addEventListener(kind, () => this.#up());
    this.element.addEventListener("keydown", (event) => this.#key(event));
    enclose(this.element, this.keys);
  }

  #thing(node, n) {
    const words = [...(node.attributes ?? []), node.name].join(" ");
    const field = make("input", {
      type: "text", value: words, class: "wm-phrase", "data-field": n, "aria-label": `Thing ${n + 1}`,
      title: "Attributes, then the name, as red cube",
      onchange: (event) => this.change((graph) => {
        const said = sayable(event.target.value);
        if (said) graph.nodes[n] = changed(graph.nodes[n], said);
        else event.target.value = words;
      }),
    });
    const free = button("↔", "Let the relations say where it lies", () => this.change((graph) => {
      delete graph.nodes[n].box;
    }), `Free thing ${n + 1}`);
    free.disabled = !node.box;
    return make("div", { class: "wm-bar" }, field, free,
      button("×", "Remove, with its relations", () => this.change((graph) => {
        const [{ id }] = graph.nodes.splice(n, 1);
        graph.edges = graph.edges.filter((edge) => edge.subject !== id && edge.object !== id);
      }), `Remove thing ${n + 1}`));
  }

  #relation(edge, n) {
    const named = this.graph.nodes.map((node) => [node.id, [...(node.attributes ?? []), node.name].join(" ")]);
    const choice = (field, options, name) => {
      const made = make("select", {
        "aria-label": `${name} of relation ${n + 1}`,
        onchange: (event) => this.change((graph) => {
          graph.edges[n][field] = options[event.target.selectedIndex][0];
        }),
      }, ...options.map(([, label]) => make("option", {}, label)));
      made.selectedIndex = options.findIndex(([value]) => value === edge[field]);
      return made;
    };
    return make("div", { class: "wm-bar" }, choice("subject", named, "Subject"),
      choice("predicate", this.predicates.map((one) => [one, one]), "Predicate"), choice("object", named, "Object"),
      button("⇄", "Turn it round", () => this.change((graph) => {
        const { subject, object } = graph.edges[n];
        Object.assign(graph.edges[n], { subject: object, object: subject });
      }), `Turn relation ${n + 1}`),
      button("×", "Remove", () => this.change((graph) => graph.edges.splice(n, 1)), `Remove relation ${n + 1}`));
  }

  #place(event) {
    const rect = this.stage.getBoundingClientRect();
    return [(event.clientX - rect.left) / rect.width, (event.clientY - rect.top) / rect.height];
  }

  #down(event) {
    if (event.button) return;
    this.keys.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    const [x, y] = this.#place(event);
    const index = this.order.find((n) => {
      const box = this.boxes[n];
      return box && x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3];
    });
    if (index === undefined) return;
    const box = this.boxes[index];
    // Near the lower right corner it is made larger, else moved.
    const resize = box[2] - x < 0.05 && box[3] - y < 0.05;
    this.drag = { index, from: [x, y], start: box, box, resize };
  }

  #move(event) {
    if (!this.drag) return;
    const [x, y] = this.#place(event);
    const { from, start, resize } = this.drag;
    if (resize) {
      const far = (value, low) => cut(Math.max(value, low + SMALLEST));
      this.drag.box = [start[0], start[1], far(x, start[0]), far(y, start[1])];
    } else {
      const dx = Math.min(1 - start[2], Math.max(-start[0], x - from[0]));
      const dy = Math.min(1 - start[3], Math.max(-start[1], y - from[1]));
      this.drag.box = [start[0] + dx, start[1] + dy, start[2] + dx, start[3] + dy];
    }
    this.draw();
  }

  #up() {
    const { drag } = this;
    this.drag = null;
    if (!drag || drag.box === drag.start) return;
    this.change((graph) => {
      graph.nodes[drag.index].box = drag.box.map((side) => Number(cut(side).toFixed(3)));
    });
  }

  #key(event) {
    event.stopPropagation();
    if (isTyped(event, this.keys) || !(event.ctrlKey || event.metaKey)) return;
    const act = { z: () => this.undo(event.shiftKey), y: () => this.undo(true) }[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  }
}
