// The page's second thread: loads models and runs them, one frame at a time, so that a newer request can interrupt.

import { Engine } from "./engine.js";
import { puzzleOf } from "./puzzles.js";

let engine = null;
let latest = 0; // the newest run asked for
let queue = Promise.resolve(); // sessions take one call at a time

const { port1, port2 } = new MessageChannel();
const pause = () => new Promise((resolve) => ((port1.onmessage = resolve), port2.postMessage(null)));

const tasks = {
  async load({ id, folder }) {
    if (id !== latest) return;
    engine = await Engine.load(folder);
    postMessage({ type: "loaded", id, folder, facts: engine.facts, hasAttention: engine.hasAttention });
  },

  async run({ id, question, options }) {
    if (id !== latest) return;
    postMessage({ type: "answer", id, answer: puzzleOf(engine.facts).solve(question) });
    for await (const frame of engine.run(question, options)) {
      postMessage({ type: "frame", id, ...frame });
      await pause();
      if (id !== latest) return;
    }
    postMessage({ type: "done", id });
  },

  async attention({ id, frame, rollout, cell }) {
    if (id === latest) postMessage({ type: "attention", id, frame, rollout, cell, ...(await engine.attention(frame, rollout)) });
  },
};

onmessage = ({ data }) => {
  if (data.type === "run" || data.type === "load") latest = data.id;
  queue = queue
    .then(() => tasks[data.type](data))
    .catch((error) => postMessage({ type: "error", id: data.id, message: error.message ?? String(error) }));
};
