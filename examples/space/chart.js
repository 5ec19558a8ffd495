// The curves over the timeline: confidence of every attempt, and the share of right cells of each state.

const [WIDTH, HEIGHT] = [1000, 100];

/**
 * @param {SVGElement} svg drawn anew
 * @param {object} data frames: the slider's length; perSegment: updates a segment; attempts: confidence by frame of each;
 *   chosen: the attempt in front; right: {H, L} shares by frame, or null; shown: the frame on the boards
 */
export function drawChart(svg, { frames, perSegment, attempts, chosen, right, shown }) {
  const x = (frame) => (frames > 1 ? (WIDTH * frame) / (frames - 1) : 0);
  const y = (share) => HEIGHT - 4 - (HEIGHT - 8) * share;
  const line = (values) => values.map((value, frame) => `${frame ? "L" : "M"}${x(frame).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const shapes = [];
  const add = (name, d) => shapes.push(`<path class="${name}" d="${d}" vector-effect="non-scaling-stroke"/>`);
  const segments = Math.round((frames - 1) / perSegment);
  const every = segments > 32 ? 8 : 1;
  let marks = "";
  for (let segment = every; segment < segments; segment += every) marks += `M${x(segment * perSegment).toFixed(1)} 0V${HEIGHT}`;
  add("grid", marks);
  attempts.forEach((values, attempt) => attempt !== chosen && add("q other", line(values)));
  if (right) {
    add("right l", line(right.L));
    add("right h", line(right.H));
  }
  const values = attempts[chosen] ?? [];
  if (values.length) {
    add("area", `${line(values)}L${x(values.length - 1).toFixed(1)} ${HEIGHT}L0 ${HEIGHT}Z`);
    add("q", line(values));
  }
  add("here", `M${x(shown)} 0V${HEIGHT}`);
  svg.innerHTML = shapes.join("");
}
