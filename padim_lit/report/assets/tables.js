"use strict";
// Tables that sort by any column.

/**
 * columns: {name, word (text, to the left), long}. A row is {cells, mean}; a cell is {text, value, node, best}, or a text.
 * Rows with `mean` stay at the end, however the others are sorted.
 */
function table(caption, columns, rows, extra = {}) {
  const body = el("tbody");
  const heads = columns.map((column, index) => {
    const button = el("button", { type: "button" }, column.name);
    const head = el("th", { scope: "col", class: column.word ? "word" : null, "data-name": column.name }, button);
    button.addEventListener("click", () => sort(index, head));
    return head;
  });
  const lines = rows.map((row) => {
    const cells = row.cells.map((cell) => (typeof cell === "object" && cell !== null ? cell : { text: cell }));
    const nodes = cells.map((cell, i) => {
      const name = [columns[i].word && "word", columns[i].long && "long", cell.best && "best"].filter(Boolean).join(" ");
      const attributes = { class: name || null };
      if (i === 0) attributes.scope = "row";
      return el(i === 0 ? "th" : "td", attributes, cell.text === null || cell.text === undefined ? "—" : String(cell.text), cell.node);
    });
    const keys = cells.map((cell, i) => (cell.value !== undefined ? cell.value : columns[i].word ? String(cell.text) : null));
    return { node: el("tr", { class: row.mean ? "mean" : null }, ...nodes), keys, mean: Boolean(row.mean) };
  });
  body.append(...lines.map((line) => line.node));

  function sort(index, head) {
    const falling = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const order = (a, b) => {
      if (a.mean !== b.mean) return a.mean ? 1 : -1;
      const [x, y] = [a.keys[index], b.keys[index]];
      // What is missing comes last, whichever way.
      if (x === null || y === null) return (x === null) - (y === null);
      const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
      return falling ? -sign : sign;
    };
    body.append(...[...lines].sort(order).map((line) => line.node));
  }

  const whole = el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, ...heads)), body);
  return el("div", { class: `scroll ${extra.class || ""}`, tabindex: 0, role: "region", "aria-label": caption }, whole);
}

/** A difference and its interval on a line, 0 in the middle; null without an interval. */
function forest(found, reach) {
  if (!isNumber(found.low) || !isNumber(found.high) || !(reach > 0)) return null;
  const x = (value) => (48 + 44 * Math.max(-1, Math.min(1, value / reach))).toFixed(1);
  return svg("svg", { class: "forest", viewBox: "0 0 96 12", "aria-hidden": "true" },
    svg("line", { x1: 48, x2: 48, y1: 0, y2: 12 }),
    svg("line", { class: "gap", x1: x(found.low), x2: x(found.high), y1: 6, y2: 6 }),
    svg("circle", { cx: x(found.mean), cy: 6, r: 3 }));
}

const TEXTS = { case: "case", sweep: "data", part: "part", dim: "D", other_dim: "other D", q_over_k2: "q/k²" };
const HIDDEN = new Set(["data", "backbone", "folder", "level", "low", "high", "border", "other_dim"]);

/** The evidence of a claim: a column for whatever any row has. */
function evidence(rows, caption, naming) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter(
    (name) => !HIDDEN.has(name) && !(name === "part" && rows.some((row) => row.metric)) && !/_(low|high)$/.test(name) && rows.some((row) => row[name] !== null && row[name] !== "" && row[name] !== undefined));
  const isText = (name) => rows.some((row) => typeof row[name] === "string");
  const columns = names.map((name) => ({ name: TEXTS[name] || name.replaceAll("_", " "), word: isText(name), long: name === "why" }));
  const reach = Math.max(0, ...rows.flatMap((row) => [Math.abs(row.low || 0), Math.abs(row.high || 0)]));
  const ranged = (name) => (name === "difference" || name === "ratio" ? "" : `${name.replace(/_(gain|sd)$/, "")}_`);
  const lines = rows.map((row) => ({
    cells: names.map((name) => {
      const value = row[name] === undefined ? null : row[name];
      if (typeof value !== "number") return { text: value === null ? "—" : name === "metric" ? naming(value) : String(value), value: value === null ? null : String(value) };
      const low = row[`${ranged(name)}low`], high = row[`${ranged(name)}high`];
      const hasRange = /^(difference|ratio)$|_(gain|sd)$/.test(name) && isNumber(low) && isNumber(high);
      const node = hasRange && name === "difference" ? forest({ mean: value, low, high }, reach) : null;
      return { text: figure(value) + (hasRange ? ` [${figure(low)}, ${figure(high)}]` : ""), value, node };
    }),
  }));
  return table(caption, columns, lines);
}

/** A number of unknown kind: integers whole, others to four places, small ones to two digits. */
function figure(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en").replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1000 ? Math.round(value).toLocaleString("en") : size >= 10 ? value.toFixed(1) : size >= 0.001 ? value.toFixed(4) : value.toPrecision(2);
  return text.replace("-", "−");
}
