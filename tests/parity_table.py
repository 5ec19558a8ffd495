"""Prints the table of docs/parity.md: the largest relative error against the published code's recorded numbers.

python tests/parity_table.py
"""

import json

import torch
from test_reference import FILES, Reference, relative_error

from air_hf.reference import rename_weights
from air_hf.variants import REFERENCE_NAMES, VARIANTS


def segment_errors(reference: Reference) -> list[float]:
    """The largest error of logits, halting scores and states after each segment."""
    model, batch, state, errors = reference.model(), reference.batch("eval"), None, []
    with torch.no_grad():
        for segment in range(model.config.max_segments):
            output = model(**batch, state=state)
            state = output.state
            ours = {"logits": output.logits, "q_halt_logits": output.q_halt_logits, "z_H": state.z_h, "z_L": state.z_l}
            expected = reference.group(f"eval.{segment}.")
            errors.append(max(relative_error(expected[name], ours[name]) for name in ours))
    return errors


def gradient_error(reference: Reference) -> float:
    model = reference.model().train()
    model(**reference.batch("grad")).loss.backward()
    recorded = reference.group("grad.param.")
    recorded.pop("inner.puzzle_emb.local_weights", None)  # per batch row; checked in the test
    expected = rename_weights(recorded)
    return max(relative_error(tensor, model.get_parameter(name).grad) for name, tensor in expected.items())


def main() -> None:
    torch.set_num_threads(1)
    order = list(VARIANTS)
    print("| variant | fields | first segment | all segments (allowed) | gradients (allowed) |")
    print("| --- | --- | --- | --- | --- |")
    for path in sorted(FILES, key=lambda path: order.index(REFERENCE_NAMES.get(path.stem, path.stem))):
        reference = Reference(path)
        name = REFERENCE_NAMES.get(reference.variant, reference.variant)
        fields = json.dumps(VARIANTS[name]).replace('"', "")[1:-1]
        errors = segment_errors(reference)
        print(
            f"| `{name}` | {fields} | {errors[0]:.0e} | {max(errors):.0e} ({reference.tolerance('eval'):.0e}) | "
            f"{gradient_error(reference):.0e} ({reference.tolerance('grad'):.0e}) |"
        )


if __name__ == "__main__":
    main()
