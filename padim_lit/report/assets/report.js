"use strict";
// The page: what is chosen, and every section drawn from it. The choice lives in the address (#metric=...), to be shared.

const content = JSON.parse(document.getElementById("content").textContent);
const METRICS = ["image_auroc", "pixel_auroc", "pixel_aupro", "image_ap"].filter((m) => content.sweeps.some((s) => has(s, m)));
const PRINTED = ["image_auroc", "pixel_auroc", "pixel_aupro"];
const PROJS = Object.keys(content.projs);
const DRAWN_AT_FIRST = 12;
const COSTS = {
  state_bytes: { title: "state", text: bytes, named: "state size" },
  "score/ms_per_image": { title: "scoring, ms/image", text: (v) => `${brief(v)} ms/image`, named: "scoring time" },
  total_ms: { title: "backbone + scoring, ms/image", text: (v) => `${brief(v)} ms/image`, named: "time with the backbone" },
};
const QUANTITIES = { norm: "‖Πx‖² / ‖x‖²", pair: "‖Π(x−y)‖² / ‖x−y‖²", distance: "projected / full distance" };
const KINDS = { holds: ["yes", "✓"], "holds when": ["part", "◐"], "does not hold": ["no", "✕"], "not measured": ["none", "–"] };
const state = fromAddress();

function has(sweep, metric) {
  return sweep.configurations.some((c) => isNumber(c.mean[metric]));
}

const byId = (id) => document.getElementById(id);
const part = (section, name) => document.querySelector(`#${section} .${name}`);
const nameOf = (metric) => content.metrics[metric] || metric;
const isPlanted = (sweep, metric) => metric.startsWith("pixel") && /planted/.test(sweep.constants.pixel_truth || "");
const axisName = (sweep, metric) => nameOf(metric) + (isPlanted(sweep, metric) ? ", planted defects" : "");
const slotOf = (proj) => content.projs[proj] ?? 0;
const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
const shownSweeps = () => content.sweeps.filter((s, i) => state.data.has(i));
const shownProjs = (sweep) => PROJS.filter((p) => state.proj.has(p) && (!sweep || sweep.configurations.some((c) => c.proj === p)));
const isReference = (proj) => proj === "identity";
const dimsOf = (sweep) => [...new Set(sweep.configurations.filter((c) => !isReference(c.proj)).map((c) => c.dim))].sort((a, b) => a - b);

/** The choice that the address names; what it does not name, or names wrongly, is the default. */
function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const pick = (key, allowed, fallback) => (allowed.includes(given.get(key)) ? given.get(key) : fallback);
  const data = new Set();
  for (const name of given.getAll("data")) {
    content.sweeps.forEach((s, i) => [s.label, s.data, s.data.split("/").pop()].includes(name) && data.add(i));
  }
  if (!data.size) content.sweeps.slice(0, DRAWN_AT_FIRST).forEach((s, i) => data.add(i));
  const named = (given.get("proj") || "").split(",").filter((p) => PROJS.includes(p));
  const others = PROJS.filter((p) => p !== content.base);
  return {
    metric: pick("metric", METRICS, METRICS[0]),
    data,
    proj: new Set(named.length ? named : PROJS),
    fit: pick("fit", ["none", ...PROJS], PROJS.includes("jl") ? "jl" : "none"),
    versus: pick("versus", others, others.includes("jl") ? "jl" : others[0]),
    cost: pick("cost", ["all", ...Object.keys(COSTS)], "all"),
    x: pick("x", ["linear", "log"], "linear"),
  };
}

function toAddress() {
  const kept = new URLSearchParams();
  for (const key of ["metric", "fit", "versus", "cost", "x"]) if (state[key]) kept.set(key, state[key]);
  kept.set("proj", [...state.proj].join(","));
  content.sweeps.forEach((s, i) => state.data.has(i) && kept.append("data", s.label));
  history.replaceState(null, "", `#${kept}`);
}

