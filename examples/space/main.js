// The page: what the visitor chose (`view`), what the worker found (`run`), and how both are shown.

import { Board } from "./board.js";
import { drawChart } from "./chart.js";
import { readView, writeView } from "./link.js";
import { puzzleOf } from "./puzzles.js";

const $ = (id) => document.getElementById(id);
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const LEVELS = ["H", "L"];
const WAITING = "Waiting for a puzzle that can be solved";

let models = [];
let view = readView("");
let facts = null;
let puzzle = null;
let question = null; // the ids that are edited
let loading = null; // the model on its way: {id, resolve}; until it is there nothing else can be done
let fault = null; // why the question cannot be solved
let run = { id: 0, frames: [], answer: null, question: null, done: false };
let attention = null; // the newest maps: {frame, attempt, H, L}
let asking = false; // for attention of this run
let player = null;
let firstRun = true; // it is played, so that a visitor sees the states at work
let chosenSymbol = 1; // of the palette
let questionCell = 0;

const boards = {
  H: new Board($("board-H"), "z_H, the proposal", (cell) => chooseCell(cell)),
  L: new Board($("board-L"), "z_L, the scratchpad", (cell) => chooseCell(cell)),
  Q: new Board($("board-Q"), "The puzzle, to be edited", (cell) => chooseQuestionCell(cell), typeSymbol),
};

// ---------------------------------------------------------------- models and puzzles

async function start() {
  const response = await fetch("models.json");
  if (!response.ok) throw new Error("models.json is missing: this folder was not assembled by make space.");
  models = await response.json();
  $("model").replaceChildren(...models.map(({ name, weights }) => new Option(`${name} (${(weights / 1e6).toFixed(2)} M weights)`, name)));
  await follow(location.hash);
}

/** Shows what a link says. */
async function follow(hash) {
  let problem = null;
  try {
    view = readView(hash);
  } catch (error) {
    problem = error;
    view = readView("");
  }
  const model = models.find(({ name }) => name === view.model) ?? models[0];
  if (view.model && model.name !== view.model) problem ??= new Error(`There is no model “${view.model}” here; showing ${model.name}.`);
  await useModel(model, view.board);
  if (problem) showError(problem);
}

function useModel(model, board = "") {
  view.model = $("model").value = model.name;
  setStatus("Loading the model …", true);
  clearTimeout(editing);
  stop();
  setReady(false);
  return new Promise((resolve) => {
    loading = { id: run.id };
    worker.postMessage({ type: "load", id: run.id, folder: model.folder });
    loading.resolve = (loaded) => {
      loading = null;
      setReady(true);
      facts = loaded.facts;
      puzzle = puzzleOf(facts);
      for (const each of Object.values(boards)) each.setPuzzle(puzzle);
      view.depth ??= facts.max_segments;
      showControls(model);
      try {
        setQuestion(puzzle.parse(board || model.examples[0]?.board || puzzle.format(puzzle.empty())));
      } catch (error) {
        setQuestion(puzzle.parse(model.examples[0]?.board ?? puzzle.format(puzzle.empty())));
        showError(error);
      }
      resolve();
    };
  });
}

/** Whether there is a model to act on; without one only another model can be chosen. */
function setReady(ready) {
  for (const part of document.querySelectorAll("[data-needs-model]")) part.inert = !ready;
  document.querySelector("main").setAttribute("aria-busy", !ready);
}

function setQuestion(ids) {
  question = ids;
  fault = null;
  showQuestion();
  try {
    puzzle.check(ids);
  } catch (error) {
    fault = error;
  }
  showError(fault);
  if (fault) return setStatus(WAITING, true);
  view.board = puzzle.format(ids);
  solve();
}

// ---------------------------------------------------------------- running

