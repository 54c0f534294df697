"""How alike the decision boundaries of a student and its teacher are: transition curves."""

import io
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import PhaseSplit
from experiments.evaluation import Evaluator
from kdjax import adversarial, parallel
from kdjax.data import views
from kdjax.networks import TrainedNetwork
from kdjax.types import Array

FILE = "transition_curves.json"  # in the folder of a phase


def measure(
    student: TrainedNetwork,
    teacher: TrainedNetwork,
    split: PhaseSplit,
    *,
    image_size: int,
    images: int,
    steps: int,
    step_size: float,
    correct: bool = False,
    from_labels: bool = False,
) -> dict[str, Any] | None:
    """Measures transition curves (Micaelli & Storkey 2019, Algorithm 2 and Figure 4).

    Args:
      student: the network whose gradient is followed, in the space of its normalised images.
      teacher: the network that it is compared with.
      split: images are drawn from those to which both give the same class.
      image_size: side of what the networks see, in pixels.
      images: at most this many, a fixed random choice.
      steps: K, the points of a curve.
      step_size: xi, the factor of the gradient.
      correct: draw only from images that both classify correctly, as SZamboni/advanceddeep
        does.
      from_labels: the targets of an image are all classes but its label, as in the authors'
        code, instead of all but the class that the networks predict, as in the paper.

    Returns:
      `images` (how many were used), `steps`, `step_size`, `classified_alike` (fraction of the
      split), `mean_transition_error` in [0, 1], `seconds`, and `curves`: the `mean` [steps] of
      the target's probability under `student` and `teacher`, and its standard `error`. None if
      the networks give no image the same class.
    """
    labels = split.labels
    devices = parallel.Devices.local()
    classes = [
        Evaluator(one.network, image_size, devices)
        .logits(devices.replicate(one.variables), split)
        .argmax(-1)
        for one in (student, teacher)
    ]
    alike = classes[0] == classes[1]
    chosen = np.flatnonzero(alike & (classes[0] == labels) if correct else alike)
    if not len(chosen):
        return None
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:images])
    pixels = views.evaluation_view(jnp.asarray(split.split.images[chosen]), image_size)
    start = time.perf_counter()
    p_student, p_teacher = adversarial.transition_curves(
        lambda x: _logits(student, x),
        lambda x: _logits(teacher, _renormalized(x, student, teacher)),
        student.network.normalize(pixels),
        jnp.asarray((labels if from_labels else classes[0])[chosen]),
        steps=steps,
        step_size=step_size,
        num_classes=student.network.module.num_classes,
    )
    jax.block_until_ready((p_student, p_teacher))
    return {
        "images": len(chosen),
        "steps": steps,
        "step_size": step_size,
        "classified_alike": round(float(alike.mean()), 6),
        "mean_transition_error": float(adversarial.mean_transition_error(p_student, p_teacher)),
        "seconds": round(time.perf_counter() - start, 1),
        "curves": {"student": _summary(p_student), "teacher": _summary(p_teacher)},
    }


def _logits(trained: TrainedNetwork, images: Array) -> Array:
    outputs: Any = trained.network.module.apply(trained.variables, images, train=False)
    logits: Array = outputs.logits
    return logits


def _renormalized(images: Array, student: TrainedNetwork, teacher: TrainedNetwork) -> Array:
    """The student's normalised images as the teacher's."""
    a, b = student.network, teacher.network
    if (a.mean, a.std) == (b.mean, b.std):
        return images
    return b.normalize(a.pixels(images))


def _summary(p: Array) -> dict[str, list[float]]:
    """Mean curve and its standard error over images and classes, of `steps` points each."""
    flat = np.asarray(p).reshape(-1, p.shape[-1])
    return {
        "mean": flat.mean(0).tolist(),
        "error": (flat.std(0) / len(flat) ** 0.5).tolist(),
    }


def draw(pairs: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A PNG with a panel for each pair: the mean curves with two standard errors.

    Args:
      pairs: what `measure` returned, by the panel's title.
    """
    from matplotlib.figure import Figure

    columns = min(len(pairs), 4)
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(4.2 * columns + 0.6, 3.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(pairs) :]:
        axes.remove()
    for axes, (title, measured) in zip(panels.flat, pairs.items(), strict=False):
        for who in ("teacher", "student"):
            mean, error = (np.asarray(measured["curves"][who][key]) for key in ("mean", "error"))
            axes.plot(mean, label=who)
            axes.fill_between(range(len(mean)), mean - 2 * error, mean + 2 * error, alpha=0.4)
        axes.set_title(f"{title}\nMTE {measured['mean_transition_error']:.4f}", fontsize=10)
        axes.set(xlabel="steps on the student", xlim=(0, len(mean) - 1 or 1), ylim=(0, 1.02))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("probability of the target class")
    panels[0, 0].legend(frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
