"""What is said of the configs and their keys."""

from configs import distill
from experiments import usage


def test_data_set_on_the_command_line_says_what_stays_of_other_data():
    config = distill.get_config()
    assert usage.what_stays(config, {"student.epochs"}) == ""
    config.data.name = "npz:mine.npz"
    line = usage.what_stays(config, {"data.name", "data.resize"})
    assert "\n" not in line
    for kept in ("student.shots=4", "train.augment.flip=False", "student.epochs=640.0"):
        assert kept in line
    # What was set, too, is meant.
    assert "data.resize" not in line


def test_every_config_of_the_folder_is_listed_with_what_it_is():
    found = dict(usage.configs())
    assert {"configs/distill.py", "configs/recipes.py", "configs/zero_shot.py"} <= set(found)
    assert not {"configs/common.py", "configs/recipes_survey.py"} & set(found)
    assert all(line.endswith((".", ":")) or "(" in line for line in found.values()), found