function solve() {
  stopPlaying();
  attention = null;
  asking = false; // what was asked of the run before is not answered any more
  document.body.dataset.run = run.id + 1;
  run = { id: run.id + 1, frames: [], answer: undefined, question: Uint8Array.from(question), done: false, started: performance.now() };
  $("frame").max = view.depth * facts.schedule.length;
  const options = {
    segments: view.depth,
    rollouts: view.attempts,
    sigma: view.sigma,
    noiseOn: view.on,
    seed: view.seed,
    freeze: { H: view.freezeH, L: view.freezeL },
  };
  worker.postMessage({ type: "run", id: run.id, question: run.question, options });
}

/** A change of an experiment: everything from the start, followed to its end. */
function solveAgain() {
  view.frame = view.attempt = null;
  showControls();
  if (!fault && !loading) solve();
}

worker.onerror = (event) => showError(new Error(event.message || "The worker that runs the model could not start."));
worker.onmessage = ({ data }) => {
  if (data.id !== run.id) return;
  if (data.type === "loaded") return loading.resolve(data);
  if (data.type === "error") {
    asking = false;
    setStatus(loading ? "The model could not be loaded" : "The model stopped", true);
    return showError(new Error(data.message));
  }
  if (data.type === "answer") run.answer = data.answer;
  if (data.type === "frame") run.frames.push(data);
  if (firstRun && run.frames.length === 2) {
    firstRun = false;
    if (view.frame === null && !matchMedia("(prefers-reduced-motion: reduce)").matches) play(10);
  }
  if (data.type === "done") run.done = true;
  if (data.type === "attention") {
    asking = false;
    attention = data;
    if (data.frame !== shownFrame() || data.rollout !== attempt()) askAttention();
  }
  scheduleShow();
};

const latestFrame = () => run.frames.length - 1;
const shownFrame = () => Math.min(view.frame ?? Infinity, latestFrame());

/** The attempt in front: the chosen one, else the most confident at the end. */
function attempt() {
  if (view.attempt !== null) return Math.min(view.attempt, view.attempts - 1);
  if (!run.done) return 0;
  const last = run.frames.at(-1).confidence;
  return last.indexOf(Math.max(...last));
}

function decoded(frame, level, which = attempt()) {
  const { symbols, shares } = run.frames[frame];
  const cells = [which * puzzle.size, (which + 1) * puzzle.size];
  return { ids: symbols[level].subarray(...cells), shares: shares[level].subarray(...cells) };
}

/** Whether a state has had an update by a frame. */
function isWritten(level, frame) {
  return frame > facts.schedule.indexOf(level) && view[`freeze${level}`] !== 0;
}

function label(frame) {
  if (frame === 0) return "Before the first update";
  const { schedule } = facts;
  const [segment, index] = [Math.floor((frame - 1) / schedule.length), (frame - 1) % schedule.length];
  const level = schedule[index];
  const number = schedule.slice(0, index).filter((other) => other === level).length;
  const count = schedule.filter((other) => other === level).length;
  return `Segment ${segment + 1} of ${view.depth}, ${level}-update${count > 1 ? ` ${number + 1} of ${count}` : ""}`;
}

// ---------------------------------------------------------------- showing

let showing = false;
function scheduleShow() {
  if (showing) return;
  showing = true;
  requestAnimationFrame(() => {
    showing = false;
    show();
  });
}

function show() {
  if (!run.frames.length) return;
  const frame = shownFrame();
  for (const level of LEVELS) showState(level, frame);
  $("frame").value = frame;
  $("frame").setAttribute("aria-valuetext", label(frame));
  $("now").textContent = label(frame);
  showVerdict(frame);
  showAttempts(frame);
  showChart();
  showCell(frame);
  rememberView();
  if (run.done) document.body.dataset.done = run.id; // for whoever waits for it, as tests do
}

