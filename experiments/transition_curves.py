"""Transition curves of pairs of networks, and their mean transition errors.

    python -m experiments.transition_curves --pair=STUDENT,TEACHER [--pair=...] [--data=NAME]

From test images to which both networks of a pair give the same class, gradient descent on
the student to every other class, and the probability of that class under student and
teacher on the way (Micaelli & Storkey 2019, Algorithm 2 and Figure 4). A network is
RUN/PHASE or MODEL=FILE, as for `experiments.evaluate`, and `--a=STUDENT --b=TEACHER` is a
pair, too. A phase of a run can be measured when it ends:
`--config.student.transition_curves.images=1000`.

Writes FILE.png, a panel for each pair with the mean curves and two standard errors, and
FILE.json with the curves, the mean transition errors and what was measured. Prints all but the
curves. The paper draws the first 30 steps of its curves (`--steps=30`), its error is that of 100.
"""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli, evaluate
from kdjax.types import UserError

_PAIRS = flags.DEFINE_multi_string("pair", [], "STUDENT,TEACHER; may be given several times.")
_IMAGES = flags.DEFINE_integer("images", 1000, "At most so many images that both classify alike.")
_STEPS = flags.DEFINE_integer("steps", 100, "Steps (K).")
_STEP_SIZE = flags.DEFINE_float("step_size", 1.0, "Factor of the gradient (xi).")
_CORRECT = flags.DEFINE_bool(
    "correct", False, "Only images that both classify correctly, as in SZamboni/advanceddeep."
)
_LABELS = flags.DEFINE_bool(
    "from_labels", False, "Targets are all classes but the label, as in the authors' code, instead "
    "of all but the class that the networks predict, as in their paper."
)  # fmt: skip
_OUT = flags.DEFINE_string("out", "transition_curves", "FILE, without its suffix.")


def main() -> None:
    """Measures the networks that the flags name."""
    from experiments import boundaries
    from kdjax import files

    pairs = _pairs()
    for flag in (_IMAGES, _STEPS):
        if flag.value < 1:
            raise UserError(f"--{flag.name} is {flag.value}: it is positive")
    data, split, name = evaluate.load_data(pairs[0][0])
    results: list[dict[str, Any]] = []
    titles = []
    for student, teacher in pairs:
        a, b = (evaluate.load_network(reference, data) for reference in (student, teacher))
        measured = boundaries.measure(
            a, b, data.splits[split], image_size=data.image_size, images=_IMAGES.value,
            steps=_STEPS.value, step_size=_STEP_SIZE.value, correct=_CORRECT.value,
            from_labels=_LABELS.value,
        )  # fmt: skip
        if measured is None:
            raise UserError(f"{student} and {teacher} give no image of {name} the same class")
        results.append({"student": student, "teacher": teacher, "data": name, **measured})
        shown = {key: value for key, value in results[-1].items() if key != "curves"}
        print(json.dumps(shown, indent=2), flush=True)
        titles.append(f"{a.name} from {b.name}")
    out = Path(_OUT.value)
    files.write_json(out.with_suffix(".json"), results)
    # Pairs of the same models are told apart by where they are from.
    if len(set(titles)) < len(titles):
        titles = [_short(student) for student, _ in pairs]
    files.write(out.with_suffix(".png"), boundaries.draw(dict(zip(titles, results, strict=True))))


def _pairs() -> list[tuple[str, str]]:
    pairs = [tuple(pair.split(",")) for pair in _PAIRS.value]
    if evaluate.A.value or evaluate.B.value:
        pairs.insert(0, (evaluate.A.value, evaluate.B.value))
    if not pairs or any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise UserError(
            "--pair=STUDENT,TEACHER is needed, or --a=STUDENT --b=TEACHER: give RUN/PHASE, or "
            "MODEL=FILE for PyTorch files"
        )
    return [(student, teacher) for student, teacher in pairs]


def _short(reference: str) -> str:
    """The run and the phase, or the name of the file."""
    return reference if "=" in reference else "/".join(Path(reference).parts[-2:])


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
