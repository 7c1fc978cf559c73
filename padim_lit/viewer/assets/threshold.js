"use strict";
// The threshold: slider, marks, histogram, and what it makes of every test image.

const STEPS = 1000, LISTED = 100;

/** How many images there are, are called defective, and are on the wrong side: by their part in the metrics and by kind. */
function countWrong(run, threshold) {
  const { label, planted, kind, kinds } = run.images;
  const tally = () => ({ all: 0, called: 0, wrong: 0 });
  const parts = { alarms: tally(), misses: tally(), planted: tally() }, byKind = kinds.map(tally), wrong = [];
  run.scores.forEach((score, i) => {
    const called = score >= threshold, isWrong = called !== Boolean(label[i]);
    for (const one of [parts[planted[i] ? "planted" : label[i] ? "misses" : "alarms"], byKind[kind[i]]]) {
      one.all += 1;
      one.called += called;
      one.wrong += isWrong;
    }
    if (isWrong) wrong.push(i);
  });
  return { parts, byKind, wrong };
}

/** Lowest and highest value of the slider: all scores and marks, and a little more. */
function sliderRange(run) {
  const values = [...run.thresholds.map((t) => t.value), ...(run.scores || []), ...(run.good || [])];
  const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const air = (high - low) * 0.02 || 1;
  return [low - air, high + air];
}

/** A threshold as a text, and whether it is none of the run's. */
const named = (value) => brief(value, 4) + (now.run.thresholds.some((t) => t.value === now.threshold) ? "" : ", set by hand");

/** Moves a threshold's line, which viewer.css hides while there is none. */
const move = (line, axis, to) => [1, 2].forEach((end) => line.setAttribute(axis + end, to || 0));

const letter = (i) => String.fromCharCode(65 + i);

/** The marks of a run; `set` is told each new threshold. Returns a function that shows one. */
function drawSetting(run, [low, high], set) {
  const slider = byId("slider"), { exact } = byId("setting").elements;
  slider.oninput = () => set(low + ((high - low) * Number(slider.value)) / STEPS);
  exact.onchange = () => set(Number.isFinite(exact.valueAsNumber) ? exact.valueAsNumber : undefined);
  const marks = run.thresholds.map((t, i) => {
    const button = el("button", { type: "button", class: `mark-${t.id}`, "data-id": t.id }, el("b", {}, letter(i)), ` ${t.name} ${brief(t.value, 4)}`);
    button.addEventListener("click", () => set(t.value));
    return button;
  });
  document.querySelector(".marks").replaceChildren(...marks.map((button, i) => el("li", {}, button, ` ${run.thresholds[i].how}`)));
  byId("unmarked").hidden = run.thresholds.some((t) => t.id === "free");
  byId("unmarked").textContent = run.order ? `${run.no_threshold}.` : `No threshold without test images: ${run.no_threshold || "the run has none"}.`;
  return (threshold) => {
    const undecided = Number.isNaN(threshold);
    slider.value = String(undecided ? STEPS / 2 : Math.round((STEPS * (threshold - low)) / (high - low)));
    slider.setAttribute("aria-valuetext", undecided ? "undecided" : brief(threshold, 4));
    exact.value = undecided ? "" : brief(threshold, 6);
    marks.forEach((button, i) => button.setAttribute("aria-pressed", String(run.thresholds[i].value === threshold)));
  };
}

