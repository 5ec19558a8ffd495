// A board on the page: a grid of cells that shows symbols, can be walked over by keys, and lets a cell be chosen.

export class Board {
  /**
   * @param {HTMLElement} root an empty element
   * @param {string} label what a screen reader calls the board
   * @param {(cell: number, event: Event) => void} onChoose a click, or Enter, on a cell
   * @param {(cell: number, key: string) => boolean} [onKey] another key on a cell; true if it was taken
   */
  constructor(root, label, onChoose, onKey = () => false) {
    Object.assign(this, { root, onChoose, onKey });
    root.setAttribute("role", "grid");
    root.setAttribute("aria-label", label);
    root.addEventListener("keydown", (event) => this.keydown(event));
    root.addEventListener("click", (event) => {
      const cell = this.cellAt(event.target);
      if (cell >= 0) onChoose(cell, event);
    });
  }

  setPuzzle(puzzle) {
    this.puzzle = puzzle;
    this.shown = new Array(puzzle.size).fill("");
    this.root.dataset.family = puzzle.family;
    this.root.style.setProperty("--rows", puzzle.rows);
    this.root.style.setProperty("--columns", puzzle.columns);
    this.root.setAttribute("aria-rowcount", puzzle.rows);
    this.root.setAttribute("aria-colcount", puzzle.columns);
    this.cells = [];
    const rows = [];
    for (let row = 0; row < puzzle.rows; row++) {
      const line = document.createElement("div");
      line.setAttribute("role", "row");
      for (let column = 0; column < puzzle.columns; column++) {
        const cell = document.createElement("div");
        cell.setAttribute("role", "gridcell");
        cell.tabIndex = this.cells.length ? -1 : 0;
        if (puzzle.box) {
          const [height, width] = puzzle.box;
          if (row && row % height === 0) cell.dataset.top = "";
          if (column && column % width === 0) cell.dataset.left = "";
        }
        this.cells.push(cell);
        line.append(cell);
      }
      rows.push(line);
    }
    this.root.replaceChildren(...rows);
  }

  cellAt(element) {
    return this.cells.indexOf(element.closest?.("[role=gridcell]"));
  }

  /**
   * Shows cells; each is {id, state, share, heat, chosen}: a symbol id, words of styling and of speech, the symbol's
   * probability and the attention it gets, both 0 to 1 or undefined. Only cells that look otherwise than before change.
   */
  show(cells) {
    for (const [index, { id, states, share = 1, heat, chosen }] of cells.entries()) {
      const look = `${id}|${states}|${Math.round(share * 20)}|${heat === undefined ? "" : Math.round(heat * 50)}|${chosen}`;
      if (look === this.shown[index]) continue;
      this.shown[index] = look;
      const cell = this.cells[index];
      cell.className = states.join(" ");
      cell.dataset.symbol = id;
      cell.textContent = this.puzzle.showsSymbols && !this.puzzle.isHeldBack(id) ? this.puzzle.symbolName(id) : "";
      cell.style.setProperty("--share", share.toFixed(2));
      cell.style.setProperty("--heat", (heat ?? 0).toFixed(3));
      cell.setAttribute("aria-selected", Boolean(chosen));
      const words = [this.puzzle.place(index), this.puzzle.symbolName(id), ...states];
      cell.setAttribute("aria-label", words.join(", "));
    }
  }

  focus(cell) {
    for (const other of this.cells) other.tabIndex = -1;
    this.cells[cell].tabIndex = 0;
    this.cells[cell].focus();
  }

  keydown(event) {
    const cell = this.cellAt(event.target);
    if (cell < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const { columns, size } = this.puzzle;
    const column = cell % columns;
    const steps = {
      ArrowUp: cell >= columns && -columns,
      ArrowDown: cell + columns < size && columns,
      ArrowLeft: column > 0 && -1,
      ArrowRight: column < columns - 1 && 1,
      Home: -column,
      End: columns - 1 - column,
    };
    if (event.key in steps) this.focus(cell + (steps[event.key] || 0));
    else if (event.key === "Enter") this.onChoose(cell, event);
    else if (!this.onKey(cell, event.key)) return;
    event.preventDefault();
    event.stopPropagation();
  }
}
