"use strict";
// Heat maps: unpacked from text, coloured, outlined at a threshold.

const ZOOM = 2;

/** The bytes of a zlib stream in base64. */
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A map's values: low bytes, then high bytes, of differences along both axes. */
function integrate(raw, width) {
  const values = new Uint16Array(raw.length / 2);
  values.forEach((_, i) => (values[i] = (raw[i] | (raw[values.length + i] << 8)) + (i < width ? 0 : values[i - width])));
  values.forEach((_, i) => (values[i] += i % width ? values[i - 1] : 0));
  return values;
}

/** The greys below the colours, as visualization.panels.overlay mutes them. */
function mute(grey, outside) {
  const seen = grey.filter((_, i) => !outside[i]).sort(), [dark, bright] = [0.01, 0.99].map((share) => seen[Math.round(share * (seen.length - 1))]);
  const contrast = content.contrast / Math.max(bright - dark, content.contrast);
  return grey.map((value) => Math.max(0, Math.min(255, content.mid_grey + contrast * (value - (dark + bright) / 2))));
}

/** A picture ready to be drawn: its image, also in grey and with that muted, its width over its height in the photo, the levels of its map, and the truth, if any. */
async function decode(item, { width, height }, shape) {
  const image = new Image(), pen = el("canvas", { width, height }).getContext("2d");
  image.src = item.image;
  const [raw] = await Promise.all([inflate(item.map), image.decode()]);
  const values = integrate(raw, width);
  pen.drawImage(image, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height), grey = values.map((_, i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3);
  const outside = values.map((value) => value >> 13);
  return { image, grey, muted: mute(grey, outside), shape, levels: values.map((value) => value & 4095), truth: item.truth && values.map((value) => (value >> 12) & 1), outside };
}

/** From which distance on a picture is outlined; of one that is scored and called defective the highest 2 % at least, as Predictor does. */
function outlinedFrom({ low, step, items }, ready, i, threshold) {
  const at = threshold * now.run.map_factor;
  if (!now.run.order || !(items[i].score >= threshold)) return at;
  ready.counted ??= ready.levels.filter((_, pixel) => !ready.outside[pixel]).sort();
  const reached = (share) => low + step * ready.counted[Math.ceil(share * (ready.counted.length - 1))];
  return reached(1) < at ? reached(0.98) : at;
}

/** A pixel as in the pictures of a fit: a colour of the scale, from 0 to 255, laid over a grey. */
function lay(bytes, pixel, grey, at) {
  for (let c = 0; c < 3; c++) bytes[4 * pixel + c] = (1 - content.opacity) * grey + content.opacity * COLOURS[3 * at + c];
  bytes[4 * pixel + 3] = 255;
}

/** The colour bar between its ends, over grey. */
function drawScale(place, [low, high]) {
  const bar = el("canvas", { width: 256, height: 1 }), pixels = new ImageData(256, 1);
  for (let at = 0; at < 256; at++) lay(pixels.data, at, content.mid_grey, at);
  bar.getContext("2d").putImageData(pixels, 0, 0);
  place.replaceChildren(`distance ${brief(low)}`, bar, brief(high));
}

/** Draws the map over the grey image, and outlines what is at or above `from`; returns the number of these pixels, and of those in the defect. */
function drawMap(canvas, ready, maps, from) {
  const { width, height, low, step, scale } = maps, { grey, muted, levels, outside, truth } = ready, pen = drawImage(canvas, ready, maps);
  const heat = el("canvas", { width, height }), pixels = new ImageData(width, height), marked = new Uint8Array(levels.length);
  let count = 0, inside = 0;
  for (let i = 0; i < levels.length; i++) {
    const distance = low + step * levels[i];
    // What was not seen is black, through which half of the image is seen.
    if (outside[i]) pixels.data.fill(grey[i] / 2, 4 * i, 4 * i + 3)[4 * i + 3] = 255;
    else lay(pixels.data, i, muted[i], Math.max(0, Math.min(255, Math.floor((256 * (distance - scale[0])) / (scale[1] - scale[0])))));
    marked[i] = !outside[i] && distance >= from;
    count += marked[i];
    inside += truth ? marked[i] && truth[i] : 0;
  }
  heat.getContext("2d").putImageData(pixels, 0, 0);
  pen.drawImage(heat, 0, 0, canvas.width, canvas.height);
  drawTruth(pen, ready, maps);
  outline(pen, (i) => marked[i], width, height, content.found, false);
  return { count, inside };
}

/** Draws the image in the photo's shape, not squeezed as the model sees it. */
function drawImage(canvas, { image, shape }, { width, height }) {
  const long = Math.sqrt(Math.max(0.01, Math.min(100, shape))), side = ZOOM * Math.sqrt(width * height);
  Object.assign(canvas, { width: Math.round(side * long), height: Math.round(side / long) });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  return pen;
}

function drawTruth(pen, { truth }, { width, height }) {
  if (truth) outline(pen, (i) => truth[i], width, height, content.truth, true);
}

/** The edges between pixels inside and outside of a region, over a dark halo. */
function outline(pen, inside, width, height, colour, dashed) {
  const path = new Path2D(), across = pen.canvas.width / width, down = pen.canvas.height / height;
  const line = (x1, y1, x2, y2) => {
    if (dashed && (x1 + y1) % 6 > 3) return;
    path.moveTo(across * x1, down * y1);
    path.lineTo(across * x2, down * y2);
  };
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      const here = x < width && y < height && inside(y * width + x);
      const left = x > 0 && y < height && inside(y * width + x - 1);
      const above = y > 0 && x < width && inside((y - 1) * width + x);
      if (Boolean(here) !== Boolean(left)) line(x, y, x, y + 1);
      if (Boolean(here) !== Boolean(above)) line(x, y, x + 1, y);
    }
  }
  pen.lineCap = "square";
  for (const [style, wide] of [["#000", 4], [colour, 2]]) {
    pen.strokeStyle = style;
    pen.lineWidth = wide;
    pen.stroke(path);
  }
}
