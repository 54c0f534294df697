"""Measures a teacher's properties in its students, with the probes of `kdjax.probes`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation import index_batches
from kdjax import metrics, parallel, probes
from kdjax.networks import TrainedNetwork
from kdjax.types import Array, UserError

_BATCH_SIZE = 250
Figures = dict[str, Any]


class Subject(NamedTuple):
    """A network that is measured.

    Attributes:
      trained: the network.
      logits: from images [n, h, w, c], pixels in [0, 1], to its logits [n, k].
    """

    trained: TrainedNetwork
    logits: "Batched"

    @classmethod
    def of(cls, trained: TrainedNetwork) -> "Subject":
        """Prepares a network; its forward pass is compiled at its first use."""
        network = trained.network
        return cls(trained, Batched(lambda v, x: network.evaluate(v, x).logits, trained.variables))


class Images(NamedTuple):
    """The images that networks are measured on.

    Attributes:
      pixels: float32 [n, h, w, c], in [0, 1].
      labels: int32 [n], -1 where unknown.
      keys: one random key for each image, [n]; a choice for an image depends on no other.
      seed: of all other random choices.
    """

    pixels: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    seed: int

    @classmethod
    def at(
        cls, positions: np.ndarray, pixels: np.ndarray, labels: np.ndarray, seed: int
    ) -> "Images":
        """Images with the keys of their positions [n] in the split."""
        key = jax.random.key(seed)
        keys = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i)))(positions)
        return cls(pixels, labels, np.asarray(keys), seed)


class Batched:
    """A function of variables and of examples, mapped over whole arrays in batches."""

    def __init__(self, function: Callable[..., Any], variables: Any):
        """Takes a function of the variables and of batches; it has no sums over examples."""
        self._devices = parallel.Devices.local()
        self._function = jax.jit(function)
        self._variables = self._devices.replicate(variables)

    def __call__(self, *arrays: np.ndarray) -> Any:
        """The function's outputs for all n examples; every array is [n, ...]."""
        n = len(arrays[0])
        parts = []
        for indices in index_batches(n, _BATCH_SIZE, self._devices):
            batch = parallel.spread([array[indices] for array in arrays])
            parts.append(jax.device_get(self._function(self._variables, *batch)))
        return jax.tree.map(lambda *part: np.concatenate(part)[:n], *parts)


def adversarial(
    teacher: Subject,
    students: Sequence[Subject],
    images: Images,
    *,
    eps: float,
    alpha: float,
    steps: int,
) -> tuple[Figures, list[Figures]]:
    """Attacks on the teacher, and whom they fool (Ojha et al. 2023, Table 2).

    Args:
      teacher: whose gradient is followed.
      students: are shown the attacks that changed the teacher's prediction.
      images: with labels.
      eps: as for `kdjax.probes.fgsm_step`.
      alpha: the same.
      steps: of the attack.

    Returns:
      Figures of the teacher, and of each student: `fooling_rate`, of the teacher over all images,
      of the students over those that fooled it. `images` of these; without any, no rate.
    """
    network = teacher.trained.network

    def step(variables: Any, x: Array, clean: Array, labels: Array) -> Array:
        return probes.fgsm_step(
            lambda x: network.evaluate(variables, x).logits, x, clean, labels, eps=eps, alpha=alpha
        )

    attack = Batched(step, teacher.trained.variables)
    attacked = images.pixels
    for _ in range(steps):
        attacked = attack(attacked, images.pixels, images.labels)
    before, after = teacher.logits(images.pixels), teacher.logits(attacked)
    fooled = np.flatnonzero(before.argmax(-1) != after.argmax(-1))
    figures = {
        "accuracy": _number(np.mean(before.argmax(-1) == images.labels)),
        "attacked_accuracy": _number(np.mean(after.argmax(-1) == images.labels)),
        "fooling_rate": _number(probes.fooling_rate(before, after)),
        "images": len(images.labels),
    }
    found: list[Figures] = []
    for student in students:
        found.append({"images": len(fooled)})
        if len(fooled):
            own = [student.logits(pixels[fooled]) for pixels in (images.pixels, attacked)]
            found[-1]["fooling_rate"] = _number(probes.fooling_rate(*own))
    return figures, found


