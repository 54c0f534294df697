"""What the folder of a run tells of one of its networks: config, teachers, figures."""

from pathlib import Path
from typing import Any, NamedTuple

from experiments import earlier, stored
from experiments.members import Member


class Provenance(NamedTuple):
    """Where a trained network comes from.

    Attributes:
      folder: of the network, `RUN/PHASE` or `RUN/PHASE@EPOCH`.
      config: of the run.
      member: the seed of the phase that trained the network.
      result: what summary.json holds of that member; {} for a network kept on the way, and for
        a phase that is not finished.
      summary: of the run, without its config and phases; {} if it is not finished.
    """

    folder: Path
    config: dict[str, Any]
    member: Member
    result: dict[str, Any]
    summary: dict[str, Any]

    @property
    def phase(self) -> dict[str, Any]:
        """The config of the phase."""
        phase: dict[str, Any] = self.config["phases"][self.member.phase]
        return phase

    @property
    def teachers(self) -> dict[str, Path]:
        """The folders of the networks that taught this one, if they still exist, by name."""
        folders = {name: earlier.folder(name, self.folder) for name in self.member.teachers}
        return {k: folder for k, folder in folders.items() if (folder / "network.json").exists()}


def read(folder: Path) -> Provenance | None:
    """Reads what a run's folder tells of the network in `folder`; None if it is not in one.

    Raises:
      UserError: if a file of the run is damaged.
    """
    run = folder.resolve().parent
    if not (run / "config.json").exists():
        return None
    config = stored.config(run)
    name, kept, _ = folder.resolve().name.partition("@")
    member = next((one for one in stored.members(config) if one.name == name), None)
    if member is None:
        return None
    result, summary = {}, {}
    if not kept and (folder / "result.json").exists():
        result = stored.result(folder)
    if (run / "summary.json").exists():
        summary = stored.summary(run)
        summary = {key: summary[key] for key in summary.keys() - {"config", "phases"}}
    return Provenance(folder, config, member, result, summary)
