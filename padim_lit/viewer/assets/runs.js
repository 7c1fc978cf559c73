"use strict";
// The table of runs, its filters, and the curves of the runs that pass them.

const FILTERS = ["data", "backbone", "proj", "dim", "seed"];
const CELLS = { image_auroc: "image AUROC", image_ap: "image AP", pixel_auroc: "pixel AUROC", pixel_aupro: "pixel AUPRO" };

const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
const noteNumbers = (run) => run.notes.map((note) => NOTES.indexOf(note) + 1).sort((a, b) => a - b);
const free = (run) => run.thresholds.find((t) => t.id === "free");

function drawFilters(changed) {
  const chosen = Object.fromEntries(FILTERS.map((key) => {
    const values = [...new Set(content.runs.map((run) => run[key]))].sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
    const select = el("select", { name: key }, el("option", { value: "" }, "all"), ...values.map((v) => el("option", { value: v }, String(v))));
    return [key, select];
  }));
  const text = el("input", { type: "search", name: "text", placeholder: "part of any cell" });
  const passes = (run) => FILTERS.every((key) => !chosen[key].value || String(run[key]) === chosen[key].value)
    && words(run).includes(text.value.trim().toLowerCase());
  const words = (run) => [run.name, ...FILTERS.map((key) => run[key]), ...run.notes].join(" ").toLowerCase();
  const form = document.getElementById("filters");
  form.append(...FILTERS.map((key) => el("label", {}, key, chosen[key])), el("label", {}, "text", text), el("button", { type: "reset" }, "clear"));
  form.addEventListener("input", () => changed(passes));
  form.addEventListener("reset", () => setTimeout(() => changed(passes)));
  form.addEventListener("submit", (event) => event.preventDefault());
  return passes;
}

/** The table of all runs; returns a function that shows those that pass. */
function drawRuns(open) {
  const columns = [
    { name: "run", word: true }, { name: "data", word: true }, { name: "backbone", word: true }, { name: "proj", word: true },
    { name: "dim" }, { name: "seed" }, ...Object.values(CELLS).map((name) => ({ name })),
    { name: "false alarms" }, { name: "missed" }, { name: "state" }, { name: "ms/image" }, { name: "notes", word: true },
  ];
  const number = (value, text) => ({ value: isNumber(value) ? value : null, text: isNumber(value) ? text(value) : "—" });
  const lines = content.runs.map((run, index) => {
    const mark = free(run), found = mark && run.scores ? countWrong(run, mark.value) : null;
    const button = el("button", { type: "button", class: "open", "aria-label": `Show the heat maps of ${run.name}` }, "maps");
    button.addEventListener("click", () => open(index));
    const metric = (key) => number(run.metrics[key], (v) => share(v, 4) + (key.startsWith("pixel") && run.planted_pixels ? " †" : ""));
    const part = (wrong, all) => number(found && all ? wrong / all : null, () => `${wrong} of ${all}`);
    return {
      cells: [
        { text: run.name, node: button }, run.data, run.backbone, run.proj, number(run.dim, String), number(run.seed, String),
        ...Object.keys(CELLS).map(metric), part(found?.alarms, found?.good), part(found?.misses, found?.defective),
        number(run.state_bytes, bytes), number(run.seconds, (v) => brief(1000 * v)), noteNumbers(run).join(", "),
      ],
    };
  });
  const dagger = content.runs.some((run) => run.planted_pixels) ? "; †: planted defects" : "";
  const whole = table(`Test metrics; false alarms and missed images at the checkpoint's threshold, chosen without test images${dagger}`, columns, lines);
  const rows = [...whole.querySelectorAll("tbody tr")]; // their order now is that of the runs
  document.getElementById("table").replaceChildren(whole);
  return (passing) => {
    rows.forEach((row, i) => (row.hidden = !passing.has(i)));
    document.getElementById("shown").textContent = `${passing.size} of ${count(content.runs.length, "run")}`
      + (content.skipped.length ? `; ${content.skipped.length} more could not be read` : "");
  };
}

function drawChoice(changed) {
  const known = Object.entries(content.metrics).filter(([key]) => content.runs.some((run) => isNumber(run.metrics[key])));
  const metric = el("select", { name: "metric" }, ...known.map(([key, name]) => el("option", { value: key }, name)));
  const x = el("select", { name: "x" }, el("option", { value: "linear" }, "linear"), el("option", { value: "log" }, "logarithmic"));
  const form = document.getElementById("choice");
  form.append(el("label", {}, "metric", metric), el("label", {}, "dimensions", x));
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  return () => ({ metric: metric.value, log: x.value === "log" });
}

/** A panel for every data set, backbone and settings among the runs. */
function drawCurves(runs, { metric, log }) {
  const place = document.querySelector("#curves .panels"), projs = Object.keys(content.projs).filter((p) => runs.some((run) => run.proj === p));
  document.querySelector("#curves .legend").replaceChildren(...projs.map((p) => el("span", {}, swatch(content.projs[p]), p === "identity" ? "identity (all C channels)" : p)));
  const groups = [...new Set(runs.map((run) => run.group))].map((group) => runs.filter((run) => run.group === group && isNumber(run.metrics[metric])));
  const drawn = groups.filter((group) => group.length).map((group) => curves(group, metric, projs, log));
  place.replaceChildren(...(drawn.length ? drawn : [el("p", { class: "note" }, "No run shown has this metric.")]));
}

function curves(runs, metric, projs, log) {
  const dims = runs.filter((run) => run.proj !== "identity").map((run) => run.dim);
  const low = Math.min(...(dims.length ? dims : [1])), high = Math.max(...(dims.length ? dims : [1]));
  const ticks = log ? [...new Set(dims)].sort((a, b) => a - b) : undefined;
  const x = { title: "dimensions D", log, low: log ? low / 1.12 : 0, high: log ? high * 1.12 : high * 1.05, ticks, format: String };
  const lines = [], marks = [], rules = [];
  for (const proj of projs) {
    const slot = content.projs[proj], own = runs.filter((run) => run.proj === proj);
    const at = [...new Set(own.map((run) => run.dim))].sort((a, b) => a - b);
    const means = at.map((dim) => mean(own.filter((run) => run.dim === dim).map((run) => run.metrics[metric])));
    for (const run of own) {
      const where = proj === "identity" ? x.high : run.dim;
      marks.push({ slot, series: proj, x: where, y: run.metrics[metric], dot: true, lines: [`${proj}, D = ${run.dim}, seed ${run.seed}`, `${content.metrics[metric]} ${share(run.metrics[metric], 4)}`, run.name] });
    }
    if (proj === "identity") means.forEach((y) => rules.push({ slot, y }));
    else lines.push({ slot, x: at, y: means });
  }
  marks.sort((a, b) => projs.indexOf(a.series) - projs.indexOf(b.series) || a.x - b.x);
  const [bottom, top] = extent(marks.map((mark) => mark.y)) || [0, 1];
  const planted = metric.startsWith("pixel") && runs.some((run) => run.planted_pixels);
  const numbers = [...new Set(runs.flatMap(noteNumbers))].sort((a, b) => a - b);
  const note = `${count(runs.length, "run")}.${numbers.length ? ` Note${numbers.length > 1 ? "s" : ""} ${numbers.join(", ")} above.` : ""}`;
  return panel({
    title: content.groups[runs[0].group], describe: `${content.metrics[metric]} against D, ${count(runs.length, "run")}.`, note, x,
    y: { title: content.metrics[metric] + (planted ? ", planted defects" : ""), low: bottom, high: top }, curves: lines, rules, marks,
  });
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