function showState(level, frame) {
  // Before its first update a state is the same vector everywhere and says nothing of the puzzle.
  const written = isWritten(level, frame);
  const { ids, shares } = written ? decoded(frame, level) : { ids: new Uint8Array(puzzle.size), shares: new Uint8Array(puzzle.size) };
  const before = isWritten(level, frame - 1) && run.frames[frame].level === level ? decoded(frame - 1, level).ids : ids;
  const wrong = written ? puzzle.wrong(run.question, ids, run.answer) : [];
  const heat = heatOf(level, frame);
  boards[level].show(
    Array.from(ids, (id, cell) => {
      const states = [];
      if (puzzle.isGiven(run.question, cell)) states.push("given");
      if (puzzle.isHeldBack(id)) states.push("held");
      if (id !== before[cell]) states.push("changed");
      if (wrong[cell]) states.push("wrong");
      return { id, states, share: shares[cell] / 255, heat: heat?.[cell], chosen: view.cell === cell };
    }),
  );
  boards[level].root.classList.toggle("looking", Boolean(heat));
  boards[level].root.dataset.attention = heat ? attention.frame : ""; // while playing, the maps come a little later
  const from = view[`freeze${level}`];
  const frozen = from === null ? "" : from === 0 ? ", frozen from the start" : `, frozen after segment ${from}`;
  $(`count-${level}`).textContent = (written ? puzzle.summary(run.question, ids, run.answer) : "not written yet") + frozen;
  const { classList } = boards[level].root.parentElement;
  classList.toggle("active", run.frames[frame].level === level);
  classList.toggle("frozen", from !== null && frame > from * facts.schedule.length);
}

function showVerdict(frame) {
  const solvedAt = (which) => puzzle.isSolved(run.question, decoded(which, "H").ids, run.answer);
  const solved = solvedAt(frame);
  const confidence = run.frames[frame].confidence[attempt()];
  const sure = `${(100 * confidence).toFixed(confidence > 0.1 && confidence < 0.995 ? 0 : 1)} % sure`;
  const verdict = solved ? `Solved, ${sure}` : solved === null ? sure : `Not solved, ${sure}`;
  $("verdict").dataset.state = solved ? "solved" : "open";
  if (fault) return setStatus(WAITING);
  setStatus(run.done || solved ? verdict : `Thinking … ${sure}`);
  if (run.done) say(verdict);
}

function setStatus(text, aloud = false) {
  if ($("verdict").textContent !== text) $("verdict").textContent = text;
  if (aloud) say(text);
}

/** For screen readers, which would read every update of the status to its end. */
function say(text) {
  if ($("said").textContent !== text) $("said").textContent = text;
}

function showAttempts(frame) {
  const box = $("rollouts");
  box.hidden = view.attempts === 1;
  if (box.hidden) return;
  const current = attempt();
  if (box.childElementCount !== view.attempts)
    box.replaceChildren(...Array.from({ length: view.attempts }, (_, which) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.onclick = () => ((view.attempt = which), (run.right = null), askAttention(), show());
      return chip;
    }));
  for (const [which, chip] of [...box.children].entries()) {
    const solved = puzzle.isSolved(run.question, decoded(frame, "H", which).ids, run.answer);
    chip.textContent = `${which + 1}${solved ? " ✓" : ""}`;
    chip.style.setProperty("--share", run.frames[frame].confidence[which]);
    chip.setAttribute("aria-pressed", which === current);
    chip.setAttribute("aria-label", `Attempt ${which + 1}, ${solved ? "solved" : "not solved"}, ${Math.round(100 * run.frames[frame].confidence[which])} % sure`);
  }
}

function showChart() {
  const current = attempt();
  if (run.right?.attempt !== current) run.right = { attempt: current, H: [], L: [] };
  for (const level of LEVELS)
    for (let frame = run.right[level].length; frame < run.frames.length; frame++)
      run.right[level].push(isWritten(level, frame) ? puzzle.progress(run.question, decoded(frame, level).ids, run.answer) : 0);
  drawChart($("chart"), {
    frames: Number($("frame").max) + 1,
    perSegment: facts.schedule.length,
    attempts: Array.from({ length: view.attempts }, (_, which) => run.frames.map(({ confidence }) => confidence[which])),
    chosen: current,
    right: run.answer ? run.right : null,
    shown: shownFrame(),
  });
}

// ---------------------------------------------------------------- a cell: symbols and attention

function chooseCell(cell) {
  view.cell = view.cell === cell ? null : cell;
  attention = null;
  askAttention();
  show();
}

