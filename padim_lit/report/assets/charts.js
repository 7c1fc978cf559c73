"use strict";
// Small charts in SVG. A panel is one Tab stop; the arrow keys walk over its marks.

const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 3", "7 3 2 3", "2 2.5", "11 3", "4 2", "6 2 1 2", "1 2", "9 2 2 2"];
let place = () => {}; // moves the tooltip to its mark
const BOX = { width: 400, height: 270, left: 46, right: 12, top: 22, bottom: 40 };

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

function spreadText(mean, sd, digits = 3) {
  return share(mean, digits) + (isNumber(sd) ? ` ± ${share(sd, digits)}` : "");
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

function markPath(slot, x, y, r = 4) {
  const at = (dx, dy) => `${(x + dx * r).toFixed(2)} ${(y + dy * r).toFixed(2)}`;
  const shape = (...points) => `M${points.map(([a, b]) => at(a, b)).join("L")}Z`;
  switch (slot % 9) {
    case 1: return shape([-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]);
    case 2: return shape([0, -1.2], [1.1, 0.85], [-1.1, 0.85]);
    case 3: return shape([0, -1.25], [1.15, 0], [0, 1.25], [-1.15, 0]);
    case 4: return shape([0, 1.2], [1.1, -0.85], [-1.1, -0.85]);
    case 5: return shape([-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2],
      [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]);
    case 6: return shape([-1.1, 0], [-0.55, -1], [0.55, -1], [1.1, 0], [0.55, 1], [-0.55, 1]);
    case 7: return shape([0, -1.3], [0.4, -0.4], [1.3, 0], [0.4, 0.4], [0, 1.3], [-0.4, 0.4], [-1.3, 0], [-0.4, -0.4]);
    default: return `M${at(-1, 0)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
  }
}

function swatch(slot) {
  return svg("svg", { class: `swatch c${slot}`, viewBox: "0 0 34 14", "aria-hidden": "true" },
    svg("path", { class: "line", d: "M1 7H33", "stroke-width": 2, "stroke-dasharray": DASHES[slot % 9] }),
    svg("path", { class: "area", d: markPath(slot, 17, 7) }));
}

/** About `count` round numbers from low to high. */
function roundTicks(low, high, count = 5) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const gap = (step) => Math.abs(Math.log(step / raw));
  const step = [1, 2, 2.5, 5, 10].map((s) => s * power).reduce((a, b) => (gap(b) < gap(a) ? b : a));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high) {
  for (const steps of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const step of steps) {
        const tick = step * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    }
    if (ticks.length <= 6) return ticks;
  }
  return [low, high];
}

/** Lowest and highest of the finite values, with a little air; null where there is none. */
function extent(values, air = 0.06) {
  const known = values.filter(isNumber);
  if (!known.length) return null;
  const low = Math.min(...known), high = Math.max(...known);
  const pad = (high - low) * air || Math.abs(high) * 0.01 || 1;
  return [low - pad, high + pad];
}

/**
 * A panel. spec: title, note, describe (for screen readers), x and y ({title, low, high, log, ticks, names, format}),
 * bands ({slot, x, low, high, inner}), curves ({slot, x, y, kind}), rules ({slot, y}) and
 * marks ({slot, series, x, y, dot, lines}); lines is what the tooltip says, its first line in bold.
 */
function panel(spec) {
  const { width, height, left, right, top, bottom } = BOX;
  const scale = (axis, from, to) => (value) => {
    const f = axis.log ? Math.log10 : (v) => v;
    return from + ((f(value) - f(axis.low)) / (f(axis.high) - f(axis.low))) * (to - from);
  };
  const sx = scale(spec.x, left, width - right), sy = scale(spec.y, height - bottom, top);
  const root = svg("svg", {
    class: "plot", viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "group", "aria-roledescription": "chart",
    "aria-label": `${spec.title}: ${spec.describe} Arrow keys read the points.`,
  });
  const yTicks = roundTicks(spec.y.low, spec.y.high).filter((t) => t >= spec.y.low && t <= spec.y.high);
  const xTicks = spec.x.ticks || (spec.x.log ? logTicks(spec.x.low, spec.x.high) : roundTicks(spec.x.low, spec.x.high, 6));
  const digits = Math.max(2, ...yTicks.map((t) => (String(t).split(".")[1] || "").length));
  root.append(svg("path", { class: "rules", d: yTicks.map((t) => `M${left} ${sy(t).toFixed(1)}H${width - right}`).join("") || "M0 0" }));
  root.append(svg("path", { class: "axis", d: `M${left} ${height - bottom}H${width - right}` }));
  for (const tick of yTicks) {
    root.append(svg("text", { x: left - 6, y: sy(tick) + 4, "text-anchor": "end" }, (spec.y.format || ((v) => share(v, digits)))(tick)));
  }
  for (const tick of xTicks) {
    const x = sx(tick).toFixed(1);
    root.append(svg("path", { class: "axis", d: `M${x} ${height - bottom}v4` }));
    root.append(svg("text", { x, y: height - bottom + 17, "text-anchor": "middle" }, spec.x.names ? spec.x.names[tick] : (spec.x.format || brief)(tick)));
  }
  root.append(svg("text", { x: 2, y: 12 }, spec.y.title));
  root.append(svg("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, spec.x.title));

  const point = (x, y) => `${sx(x).toFixed(1)} ${sy(y).toFixed(1)}`;
  for (const band of spec.bands || []) {
    const at = band.x.map((x, i) => i).filter((i) => isNumber(band.low[i]) && isNumber(band.high[i]));
    if (at.length < 2) continue;
    const edge = (values, order) => order.map((i) => point(band.x[i], values[i])).join("L");
    root.append(svg("path", { class: `band area c${band.slot}${band.inner ? " inner" : ""}`, d: `M${edge(band.high, at)}L${edge(band.low, [...at].reverse())}Z` }));
  }
  for (const curve of spec.curves || []) {
    const at = curve.x.map((x, i) => i).filter((i) => isNumber(curve.y[i]) && curve.y[i] >= spec.y.low && curve.y[i] <= spec.y.high);
    if (at.length < 2) continue;
    const d = `M${at.map((i) => point(curve.x[i], curve.y[i])).join("L")}`;
    root.append(svg("path", curve.kind ? { class: curve.kind, d } : { class: `curve line c${curve.slot}`, d, "stroke-dasharray": DASHES[curve.slot % 9] }));
  }
  for (const rule of spec.rules || []) {
    const y = sy(rule.y).toFixed(1);
    root.append(svg("path", { class: `curve line c${rule.slot}`, d: `M${left} ${y}H${width - right}`, "stroke-dasharray": "1.5 3" }));
  }
  const marks = (spec.marks || []).filter((m) => isNumber(m.x) && isNumber(m.y)).map((m) => ({ ...m, px: sx(m.x), py: sy(m.y) }));
  for (const mark of marks) {
    root.append(svg("path", { class: `mark area c${mark.slot}${mark.dot ? " dot" : ""}`, d: markPath(mark.slot, mark.px, mark.py, mark.dot ? 3.4 : 4) }));
  }
  follow(root, marks);
  return el("figure", { class: "panel" }, el("h3", {}, spec.title), root, el("figcaption", {}, spec.note || ""));
}

/** Tooltips of one panel: for the pointer, for touch and for the arrow keys. */
function follow(root, marks) {
  let current = -1;
  const ring = svg("circle", { class: "ring", r: 7, visibility: "hidden" });
  root.append(ring);
  const tip = document.getElementById("tip"), said = document.getElementById("said");
  const show = (index, aloud) => {
    current = index;
    const mark = marks[index], [first, ...rest] = mark.lines;
    ring.setAttribute("cx", mark.px);
    ring.setAttribute("cy", mark.py);
    ring.setAttribute("visibility", "visible");
    tip.replaceChildren(el("b", {}, first), ...rest.map((line) => el("div", {}, line)));
    tip.hidden = false;
    place = () => beside(mark);
    place();
    if (aloud) said.textContent = mark.lines.join(". ");
  };
  const beside = (mark) => {
    const frame = root.getBoundingClientRect(), zoom = frame.width / BOX.width;
    const x = frame.left + mark.px * zoom, y = frame.top + mark.py * zoom;
    const fitsRight = x + 14 + tip.offsetWidth < document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, fitsRight ? x + 14 : x - 14 - tip.offsetWidth)}px`;
    tip.style.top = `${Math.max(4, Math.min(y - tip.offsetHeight / 2, window.innerHeight - tip.offsetHeight - 4))}px`;
  };
  const hide = () => {
    place = () => {};
    ring.setAttribute("visibility", "hidden");
    tip.hidden = true;
  };
  const nearest = (event) => {
    const frame = root.getBoundingClientRect(), zoom = frame.width / BOX.width;
    let best = -1, least = 26 ** 2;
    marks.forEach((mark, i) => {
      const gap = (frame.left + mark.px * zoom - event.clientX) ** 2 + (frame.top + mark.py * zoom - event.clientY) ** 2;
      if (gap < least) [best, least] = [i, gap];
    });
    if (best >= 0) show(best, false);
    else hide();
  };
  root.addEventListener("pointermove", nearest);
  root.addEventListener("pointerdown", nearest);
  root.addEventListener("pointerleave", hide);
  root.addEventListener("blur", hide);
  root.addEventListener("focus", () => {
    if (marks.length && root.matches(":focus-visible")) show(current < 0 ? 0 : current, true);
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const next = marks.length ? step(marks, Math.max(current, 0), event.key, tip.hidden && current < 0) : -1;
    if (next < 0) return;
    event.preventDefault();
    show(next, true);
  });
}

/** The mark that a key leads to: left and right in a series, up and down to the next series. */
function step(marks, current, key, fresh) {
  if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(key)) return -1;
  if (fresh) return 0;
  const here = marks[current], row = marks.map((m, i) => i).filter((i) => marks[i].series === here.series);
  const at = row.indexOf(current);
  if (key === "Home") return row[0];
  if (key === "End") return row[row.length - 1];
  if (key === "ArrowLeft") return row[Math.max(0, at - 1)];
  if (key === "ArrowRight") return row[Math.min(row.length - 1, at + 1)];
  const names = [...new Set(marks.map((m) => m.series))];
  const other = names[(names.indexOf(here.series) + (key === "ArrowUp" ? -1 : 1) + names.length) % names.length];
  const gap = (i) => Math.abs(marks[i].px - here.px);
  return marks.map((m, i) => i).filter((i) => marks[i].series === other).reduce((a, b) => (gap(b) < gap(a) ? b : a));
}

// What has the focus may still be scrolled into view when its tooltip opens.
window.addEventListener("scroll", () => place(), { passive: true, capture: true });
window.addEventListener("resize", () => place());