/** Good images upwards, others downwards, over the slider's range; returns the line's mover. */
function drawHistogram(run, [low, high]) {
  const place = byId("histogram"), bins = 80;
  place.replaceChildren();
  if (!run.scores) return () => {};
  const bars = [0, 1, 2].map(() => new Array(bins).fill(0));
  const add = (score, which) => (bars[which][Math.min(bins - 1, Math.floor((bins * (score - low)) / (high - low)))] += 1);
  if (run.order) {
    run.good.forEach((score) => add(score, 0));
    run.scores.forEach((score) => add(score, 1));
  } else {
    const { label, planted } = run.images;
    run.scores.forEach((score, i) => add(score, planted[i] ? 2 : label[i]));
  }
  const sides = [Math.max(1, ...bars[0]), Math.max(1, ...bars[1].map((n, i) => n + bars[2][i]))];
  // Of one set of test images counts compare; the fit's good images are another number than those scored.
  const [up, under] = run.order ? sides : sides.fill(Math.max(...sides));
  const box = (at, from, n, down, name) => (n ? svg("rect", { class: name, x: (1000 * at) / bins + 0.5, width: 1000 / bins - 1, height: (48 * n) / (down ? under : up), y: down ? 50 + (48 * from) / under : 50 - (48 * n) / up }) : null);
  const drawing = svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": `Histogram of image scores: good images upwards, ${run.order ? "those scored" : "defective ones"} downwards` },
    ...bars[0].map((n, i) => box(i, 0, n, false, "good")), ...bars[1].map((n, i) => box(i, 0, n, true, "bad")), ...bars[2].map((n, i) => box(i, bars[1][i], n, true, "planted")),
    svg("line", { class: "zero", x1: 0, x2: 1000, y1: 50, y2: 50 }),
    ...run.thresholds.map((t) => { const x = (1000 * (t.value - low)) / (high - low); return svg("line", { class: `at mark-${t.id}`, x1: x, x2: x, y1: 0, y2: 100 }); }));
  const line = svg("line", { class: "now", y1: 0, y2: 100 });
  drawing.append(line);
  const letters = run.thresholds.map((t, i) => {
    const node = el("span", { class: `letter mark-${t.id}`, title: `${t.name}: ${t.how}` }, letter(i));
    node.style.left = `${(100 * (t.value - low)) / (high - low)}%`;
    return node;
  });
  const counts = { upright: true, whole: true };
  const keys = run.order ? [["good", `${run.good.length} known good images`], ["bad", `${run.scores.length} images scored`]] : [["good", "good images"], ["bad", "defective images"], ["planted", "images with planted defects"]];
  place.append(el("div", { class: "legend" }, ...keys.filter((_, i) => bars[i].some(Boolean)).map(([name, text]) => el("span", {}, svg("svg", { class: "swatch", viewBox: "0 0 34 14", "aria-hidden": "true" }, svg("rect", { class: name, width: 34, height: 14 })), `${text} by score`))),
    el("div", { class: "letters" }, ...letters), el("div", { class: "plot" }, drawing, ticks(0, up, (n) => 50 - (48 * n) / up, counts), ticks(1, under, (n) => 50 + (48 * n) / under, counts)),
    ticks(low, high, (score) => (100 * (score - low)) / (high - low)));
  return (threshold) => move(line, "x", Math.max(0, Math.min(1000, (1000 * (threshold - low)) / (high - low))));
}

/** The counts at a threshold, over all test images; returns them in a sentence. */
function drawCounts(run, threshold) {
  const place = byId("counts");
  place.hidden = !run.scores || Number.isNaN(threshold);
  byId("uncounted").hidden = Boolean(run.scores);
  if (place.hidden) return "";
  const { parts, byKind, wrong } = countWrong(run, threshold), images = run.images;
  const rate = (n, all) => (all ? `${((100 * n) / all).toFixed(1)} %` : "—");
  for (const [id, { wrong: n, all }] of Object.entries(parts)) {
    const row = place.querySelector(`[data-id=${id}]`);
    row.hidden = id === "planted" && !all;
    [n, `of ${all}`, rate(n, all)].forEach((text, i) => (row.cells[i + 1].textContent = text));
  }
  place.querySelector("caption").textContent = `All ${run.scores.length} test images at ${named(threshold)}`;
  byId("kinds").replaceChildren(table("Images called defective, by kind", [{ name: "kind", word: true }, { name: "called defective" }, { name: "of" }, { name: "rate" }],
    byKind.map((k, i) => [images.kinds[i], { text: k.called, value: k.called }, { text: k.all, value: k.all }, { text: rate(k.called, k.all), value: k.called / k.all }])));
  wrong.sort((a, b) => Math.abs(run.scores[b] - threshold) - Math.abs(run.scores[a] - threshold));
  byId("wrong").replaceChildren(table(`Images on the wrong side, furthest first${wrong.length > LISTED ? `; ${LISTED} of ${wrong.length}` : ""}`,
    [{ name: "image", word: true }, { name: "kind", word: true }, { name: "score" }, { name: "is called", word: true }],
    wrong.slice(0, LISTED).map((i) => [images.names[i], images.kinds[images.kind[i]], { text: run.scores[i].toFixed(2), value: run.scores[i] }, images.label[i] ? "good" : "defective"])));
  byId("wrong").previousElementSibling.textContent = `${count(wrong.length, "image")} on the wrong side`;
  return `${count(parts.alarms.wrong, "false alarm")}, ${count(parts.misses.wrong, "miss", "misses")}`;
}