function askAttention() {
  if (view.cell === null || asking || !run.frames.length || !facts.graphs.l_update.outputs.includes("attentions")) return;
  asking = true;
  worker.postMessage({ type: "attention", id: run.id, frame: shownFrame(), rollout: attempt(), cell: view.cell });
}

/** The attention (S,) that the chosen cell paid in the last update of a level, the largest share 1; null if none. */
function heatOf(level) {
  const found = view.cell !== null && attention?.[level];
  if (!found) return null;
  const { layers, heads, positions, maps } = found;
  const first = positions - puzzle.size; // before the cells come the prefix and level tokens
  const wanted = $("head").value || "mean";
  const chosen = wanted === "mean" ? Array.from({ length: layers * heads }, (_, head) => head) : [Number(wanted)];
  const heat = new Float32Array(puzzle.size);
  for (const head of chosen)
    for (let cell = 0; cell < puzzle.size; cell++) heat[cell] += maps[(head * positions + first + view.cell) * positions + first + cell];
  const largest = Math.max(...heat);
  return heat.map((value) => value / largest);
}

function showCell(frame) {
  $("cell").hidden = view.cell === null;
  if (view.cell === null) return;
  if (view.cell >= puzzle.size) return void (view.cell = null);
  const hasMaps = facts.graphs.l_update.outputs.includes("attentions");
  const place = puzzle.place(view.cell);
  const parts = LEVELS.map((level) => {
    const { ids, shares } = decoded(frame, level);
    const reading = isWritten(level, frame)
      ? `reads ${puzzle.symbolName(ids[view.cell])} (${Math.round(shares[view.cell] / 2.55)} %)`
      : "is not written yet";
    const state = document.createElement("b");
    state.className = level.toLowerCase();
    state.innerHTML = `z<sub>${level}</sub>`;
    return [state, ` ${reading}`];
  });
  const note = hasMaps ? ". Shades: where the last L- and H-update looked from it." : ". This model mixes positions without attention.";
  $("cell").setAttribute("aria-live", player === null && run.done ? "polite" : "off");
  $("cell-text").replaceChildren(`${place[0].toUpperCase()}${place.slice(1)}: `, ...parts[0], ", ", ...parts[1], note);
  $("head-label").hidden = !hasMaps;
  const maps = attention?.L ?? attention?.H;
  if (maps && $("head").length !== 1 + maps.layers * maps.heads) {
    const names = Array.from({ length: maps.layers * maps.heads }, (_, head) =>
      new Option(`layer ${Math.floor(head / maps.heads) + 1}, head ${(head % maps.heads) + 1}`, head));
    $("head").replaceChildren(new Option("mean of heads", "mean"), ...names);
  }
  if (hasMaps && attention?.frame !== frame) askAttention();
}

// ---------------------------------------------------------------- the puzzle, edited

function showQuestion() {
  boards.Q.show(Array.from(question, (id, cell) => ({ id, states: puzzle.isGiven(question, cell) ? ["given"] : [], chosen: !puzzle.drawsWithBrush && cell === questionCell })));
}

let editing = 0;
function editCell(cell, id) {
  if (question[cell] === id) return;
  question = puzzle.edit(question, cell, id);
  showQuestion();
  clearTimeout(editing);
  editing = setTimeout(() => ((view.frame = view.attempt = null), setQuestion(question)), 350);
}

function chooseQuestionCell(cell) {
  questionCell = cell;
  if (puzzle.drawsWithBrush) editCell(cell, chosenSymbol);
  boards.Q.focus(cell);
  showQuestion();
}

function typeSymbol(cell, key) {
  const erased = key === "Backspace" || key === "Delete";
  const id = erased ? puzzle.erasedId : [...key].length === 1 ? puzzle.idOf(puzzle.clean(key) || key) || puzzle.idOf(key.toUpperCase()) : 0;
  if (!puzzle.editable().includes(id)) return false;
  questionCell = cell;
  editCell(cell, id);
  return true;
}