// ---------------------------------------------------------------- what does not depend on the choice

function drawFacts() {
  const of = (key) => [...new Set(content.sweeps.map((s) => s.constants[key]).filter((v) => v !== undefined))];
  const versions = Object.entries(content.sweeps.reduce((all, s) => {
    for (const [key, v] of Object.entries(s.constants)) if (["version/padim_lit", "version/torch"].includes(key)) (all[key.slice(8)] ||= new Set()).add(v);
    return all;
  }, {})).map(([name, found]) => `${name} ${[...found].join(" / ")}`);
  const seeds = [...new Set(content.sweeps.flatMap((s) => s.seeds))].sort((a, b) => a - b);
  const configurations = content.sweeps.reduce((n, s) => n + s.configurations.reduce((m, c) => m + c.seeds.length, 0), 0);
  const facts = {
    Data: [...new Set(content.sweeps.map((s) => s.data))].join(", "),
    Backbone: of("backbone").join(", "),
    Weights: of("weights").join(", "),
    Projections: PROJS.join(", "),
    Seeds: seeds.join(", "),
    Configurations: `${configurations} in ${count(content.sweeps.length, "sweep")}`,
    Versions: versions.join(", "),
  };
  byId("facts").append(...Object.entries(facts).filter(([, v]) => v).map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, v))));
  byId("warnings").hidden = !content.warnings.length;
  byId("warnings").append(el("ul", {}, ...content.warnings.map((text) => el("li", {}, text))));
  byId("foot").append(`Written ${content.written} by padim_lit ${content.version}. One file, no connection needed; figures as PNG and SVG lie in the folder beside it.`);
}

function drawClaims() {
  const tally = Object.keys(KINDS).map((kind) => [kind, content.claims.filter((c) => c.kind === kind).length]).filter(([, n]) => n);
  const words = { holds: ["holds", "hold"], "holds when": ["holds under conditions", "hold under conditions"], "does not hold": ["does not hold", "do not hold"], "not measured": ["is not measured", "are not measured"] };
  byId("tally").textContent = `Of ${count(content.claims.length, "claim")}, ${tally.map(([kind, n]) => `${n} ${words[kind][n === 1 ? 0 : 1]}`).join(", ")}. Open one for its evidence and command.`;
  byId("verdicts").append(...content.claims.map((c) => {
    const [look, glyph] = KINDS[c.kind];
    const rest = c.verdict.slice(c.kind.length).trim();
    const summary = el("summary", {},
      el("span", { class: `badge ${look}` }, `${glyph} ${c.kind}${c.kind === "holds when" ? " …" : ""}`),
      el("span", {}, c.claim.sentence),
      rest ? el("span", { class: "when" }, `${c.kind === "holds when" ? "when " : ""}${rest}`) : null);
    const inside = el("div", { class: "inside" }, el("p", { class: "source" }, `Claimed by: ${c.claim.source}.`), el("p", {}, c.reason));
    if (c.evidence.length) inside.append(evidence(c.evidence, `Evidence: ${count(c.evidence.length, "comparison")}`, (m) => nameOf(m.replace("test/", ""))));
    inside.append(el("p", {}, c.evidence.length ? "Measured by" : "What would measure it"), el("pre", {}, c.command || "The folders do not say what was typed."));
    return el("details", { class: "verdict" }, summary, inside);
  }));
}