def self_agreement(
    teacher: Subject, students: Sequence[Subject], images: Images, *, view: str, strengths: str
) -> tuple[Figures, list[Figures]]:
    """Agreement of each network with itself on two views (Ojha et al. 2023, Tables 8 and 10).

    Args:
      teacher: is measured as the students are.
      students: networks.
      images: labels are not used.
      view: one of `kdjax.probes.VIEWS`.
      strengths: numbers, joined by commas.

    Returns:
      Figures of the teacher, and of each student: `agreement` by strength.
    """
    both: Callable[..., Any] = probes.VIEWS[view]
    subjects = [teacher, *students]
    found: list[Figures] = [{"agreement": {}} for _ in subjects]
    for text in strengths.split(","):
        strength = _strength(view, text, images.pixels.shape[1])

        def one(key: Array, image: Array, strength: float = strength) -> tuple[Array, Array]:
            return both(jax.random.wrap_key_data(key), image, strength)

        pair = Batched(lambda _, keys, x, one=one: jax.vmap(one)(keys, x), {})
        first, second = pair(images.keys, images.pixels)
        for subject, figures in zip(subjects, found, strict=True):
            agreement = metrics.agreement(subject.logits(first), subject.logits(second))
            figures["agreement"][f"{strength:g}"] = _number(agreement)
    return found[0], found[1:]


def domains(
    teacher: Subject,
    students: Sequence[Subject],
    images: Images,
    *,
    made: Sequence[str],
    others: Mapping[str, Images],
) -> tuple[Figures, list[Figures]]:
    """Consensus of student and teacher on other domains (Ojha et al. 2023, Table 11).

    Args:
      teacher: the reference.
      students: networks.
      images: of the domain `images`.
      made: names of `kdjax.probes.DOMAINS`, made from the images.
      others: images of other data sets, by name.

    Returns:
      Figures of the teacher, and of each student, by domain: `accuracy` where all labels are
      known, and of the students `consensus`, the share of the images of which they predict what
      the teacher does.
    """
    every = {"images": images}
    for name in made:
        domain: Callable[..., Any] = probes.DOMAINS[name]

        def one(key: Array, image: Array, domain: Callable[..., Any] = domain) -> Any:
            return domain(jax.random.wrap_key_data(key), image)

        make = Batched(lambda _, keys, x, one=one: jax.vmap(one)(keys, x), {})
        every[name] = images._replace(pixels=make(images.keys, images.pixels))
    every |= others
    figures: list[Figures] = [{"accuracy": {}}]
    figures += [{"accuracy": {}, "consensus": {}} for _ in students]
    for name, seen in every.items():
        predicted = [one.logits(seen.pixels).argmax(-1) for one in (teacher, *students)]
        for found, own in zip(figures, predicted, strict=True):
            if (seen.labels >= 0).all():
                found["accuracy"][name] = _number(np.mean(own == seen.labels))
            if "consensus" in found:
                found["consensus"][name] = _number(np.mean(own == predicted[0]))
    return figures[0], figures[1:]


def cam(
    teacher: Subject, students: Sequence[Subject], images: Images, *, independent: Subject | None
) -> tuple[Figures, list[Figures]]:
    """Similarity of where student and teacher look (Ojha et al. 2023, Figure 2).

    Args:
      teacher: the reference.
      students: networks.
      images: with labels, whose Grad-CAM at the last stage is compared.
      independent: a student that the teacher did not teach.

    Returns:
      No figures of the teacher, and of each student: the mean `cosine` with the teacher's maps,
      and, with an independent student, the share of images on which its cosine is larger than that
      of the independent one, `closer`. `images` of which the teacher's map is not zero.
    """

    def maps(subject: Subject) -> np.ndarray:
        network = subject.trained.network
        make = Batched(lambda v, x, y: probes.grad_cam(network, v, x, y), subject.trained.variables)
        found: np.ndarray = make(images.pixels, images.labels)
        return found

    reference = maps(teacher)
    seen = np.flatnonzero(reference.reshape(len(reference), -1).any(axis=1))

    def cosine(subject: Subject) -> np.ndarray:
        own = maps(subject)[seen]
        return np.asarray(probes.cosine(jnp.asarray(reference[seen]), jnp.asarray(own)))

    other = cosine(independent) if independent else None
    found: list[Figures] = []
    for student in students:
        found.append({"images": len(seen)})
        if len(seen):
            own = cosine(student)
            found[-1]["cosine"] = _number(own.mean())
            if other is not None:
                found[-1]["closer"] = _number((own > other).mean())
    return {}, found


