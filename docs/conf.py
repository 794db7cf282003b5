"""How the documents become a site: `make docs`. Nothing is fetched unless XENT_DOCS_ONLINE=1, for links to torch."""

import os

import xent

project = "xent"
author = "the xent authors"
copyright = "2026, the xent authors"
version = release = xent.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
if os.environ.get("XENT_DOCS_ONLINE") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
napoleon_custom_sections = [("Shape", "notes_style")]

html_theme = "furo"
html_title = "xent"
html_static_path = ["_static"]
