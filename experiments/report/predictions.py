"""Predictions of a run's networks on its test split."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments import data, plan
from experiments.data import PhaseSplit, RunData
from experiments.evaluation import Evaluator, TeacherLogits
from experiments.members import Member, expand
from experiments.report.agreement import Prediction
from experiments.report.runs import Run
from kdjax import networks, parallel, references
from kdjax.data import sources
from kdjax.networks import TrainedNetwork
from kdjax.types import UserError


class Compared(NamedTuple):
    """A member's prediction and that of its teacher.

    Attributes:
      member: its name.
      own: its prediction.
      teacher: that of its teachers together; None if it has none, or of other classes.
      teachers: what the run calls these.
    """

    member: str
    own: Prediction
    teacher: Prediction | None
    teachers: tuple[str, ...]


class Predictions(NamedTuple):
    """What a run's networks predict on its test split.

    Attributes:
      split: the images.
      num_classes: k.
      class_names: k names; numbers where the run has none.
      phases: by phase, its members.
      elsewhere: predictions of teachers that are not phases of the run, by name.
    """

    split: PhaseSplit
    num_classes: int
    class_names: Sequence[str]
    phases: dict[str, list[Compared]]
    elsewhere: dict[str, Prediction]

    @property
    def labels(self) -> np.ndarray:
        """int32 [n], -1 where unknown."""
        return self.split.labels


def predict(run: Run) -> Predictions:
    """Loads the networks of a run and lets them predict its test split.

    Raises:
      UserError: if the data or a network cannot be read, or if there is no test split.
    """
    try:
        config = ConfigDict(run.config)
        return _Networks(run, config, _read(config)).predict()
    except OSError as error:
        raise UserError(f"cannot read the data: {error}") from None


def _read(config: ConfigDict) -> RunData:
    for given in (config.data, config.evaluation):
        sources.check_trusted(given.name)
    # Evaluation looks at resized images only.
    found = data.read_run(config.data.to_dict() | {"whole": False}, config.evaluation.to_dict())
    return found.few() if config.debug else found


class _Networks:
    """The networks of a run, and what they predict."""

    def __init__(self, run: Run, config: ConfigDict, run_data: RunData):
        self._run, self._config, self._data = run, config, run_data
        splits = (run_data.data if run_data.data.splits else run_data.evaluation).splits
        if "test" not in splits:
            raise UserError("the run has no test split")
        self._split = splits["test"]
        self._size = run_data.data.image_size
        self._devices = parallel.Devices.dividing(len(self._split))
        self._loaded: dict[str, TrainedNetwork] = {}
        # Members of a phase share a compiled program.
        self._evaluators: dict[str, Evaluator] = {}

    def predict(self) -> Predictions:
        phases: dict[str, list[Compared]] = {}
        elsewhere: dict[str, Prediction] = {}
        for phase, members in expand(self._run.config["phases"]).items():
            trained = [one for one in members if self._is_trained(one.name)]
            compared = [one for one in map(self._compare, trained) if one is not None]
            if not compared:
                continue
            phases[phase] = compared
            for one in compared:
                if one.teacher and not any(self._is_trained(name) for name in one.teachers):
                    elsewhere[" + ".join(one.teachers)] = one.teacher
        return Predictions(
            self._split, self._data.data.num_classes, self._names(), phases, elsewhere
        )

    def _is_trained(self, name: str) -> bool:
        # A member that diverged has a folder, and no result.
        return (self._run.folder / name / "network.json").exists() and (
            "@" in name or (self._run.folder / name / "result.json").exists()
        )

    def _names(self) -> Sequence[str]:
        count = self._data.data.num_classes
        for member in self._run.summary["phases"]:
            names = self._run.network(member).get("class_names", ())
            if len(names) == count:
                return [str(name) for name in names]
        return [str(i) for i in range(count)]

    def _compare(self, member: Member) -> Compared | None:
        """A member beside its teachers; None if it has not the classes of the data."""
        trained = self._load(member.name, self._config.phases[member.phase])
        if trained.network.module.num_classes != self._data.data.num_classes:
            return None
        if member.phase not in self._evaluators:
            self._evaluators[member.phase] = Evaluator(trained.network, self._size, self._devices)
        logits = self._evaluators[member.phase].logits(trained.variables, self._split)
        names = member.teachers or member.compared_with[:1]
        taught = self._taught(member, names)
        same = taught is not None and taught.shape == logits.shape
        teacher = Prediction.of(taught) if taught is not None and same else None
        return Compared(member.name, Prediction.of(logits), teacher, names)

    def _taught(self, member: Member, names: Sequence[str]) -> np.ndarray | None:
        """The logits of a member's teachers together; None if one of them is no network."""
        phase = self._config.phases[member.phase]
        sizes: Any = phase.augment.teacher_size if member.teachers else ()
        if not all(self._is_trained(name) or "/" in name or "=" in name for name in names):
            return None
        teachers = {name: self._load(name, phase, max(sizes, default=0)) for name in names}
        return TeacherLogits(teachers, self._size, self._devices, sizes).joint(self._split)

    def _load(self, name: str, phase: ConfigDict, size: int = 0) -> TrainedNetwork:
        """A network with variables on the devices; each is loaded once."""
        if name not in self._loaded:
            if self._is_trained(name):
                found = networks.load(str(self._run.folder / name), dtype=phase.dtype)
            else:
                if references.is_reference(model := name.partition("=")[0]):
                    references.check_trusted(model, f"{str(self._run.folder)!r}: model")
                found = plan.load_network(name, phase, self._data.data, size)
            placed = self._devices.replicate(found.variables)
            self._loaded[name] = found._replace(variables=placed)
        return self._loaded[name]