function drawPictures() {
  byId("pictures").hidden = !content.pictures.length;
  part("pictures", "gallery").append(...content.pictures.map((p) =>
    el("figure", {},
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Picture: ${p.of}` },
        el("img", { src: p.src, width: p.width, height: p.height, alt: `${p.of}. ${p.shows}` })),
      el("figcaption", {}, el("b", {}, p.of), `. ${p.shows} `, el("span", { class: "source" }, p.path)))));
}

function drawCommands() {
  const pairs = (object) => table("Settings and versions", [{ name: "key", word: true }, { name: "value", word: true }],
    Object.entries(object).map(([k, v]) => ({ cells: [k, String(v)] })));
  byId("commands").append(
    el("div", { class: "sweep" }, el("h3", {}, "This page"), el("pre", {}, content.command || "python -m padim_lit.report SWEEP_DIR...")),
    ...content.sweeps.map((s) =>
      el("div", { class: "sweep" }, el("h3", {}, s.label), el("pre", {}, s.command || "The folder does not say what was typed."),
        el("p", { class: "note" }, `${s.path}${s.constants.device ? `; times measured on ${s.constants.device}` : ""}`),
        el("details", { class: "more" }, el("summary", {}, "Settings and versions"), pairs(s.constants)))));
}

// ---------------------------------------------------------------- controls

function drawControls() {
  const form = byId("controls");
  const choose = (key, title, options) => {
    const select = el("select", { name: key }, ...options.map(([value, text]) => el("option", { value, selected: state[key] === value }, text)));
    select.addEventListener("change", () => change(() => (state[key] = select.value)));
    return el("label", {}, title, select);
  };
  const ticks = (title, key, options) =>
    el("fieldset", {}, el("legend", {}, title), ...options.map(([value, text, mark]) => {
      const box = el("input", { type: "checkbox", name: key, value, checked: state[key].has(value) });
      box.addEventListener("change", () => {
        if (!box.checked && state[key].size === 1) box.checked = true; // an empty page answers nothing
        else change(() => (box.checked ? state[key].add(value) : state[key].delete(value)));
      });
      return el("label", {}, box, mark, text);
    }));
  const sets = el("summary", {}, "");
  const named = () => (sets.textContent = `Data sets: ${state.data.size} of ${content.sweeps.length}`);
  named();
  form.replaceChildren(
    choose("metric", "Metric", METRICS.map((m) => [m, nameOf(m)])),
    ticks("Projections", "proj", PROJS.map((p) => [p, p, swatch(slotOf(p))])),
    choose("fit", "Eq. 15 for", [["none", "none"], ...PROJS.filter((p) => !isReference(p)).map((p) => [p, p])]),
    choose("x", "D axis", [["linear", "linear"], ["log", "logarithmic"]]),
    choose("versus", "Table: difference of", PROJS.filter((p) => p !== content.base).map((p) => [p, `${p} − ${content.base}`])),
    choose("cost", "Cost", [["all", "all"], ...Object.entries(COSTS).map(([k, c]) => [k, c.named])]),
    el("details", { open: content.sweeps.length > 1 && content.sweeps.length <= 3 }, sets, ticks("", "data", content.sweeps.map((s, i) => [i, s.label]))));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", named);
}

function change(what) {
  what();
  toAddress();
  drawChosen();
}

// ---------------------------------------------------------------- what depends on the choice

function drawChosen() {
  for (const section of ["curves", "pareto"]) drawLegend(section, shownProjs());
  drawLegend("spread", shownProjs().filter((p) => !isReference(p)));
  drawCurves();
  drawTable();
  drawCosts();
  drawSpread();
  drawDistortion();
  drawNumbers();
}

function drawLegend(section, projs) {
  part(section, "legend").replaceChildren(...projs.map((p) => el("span", {}, swatch(slotOf(p)), isReference(p) ? `${p} (all C channels)` : p)));
}

/** Panels in rows: of three where they belong together, of two where that leaves no gap. */
function showPanels(section, panels, three = false) {
  const place = part(section, "panels");
  place.classList.toggle("three", three);
  place.classList.toggle("two", !three && [2, 4].includes(panels.length));
  place.replaceChildren(...panels);
}

const chosen = (sweep, proj, metric) =>
  sweep.configurations.filter((c) => c.proj === proj && isNumber(c.mean[metric])).sort((a, b) => a.dim - b.dim);

function pointLines(sweep, c, metric, ...more) {
  return [`${c.proj}, D = ${c.dim}`, `${nameOf(metric)} ${spreadText(c.mean[metric], c.sd[metric], 4)}`,
    `${count(c.seeds.length, "seed")}${c.seeds.length > 1 ? ": mean ± sd" : ""}`, ...more, sweep.label];
}

function dimAxis(sweeps) {
  const dims = sweeps.flatMap(dimsOf), log = state.x === "log";
  const low = Math.min(...dims), high = Math.max(...dims);
  const ticks = log ? [12, 25, 50, 100, 200, 400, 800, 1600].filter((t) => t >= low && t <= high) : undefined;
  return { title: "dimensions D", log, low: log ? low / 1.12 : 0, high: log ? high * 1.12 : high * 1.03, ticks: ticks && ticks.length > 1 ? ticks : undefined };
}

function drawCurves() {
  const metric = state.metric, several = shownSweeps().filter((s) => dimsOf(s).length > 1 && has(s, metric));
  showPanels("curves", several.map((sweep) => curvePanel(sweep, metric, dimAxis([sweep]))));
  const after = [];
  const left = shownSweeps().filter((s) => !several.includes(s));
  if (left.length) after.push(el("p", { class: "note" }, `Not drawn, for want of a second D or of this metric: ${left.map((s) => s.label).join("; ")}.`));
  const hidden = content.sweeps.length - state.data.size;
  if (hidden) after.push(el("p", { class: "note" }, `${count(hidden, "data set")} not shown; choose above.`));
  const fits = several.flatMap((s) => s.fits.filter((f) => f.metric === metric && state.proj.has(f.proj)).map((f) => [s, f]));
  if (fits.length) after.push(fitTable(fits, metric));
  part("curves", "after").replaceChildren(...after);
}

function curvePanel(sweep, metric, x) {
  const projs = shownProjs(sweep), bands = [], curves = [], rules = [], marks = [], heights = [];
  for (const proj of projs) {
    const found = chosen(sweep, proj, metric), slot = slotOf(proj);
    if (!found.length) continue;
    const mean = found.map((c) => c.mean[metric]), sd = found.map((c) => c.sd[metric] || 0);
    heights.push(...mean);
    if (isReference(proj)) {
      // One dimension, C, far to the right of all others: a line across, its mark at the edge.
      const c = found[found.length - 1];
      rules.push({ slot, y: c.mean[metric] });
      marks.push({ slot, series: proj, x: x.high, y: c.mean[metric], lines: pointLines(sweep, c, metric) });
      continue;
    }
    const dims = found.map((c) => c.dim), low = mean.map((m, i) => m - sd[i]), high = mean.map((m, i) => m + sd[i]);
    heights.push(...low, ...high);
    bands.push({ slot, x: dims, low, high });
    curves.push({ slot, x: dims, y: mean });
    marks.push(...found.map((c) => ({ slot, series: proj, x: c.dim, y: c.mean[metric], lines: pointLines(sweep, c, metric) })));
  }
  const fit = state.proj.has(state.fit) ? sweep.fits.find((f) => f.proj === state.fit && f.metric === metric) : null;
  const [low, high] = extent(heights) || [0, 1];
  let note = "";
  if (fit && fit.why) note = `Eq. 15 for ${fit.proj}: ${fit.why}`;
  else if (fit) {
    curves.push({ x: fit.x, y: fit.y, kind: "fit" }, { x: fit.x, y: fit.low, kind: "fitband" }, { x: fit.x, y: fit.high, kind: "fitband" });
    note = `Dotted: eq. 15 fitted to ${fit.proj}, with its ${Math.round(100 * content.level)} % band; R² = ${share(fit.r_squared)}, RMSE = ${share(fit.rmse, 4)}.`
      + (fit.outside ? ` It ends before ${count(fit.outside, "measured D", "measured D")}.` : "");
  }
  const last = projs.map((p) => chosen(sweep, p, metric).pop()).filter(Boolean);
  const describe = `${nameOf(metric)} against D. At the largest D: ${last.map((c) => `${c.proj} ${share(c.mean[metric])}`).join(", ")}.`;
  return panel({ title: sweep.label, describe, note, x, y: { title: axisName(sweep, metric), low, high }, bands, curves, rules, marks });
}

function fitTable(fits, metric) {
  const columns = [{ name: "data", word: true }, { name: "projection", word: true }, ...["points", "p", "q/k²", "RMSE", "R²"].map((name) => ({ name }))];
  const number = (value, text = figure) => ({ text: isNumber(value) ? text(value) : "—", value: isNumber(value) ? value : null });
  const rows = fits.map(([s, f]) => ({
    cells: f.why ? [s.label, `${f.proj}: ${f.why}`, ...Array(5).fill({ text: "—", value: null })]
      : [s.label, f.proj, number(f.points), number(f.p), number(f.limit, (v) => (f.identifiable ? Math.round(v).toLocaleString("en") : `not determined (${brief(v)})`)), number(f.rmse), number(f.r_squared)],
  }));
  return el("details", { class: "more" }, el("summary", {}, `Eq. 15 fitted to ${nameOf(metric)}: y(x) = 2pk / (√(q/x) + k) + 1 − p, q < x < q/k²`),
    el("p", { class: "note" }, "Only p and q/k² shape the curve: no measurement tells q from k. q/k² is the D at which it reaches 1 and ends."),
    table(`Least-squares fits of eq. 15 to the means over seeds, ${nameOf(metric)}`, columns, rows));
}

function drawTable() {
  const metrics = [...new Set([...PRINTED.filter((m) => METRICS.includes(m)), state.metric])];
  byId("table1-note").textContent = `Mean ± standard deviation over seeds; the best mean of a row is bold. The difference is over the seeds that both have; `
    + `its ${Math.round(100 * content.level)} % interval resamples test images and seeds, and is kept for AUROC only. `
    + (hasPublished() ? "PaDiM paper: Defard et al. 2020, selection at the same D. JL report: its Table 1's means, selection → JL." : "No published number belongs to these data sets, backbones and D.");
  part("table1", "tables").replaceChildren(...metrics.map((m) => tableOne(m)));
}

/** Whether a setting differs between sweeps of the same data and backbone. */
function tellsApart(key) {
  const alike = (a, b) => a.data === b.data && a.backbone === b.backbone;
  return content.sweeps.some((a) => content.sweeps.some((b) => alike(a, b) && String(a.constants[key]) !== String(b.constants[key])));
}

const hasPublished = () => content.table.some((row) => Object.keys(row.padim).length || Object.keys(row.report).length);

function tableOne(metric) {
  const rows = content.table.filter((row) => (row.sweep === null ? row.of.every((i) => state.data.has(i)) : state.data.has(row.sweep)))
    .filter((row) => shownProjs().some((p) => row.cells[metric][p] && isNumber(row.cells[metric][p].mean)));
  const measured = shownProjs().filter((p) => rows.some((row) => row.cells[metric][p]));
  // What is compared stands beside its difference.
  const compared = [content.base, state.versus].filter((p) => measured.includes(p));
  const projs = [...compared, ...measured.filter((p) => !compared.includes(p))];
  const settings = ["grid", "eps", "image_score", "crop_size", "split_seed"].filter(tellsApart);
  const padim = rows.some((row) => isNumber(row.padim[metric])), report = rows.some((row) => row.report[metric]);
  const backbones = new Set(rows.map((row) => row.backbone));
  const between = (columns, extra) => [...columns.slice(0, compared.length), ...extra, ...columns.slice(compared.length)];
  const difference = (row) => (row.cells[metric][state.versus] || {}).difference;
  const reach = Math.max(0, ...rows.map(difference).filter(Boolean).flatMap((d) => [Math.abs(d.low || 0), Math.abs(d.high || 0)]));
  const columns = [
    { name: "data", word: true }, ...(backbones.size > 1 ? [{ name: "backbone", word: true }] : []), ...settings.map((name) => ({ name })), { name: "D" }, { name: "seeds" },
    ...between(projs.map((name) => ({ name })), state.versus ? [{ name: `${state.versus} − ${content.base}` }] : []),
    ...(padim ? [{ name: "PaDiM paper" }] : []), ...(report ? [{ name: "JL report" }] : []),
  ];
  const lines = rows.map((row) => {
    const cells = row.cells[metric], means = projs.map((p) => (cells[p] ? cells[p].mean : null)), best = Math.max(...means.filter(isNumber));
    const d = difference(row), seeds = [...new Set(Object.values(cells).map((c) => c.seeds))].sort((a, b) => a - b);
    const sweep = row.sweep === null ? null : content.sweeps[row.sweep];
    return {
      mean: row.sweep === null,
      cells: [
        row.data + (sweep && isPlanted(sweep, metric) ? " (planted)" : ""), ...(backbones.size > 1 ? [row.backbone] : []), ...settings.map((key) => (sweep && sweep.constants[key] !== undefined ? String(sweep.constants[key]) : "—")),
        { text: row.dim, value: row.dim }, { text: seeds.length > 1 ? `${seeds[0]}–${seeds[seeds.length - 1]}` : seeds[0], value: seeds[0] },
        ...between(projs.map((p) => (cells[p] ? { text: spreadText(cells[p].mean, cells[p].sd), value: cells[p].mean, best: means.length > 1 && cells[p].mean === best } : { text: "—", value: null })),
          state.versus ? [d && isNumber(d.mean) ? { text: share(d.mean, 3, true) + (isNumber(d.low) ? ` [${share(d.low, 3, true)}, ${share(d.high, 3, true)}]` : ""), value: d.mean, node: forest(d, reach) } : { text: "—", value: null }] : []),
        ...(padim ? [{ text: share(row.padim[metric]), value: row.padim[metric] ?? null }] : []),
        ...(report ? [{ text: row.report[metric] ? row.report[metric].map((v) => share(v)).join(" → ") : "—", value: row.report[metric] ? row.report[metric][1] : null }] : []),
      ],
    };
  });
  return table(`Table 1: ${nameOf(metric)}${backbones.size === 1 ? `, ${[...backbones][0]}` : ""}`, columns, lines, { class: metric === state.metric ? "" : "only-print" });
}

function drawCosts() {
  const metric = state.metric, costs = state.cost === "all" ? Object.keys(COSTS) : [state.cost];
  const several = shownSweeps().filter((s) => dimsOf(s).length > 1 && has(s, metric));
  showPanels("pareto", several.flatMap((sweep) => costs.map((cost) => costPanel(sweep, metric, cost))), costs.length === 3);
}

function costPanel(sweep, metric, cost) {
  const { title, text, named } = COSTS[cost], curves = [], marks = [];
  for (const proj of shownProjs(sweep)) {
    const found = chosen(sweep, proj, metric).filter((c) => c.mean[cost] > 0), slot = slotOf(proj);
    curves.push({ slot, x: found.map((c) => c.mean[cost]), y: found.map((c) => c.mean[metric]) });
    marks.push(...found.map((c) => ({ slot, series: proj, x: c.mean[cost], y: c.mean[metric], lines: pointLines(sweep, c, metric, `${named} ${text(c.mean[cost])}`) })));
  }
  const [low, high] = extent(marks.map((m) => m.y)) || [0, 1], known = marks.map((m) => m.x);
  if (!known.length) return el("figure", { class: "panel" }, el("h3", {}, sweep.label), el("p", { class: "note" }, `No ${named} in sweep.csv.`));
  const x = { title, log: true, low: Math.min(...known) / 1.15, high: Math.max(...known) * 1.15, format: cost === "state_bytes" ? bytes : brief };
  return panel({ title: sweep.label, describe: `${nameOf(metric)} against ${named}.`, x, y: { title: axisName(sweep, metric), low, high }, curves, marks });
}

function drawSpread() {
  const metric = state.metric, shown = shownSweeps().filter((s) => s.seeds.length > 1 && has(s, metric));
  showPanels("spread", shown.map((sweep) => {
    const dims = dimsOf(sweep), projs = shownProjs(sweep).filter((p) => !isReference(p)), marks = [];
    projs.forEach((proj, at) => {
      for (const c of chosen(sweep, proj, metric)) {
        const x = dims.indexOf(c.dim) + 0.72 * ((at + 0.5) / projs.length - 0.5);
        c.values[metric].forEach((y, i) => marks.push({
          slot: slotOf(proj), series: proj, x, y, dot: true,
          lines: [`${proj}, D = ${c.dim}, seed ${c.seeds[i]}`, `${nameOf(metric)} ${share(y, 4)}`, `sd over seeds ${share(c.sd[metric], 4)}`, sweep.label],
        }));
      }
    });
    const [low, high] = extent(marks.map((m) => m.y)) || [0, 1];
    const x = { title: "dimensions D", low: -0.5, high: dims.length - 0.5, ticks: dims.map((d, i) => i), names: dims };
    const middle = dims[Math.floor((dims.length - 1) / 2)], at = projs.map((p) => chosen(sweep, p, metric).find((c) => c.dim === middle)).filter(Boolean);
    const note = `sd at D = ${middle}: ${at.map((c) => `${c.proj} ${share(c.sd[metric])}`).join(", ")}`;
    return panel({ title: sweep.label, describe: `every seed's ${nameOf(metric)}; ${note}.`, note, x, y: { title: axisName(sweep, metric), low, high }, marks });
  }));
}