function drawOn(event) {
  if (!puzzle?.drawsWithBrush || event.buttons !== 1) return;
  const cell = boards.Q.cellAt(document.elementFromPoint(event.clientX, event.clientY) ?? event.target);
  if (cell >= 0) editCell(cell, chosenSymbol);
}

function showPalette() {
  chosenSymbol = puzzle.editable().includes(chosenSymbol) ? chosenSymbol : puzzle.editable()[0];
  $("palette").replaceChildren(...puzzle.editable().map((id) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = puzzle.symbolName(id) === "blank" ? "⌫" : puzzle.symbolName(id);
    button.setAttribute("aria-label", puzzle.symbolName(id));
    if (puzzle.drawsWithBrush) button.setAttribute("aria-pressed", id === chosenSymbol);
    button.onclick = () => {
      chosenSymbol = id;
      if (!puzzle.drawsWithBrush) return editCell(questionCell, id);
      for (const other of $("palette").children) other.setAttribute("aria-pressed", other === button);
    };
    return button;
  }));
}

// ---------------------------------------------------------------- controls

function showControls(model) {
  if (model) {
    $("examples").replaceChildren(...model.examples.map(({ name, board }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.onclick = () => ((view.frame = view.attempt = null), setQuestion(puzzle.parse(board)));
      return button;
    }));
    showPalette();
    $("depth-note").textContent = `It was trained with at most ${facts.max_segments} segments.`;
  }
  $("depth").value = view.depth;
  $("depth-value").textContent = `${view.depth} segment${view.depth === 1 ? "" : "s"}`;
  $("sigma").value = view.sigma;
  $("sigma-value").textContent = view.sigma ? view.sigma.toFixed(2) : "none";
  $("noise-on").value = view.on;
  $("attempts").value = view.attempts;
  $("seed").value = view.seed;
  for (const level of LEVELS) {
    const from = view[`freeze${level}`];
    $(`freeze-${level}`).setAttribute("aria-pressed", from !== null);
    $(`freeze-${level}`).textContent = from === null ? "Freeze" : "Frozen";
  }
}

/**
 * Holds a state from the end of the segment that is shown; where that is the last, from the end of the first; beside
 * the other state, and with no update chosen, from where that one is held.
 */
function toggleFreeze(level) {
  const [name, other] = level === "H" ? ["freezeH", "freezeL"] : ["freezeL", "freezeH"];
  if (view[name] !== null) view[name] = null;
  else if (view.frame === null && view[other] !== null) view[name] = view[other];
  else {
    const segment = Math.ceil(shownFrame() / facts.schedule.length);
    view[name] = segment < view.depth ? segment : Math.min(1, view.depth - 1);
  }
  solveAgain();
}

function goTo(frame) {
  view.frame = Math.max(0, Math.min(frame, latestFrame()));
  if (run.done && view.frame === latestFrame()) view.frame = null;
  show();
}

/** Shows frame after frame, so many a second, and waits where the next is not there yet. */
function play(rate = Number($("speed").value)) {
  if (run.done && shownFrame() >= latestFrame()) goTo(0);
  else view.frame = shownFrame();
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-label", "Pause");
  player = setInterval(() => {
    goTo(shownFrame() + 1);
    if (run.done && shownFrame() >= latestFrame()) stopPlaying();
  }, 1000 / rate);
}

function stopPlaying() {
  clearInterval(player);
  player = null;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-label", "Play");
}

const togglePlay = () => (player === null ? play() : stopPlaying());

function stop() {
  stopPlaying();
  run = { id: run.id + 1, frames: [], answer: null, question: null, done: false };
}

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error?.message ?? "";
}

let remembering = null;
function rememberView() {
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, "", address()), 250);
}

function address() {
  const first = models.find(({ name }) => name === view.model)?.examples[0]?.board;
  const written = { ...view, board: view.board === first ? "" : view.board, depth: view.depth === facts.max_segments ? null : view.depth };
  return writeView(written);
}

function number(input, low, high) {
  const value = Math.round(Number(input.value));
  if (!(value >= low && value <= high)) {
    showError(new Error(`${input.value || "Nothing"} is no number of ${input.id}: expected ${low} to ${high}.`));
    return null;
  }
  showError(fault);
  return value;
}

