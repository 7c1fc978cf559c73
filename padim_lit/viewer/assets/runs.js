"use strict";
// The table of runs and its filters, which act on the curves too.

const FILTERS = ["data", "backbone", "proj", "dim", "seed"];
const CELLS = { image_auroc: "image AUROC", image_ap: "image AP", pixel_auroc: "pixel AUROC", pixel_aupro: "pixel AUPRO" };

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
    return [
      { text: run.name, node: button }, run.data, run.backbone, run.proj, number(run.dim, String), number(run.seed, String),
      ...Object.keys(CELLS).map(metric), part(found?.alarms, found?.good), part(found?.misses, found?.defective),
      number(run.state_bytes, bytes), number(run.seconds, (v) => brief(1000 * v)), noteNumbers(run).join(", "),
    ];
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

/** A figure belongs to a group of runs; it is shown while one of them is. */
function showCurves(runs) {
  const groups = new Set(runs.map((run) => String(run.group)));
  document.querySelectorAll("#curves figure").forEach((figure) => (figure.hidden = !groups.has(figure.dataset.group)));
}
