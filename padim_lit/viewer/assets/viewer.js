"use strict";
// The page: which runs are shown, which one is open, and its pictures.

const content = JSON.parse(document.getElementById("content").textContent);
const COLOURS = Uint8Array.from({ length: 768 }, (_, i) => parseInt(content.colours.slice(2 * i, 2 * i + 2), 16));
const byId = (id) => document.getElementById(id);
const all = [...content.runs, ...content.scored]; // in the order of the select
const now = { run: null, threshold: 0, ready: [], large: null, drawing: 0, move: [], picked: [] };

/** Opens a run at the checkpoint's threshold, else at the best F1, else undecided: at NaN, which nothing reaches. */
async function open(index, jump = true) {
  const run = all[index], range = sliderRange(run), usable = Number.isFinite(range[0]);
  Object.assign(now, { run, ready: [], large: null });
  byId("chosen").querySelector("select").value = String(index);
  byId("about").textContent = [run.order ? `${run.source}, scored by mode=predict: labels are not known` : `${run.data}, ${run.backbone}, ${run.proj}, D = ${run.dim}, seed ${run.seed}`,
    run.image_score && run.image_score !== "max" ? `An image's score is not the maximum of its map (image_score=${run.image_score}), so maps have a threshold of their own, which moves with the slider` : ""].filter(Boolean).join(". ");
  byId("notes").replaceChildren(...run.notes.map((note) => el("li", {}, note)));
  byId("threshold").hidden = !usable;
  byId("large").hidden = true;
  byId("gallery").replaceChildren();
  byId("view").hidden = !run.pictures?.items.length;
  byId("scored").hidden = !run.order || !usable;
  byId("view").elements.which.parentElement.hidden = byId("view").querySelector(".truth").hidden = Boolean(run.order);
  byId("sampled").textContent = sampled(run);
  if (usable) {
    now.move = [drawSetting(run, range, change), drawHistogram(run, range), ...(run.order ? [drawDrift(run, range)] : [])];
    change(run.thresholds[0]?.value ?? NaN);
  } else byId("sampled").textContent += " It has no predictions.csv either: nothing can be counted.";
  if (jump) {
    byId("maps").scrollIntoView();
    byId("chosen").querySelector("select").focus({ preventScroll: true });
  }
  if (!run.pictures) return;
  const ready = await Promise.all(run.pictures.items.map((item) => decode(item, run.pictures, run.shapes[item.index])));
  if (now.run !== run) return; // another was opened meanwhile
  now.ready = ready;
  drawGallery();
}

function sampled(run) {
  if (run.order && run.left && !run.pictures) return "No pictures are shown here; see the top of this page.";
  if (run.order && !run.pictures) return "No pictures: mode=predict keeps those of images called defective (overlays=all: of all).";
  if (!run.pictures) return "This run has no heatmaps/maps.npz: its maps cannot be coloured here; heatmaps/ may have them as PNG.";
  const { left } = run, { items, every, step } = run.pictures;
  const which = run.order ? !run.thresholds.length ? "of any score, highest first" : "of the images called defective when they were scored (overlays=all: of all), highest scores first" : "the highest- and lowest-scoring defects and the highest-scoring good images, not a sample; the counts are over all test images";
  return `${count(items.length, "picture")} of ${items.length + left} that the run kept: ${which}. `
    + `${left ? `${left} left out to keep this file small. ` : ""}Distances are exact to ±${brief(step / 2)}.${every > 1 ? ` One pixel in ${every} along each side is shown.` : ""}`;
}

function change(threshold = now.threshold) {
  now.threshold = threshold;
  byId("maps").classList.toggle("undecided", Number.isNaN(threshold));
  now.move.forEach((move) => move(now.threshold));
  const said = now.run.order ? drawScored(now.run, now.threshold) : drawCounts(now.run, now.threshold);
  if (now.run.order) byId("counts").hidden = byId("uncounted").hidden = true;
  byId("said").textContent = said && (Number.isNaN(threshold) ? said : `Threshold ${brief(threshold, 4)}: ${said}`);
  if (!now.drawing) now.drawing = requestAnimationFrame(() => { now.drawing = 0; recolour(); });
}

/** What the threshold calls an image, and whether that is wrong. */
function verdictOf({ score, label, truth }) {
  if (Number.isNaN(now.threshold)) return { wrong: false, text: "" };
  const called = score >= now.threshold;
  if (now.run.order) return { wrong: called, text: decision(score, now.threshold) };
  return { wrong: called !== Boolean(label), text: label ? (called ? (truth ? "found" : "called defective") : "missed") : called ? "false alarm" : "called good" };
}

function drawGallery() {
  drawScale(document.querySelector("#view .scale"), now.run.pictures.scale);
  const run = now.run, ratio = quantile(ranked(now.ready.map(({ shape }) => shape)), 0.5);
  // Long strips are as large as square pictures are, and so wider.
  for (const place of [byId("gallery"), byId("large")]) place.classList.toggle("long", ratio > 2);
  byId("gallery").style.setProperty("--thumb", `${11.5 * Math.sqrt(Math.max(1, ratio))}rem`);
  byId("gallery").replaceChildren(...run.pictures.items.map((item, i) => {
    const button = el("button", { type: "button", "aria-label": `${item.kind} ${item.name}, larger` }, el("canvas"));
    button.addEventListener("click", () => enlarge(i));
    return el("figure", { "data-index": i }, button, el("figcaption", {}, el("span", { class: "badge" }), el("span", { class: "what" }, ` ${run.order ? run.names[item.index] : item.kind}${item.planted && !item.kind.startsWith("planted") ? " (planted)" : ""}, ${item.score.toFixed(2)}`), el("span", { class: "source" })));
  }));
  recolour();
}

