// The families of puzzles that the page knows; boards of any other are shown without rules.

import { Maze } from "./maze.js";
import { Puzzle } from "./puzzle.js";
import { Sudoku } from "./sudoku.js";

const FAMILIES = { sudoku: Sudoku, maze: Maze };

/** The rules for an exported model: `facts` is the section "air_hf" of its export.json. */
export function puzzleOf(facts) {
  return new (FAMILIES[(facts.puzzle ?? "").split("-")[0]] ?? Puzzle)(facts);
}