function drawDistortion() {
  byId("distortion").hidden = !content.distortions.length;
  const projs = [...new Set(content.distortions.flatMap((d) => d.rows.map((r) => r.proj)))].filter((p) => state.proj.has(p) || !PROJS.includes(p))
    .sort((a, b) => slotOf(a) - slotOf(b));
  drawLegend("distortion", projs);
  showPanels("distortion", content.distortions.flatMap((d) => {
    const drawn = Object.keys(QUANTITIES).filter((q) => d.rows.some((r) => r.quantity === q)).map((q) => distortionPanel(d, q, projs));
    const ranked = Object.keys(QUANTITIES).reverse().find((q) => d.rows.some((r) => r.quantity === q && isNumber(r.spearman)));
    return ranked ? [...drawn, spearmanPanel(d, ranked, projs)] : drawn;
  }));
}

/** D, rising, with the mean over seeds of one column of distortion.csv. */
function overSeeds(rows, proj, quantity, column) {
  const mine = rows.filter((r) => r.proj === proj && r.quantity === quantity && isNumber(r[column]));
  const dims = [...new Set(mine.map((r) => r.dim))].sort((a, b) => a - b);
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  return { dims, values: dims.map((d) => mean(mine.filter((r) => r.dim === d).map((r) => r[column]))) };
}

