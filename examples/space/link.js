// The view as the part of the address after "#", so that a link shows the same again.

const DEFAULTS = {
  model: "", board: "", depth: null, frame: null, freezeH: null, freezeL: null,
  sigma: 0, on: "L", attempts: 1, seed: 0, attempt: null, cell: null,
};
const NUMBERS = { depth: [1, 128], frame: [0, 1e6], freezeH: [0, 127], freezeL: [0, 127], sigma: [0, 1], attempts: [1, 32], seed: [0, 999999], attempt: [0, 31], cell: [0, 1e6] };

/** Only what differs from the defaults. */
export function writeView(view) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS))
    if (view[name] !== undefined && view[name] !== null && view[name] !== value) parts.set(name, view[name]);
  return `#${parts}`;
}

/** The view of an address; throws an Error that names what cannot be read. */
export function readView(hash) {
  const view = { ...DEFAULTS };
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!(name in DEFAULTS)) throw new Error(`The link holds “${name}”, which this page does not know.`);
    if (!(name in NUMBERS)) view[name] = text;
    else {
      const [low, high] = NUMBERS[name];
      const value = Number(text);
      const whole = name === "sigma" || Number.isInteger(value);
      if (text.trim() === "" || !whole || !(value >= low && value <= high))
        throw new Error(`The link says ${name}=${text}; it must be ${name === "sigma" ? "a" : "a whole"} number from ${low} to ${high}.`);
      view[name] = value;
    }
  }
  if (!["L", "H"].includes(view.on)) throw new Error(`The link says on=${view.on}; noise is on L or H.`);
  return view;
}
