"""Selects the feature maps of student and teacher that a method compares."""

import itertools
from collections.abc import Container, Sequence

from kdjax.types import Array, Context, UserError


def stages(taps: Container[str], suffix: str = "") -> list[str]:
    """The names of a network's stages, shallow to deep.

    Args:
      taps: of the network, or their names.
      suffix: "" or "_pre" (before the activation).
    """
    numbered = (f"stage{i}{suffix}" for i in itertools.count(1))
    return list(itertools.takewhile(lambda name: name in taps, numbered))


def paired(
    method: str,
    context: Context,
    taps: Sequence[str] = (),
    *,
    suffix: str = "",
    teacher_suffix: str | None = None,
) -> dict[str, tuple[Array, Array]]:
    """Pairs the student's feature maps with the teacher's.

    By default all stages are paired. If the networks have the same number of stages, they are
    paired in order. Otherwise stage i of the network with fewer, n of m, is paired with stage
    round(i m / n) of the other: the last with the last, and no stage of the shallower network
    is left out.

    Args:
      method: name of the method, for error messages.
      context: a context with exactly one teacher.
      taps: names of taps, or `student:teacher` where the two names differ; () for all stages.
      suffix: of the stages' taps: "" or "_pre" (before the activation).
      teacher_suffix: of the teacher's taps, if it differs from the student's.

    Returns:
      (student, teacher) by the name of the pair, which is written as in `taps`.

    Raises:
      UserError: if a network does not have a named tap, or has no stages.
    """
    student, teacher = context.student.taps, context.teacher.taps
    if not taps:
        other_suffix = suffix if teacher_suffix is None else teacher_suffix
        n, m = len(stages(student, suffix)), len(stages(teacher, other_suffix))
        few = min(n, m)
        if not few:
            raise UserError(f"method {method!r} needs feature maps: a network has no stages")
        taps = [
            f"stage{_same_depth(i, few, n)}{suffix}:stage{_same_depth(i, few, m)}{other_suffix}"
            for i in range(1, few + 1)
        ]
    pairs = {}
    for tap in taps:
        student_tap, _, teacher_tap = tap.partition(":")
        teacher_tap = teacher_tap or student_tap
        for role, name, known in (
            ("student", student_tap, student),
            ("teacher", teacher_tap, teacher),
        ):
            if name not in known:
                raise UserError(
                    f"method {method!r}: the {role} has no tap {name!r}: "
                    f"choose from {', '.join(known)}"
                )
        pair = student_tap if student_tap == teacher_tap else f"{student_tap}:{teacher_tap}"
        pairs[pair] = (student[student_tap], teacher[teacher_tap])
    return pairs


def maps(
    method: str,
    context: Context,
    taps: Sequence[str] = (),
    *,
    suffix: str = "",
    last: bool = False,
) -> dict[str, tuple[Array, Array]]:
    """Pairs feature maps as `paired` does, and requires them to be [b, h, w, c].

    Args:
      method: name of the method, for error messages.
      context: a context with exactly one teacher.
      taps: as for `paired`.
      suffix: as for `paired`.
      last: whether () stands for the last stages only.

    Raises:
      UserError: as `paired`, and if a tap is not a feature map.
    """
    pairs = paired(method, context, taps, suffix=suffix)
    if last and not taps:
        pairs = dict(list(pairs.items())[-1:])
    for name, pair in pairs.items():
        for feature in pair:
            if feature.ndim != 4:
                raise UserError(
                    f"method {method!r} compares feature maps [b, h, w, c], and "
                    f"{name!r} has shape {tuple(feature.shape)}"
                )
    return pairs


def _same_depth(i: int, few: int, count: int) -> int:
    """The stage of `count` at the relative depth of stage i of `few`; halves round up."""
    return (2 * i * count + few) // (2 * few)


def stem_and_stages(method: str, context: Context) -> dict[str, tuple[Array, Array]]:
    """The feature maps of `stem` and of all stages, shallow to deep."""
    return maps(method, context, ("stem",)) | maps(method, context)


def embeddings(method: str, context: Context) -> tuple[Array, Array]:
    """The inputs of the two networks' classifiers, `pre_logits`: [b, d] and [b, d']."""
    return paired(method, context, ("pre_logits",))["pre_logits"]
