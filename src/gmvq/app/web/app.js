// The tokenizer in the browser: a picture to tokens and back by onnxruntime-web, from the files beside this one alone.

import * as ort from "./ort.wasm.bundle.min.mjs";

const MAX_BYTES = 20 * 2 ** 20;
// The encoder's search holds one logit of four bytes for each position and code.
const MAX_LOGITS = 2 ** 26;
const MAX_SIDE = 1024;

const part = (id) => document.getElementById(id);
let model, encoder, decoder, last;
let busy = false;

async function start() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href };
  const found = await fetch("model.json");
  if (!found.ok) throw new Error(`model.json cannot be read (${found.status})`);
  model = await found.json();
  [encoder, decoder] = await Promise.all(
    ["encoder.onnx", "decoder.onnx"].map((name) => ort.InferenceSession.create(name, { executionProviders: ["wasm"] })),
  );
  const step = model.downsample;
  part("about").textContent = `${model.codebook_size.toLocaleString("en")} codes, one for ${step} × ${step} pixels.`;
  part("file").disabled = part("example").disabled = false;
  document.body.dataset.ready = "yes";
}

// The side of the largest square whose search fits into memory; a multiple of the step.
function largestSide() {
  const step = model.downsample;
  const positions = Math.floor(Math.sqrt(MAX_LOGITS / model.codebook_size));
  return Math.max(2 * step, Math.min(MAX_SIDE, positions * step));
}

async function pixelsOf(blob) {
  if (blob.size > MAX_BYTES) {
    throw new Error(`the file has ${(blob.size / 2 ** 20).toFixed(1)} MB, and the limit is ${MAX_BYTES / 2 ** 20} MB`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Error("this is no picture that the browser can read");
  }
  const factor = Math.min(1, largestSide() / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * factor));
  const height = Math.max(1, Math.round(bitmap.height * factor));
  const canvas = part("original");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

// Values in [0, 1] of shape (1, channels, H, W): the last row and column repeated until the sides are multiples.
function tensorOf({ data, width, height }) {
  const step = model.downsample;
  const padded = (size) => Math.max(2, Math.ceil(size / step)) * step;
  const [w, h, channels] = [padded(width), padded(height), model.channels];
  const values = new Float32Array(channels * h * w);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const from = 4 * (Math.min(y, height - 1) * width + Math.min(x, width - 1));
      const [r, g, b] = [data[from], data[from + 1], data[from + 2]];
      // Grey by the whole numbers that Pillow uses.
      const colours = channels === 1 ? [(19595 * r + 38470 * g + 7471 * b + 32768) >> 16] : [r, g, b];
      for (let c = 0; c < channels; c++) values[(c * h + y) * w + x] = Math.fround(colours[c] / 255);
    }
  }
  return new ort.Tensor("float32", values, [1, channels, h, w]);
}

function paintReconstruction({ data, dims }, width, height) {
  const canvas = part("reconstruction");
  canvas.width = width;
  canvas.height = height;
  const [, channels, h, w] = dims;
  const pixels = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = 4 * (y * width + x);
      for (let c = 0; c < 3; c++) {
        const value = data[((channels === 1 ? 0 : c) * h + y) * w + x];
        pixels.data[to + c] = Math.round(255 * Math.min(1, Math.max(0, value)));
      }
      pixels.data[to + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return pixels;
}

function paintTokens(tokens, rows, columns) {
  const canvas = part("tokens");
  canvas.width = columns;
  canvas.height = rows;
  const pixels = new ImageData(columns, rows);
  tokens.forEach((code, place) => {
    for (let c = 0; c < 3; c++) pixels.data[4 * place + c] = parseInt(model.colours.slice(6 * code + 2 * c, 6 * code + 2 * c + 2), 16);
    pixels.data[4 * place + 3] = 255;
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function showFigures(original, pixels, tokens, rows, columns, seconds) {
  const { width, height } = original;
  let squares = 0;
  for (let i = 0; i < pixels.data.length; i++) {
    if (i % 4 !== 3) squares += ((pixels.data[i] - original.data[i]) / 255) ** 2;
  }
  const counts = new Map();
  tokens.forEach((code) => counts.set(code, (counts.get(code) ?? 0) + 1));
  let entropy = 0;
  counts.forEach((count) => (entropy -= (count / tokens.length) * Math.log2(count / tokens.length)));
  const rate = (bits) => ((bits * tokens.length) / (width * height)).toFixed(3);
  const rowsOfTable = [
    ["picture", `${width} × ${height} pixels`],
    ["tokens", `${columns} × ${rows} = ${tokens.length.toLocaleString("en")}`],
    ["PSNR", `${(-10 * Math.log10(squares / (3 * width * height))).toFixed(2)} dB`],
    ["bits per pixel", rate(Math.log2(model.codebook_size))],
    ["bits per pixel, entropy of its codes", rate(entropy)],
    ["codes in it", `${counts.size.toLocaleString("en")} of ${model.codebook_size.toLocaleString("en")}`],
    ["time", `${seconds.toFixed(2)} s`],
  ];
  const body = part("figures").tBodies[0];
  body.replaceChildren();
  for (const row of rowsOfTable) {
    const line = body.insertRow();
    for (const text of row) line.insertCell().textContent = text;
  }
}

async function open(blob) {
  const begun = performance.now();
  const original = await pixelsOf(blob);
  const { indices } = await encoder.run({ images: tensorOf(original) });
  const { images } = await decoder.run({ indices });
  const [, rows, columns] = indices.dims;
  const tokens = Array.from(indices.data, Number);
  part("results").hidden = false;
  const pixels = paintReconstruction(images, original.width, original.height);
  paintTokens(tokens, rows, columns);
  showFigures(original, pixels, tokens, rows, columns, (performance.now() - begun) / 1000);
  last = { rows, columns, tokens };
}

async function run(blobOf) {
  if (busy) return;
  busy = true;
  const status = part("status");
  status.className = "";
  status.textContent = "Computing …";
  await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
  try {
    await open(await blobOf());
    status.textContent = "Done.";
  } catch (error) {
    status.className = "wrong";
    status.textContent = `Not done: ${error.message}.`;
  }
  busy = false;
}

part("file").addEventListener("change", ({ target }) => target.files.length && run(async () => target.files[0]));
part("example").addEventListener("click", () => run(async () => (await fetch("example.png")).blob()));
part("split").addEventListener("input", ({ target }) => part("compare").style.setProperty("--split", `${target.value}%`));
part("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(last)], { type: "application/json" }));
  link.download = "tokens.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    part("drop").classList.toggle("over", name === "dragover");
    const file = event.dataTransfer?.files[0];
    if (name === "drop" && file && model) run(async () => file);
  });
}

start().catch((error) => {
  part("about").textContent = `The tokenizer cannot be loaded: ${error.message}. Serve the folder: python -m http.server`;
});