function distortionPanel(found, quantity, projs) {
  const bands = [], curves = [], marks = [], heights = [1];
  for (const proj of projs) {
    const slot = slotOf(proj), q = (name) => overSeeds(found.rows, proj, quantity, name);
    const [q05, q25, q50, q75, q95] = ["q05", "q25", "q50", "q75", "q95"].map(q);
    bands.push({ slot, x: q05.dims, low: q05.values, high: q95.values }, { slot, x: q25.dims, low: q25.values, high: q75.values, inner: true });
    curves.push({ slot, x: q50.dims, y: q50.values });
    heights.push(...q05.values, ...q95.values);
    marks.push(...q50.dims.map((x, i) => ({
      slot, series: proj, x, y: q50.values[i],
      lines: [`${proj}, D = ${x}`, `median ${brief(q50.values[i])}`, `50 % within ${brief(q25.values[i])} to ${brief(q75.values[i])}`, `90 % within ${brief(q05.values[i])} to ${brief(q95.values[i])}`, found.label],
    })));
  }
  const [low, high] = extent(heights), dims = marks.map((m) => m.x);
  curves.push({ x: [0, Math.max(...dims)], y: [1, 1], kind: "axis" });
  return panel({ title: found.label, describe: `${QUANTITIES[quantity]}, median and quantiles against D; 1 is no distortion.`,
    x: { title: "dimensions D", low: 0, high: Math.max(...dims) * 1.03 }, y: { title: QUANTITIES[quantity], low, high, format: brief }, bands, curves, marks });
}

