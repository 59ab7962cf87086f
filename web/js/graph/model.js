// Scene graphs as their JSON holds them. No DOM.

/** An id that no node has. */
export function freeId(graph) {
  const taken = new Set(graph.nodes.map((node) => String(node.id)));
  for (const letter of "abcdefghijklmnopqrstuvwxyz") if (!taken.has(letter)) return letter;
  let n = 1;
  while (taken.has(`n${n}`)) n++;
  return `n${n}`;
}

/** Attributes and name of what was typed: the last word is the name; null of nothing. */
export function sayable(text) {
  const words = text.trim().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  return { attributes: words.slice(0, -1), name: words[words.length - 1] };
}

/** A node under other words; what else it has is kept. */
export function changed(node, { attributes, name }) {
  const made = { ...node, name };
  delete made.attributes;
  if (attributes.length) made.attributes = attributes;
  return made;
}

/** The text that the widget holds. */
export function write({ nodes, edges }) {
  const lines = (list) => list.map((item) => `    ${JSON.stringify(item)}`).join(",\n");
  const block = (list) => (list.length ? `[\n${lines(list)}\n  ]` : "[]");
  return `{\n  "nodes": ${block(nodes)},\n  "edges": ${block(edges)}\n}`;
}
