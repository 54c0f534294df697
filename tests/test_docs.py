"""What the documentation repeats is the same in both places."""

from pathlib import Path


def test_the_table_of_readme_is_that_of_the_results():
    table = [line for line in Path("README.md").read_text().splitlines() if "±" in line]
    assert len(table) == 3
    assert set(table) <= set(Path("results/digits.md").read_text().splitlines())


def test_every_page_of_results_is_listed():
    index = Path("results/README.md").read_text()
    pages = {path.name for path in Path("results").glob("*.md")} - {"README.md"}
    assert all(f"]({page})" in index for page in pages)
