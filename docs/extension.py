"""What the pages need of Sphinx: generated parts, and formulas that every browser draws itself."""

import shlex
import shutil
from pathlib import Path
from typing import Any, ClassVar

import generate
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """`{generated} NAME ARGUMENTS`: a part of `generate.PARTS`."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {"only": str}

    def run(self) -> list[nodes.Node]:
        """Parses what the part is made of as Markdown."""
        name, *arguments = shlex.split(self.arguments[0])
        part = generate.PARTS[name](*arguments, **self.options)
        return self.parse_text_to_nodes(part, allow_section_headings=True)


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext(), display="inline"))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(
        f'<div class="formula">{convert(node.astext(), display="block")}</div>\n'
    )
    raise nodes.SkipNode


def _without_field_aliases(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out the fields of NamedTuples, which the section `Attributes` describes."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


def _copy_results(app: Sphinx) -> None:
    """Copies `results/`, as Sphinx reads nothing outside its folder."""
    copy = Path(app.srcdir, "results")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(generate.ROOT / "results", copy)


def _link_results(app: Sphinx, name: str, source: list[str]) -> None:
    """Turns links to `results/`, which are right in the repository, into links to the copy."""
    source[0] = source[0].replace("](../results/", "](results/").replace("](../../", "](../")
    if name == "results/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive, the renderer and the filter of members."""
    app.add_directive("generated", Generated)
    # MathML needs neither a network nor JavaScript.
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("builder-inited", _copy_results)
    app.connect("source-read", _link_results)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-skip-member", _without_field_aliases)
    return {"parallel_read_safe": True}
