// Mazes: walls, a start and a goal, and the shortest ways between them.

import { Puzzle } from "./puzzle.js";

const [WALL, OPEN, START, GOAL, PATH] = [1, 2, 3, 4, 5];

export class Maze extends Puzzle {
  drawsWithBrush = true;
  showsSymbols = false;
  erasedId = OPEN;

  clean(text) {
    const lines = text.replaceAll("\r", "").split("\n");
    if (lines.at(-1) === "") lines.pop();
    // an editor may have cut spaces off at the end of a line
    return lines.length === this.rows ? lines.map((line) => line.padEnd(this.columns)).join("") : lines.join("");
  }

  editable() {
    return [WALL, OPEN, START, GOAL];
  }

  /** There is one start and one goal: where another is put, the old one opens. */
  edit(question, cell, id) {
    const edited = super.edit(question, cell, id);
    if (id === START || id === GOAL) edited.forEach((other, where) => other === id && where !== cell && (edited[where] = OPEN));
    return edited;
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
