// What the page knows of a puzzle: how boards are read, what is no question, and which cells of an answer are wrong.
// Boards are arrays of symbol ids, row by row; id 0 is padding, id i the i-th of `symbols`.

/** Boards of any family: read and shown, the answer unknown. */
export class Puzzle {
  box = null;
  drawsWithBrush = false;
  showsSymbols = true; // or colours alone
  erasedId = 1; // what an erased cell of a question holds

  constructor({ puzzle, rows, columns, symbols }) {
    // Code points, of which a string's places hold halves.
    Object.assign(this, { name: puzzle, family: (puzzle ?? "").split("-")[0], rows, columns, symbols: [...symbols] });
    this.size = rows * columns;
  }

  /** The ids of a board written on one line or one row a line. */
  parse(text) {
    const written = [...this.clean(text)];
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
    return this.symbols.map((symbol) => (symbol === " " ? "space" : symbol)).join(" ");
  }

  format(board) {
    return Array.from(board, (id) => this.symbols[id - 1] ?? "?").join("");
  }

  place(cell) {
    return `row ${Math.floor(cell / this.columns) + 1}, column ${(cell % this.columns) + 1}`;
  }

  /** The ids that may be put into a question. */
  editable() {
    return this.symbols.map((_, index) => index + 1);
  }

  /** A copy of a question with a symbol put into a cell. */
  edit(question, cell, id) {
    const edited = Uint8Array.from(question);
    edited[cell] = id;
    return edited;
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
    return new Uint8Array(this.size).fill(this.erasedId);
  }
}
