"""How the documents become a site: `make docs`. Nothing is fetched, and every example of a page is run."""

import sys
from pathlib import Path

import torch

import xent

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from docs.extensions import inventories  # noqa: E402

torch.set_num_threads(1)  # as in the tests

project = "xent"
author = "the xent authors"
copyright = "2026, the xent authors"
version = release = xent.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "docs.extensions.executed",
    "docs.extensions.mathml",
]
intersphinx_mapping = inventories.write(HERE / "_build" / "inventories")
html_math_renderer = "mathml"
nitpicky = True
nitpick_ignore_regex = [("py:class", r"xent\._\w+\..*")]  # what results of private rooms are made of: see their source
default_role = "code"

exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
napoleon_custom_sections = [("Shape", "notes_style")]

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "xent"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_use_index = False  # one page has all names
