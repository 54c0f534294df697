"""Transition curves of two networks, and their mean transition error.

    python -m experiments.transition_curves --a=RUN/PHASE --b=RUN/PHASE [--data=NAME]

From test images to which both networks give the same class, gradient descent on network a
(the student) to every other class, and the probability of that class under a and under b
on the way (Micaelli & Storkey 2019, Algorithm 2 and Figure 4). `--a` and `--b` are as for
`experiments.evaluate`.

Writes FILE.png, the mean curves with two standard errors over the first 30 steps, as in
the paper, and FILE.json with the whole curves, the mean transition error over `--steps`
and what was measured. Prints all but the curves.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli, evaluate
from kdjax.types import UserError

_A, _B, _DATA = evaluate.A, evaluate.B, evaluate.DATA
_IMAGES = flags.DEFINE_integer("images", 1000, "Test images that both classify alike.")
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
_DRAWN = 30


def main() -> None:
    """Measures the networks that the flags name."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments import files
    from experiments.evaluation import Evaluator
    from kdjax import adversarial, parallel
    from kdjax.data import views

    if not _A.value or not _B.value:
        raise UserError("--a and --b are needed: give RUN/PHASE, or MODEL=FILE for PyTorch files")
    for flag in (_IMAGES, _STEPS):
        if flag.value < 1:
            raise UserError(f"--{flag.name} is {flag.value}: it is positive")
    data, split, name = evaluate.load_data()
    test = data.splits[split]
    labels = test.labels
    a, b = (evaluate.load_network(reference, data) for reference in (_A.value, _B.value))
    if (a.network.mean, a.network.std) != (b.network.mean, b.network.std):
        raise UserError(
            "--a and --b have different normalisations: the steps are taken in the space of a's "
            "normalised images, and b must see the same images"
        )
    devices = parallel.Devices.dividing(len(labels))
    classes = [
        Evaluator(t.network, data.image_size, devices)
        .logits(devices.replicate(t.variables), test)
        .argmax(-1)
        for t in (a, b)
    ]
    same = classes[0] == classes[1]
    alike = same & (classes[0] == labels) if _CORRECT.value else same
    indices = np.flatnonzero(alike)
    if len(indices) < _IMAGES.value:
        raise UserError(
            f"--images is {_IMAGES.value}, and the networks classify {len(indices)} alike"
        )
    indices = np.sort(np.random.default_rng(0).permutation(indices)[: _IMAGES.value])
    images = jnp.asarray(test.split.images[indices])
    pixels = views.evaluation_view(images, data.image_size)
    apply_a, apply_b = (
        lambda x, t=t: t.network.module.apply(t.variables, x, train=False).logits for t in (a, b)
    )
    start = time.perf_counter()
    p_a, p_b = adversarial.transition_curves(
        apply_a, apply_b, a.network.normalize(pixels),
        jnp.asarray((labels if _LABELS.value else classes[0])[indices]),
        steps=_STEPS.value, step_size=_STEP_SIZE.value, num_classes=data.num_classes,
    )  # fmt: skip
    jax.block_until_ready((p_a, p_b))
    result: dict[str, Any] = {
        "a": _A.value,
        "b": _B.value,
        "data": name,
        "images": len(indices),
        "steps": _STEPS.value,
        "step_size": _STEP_SIZE.value,
        "classified_alike": round(float(same.mean()), 6),
        "mean_transition_error": float(adversarial.mean_transition_error(p_a, p_b)),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result, indent=2))
    curves = {who: _mean_and_error(np.asarray(p)) for who, p in (("a", p_a), ("b", p_b))}
    out = Path(_OUT.value)
    named = {who: {"mean": m.tolist(), "error": e.tolist()} for who, (m, e) in curves.items()}
    files.write_json(out.with_suffix(".json"), result | {"curves": named})
    files.write(out.with_suffix(".png"), _draw(curves, a.name, b.name))


def _mean_and_error(p: Any) -> tuple[Any, Any]:
    """Mean curve and its standard error over images and classes, [steps] each."""
    flat = p.reshape(-1, p.shape[-1])
    return flat.mean(0), flat.std(0) / len(flat) ** 0.5


def _draw(curves: dict[str, tuple[Any, Any]], a: str, b: str) -> bytes:
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.add_subplot()
    for who, name in (("b", f"teacher ({b})"), ("a", f"student ({a})")):
        mean, error = (values[: _DRAWN + 1] for values in curves[who])
        axes.plot(mean, label=name)
        axes.fill_between(range(len(mean)), mean - 2 * error, mean + 2 * error, alpha=0.4)
    axes.set(xlabel="steps on the student", ylabel="probability of the target class")
    axes.set(xlim=(0, min(_DRAWN, len(mean) - 1) or 1), ylim=(0, 1.02))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


if __name__ == "__main__":
    sys.exit(cli.start(main, sys.argv))
