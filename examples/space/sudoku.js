// Sudoku: rows, columns and boxes, and a solver for the answer of a board that a visitor makes.

import { Puzzle } from "./puzzle.js";

const BOXES = { 4: [2, 2], 6: [2, 3], 9: [3, 3], 16: [4, 4] };
const BLANK = 1;
const MOST_GUESSES = 20000; // of the solver; a board that needs more counts as "answer unknown"

export class Sudoku extends Puzzle {
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

function bits(mask) {
  let count = 0;
  for (; mask; mask &= mask - 1) count++;
  return count;
}
