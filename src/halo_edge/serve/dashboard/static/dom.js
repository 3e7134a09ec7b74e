// Making elements. What comes from the server or the model is only ever text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const by = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  for (const child of children) node.append(child); // a string becomes a text node
  return node;
}

export const element = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);

export const shape = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

export const setText = (id, text) => {
  const node = by(id);
  if (node.textContent !== text) node.textContent = text;
};

// A CSS variable of the theme in use.
export const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// A number with three digits that matter; an en dash for what is not known.
export function figure(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.0001) return value.toExponential(1);
  return value.toFixed(Math.max(0, Math.min(4, digits - 1 - Math.floor(Math.log10(size)))));
}

export const percent = (share, digits = 3) =>
  share === null || share === undefined ? "–" : figure(100 * share, digits);

// "worker-with-a-long-name" as far as there is room.
export const short = (text, letters) =>
  text.length <= letters ? text : `${text.slice(0, Math.max(1, letters - 1))}…`;
