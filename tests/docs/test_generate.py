"""The parts of the pages that are made from the code and the results."""

import re
import sys
from pathlib import Path

import pytest

from configs.methods import RECIPES
from kdjax import distillers

sys.path.append("docs")

import generate


def test_every_key_of_a_config_has_a_description():
    groups = generate.comments_of_config()
    bare = [
        key
        for key, (_, text) in generate.described_keys().items()
        if not text and key.rpartition(".")[0] not in groups
    ]
    assert not bare, "no comment in configs/common.py beside or above these keys"


def test_descriptions_of_keys_are_not_taken_for_html():
    prose = [re.sub(r"`[^`]*`", "", text) for _, text in generate.described_keys().values()]
    assert not [text for text in prose if "<" in text]


def test_the_configuration_page_shows_every_key():
    page = Path("docs/configuration.md").read_text()
    groups = re.findall(r"^```\{generated\} config_keys ?(\S*)$", page, re.M)
    shown = "".join(generate.config_keys(group) for group in groups)
    assert not [key for key in generate.described_keys() if f"| `{key}` |" not in shown]


def test_every_method_has_a_page_in_the_index():
    pages = {path.stem for path in Path("docs/methods").glob("*.md")}
    assert set(distillers.names()) <= pages
    listed = Path("docs/methods/index.md").read_text().partition("{toctree}")[2].split()
    assert pages - {"index"} <= set(listed)


PAGES = sorted(page for page in Path("docs").rglob("*.md") if "_build" not in page.parts)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_generated_parts_have_content(page):
    found = re.findall(
        r"^```\{generated\} (\S+) ?([^\n]*)\n(?::only: ([^\n]+)\n)?```", page.read_text(), re.M
    )
    for name, arguments, only in found:
        if name != "models":  # tests/experiments/test_models.py has it
            options = {"only": only} if only else {}
            text = generate.PARTS[name](*arguments.split(), **options)
            assert "\n| " in text or "###" in text
            if name == "measured":
                assert all(
                    f"| {one} |" in text or f"`{one}`" in text for one in arguments.split()[1:]
                )


@pytest.mark.parametrize("name", RECIPES)
def test_the_weight_of_a_method_is_that_of_its_recipe(name):
    assert f"| {RECIPES[name].weight:g} |" in generate.method(name)


def test_arguments_of_configs_are_their_defaults():
    from configs import distill, recipes_capacity

    (arguments,) = generate.config_arguments(distill).values()
    assert arguments["methods"] == "kd"
    assert set(generate.config_arguments(recipes_capacity)) == set(recipes_capacity.RECIPES)


def test_tables_of_results_are_read_with_their_headings():
    text = generate.measured("results/digits.md", "kd", only="The four views of the teacher")
    source = Path("results/digits.md").read_text()
    for row in text.splitlines()[4:]:
        assert row in source.replace("| |", "|  |").replace("| |", "|  |")
