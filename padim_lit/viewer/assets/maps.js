"use strict";
// Heat maps: unpacked from text, coloured by a threshold, outlined.

const ZOOM = 2;
const GREY = 0x80000000; // black over what lies outside of roi, through which half of it is seen

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

/** A picture ready to be drawn: its image, the levels of its map, and the truth, if any. */
async function decode(item, { width }) {
  const image = new Image();
  image.src = item.image;
  const [raw] = await Promise.all([inflate(item.map), image.decode()]);
  const values = integrate(raw, width);
  return { image, levels: values.map((value) => value & 4095), truth: item.truth && values.map((value) => (value >> 12) & 1), outside: values.map((value) => value >> 13) };
}

/** From which distance on a picture is outlined; of one that is scored and called defective the highest 2 % at least, as Predictor does. */
function outlinedFrom({ low, step, items }, ready, i, threshold) {
  const at = threshold * now.run.map_factor;
  if (!now.run.order || items[i].score < threshold) return at;
  ready.counted ??= ready.levels.filter((_, pixel) => !ready.outside[pixel]).sort();
  const reached = (share) => low + step * ready.counted[Math.ceil(share * (ready.counted.length - 1))];
  return reached(1) < at ? reached(0.98) : at;
}

/** For every level its colour, and whether it is at or above the threshold. */
function colouring(maps, threshold, whole) {
  const count = 4096, colours = new Uint8ClampedArray(4 * count), marked = new Uint8Array(count);
  const [low, high] = maps.scale;
  for (let level = 0; level < count; level++) {
    const distance = maps.low + maps.step * level;
    marked[level] = distance >= threshold ? 1 : 0;
    const at = Math.max(0, Math.min(255, Math.floor((256 * (distance - low)) / (high - low))));
    for (let c = 0; c < 3; c++) colours[4 * level + c] = parseInt(content.colours.slice(6 * at + 2 * c, 6 * at + 2 * c + 2), 16);
    colours[4 * level + 3] = marked[level] ? 178 : whole ? 140 : 45;
  }
  return { colours: new Uint32Array(colours.buffer), marked };
}

/** Draws the grey image, the map over it, and the outlines; returns the number of marked pixels, and of those in the defect. */
function drawMap(canvas, ready, maps, { colours, marked }) {
  const { width, height } = maps, { levels, outside, truth } = ready, pen = drawImage(canvas, ready, maps);
  const heat = el("canvas", { width, height });
  const pixels = new ImageData(width, height), whole = new Uint32Array(pixels.data.buffer);
  let count = 0, inside = 0;
  for (let i = 0; i < levels.length; i++) {
    whole[i] = outside[i] ? GREY : colours[levels[i]];
    if (outside[i] || !marked[levels[i]]) continue;
    count += 1;
    inside += truth ? truth[i] : 0;
  }
  heat.getContext("2d").putImageData(pixels, 0, 0);
  pen.globalCompositeOperation = "saturation"; // of black: the image without its colours
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "source-over";
  pen.drawImage(heat, 0, 0, canvas.width, canvas.height);
  drawTruth(pen, ready, maps);
  outline(pen, (i) => !outside[i] && marked[levels[i]], width, height, content.found, false);
  return { count, inside };
}

function drawImage(canvas, { image }, { width, height }) {
  Object.assign(canvas, { width: ZOOM * width, height: ZOOM * height });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  return pen;
}

function drawTruth(pen, { truth }, { width, height }) {
  if (truth) outline(pen, (i) => truth[i], width, height, content.truth, true);
}

/** The edges between pixels inside and outside of a region, over a dark halo. */
function outline(pen, inside, width, height, colour, dashed) {
  const path = new Path2D();
  const line = (x1, y1, x2, y2) => {
    if (dashed && (x1 + y1) % 6 > 3) return;
    path.moveTo(ZOOM * x1, ZOOM * y1);
    path.lineTo(ZOOM * x2, ZOOM * y2);
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