def cka(
    teacher: Subject, students: Sequence[Subject], images: Images, *, kernel: str, features: str
) -> tuple[Figures, list[Figures]]:
    """Centered kernel alignment of all layers (Ojha et al. 2023; Stanton et al. 2021, Table 1).

    Args:
      teacher: whose layers are the columns.
      students: whose layers are the rows.
      images: few, as the kernels have as many rows and columns; labels are not used.
      kernel: one of `kdjax.probes.cka.KERNELS`.
      features: `flat`, every value of a map, as Ojha et al., or `mean`, over positions, as
        Stanton et al.

    Returns:
      The teacher's `taps`, and of each student: `taps` and the matrix `cka`. If these are the
      same, also `corresponding`, the value of each.
    """

    def taps(subject: Subject) -> dict[str, np.ndarray]:
        network = subject.trained.network

        def read(variables: Any, x: Array) -> list[Array]:
            found = network.evaluate(variables, x).taps
            maps = [found[name] for name in names]
            return [m.mean((1, 2)) if features == "mean" and m.ndim == 4 else m for m in maps]

        variables = subject.trained.variables
        known = jax.eval_shape(network.evaluate, variables, images.pixels[:1]).taps
        names = probes.taps_of(known)
        return dict(zip(names, Batched(read, variables)(images.pixels), strict=True))

    reference = taps(teacher)
    found: list[Figures] = []
    for student in students:
        own = taps(student)
        matrix = [[probes.cka(a, b, kernel) for b in reference.values()] for a in own.values()]
        found.append({"taps": list(own), "cka": [list(map(_number, row)) for row in matrix]})
        if list(own) == list(reference):
            diagonal = (_number(matrix[i][i]) for i in range(len(matrix)))
            found[-1]["corresponding"] = dict(zip(own, diagonal, strict=True))
    return {"taps": list(reference)}, found


def plane(
    teacher: Subject, students: Sequence[Subject], images: Images, *, triplets: int, grid: int
) -> tuple[Figures, list[Figures]]:
    """Similarity of decisions on planes through three images (Ojha et al. 2023, Table 1).

    Args:
      teacher: the reference.
      students: networks.
      images: of which the triplets are drawn; labels are not used.
      triplets: planes.
      grid: points of a plane along each axis.

    Returns:
      No figures of the teacher, and of each student: `agreement`, the share of the points at which
      it predicts what the teacher does, and its `deviation` over the planes.
    """
    if len(images.pixels) < 3:
        raise UserError(f"a plane goes through three images: there are {len(images.pixels)}")
    rng = np.random.default_rng(images.seed)
    shares: list[list[float]] = [[] for _ in students]
    for _ in range(triplets):
        chosen = rng.choice(len(images.pixels), 3, replace=False)
        through = probes.plane_through(images.pixels[chosen], grid)
        points = through.images(through.points())
        reference = teacher.logits(points).argmax(-1)
        for student, found in zip(students, shares, strict=True):
            found.append(float(np.mean(student.logits(points).argmax(-1) == reference)))
    return {}, [
        {"agreement": _number(np.mean(found)), "deviation": _number(np.std(found))}
        for found in shares
    ]


def _strength(view: str, text: str, side: int) -> float:
    """A strength of a view, as `text` says.

    Raises:
      UserError: if it is none.
    """
    allowed: dict[str, tuple[str, Callable[[float], bool]]] = {
        "color": ("numbers in [0, 1]", lambda x: 0 <= x <= 1),
        "crop": ("numbers in (0, 1]", lambda x: 0 < x <= 1),
        "shift": (f"whole numbers in [0, {side})", lambda x: x in range(side)),
    }
    what, fits = allowed[view]
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not fits(value):
        raise UserError(f"--strengths has {text!r}: for {view} they are {what}")
    return value


def _number(value: Any) -> float:
    return round(float(value), 6)