function recolour() {
  const { pictures } = now.run, { which } = byId("view").elements, decided = !Number.isNaN(now.threshold);
  if (!now.ready.length) return;
  document.querySelector("#view .found").textContent = `map at or above ${named(now.threshold * now.run.map_factor)}`;
  const paint = (figure, i, canvas) => {
    const verdict = verdictOf(pictures.items[i]), at = outlinedFrom(pictures, now.ready[i], i, now.threshold);
    const { count, inside } = drawMap(figure.querySelector(canvas), now.ready[i], pictures, at);
    const elsewhere = verdict.text === "found" && !inside;
    Object.assign(figure.querySelector(".badge"), { textContent: elsewhere ? (count ? "marked elsewhere" : "nothing marked") : verdict.text, className: `badge ${verdict.wrong || elsewhere ? "no" : "yes"}` });
    figure.dataset.marked = count;
    figure.querySelector(".source").textContent = !decided ? "" : `${canvas === "canvas" ? "" : "; blue:"} ${((100 * count) / (pictures.width * pictures.height)).toFixed(1)} % marked${canvas === "canvas" ? "" : `, at or above ${brief(at, 4)}`}`;
  };
  const figures = [...byId("gallery").children], place = new Map(now.picked.map((index, at) => [index, at]));
  figures.forEach((figure) => {
    const i = Number(figure.dataset.index), item = pictures.items[i];
    figure.hidden = now.run.order ? !place.has(item.index) : !["all", item.role, verdictOf(item).wrong && "wrong"].includes(which.value);
    if (!figure.hidden) paint(figure, i, "canvas");
  });
  // As the list has them, those that it has not behind.
  const at = (figure) => place.get(pictures.items[figure.dataset.index].index) ?? now.picked.length;
  if (now.run.order) byId("gallery").append(...figures.sort((a, b) => at(a) - at(b)));
  if (now.large !== null) paint(byId("large"), now.large, "canvas.map");
}

function enlarge(index) {
  if (!now.ready[index]) return; // not decoded yet
  const { pictures } = now.run, item = pictures.items[index], place = byId("large"), from = document.activeElement;
  const plain = el("canvas", { role: "img", "aria-label": "the image" }), close = el("button", { type: "button" }, "close");
  now.large = index;
  drawTruth(drawImage(plain, now.ready[index], pictures), now.ready[index], pictures);
  const truth = now.run.order ? "" : item.truth ? `; dashed: ${item.planted ? "planted" : "true"} defect` : item.label ? "; no mask shows where" : "";
  place.replaceChildren(
    el("p", {}, el("span", { class: "badge" }), now.run.order ? ` ${now.run.paths[item.index]}, score ${item.score.toFixed(2)}.${now.run.map_threshold == null ? "" : ` Regions as it was scored, in its own pixels: ${regionsOf(now.run, item.index).join("; ") || "none"}`} ` : ` ${item.kind}, ${item.name}, score ${item.score.toFixed(2)}, ${byId("view").elements.which.querySelector(`[value=${item.role}]`).text}${item.planted ? ". Its defect is planted." : "."} `, close),
    el("figure", {}, plain, el("figcaption", {}, `image${truth}`)),
    el("figure", {}, el("canvas", { class: "map", role: "img", "aria-label": "its heat map" }), el("figcaption", {}, "map over the image", el("span", { class: "source" }))));
  const shut = () => {
    now.large = null;
    place.hidden = true;
    const thumb = byId("gallery").querySelector(`[data-index="${index}"] button`);
    (from !== document.body && from.isConnected ? from : thumb)?.focus();
  };
  close.addEventListener("click", shut);
  place.onkeydown = (event) => event.key === "Escape" && shut();
  place.hidden = false;
  recolour();
  close.focus({ preventScroll: true });
  place.scrollIntoView({ block: "nearest" });
}

/** Shows the runs that pass all filters, in the table and among the curves. */
function filter() {
  const { text, ...chosen } = Object.fromEntries(new FormData(byId("filters")));
  const words = (run, i) => [cells[i], ...run.notes].join(" ").toLowerCase();
  const passing = content.runs.filter((run, i) => Object.entries(chosen).every(([key, value]) => !value || String(run[key]) === value) && words(run, i).includes(text.trim().toLowerCase()));
  rows.forEach((row, i) => (row.hidden = !passing.includes(content.runs[i])));
  byId("shown").textContent = `${passing.length} of ${count(content.runs.length, "run")}` + (content.skipped.length ? `; ${content.skipped.length} more could not be read` : "");
  // A figure belongs to a group of runs.
  document.querySelectorAll("#curves figure").forEach((figure) => (figure.hidden = !passing.some((run) => String(run.group) === figure.dataset.group)));
}

const rows = [...document.querySelectorAll("#table tbody tr")]; // their order now is that of the runs
const cells = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" "));
[...rows, ...document.querySelectorAll("#folders tbody tr")].forEach((row, i) => {
  const button = el("button", { type: "button", class: "open", "aria-label": `Show the heat maps of ${all[i].name}` }, "maps");
  button.addEventListener("click", () => open(i));
  row.cells[0].append(button);
});
document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
byId("filters")?.addEventListener("input", filter);
byId("filters")?.addEventListener("reset", () => setTimeout(filter));
byId("pick").addEventListener("input", () => change());
byId("export").addEventListener("click", () => save("decisions.csv", toCsv(now.run, now.threshold)));
byId("chosen").addEventListener("change", (event) => open(Number(event.target.value), false));
byId("view").addEventListener("input", recolour);
if (content.runs.length) filter();
open(Math.max(0, all.findIndex((run) => run.pictures)), false);
