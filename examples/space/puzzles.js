// What the page knows of puzzles: how boards are read, what is no question, and which cells of an answer are wrong.
// Boards are arrays of symbol ids, row by row; id 0 is padding, id i the i-th character of `symbols`.

const BOXES = { 4: [2, 2], 6: [2, 3], 9: [3, 3], 16: [4, 4] };
const [WALL, OPEN, START, GOAL, PATH] = [1, 2, 3, 4, 5];
const BLANK = 1;
const MOST_GUESSES = 20000; // of the Sudoku solver; a board that needs more counts as "answer unknown"

/** The rules for an exported model: `facts` is the section "air_hf" of its export.json. */
export function puzzleOf(facts) {
  const family = (facts.puzzle ?? "").split("-")[0];
  return new ({ sudoku: Sudoku, maze: Maze }[family] ?? Puzzle)(facts);
}

/** Boards of any family: read and shown, the answer unknown. */
class Puzzle {
  family = "other";
  box = null;
  drawsWithBrush = false;

  constructor({ puzzle, rows, columns, symbols }) {
    Object.assign(this, { name: puzzle, rows, columns, symbols });
    this.size = rows * columns;
  }

  /** The ids of a board written on one line or one row a line. */
  parse(text) {
    const written = this.clean(text);
    if (written.length !== this.size)
      throw new Error(`This model reads ${this.rows}×${this.columns} boards, ${this.size} symbols; that text has ${written.length}.`);
    return Uint8Array.from(written, (symbol, cell) => {
      const id = this.idOf(symbol);
      if (!id) throw new Error(`“${symbol}” in ${this.place(cell)} is no symbol of this puzzle; it has ${this.symbolList()}.`);
      return id;
    });
  }

  clean(text) {
    return text.replace(/[\r\n]/g, "");
  }

  idOf(symbol) {
    return this.symbols.indexOf(symbol) + 1;
  }

  symbolList() {
    return [...this.symbols].map((symbol) => (symbol === " " ? "space" : symbol)).join(" ");
  }

  format(board) {
    return Array.from(board, (id) => this.symbols[id - 1] ?? "?").join("");
  }

  place(cell) {
    return `row ${Math.floor(cell / this.columns) + 1}, column ${(cell % this.columns) + 1}`;
  }

  /** The ids that may be put into a question. */
  editable() {
    return [...this.symbols].map((_, index) => index + 1);
  }

  symbolName(id) {
    return this.symbols[id - 1] ?? "nothing";
  }

  /** Whether a decoded symbol leaves the cell open. */
  isHeldBack(id) {
    return id === 0;
  }

  isGiven() {
    return false;
  }

  /** Throws an Error that says why `board` is no question. */
  check() {}

  /** What is known of the answer, for `wrong` and `verdict`; null if nothing is. */
  solve() {
    return null;
  }

  /** A mask of the cells of `board` that are wrong for certain. */
  wrong(question, board) {
    return Uint8Array.from(board, (id, cell) => this.isGiven(question, cell) && id !== question[cell]);
  }

  /** The share of the answer that `board` has right; null where that is not known. */
  progress() {
    return null;
  }

  /** What to say of a decoded board in a few words. */
  summary(question, board, answer) {
    const open = board.filter((id) => this.isHeldBack(id)).length;
    const wrong = this.wrong(question, board, answer).filter(Boolean).length;
    return `${this.size - open} of ${this.size} decided${wrong ? `, ${wrong} wrong` : ""}`;
  }

  /** Whether `board` solves `question`: true, false, or null where that is not known. */
  isSolved() {
    return null;
  }

  empty() {
    return new Uint8Array(this.size).fill(1);
  }
}

class Sudoku extends Puzzle {
  family = "sudoku";

  constructor(facts) {
    super(facts);
    this.box = BOXES[this.rows];
    const [height, width] = this.box;
    this.units = Array.from({ length: this.size }, (_, cell) => {
      const [row, column] = [Math.floor(cell / this.columns), cell % this.columns];
      return [row, column, Math.floor(row / height) * (this.columns / width) + Math.floor(column / width)];
    });
  }

  clean(text) {
    return text.replace(/[\s|+-]/g, "").replaceAll("0", ".").replaceAll("_", ".").toUpperCase();
  }

  symbolName(id) {
    return id <= BLANK ? "blank" : this.symbols[id - 1];
  }

  symbolList() {
    return `${this.symbols.slice(1, 2)} to ${this.symbols.slice(-1)}, and . for a blank`;
  }

  isHeldBack(id) {
    return id <= BLANK;
  }

  isGiven(question, cell) {
    return question[cell] > BLANK;
  }

  check(board) {
    const twin = this.conflict(board);
    if (twin)
      throw new Error(`${this.symbolName(board[twin.cell])} stands twice in one ${twin.kind}: ${this.place(twin.first)} and ${this.place(twin.cell)}.`);
  }

  conflict(board) {
    const seen = new Map();
    for (let cell = 0; cell < this.size; cell++) {
      if (board[cell] <= BLANK) continue;
      for (const [index, kind] of ["row", "column", "box"].entries()) {
        const key = `${kind} ${this.units[cell][index]} ${board[cell]}`;
        if (seen.has(key)) return { kind, cell, first: seen.get(key) };
        seen.set(key, cell);
      }
    }
    return null;
  }

