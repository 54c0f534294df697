"""Whole runs of any values that the declared keys allow: they finish, or end with one line."""

import json
import math
import shutil

from damage import read_or_refused
from hypothesis import event, given, settings
from hypothesis import strategies as st
from small_run import declared, execute, small_config

from experiments import keys, plan, rules, run, schema
from kdjax import distillers

WORDS = (
    "", "x", "kd", "teacher", "teacher@0", "teacher@1", "1:2", "resnet8", "lenet", "small_run:Tiny",
    "digits", "test", "train", "tensorboard", "cross_entropy",
)  # fmt: skip
SIZES = (0, 1, 2, 3, 5, 8, 16, 100)
NUMBERS = (-1.0, 0.0, 1e-6, 0.1, 0.5, 0.9, 1.0, 2.0, 30.0, 1e4)


def allowed(rule):
    """Values that a rule allows; of numbers those that make small programs."""
    if isinstance(rule, rules.Flag):
        return st.booleans()
    if isinstance(rule, rules.Choice):
        return st.sampled_from(rule.options)
    if isinstance(rule, rules.Number):
        some = SIZES if isinstance(rule, rules.Whole) else NUMBERS
        return st.sampled_from([value for value in some if rule.fits(value)])
    if isinstance(rule, rules.Several):
        return st.lists(allowed(rule.each), max_size=3).filter(rule.fits).map(tuple)
    return st.sampled_from(WORDS)


KEYS = [
    *((path, rule) for path, rule in declared(keys.RUN) if path[0] not in ("debug", "devices")),
    *((path, rule) for path, rule in declared(keys.DATA, ("data",)) if path[1] != "name"),
    *declared(keys.PHASE, ("phases", "kd")),
    *declared(keys.PHASE, ("phases", "teacher")),
]
TERM = [
    (path, rule) for path, rule in declared(keys.TERM) if path[0] in ("weight", "on", "schedule")
]


@st.composite
def configs(draw):
    """A config of a teacher and a student of any method, with some keys changed."""
    config = small_config()
    del config.phases["scratch"]
    config.debug = True
    method = draw(st.sampled_from(distillers.names()))
    term = {"method": method}
    for path, rule in draw(st.lists(st.sampled_from(TERM), max_size=1)):
        place = term
        for part in path[:-1]:
            place = place.setdefault(part, schema.defaults(keys.TERM[part]))
        place[path[-1]] = draw(allowed(rule))
    changes = {"objective": {"cross_entropy": {"weight": 1.0}, "term": term}}
    config.phases.kd.update(changes)
    for path, rule in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)):
        place = config
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = draw(allowed(rule))
    return config


def outcome(config, workdir):
    """What becomes of a run; checks what it leaves."""
    if config.teacher_cache:
        config.teacher_cache = str(workdir.parent / f"of {workdir.name}" / config.teacher_cache)
    ended = read_or_refused(execute, config, workdir)
    if isinstance(ended, str):
        return "refused" if not workdir.exists() else "ended"
    summary = json.loads((workdir / "summary.json").read_text(), parse_constant=_refuse)
    assert {result["phase"] for result in summary["phases"].values()} == {"teacher", "kd"}
    for result in summary["phases"].values():
        assert all(math.isfinite(value) for value in result["test"].values())
    return "finished"


def _refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


@settings(max_examples=max(5, settings.default.max_examples // 20))
@given(config=configs())
def test_any_run_finishes_or_ends_with_one_line(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("any")
    event(outcome(config, folder / "run"))
    shutil.rmtree(folder)


@given(config=configs())
def test_any_config_is_planned_or_refused(shapes_known, config):
    plans = read_or_refused(lambda: plan.plan_all(run.resolve(config)))
    event("refused" if isinstance(plans, str) else "planned")
