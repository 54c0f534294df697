"""Any value of any key: a config can be planned, or is refused with one line."""

import itertools
import math
import random

import pytest
from small_run import declared, small_config

from experiments import keys, plan, run
from kdjax import UserError

VALUES = (
    -1, 0, 1, 2, 3, 10**6, 2**31, 2**63, -1.0, 0.0, 0.5, 1.0, 1e-300, 1e300,
    math.nan, math.inf, -math.inf, "", "x", "a:b", "../x", "[/b]", "\0", "teacher", "kd", "digits",
    True, False, (), (0,), (1, 1), (0.5, math.nan), ("teacher",), ("kd",), ("x", "x"), (1, 2, 3),
)  # fmt: skip


TABLES = {
    (): keys.RUN, ("data",): keys.DATA, ("evaluation",): keys.EVALUATION,
    ("phases", "kd"): keys.PHASE,
}  # fmt: skip
KEYS = [".".join(path) for prefix, table in TABLES.items() for path, _ in declared(table, prefix)]
CASES = list(itertools.product(KEYS, VALUES))
# A test of every case takes minutes.
CHOSEN = random.Random(0).sample(CASES, 150)


def outcome(path, value):
    """What becomes of a config with a value: "planned", "refused", or "no such type"."""
    config = small_config()
    group, _, key = path.rpartition(".")
    place = config
    for part in filter(None, group.split(".")):
        place = place[part]
    try:
        place[key] = value
    except TypeError:
        # The command line says so, too.
        return "no such type"
    try:
        plan.plan_all(run.resolve(config))
    except UserError as error:
        text = str(error)
        assert text
        assert "\n" not in text, text
        return "refused"
    return "planned"


@pytest.mark.usefixtures("shapes_known")
def test_chosen_values_are_planned_or_refused():
    found = {outcome(*case) for case in CHOSEN}
    assert found == {"planned", "refused", "no such type"}


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_known")
@pytest.mark.parametrize("path", KEYS)
def test_every_value_is_planned_or_refused(path):
    for value in VALUES:
        assert outcome(path, value)
