"use strict";
// Images without labels: their list, their drift against the good images of the fit, decisions as a file.

const SHOWN = 200;

const decision = (score, threshold) => (Number.isNaN(threshold) ? "undecided" : score >= threshold ? "defective" : "good");

/** Indices of the images that the form asks for, in its order. */
function picked(run, threshold) {
  const { order, decided, text } = Object.fromEntries(new FormData(byId("pick")));
  const area = (i) => Math.max(0, ...run.regions[i].map((region) => region[4]));
  const time = new Map(run.order.map((i, at) => [i, at]));
  const keys = { high: (i) => -run.scores[i], low: (i) => run.scores[i], near: (i) => Math.abs(run.scores[i] - threshold), time: (i) => -time.get(i), area: (i) => -area(i) };
  const passes = (i) => (!decided || decided === decision(run.scores[i], threshold)) && run.paths[i].toLowerCase().includes(text.trim().toLowerCase());
  return run.order.filter(passes).sort((a, b) => keys[order](a) - keys[order](b));
}

/** How many are called defective, and the list; returns the first in a sentence. */
function drawScored(run, threshold) {
  const called = run.scores.filter((score) => score >= threshold).length, all = run.scores.length;
  const undecided = Number.isNaN(threshold), said = undecided ? `${count(all, "image")}, undecided until the slider is moved` : `${called} of ${count(all, "image")} called defective at ${named(threshold)}${all ? ` (${((100 * called) / all).toFixed(1)} %)` : ""}`;
  const alarms = run.good.length && !undecided ? `; ${run.good.filter((score) => score >= threshold).length} of the ${run.good.length} known good images score as high` : "";
  byId("tally").textContent = `${said}${alarms}${run.unreadable ? `; ${count(run.unreadable, "file")} could not be read` : ""}.`;
  const found = picked(run, threshold), at = new Map((run.pictures?.items || []).map((item, i) => [item.index, i]));
  const columns = [{ name: "image", word: true }, { name: "score" }, { name: "p-value" }, { name: "decision", word: true }, { name: "regions as scored" }, { name: "largest, pixels" }];
  byId("list").replaceChildren(table(`${found.length > SHOWN ? `The first ${SHOWN} of ` : ""}${count(found.length, "image")}`, columns, found.slice(0, SHOWN).map((i) => {
    const [regions, p] = [run.regions[i], run.p[i]], largest = Math.max(0, ...regions.map((region) => region[4]));
    return [run.names[i], { text: run.scores[i].toFixed(2), value: run.scores[i] }, p === null ? "—" : { text: (p <= run.least_p ? "≤ " : "") + brief(p), value: p }, decision(run.scores[i], threshold), ...(run.map_threshold == null ? ["—", "—"] : [{ text: regions.length, value: regions.length }, { text: brief(largest), value: largest }])];
  })));
  [...byId("list").querySelectorAll("tbody tr")].forEach((row, n) => {
    if (!at.has(found[n])) return;
    const button = el("button", { type: "button", class: "open", "aria-label": `Show the heat map of ${run.names[found[n]]}` }, "map");
    button.addEventListener("click", () => enlarge(at.get(found[n])));
    row.cells[0].append(button);
  });
  byId("export").disabled = undecided;
  now.picked = found;
  return said;
}

/** Boxes of an image's regions, as they were found. */
function regionsOf(run, index) {
  const pixel = (value) => String(Math.round(10 * value) / 10);
  return run.regions[index].map(([left, top, right, bottom, area, peak]) => `x ${pixel(left)} to ${pixel(right)}, y ${pixel(top)} to ${pixel(bottom)}, area ${pixel(area)}, peak ${peak.toFixed(2)}`);
}

/** As NumPy's: between two values on a line, so that the median of an even number is their mean. */
function quantile(sorted, share) {
  const at = share * (sorted.length - 1), low = sorted[Math.floor(at)];
  return low + (at % 1) * (sorted[Math.ceil(at)] - low);
}

const ranked = (values) => [...values].sort((a, b) => a - b);

/** Scores by time, over the range of the good images' scores; returns the threshold line's mover. */
function drawDrift(run, [low, high]) {
  const place = byId("drift"), n = run.order.length, good = ranked(run.good);
  place.replaceChildren();
  if (n < 2) return () => {};
  const scores = run.order.map((i) => run.scores[i]), span = Math.max(5, Math.ceil(n / 20));
  const x = (at) => (1000 * (at + 0.5)) / n, y = (score) => 100 - (100 * (score - low)) / (high - low);
  const median = (from, to) => quantile(ranked(scores.slice(Math.max(0, from), to)), 0.5);
  const step = Math.ceil(n / 1000); // more places than the drawing is wide would take minutes
  const running = scores.flatMap((_, at) => (at % step ? [] : `${at ? "L" : "M"}${x(at)} ${y(median(at + 1 - span, at + 1))}`)).join("");
  const band = [quantile(good, 0.05), quantile(good, 0.95), quantile(good, 0.5)].map(y);
  const line = svg("line", { class: "now", x1: 0, x2: 1000 });
  // Month and day where there are days between, else the time; of files that were copied at once the number.
  const when = (at, from, to) => new Date(run.times[run.order[at]]).toISOString().replace("T", " ").slice(from, to);
  const lasted = run.times[run.order[n - 1]] - run.times[run.order[0]], dated = lasted >= 6e4;
  const name = dated ? (at) => when(at - 1, ...(lasted < 1728e5 ? [11, 16] : [5, 10])) : brief;
  place.append(
    el("div", { class: "legend" }, ...[["dot", "an image"], ["running", `median of the last ${span}`], ...(good.length ? [["band", `90 % of the ${good.length} known good images`]] : []), ["now", "threshold"]].map(([name, text]) => el("span", { class: `line ${name}` }, text))),
    el("div", { class: "plot" }, svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": "Scores by the time of the image files" },
      good.length ? svg("rect", { class: "band", x: 0, width: 1000, y: band[1], height: Math.max(0, band[0] - band[1]) }) : null,
      good.length ? svg("line", { class: "middle", x1: 0, x2: 1000, y1: band[2], y2: band[2] }) : null,
      svg("path", { class: "dot", d: scores.map((score, at) => `M${x(at)} ${y(score)}h0`).join("") }), svg("path", { class: "running", d: running }), line), ticks(low, high, y, { upright: true })),
    ticks(1, n, (at) => x(at - 1) / 10, { whole: true, name }));
  const share = (value) => Math.round((100 * good.filter((score) => score < value).length) / good.length);
  const half = Math.min(span, n >> 1), [first, last] = [median(0, half), median(n - half, n)];
  place.append(el("p", { class: "note" }, `Scores by the time of the image files${dated ? `, ${when(0, 0, 16)} to ${when(n - 1, 0, 16)} (UTC)` : ""}, oldest to the left. Median of the first ${half}: ${first.toFixed(2)}, of the last ${half}: ${last.toFixed(2)}`
    + (good.length ? `; these lie above ${share(first)} % and ${share(last)} % of the known good images. About 50 % is no drift` : "") + "."));
  return (threshold) => move(line, "y", y(threshold));
}

/** The decisions at the threshold as a CSV file; no cell is a formula to a spreadsheet. */
function toCsv(run, threshold) {
  const path = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `./${text}` : text).replaceAll('"', '""')}"`;
  const rows = run.paths.map((name, i) => [path(name), run.scores[i], run.p[i] ?? "", run.scores[i] >= threshold ? "anomalous" : "good", threshold, run.model ?? ""].join(","));
  return `path,score,p_value,decision,threshold,model_sha256\n${rows.join("\n")}\n`;
}

function save(name, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