  /** The one solution; null if there is none or more than one. Fewest candidates first, at most MOST_GUESSES guesses. */
  solve(question) {
    if (this.conflict(question)) return null;
    const used = [0, 1, 2].map(() => new Int32Array(this.rows)); // bits of the digits in each row, column and box
    const board = Uint8Array.from(question);
    const all = ((1 << this.rows) - 1) << 2;
    const toggle = (cell, bit) => this.units[cell].forEach((unit, kind) => (used[kind][unit] ^= bit));
    board.forEach((id, cell) => id > BLANK && toggle(cell, 1 << id));
    const solutions = [];
    let guesses = 0;
    const search = () => {
      let best = -1;
      let options = 0;
      let fewest = 99;
      for (let cell = 0; cell < this.size && fewest > 1; cell++) {
        if (board[cell] > BLANK) continue;
        const [row, column, box] = this.units[cell];
        const free = all & ~(used[0][row] | used[1][column] | used[2][box]);
        const count = bits(free);
        if (count < fewest) [best, options, fewest] = [cell, free, count];
      }
      if (best < 0) solutions.push(Uint8Array.from(board));
      for (; options && solutions.length < 2 && guesses < MOST_GUESSES; options &= options - 1) {
        guesses++;
        const bit = options & -options;
        board[best] = 31 - Math.clz32(bit);
        toggle(best, bit);
        search();
        toggle(best, bit);
        board[best] = BLANK;
      }
    };
    search();
    return solutions.length === 1 && guesses < MOST_GUESSES ? solutions[0] : null;
  }

  wrong(question, board, answer) {
    if (!answer) return super.wrong(question, board);
    return Uint8Array.from(board, (id, cell) => !this.isHeldBack(id) && id !== answer[cell]);
  }

  progress(question, board, answer) {
    if (!answer) return null;
    let [asked, right] = [0, 0];
    for (let cell = 0; cell < this.size; cell++) {
      if (this.isGiven(question, cell)) continue;
      asked++;
      right += board[cell] === answer[cell];
    }
    return asked ? right / asked : 1;
  }

  isSolved(question, board) {
    return !board.some((id, cell) => id <= BLANK || (this.isGiven(question, cell) && id !== question[cell])) && !this.conflict(board);
  }
}

class Maze extends Puzzle {
  family = "maze";
  drawsWithBrush = true;

  clean(text) {
    const lines = text.replaceAll("\r", "").split("\n");
    if (lines.at(-1) === "") lines.pop();
    // an editor may have cut spaces off at the end of a line
    return lines.length === this.rows ? lines.map((line) => line.padEnd(this.columns)).join("") : lines.join("");
  }

  editable() {
    return [WALL, OPEN, START, GOAL];
  }

  symbolName(id) {
    return ["nothing", "wall", "open", "start", "goal", "path"][id];
  }

  isGiven(question, cell) {
    return question[cell] !== OPEN;
  }

  check(board) {
    for (const [id, name] of [[START, "start (S)"], [GOAL, "goal (G)"]]) {
      const count = board.filter((symbol) => symbol === id).length;
      if (count !== 1) throw new Error(`A maze has one ${name}; this one has ${count || "none"}.`);
    }
    if (board.includes(PATH)) throw new Error("The path is for the model to find: take the marks (o) out.");
    if (!this.solve(board)) throw new Error("No way leads from S to G.");
  }

  /** How far every cell is from S and from G, and the length of a shortest way; null if no way leads. */
  solve(question) {
    const passable = Uint8Array.from(question, (id) => id !== WALL);
    const [fromStart, fromGoal] = [START, GOAL].map((id) => this.distances(passable, question.indexOf(id)));
    const shortest = fromStart[question.indexOf(GOAL)];
    return shortest > 0 ? { fromStart, fromGoal, shortest } : null;
  }

  distances(passable, source) {
    const distances = new Int32Array(this.size).fill(-1);
    distances[source] = 0;
    for (const queue = [source]; queue.length; ) {
      const cell = queue.shift();
      for (const next of this.neighbours(cell))
        if (passable[next] && distances[next] < 0) {
          distances[next] = distances[cell] + 1;
          queue.push(next);
        }
    }
    return distances;
  }

  neighbours(cell) {
    const column = cell % this.columns;
    return [
      cell >= this.columns && cell - this.columns,
      cell + this.columns < this.size && cell + this.columns,
      column > 0 && cell - 1,
      column < this.columns - 1 && cell + 1,
    ].filter((next) => next !== false);
  }

  /** Cells that differ from what is given, and marks on no shortest way. */
  wrong(question, board, ways) {
    return Uint8Array.from(board, (id, cell) => {
      if (this.isGiven(question, cell)) return id !== question[cell];
      return id === PATH ? ways && ways.fromStart[cell] + ways.fromGoal[cell] !== ways.shortest : id !== OPEN;
    });
  }

  progress(question, board, ways) {
    if (!ways) return null;
    const wrong = this.wrong(question, board, ways);
    const right = board.filter((id, cell) => id === PATH && !wrong[cell]).length;
    return Math.min(1, right / Math.max(1, ways.shortest - 1));
  }

  summary(question, board, ways) {
    const marks = board.filter((id) => id === PATH).length;
    const wrong = this.wrong(question, board, ways).filter(Boolean).length;
    const needed = ways ? ` of ${ways.shortest - 1}` : "";
    return `${marks}${needed} marked${wrong ? `, ${wrong} wrong` : ""}`;
  }

  isSolved(question, board, ways) {
    if (!ways || this.wrong(question, board, ways).some(Boolean)) return false;
    const marks = Uint8Array.from(board, (id) => id === PATH || id === GOAL);
    const length = this.distances(marks, board.indexOf(START))[board.indexOf(GOAL)];
    return length === ways.shortest && board.filter((id) => id === PATH).length === ways.shortest - 1;
  }

  empty() {
    const board = new Uint8Array(this.size).fill(OPEN);
    board[0] = START;
    board[this.size - 1] = GOAL;
    return board;
  }
}

function bits(mask) {
  let count = 0;
  for (; mask; mask &= mask - 1) count++;
  return count;
}