$("model").onchange = () => {
  view = { ...readView(""), model: $("model").value };
  useModel(models.find(({ name }) => name === view.model));
};
$("paste").onsubmit = (event) => {
  event.preventDefault();
  try {
    const ids = puzzle.parse($("text").value);
    puzzle.check(ids);
    view.frame = view.attempt = null;
    setQuestion(ids);
    $("text").value = "";
  } catch (error) {
    showError(error);
  }
};
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !puzzle?.drawsWithBrush) {
    event.preventDefault();
    $("paste").requestSubmit();
  }
};
$("board-Q").onpointerdown = (event) => drawOn(event);
$("board-Q").onpointermove = (event) => drawOn(event);
$("frame").oninput = () => (stopPlaying(), goTo(Number($("frame").value)));
$("chart").onpointerdown = $("chart").onpointermove = (event) => {
  if (event.buttons !== 1) return;
  stopPlaying();
  const { left, width } = $("chart").getBoundingClientRect();
  goTo(Math.round((Number($("frame").max) * (event.clientX - left)) / width));
};
$("back").onclick = () => (stopPlaying(), goTo(shownFrame() - 1));
$("on").onclick = () => (stopPlaying(), goTo(shownFrame() + 1));
$("play").onclick = togglePlay;
$("speed").onchange = () => player !== null && (stopPlaying(), play());
$("head").onchange = show;
$("cell-close").onclick = () => {
  const cell = view.cell;
  chooseCell(cell);
  boards.H.focus(cell); // the button that had the focus is gone
};
for (const level of LEVELS) $(`freeze-${level}`).onclick = () => toggleFreeze(level);
$("depth").oninput = () => ($("depth-value").textContent = `${$("depth").value} segments`);
$("depth").onchange = () => {
  view.depth = Number($("depth").value);
  for (const level of LEVELS) if (view[`freeze${level}`] >= view.depth) view[`freeze${level}`] = null;
  solveAgain();
};
$("sigma").oninput = () => ($("sigma-value").textContent = Number($("sigma").value) ? Number($("sigma").value).toFixed(2) : "none");
$("sigma").onchange = () => ((view.sigma = Number($("sigma").value)), solveAgain());
$("noise-on").onchange = () => ((view.on = $("noise-on").value), solveAgain());
for (const [name, low, high] of [["attempts", 1, 32], ["seed", 0, 999999]])
  $(name).onchange = () => {
    const value = number($(name), low, high);
    if (value === null) return;
    view[name] = value;
    if (view.attempts > 1 && view.sigma === 0) view.sigma = 0.3; // without noise all attempts are the same
    solveAgain();
  };
$("reset").onclick = () => {
  const { model, board, cell } = view;
  view = { ...readView(""), model, board, cell, depth: facts.max_segments };
  solveAgain();
};
$("copy").onclick = async () => {
  const link = new URL(address(), location.href).href;
  try {
    await navigator.clipboard.writeText(link);
    $("copy").textContent = "Copied";
  } catch {
    history.replaceState(null, "", link); // where the clipboard is closed to pages, the address bar has it
    $("copy").textContent = "It is in the address bar";
  }
  setTimeout(() => ($("copy").textContent = "Copy link"), 1600);
};
addEventListener("hashchange", () => follow(location.hash));
addEventListener("keydown", (event) => {
  if (loading || event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyped = event.target.closest("textarea, select, input[type=number]");
  const isPressed = event.key === " " && event.target.closest("button, input");
  if ((isTyped || isPressed) && event.key !== "Escape") return;
  if (event.key === " " && !event.target.closest("#board-Q")) togglePlay();
  else if (event.key === ".") (stopPlaying(), goTo(shownFrame() + 1));
  else if (event.key === ",") (stopPlaying(), goTo(shownFrame() - 1));
  else if (event.key === "Escape" && view.cell !== null) chooseCell(view.cell);
  else return;
  event.preventDefault();
});

start().catch(showError);
