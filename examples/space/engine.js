// The recursion in the browser: the exported graphs, called in the order of the model's schedule.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";

const MOST_KEPT = 48e6; // bytes of states that are kept for looking back

/** Bytes of a file, unpacked if it is gzipped; some hosts unpack it on the way. */
async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} could not be loaded (${response.status}).`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const runtime = fetchBytes(new URL("./runtime/ort-wasm-simd-threaded.wasm.gz", import.meta.url)).then((bytes) => {
  ort.env.wasm.wasmBinary = bytes.buffer;
  ort.env.wasm.numThreads = 1; // more would need a page isolated from other origins, and help small models little
});

export class Engine {
  /** The four graphs of an exported model. */
  static async load(folder) {
    const manifest = JSON.parse(new TextDecoder().decode(await fetchBytes(`${folder}/export.json`)));
    const engine = new Engine();
    engine.facts = manifest.air_hf;
    const files = engine.facts.files;
    const fetched = new Map(); // by content: updates with one network have their weights in common
    const bytesOf = (name) => {
      const hash = files[name];
      if (!fetched.has(hash)) fetched.set(hash, fetchBytes(`${folder}/${Object.keys(files).find((other) => files[other] === hash)}`));
      return fetched.get(hash);
    };
    Object.keys(files).forEach(bytesOf);
    await runtime;
    engine.sessions = {};
    for (const graph of Object.keys(engine.facts.graphs)) {
      const [name, data] = [`${graph}.onnx`, `${graph}.onnx.data`];
      engine.sessions[graph] = await ort.InferenceSession.create(await bytesOf(name), {
        externalData: [{ path: data, data: await bytesOf(data) }],
      });
    }
    return engine;
  }

  async call(graph, tensors, outputs = this.facts.graphs[graph].outputs.filter((name) => name !== "attentions")) {
    const feeds = Object.fromEntries(this.facts.graphs[graph].inputs.map((name) => [name, tensors[name]]));
    return this.sessions[graph].run(feeds, outputs);
  }

  get hasAttention() {
    return this.facts.graphs.l_update.outputs.includes("attentions");
  }

  /**
   * Runs segments of one question, update by update.
   *
   * @param {Uint8Array} question ids of the board
   * @param {object} options segments; rollouts; sigma, noiseOn ("L" or "H"), seed: noise added before every segment;
   *   freeze {L, H}: the segment from which that state stays as it is, null for never
   * @yields {{frame, level, symbols: {H, L}, shares: {H, L}, confidence}} after the start and after every update:
   *   symbol ids and their probabilities (0 to 255) of all rollouts, and q_halt as a probability of each
   */
  async *run(question, options) {
    this.kept = new Map();
    const { schedule, num_positions: positions, hidden_size: width } = this.facts;
    const bytes = 8 * options.rollouts * positions * width * options.segments;
    this.keepEvery = Math.ceil(bytes / MOST_KEPT);
    this.question = question;
    this.options = options;
    const inputs = await this.encode(question, options.rollouts);
    let state = { H: inputs.z_h, L: inputs.z_l };
    const view = { H: await this.decode(state.H), L: await this.decode(state.L) };
    yield this.frame(0, null, view);
    for (let segment = 0; segment < options.segments; segment++) {
      if (segment % this.keepEvery === 0) this.kept.set(segment, state);
      for await (const step of this.segment(segment, state, inputs, options, 0)) {
        state = step.state;
        if (step.disturbed) view[step.disturbed] = await this.decode(state[step.disturbed]);
        if (step.changed) view[step.level] = await this.decode(state[step.level]);
        yield this.frame(1 + segment * schedule.length + step.index, step.level, view);
      }
    }
  }

  /** The updates of one segment; `firstRollout` says which rollout's noise the first row of the batch gets. */
  async *segment(segment, state, inputs, options, firstRollout) {
    const noisy = options.sigma > 0 ? options.noiseOn : null;
    if (noisy) state = { ...state, [noisy]: disturb(state[noisy], segment, options, firstRollout) };
    for (const [index, level] of this.facts.schedule.entries()) {
      const before = state;
      const frozen = options.freeze[level] !== null && segment >= options.freeze[level];
      if (!frozen) state = { ...state, [level]: (await this.update(level, state, inputs)).z };
      yield { index, level, before, state, changed: !frozen, disturbed: index === 0 ? noisy : null };
    }
  }

  async encode(question, rollouts) {
    const ids = new BigInt64Array(rollouts * question.length);
    for (let i = 0; i < ids.length; i++) ids[i] = BigInt(question[i % question.length]);
    return this.call("encode", {
      input_ids: new ort.Tensor("int64", ids, [rollouts, question.length]),
      puzzle_ids: new ort.Tensor("int64", new BigInt64Array(rollouts), [rollouts]),
    });
  }

  update(level, state, inputs, outputs) {
    return this.call(`${level.toLowerCase()}_update`, { ...inputs, z_h: state.H, z_l: state.L }, outputs);
  }

  /** Best symbol of every cell and its probability, and the halting probability, of all rollouts. */
  async decode(z) {
    const { logits, q_halt_logits: qHalt } = await this.call("decode", { z });
    const [rollouts, cells, symbols] = logits.dims;
    const best = new Uint8Array(rollouts * cells);
    const share = new Uint8Array(rollouts * cells);
    for (let cell = 0; cell < best.length; cell++) {
      const scores = logits.data.subarray(cell * symbols, (cell + 1) * symbols);
      let top = 0;
      for (let symbol = 1; symbol < symbols; symbol++) if (scores[symbol] > scores[top]) top = symbol;
      best[cell] = top;
      const weights = Array.from(scores, (score) => this.weigh(score - (this.facts.loss_function === "softmax" ? scores[top] : 0)));
      share[cell] = Math.round((255 * weights[top]) / weights.reduce((sum, weight) => sum + weight));
    }
    return { symbols: best, shares: share, confidence: qHalt.data.map((q) => 1 / (1 + Math.exp(-q))) };
  }

  /** What a score is worth before all are scaled to a sum of 1: the probabilities that the model was trained with. */
  weigh(score) {
    if (this.facts.loss_function === "softmax") return Math.exp(score);
    return score < 0 ? 1 / (1 - score) : score + 1; // stablemax
  }

  frame(frame, level, view) {
    return {
      frame,
      level,
      symbols: { H: view.H.symbols, L: view.L.symbols },
      shares: { H: view.H.shares, L: view.L.shares },
      confidence: view.H.confidence,
    };
  }

  /**
   * Attention maps of the last L-update and the last H-update up to a frame of the latest run, found by running that
   * segment of that rollout again.
   *
   * @returns {{L, H}} each null, or {layers, heads, positions, maps: Float32Array}
   */
  async attention(frame, rollout) {
    const { schedule } = this.facts;
    const found = { L: null, H: null };
    if (!this.hasAttention || frame === 0) return found;
    const last = Math.floor((frame - 1) / schedule.length);
    // a segment shows both levels when it is done; before that, the H-update is the one of the segment before
    const first = Math.max(0, last - 1);
    let segment = first - (first % this.keepEvery);
    let state = rowOf(this.kept.get(segment), rollout);
    const inputs = await this.encode(this.question, 1);
    for (; segment <= last; segment++)
      for await (const step of this.segment(segment, state, inputs, this.options, rollout)) {
        state = step.state;
        const index = 1 + segment * schedule.length + step.index;
        if (segment >= first && index <= frame && step.changed) found[step.level] = step.before;
      }
    for (const level of ["L", "H"])
      if (found[level]) {
        const { attentions } = await this.update(level, found[level], inputs, ["attentions"]);
        const [layers, , heads, positions] = attentions.dims;
        found[level] = { layers, heads, positions, maps: attentions.data };
      }
    return found;
  }
}

function rowOf(state, row) {
  const pick = (tensor) => {
    const [, positions, width] = tensor.dims;
    const size = positions * width;
    return new ort.Tensor("float32", tensor.data.slice(row * size, (row + 1) * size), [1, positions, width]);
  };
  return { H: pick(state.H), L: pick(state.L) };
}

/** Adds normal noise of deviation sigma; each rollout and segment has its own, whatever else is in the batch. */
function disturb(tensor, segment, { sigma, seed }, firstRollout) {
  const [rows, positions, width] = tensor.dims;
  const data = Float32Array.from(tensor.data);
  const size = positions * width;
  for (let row = 0; row < rows; row++) {
    const uniform = mulberry32(hash(hash(hash(seed) + firstRollout + row) + segment));
    for (let i = row * size; i < (row + 1) * size; i++)
      data[i] += sigma * Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  }
  return new ort.Tensor("float32", data, tensor.dims);
}

function hash(value) {
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
  return (value ^ (value >>> 16)) + 0x9e3779b9;
}

/** Uniform numbers in [0, 1) (Tommy Ettinger's mulberry32). */
function mulberry32(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296;
  };
}
