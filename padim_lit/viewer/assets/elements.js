"use strict";
// Elements from texts, numbers as texts, and tables of what a script counts.

const SVG = "http://www.w3.org/2000/svg";

/** An element; texts become text nodes, so nothing in them is ever markup. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** The first significant digits, never in powers of ten. */
const brief = (value, digits = 3) => String(Number(value.toPrecision(digits)));

/** Numbers below a chart, or beside it, each at its place in percent; some round ones from low to high. */
function ticks(low, high, place, { upright = false, whole = false, name = brief } = {}) {
  const rough = (high - low) / (upright ? 4 : 6) || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(whole ? 1 : 0, power * [1, 2, 5, 10].find((n) => n * power >= rough));
  const first = Math.ceil(low / step), values = Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
  const marks = values.map((value) => {
    const mark = el("span", {}, name(value));
    mark.style[upright ? "top" : "left"] = `${place(value)}%`;
    return mark;
  });
  return el("div", { class: upright ? "ticks upright" : "ticks", "aria-hidden": true }, ...marks);
}

const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** columns: {name, word (text, to the left)}. A row is a list of cells; a cell is {text, value}, or a text. */
function table(caption, columns, rows) {
  const head = el("tr", {}, ...columns.map((column) => el("th", { scope: "col", class: column.word && "word" }, column.name)));
  const lines = rows.map((cells) => el("tr", {}, ...cells.map((cell, i) => {
    const { text, value } = typeof cell === "object" ? cell : { text: cell };
    return el(i ? "td" : "th", { scope: i ? null : "row", class: columns[i].word && "word", "data-value": value }, String(text));
  })));
  const whole = el("table", {}, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, ...lines));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, sortable(whole));
}
