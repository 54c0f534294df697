"""What a config may say: every key has a range, and a value outside of it is one line."""

import dataclasses
import math

import pytest
from ml_collections import ConfigDict
from small_run import refusal, small_config

from configs import common, distill
from experiments import keys, rules, run, schema
from experiments.length import Margin
from experiments.tasks.data_free import Settings
from kdjax import UserError


def message(config):
    with pytest.raises(UserError) as error:
        run.resolve(config)
    text = str(error.value)
    assert "\n" not in text
    return text


def flat(declared, prefix=""):
    for name, key in declared.items():
        if isinstance(key, dict):
            yield from flat(key, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", key


ALL = [
    *flat(keys.RUN), *flat(keys.DATA, "data."), *flat(keys.EVALUATION, "evaluation."),
    *flat(keys.PHASE, "train."),
]  # fmt: skip


def test_every_key_of_a_config_is_declared_with_its_default():
    config = common.base()
    declared = {name for name, _ in ALL}
    found = set()

    def walk(group, prefix=""):
        for key in group:
            path = f"{prefix}{key}"
            if path in declared:
                found.add(path)
            elif isinstance(group[key], ConfigDict):
                if path not in ("teacher", "student", "phases", "report"):
                    walk(group[key], f"{path}.")
            else:
                raise AssertionError(f"{path} is not declared")

    walk(config)
    assert found == declared


@pytest.mark.parametrize(("name", "key"), ALL, ids=[name for name, _ in ALL])
def test_defaults_are_allowed_and_every_key_has_a_meaning(name, key):
    assert key.rule is None or key.rule.fits(key.default)
    assert key.meaning.endswith(".")


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("train.augment.padding", -1, "a whole number in [0, 4096]"),
        ("train.augment.mixup", math.nan, "a number of at least 0"),
        ("train.augment.scale", (0.5,), "2 rising values, each a number in (0, 1]"),
        ("train.augment.scale", (2.0, 3.0), "2 rising values"),
        ("train.augment.scale", (1.0, 0.1), "2 rising values"),
        ("train.augment.cutout", -5, "a whole number in [0, 4096]"),
        ("train.optimizer.momentum", 2.0, "a number in [0, 1)"),
        ("train.optimizer.learning_rate", math.inf, "a number of at least 0"),
        ("train.optimizer.name", "sdg", "one of adadelta, adafactor, adam, adamw, dot, sgd"),
        ("train.schedule.warmup", -5.0, "a number of at least 0"),
        ("train.schedule.boundaries", (math.inf,), "a tuple of rising values"),
        ("train.ema_decay", 2.0, "a number in [0, 1)"),
        ("train.std", (1e-300,), "a tuple of values, each a number of at least 0.0001"),
        ("train.std", ("wide",), "a tuple of values"),
        ("train.epochs", math.nan, "a number in [0, 1e+09]"),
        ("train.select", "first", "one of last, best"),
        ("train.batch_size", 0, "a whole number of at least 1"),
        ("data.resize", 100_000, "a whole number in [0, 4096]"),
        ("data.memory", math.nan, "a number of at least 0"),
        ("eval_every", math.nan, "a number of at least 0"),
        ("steps_per_call", -1, "a whole number of at least 0"),
        ("log_every", -5, "a whole number of at least 1"),
        ("checkpoint_every", math.nan, "a number of at least 0"),
        ("seed", 2**63, "a whole number in [0, 4294967295]"),
        ("phases.kd.objective.kd.temperature", 0.0, "a number above 0"),
        ("phases.kd.objective.kd.temperature", -1.0, "a number above 0"),
        ("phases.kd.objective.kd.temperature", math.inf, "a number above 0"),
        ("phases.kd.objective.kd.weight", math.nan, "a finite number"),
        ("phases.kd.teachers", ("teacher", "teacher"), "a tuple of different values"),
    ],
)
def test_nonsense_is_refused_with_its_key_and_what_is_allowed(path, value, rule):
    config = small_config()
    group, _, key = path.rpartition(".")
    place = config
    for part in filter(None, group.split(".")):
        place = place[part]
    place[key] = value
    line = message(config)
    assert line.startswith(f"{path} is "), line
    assert f": it must be {rule}" in line


def test_the_layer_is_named_that_a_value_was_set_in():
    config = small_config()
    config.student.augment.padding = -1
    assert message(config).startswith("student.augment.padding is -1")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"objective": {"kd": {"temperature": "warm"}}}, "objective.kd.temperature is 'warm'"),
        ({"objective": {"kd": {"distance": 3}}}, "objective.kd.distance is 3: it must be a string"),
        ({"objective": {"crd": {"negatives": 0.5}}}, "objective.crd.negatives is 0.5"),
        ({"objective": {"kd": 4.0}}, "objective.kd is 4.0: it must be a group of keys"),
        (
            {"objective": {"mine": {"method": "a:b", "x": math.inf}}},
            "objective.mine.x is inf: it must be made of strings and finite numbers",
        ),
        ({"until": {"a": {"margin": math.nan}}}, "until.a.margin is nan"),
        ({"extra_views": {"a": {"padding": -2}}}, "extra_views.a.padding is -2"),
        ({"adversarial": {"latent_dim": 0}}, "adversarial.latent_dim is 0"),
    ],
)
def test_groups_without_fixed_keys_are_checked_too(changes, line):
    config = small_config()
    for key, value in changes.items():
        config.phases.kd[key] = ConfigDict(value)
    assert f"phases.kd.{line}" in message(config)


def test_a_refused_value_leaves_nothing_and_the_corrected_command_works(tmp_path):
    config = small_config()
    config.train.augment.padding = -1
    assert "train.augment.padding is -1" in refusal(config, tmp_path / "run")


def test_ranges():
    half_open = rules.Number(0, 1, above=True)
    assert [half_open.fits(x) for x in (0, 1e-9, 1, 1.1, True, "1", None)] == [
        False, True, True, False, False, False, False,
    ]  # fmt: skip
    assert not rules.Whole(0).fits(1.0)
    assert rules.Whole(0).fits(10**30)
    assert str(rules.Number()) == "a finite number"


def test_defaults_of_groups_without_fixed_keys_are_those_of_what_reads_them():
    assert schema.defaults(keys.ADVERSARIAL) == Settings._field_defaults
    read = {field.name: field.default for field in dataclasses.fields(Margin)}
    declared = schema.defaults(keys.UNTIL)
    assert {key: read[key] for key in ("margin", "below")} == {
        key: declared[key] for key in ("margin", "below")
    }


def test_configs_in_use_are_allowed():
    schema.check(distill.get_config("methods=crd+kd").to_dict())
