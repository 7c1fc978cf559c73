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

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** ".857" for an AUROC, "−.012" below 0, "—" where there is none. */
function share(value, digits = 3, sign = false) {
  if (!isNumber(value)) return "—";
  const text = Math.abs(value).toFixed(digits).replace(/^0(?=\.)/, "");
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : sign ? "+" : "") + text;
}

function bytes(value) {
  if (!isNumber(value)) return "—";
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${brief(value / size)} ${unit}`;
  }
  return `${value} B`;
}

/** Three significant digits, never in powers of ten. */
const brief = (value) => (isNumber(value) ? String(Number(value.toPrecision(3))) : "—");

const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** columns: {name, word (text, to the left)}. A row is a list of cells; a cell is {text, value, node}, or a text. */
function table(caption, columns, rows) {
  const head = el("tr", {}, ...columns.map((column) => el("th", { scope: "col", class: column.word && "word" }, column.name)));
  const lines = rows.map((cells) => el("tr", {}, ...cells.map((cell, i) => {
    const { text, value, node } = typeof cell === "object" ? cell : { text: cell };
    return el(i ? "td" : "th", { scope: i ? null : "row", class: columns[i].word && "word", "data-value": value }, String(text), node);
  })));
  const whole = el("table", {}, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, ...lines));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, sortable(whole));
}