function spearmanPanel(found, quantity, projs) {
  const curves = [], marks = [];
  for (const proj of projs) {
    const slot = slotOf(proj), { dims, values } = overSeeds(found.rows, proj, quantity, "spearman");
    curves.push({ slot, x: dims, y: values });
    marks.push(...dims.map((x, i) => ({ slot, series: proj, x, y: values[i], lines: [`${proj}, D = ${x}`, `Spearman ${share(values[i], 4)}`, found.label] })));
  }
  const [low, high] = extent(marks.map((m) => m.y)) || [0, 1];
  return panel({ title: found.label, describe: `Spearman rank correlation of the ${quantity} with the unprojected one, against D.`,
    x: { title: "dimensions D", low: 0, high: Math.max(...marks.map((m) => m.x)) * 1.03 }, y: { title: `Spearman, ${quantity}`, low, high }, curves, marks });
}

function drawNumbers() {
  const metrics = Object.keys(content.metrics).filter((m) => content.sweeps.some((s) => has(s, m)));
  const columns = [{ name: "data", word: true }, { name: "projection", word: true }, { name: "D" }, { name: "seeds" },
    ...metrics.map((m) => ({ name: nameOf(m) })), { name: "state" }, { name: "scoring, ms/image" }, { name: "backbone, ms/image" }];
  const value = (c, key, text) => ({ text: text(c.mean[key]), value: isNumber(c.mean[key]) ? c.mean[key] : null });
  const rows = shownSweeps().flatMap((s) => s.configurations.filter((c) => state.proj.has(c.proj)).map((c) => ({
    cells: [s.label, c.proj, { text: c.dim, value: c.dim }, { text: c.seeds.length, value: c.seeds.length },
      ...metrics.map((m) => value(c, m, () => spreadText(c.mean[m], c.sd[m], 4))),
      value(c, "state_bytes", bytes), value(c, "score/ms_per_image", brief), value(c, "backbone/ms_per_image", brief)],
  })));
  const open = Boolean(document.querySelector("#numbers details[open]"));
  part("numbers", "tables").replaceChildren(el("details", { class: "more", open }, el("summary", {}, `${count(rows.length, "row")}: every projection and D that is chosen above`),
    table("Every configuration: mean ± standard deviation over seeds", columns, rows)));
}

// ---------------------------------------------------------------- start

drawFacts();
drawClaims();
drawPictures();
drawCommands();
drawControls();
drawChosen();
document.documentElement.dataset.ready = "yes";

window.addEventListener("hashchange", () => {
  if (!location.hash.includes("=")) return; // a place in the page
  Object.assign(state, fromAddress());
  drawControls();
  drawChosen();
});
// Paper cannot be opened.
const opened = [];
window.addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) {
    one.open = true;
    opened.push(one);
  }
});
window.addEventListener("afterprint", () => opened.splice(0).forEach((one) => (one.open = false)));
