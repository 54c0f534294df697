"""Settings of Sphinx; `python -m sphinx -W --keep-going docs docs/_build` builds the pages."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
# The kernels of the notebooks, too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

project = "kdjax"
author = "The kdjax authors"
copyright = "The kdjax authors"

extensions = [
    "extension",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = [".jupyter_cache", "_build", "jupyter_execute"]

html_theme = "sphinx_book_theme"
html_title = "kdjax"
html_theme_options = {"navbar_persistent": [], "show_navbar_depth": 1, "show_toc_level": 2}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_execution_excludepatterns = ["results/*"]

# In the docstrings of this project, `x` is code.
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"no-value": True}
# The section `Attributes` of a docstring has them.
napoleon_use_ivar = True
