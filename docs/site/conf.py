"""Configuration of the documentation site: Sphinx reads the Markdown that `scripts/docs` prepares."""

from __future__ import annotations

from importlib.metadata import version as read_version

from click import Context
from sphinx.application import Sphinx

project = "venvd"
release = version = read_version("venvd")
author = "the venvd authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme = "furo"
html_title = f"venvd {release}"
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3
default_role = "code"
"""Docstrings put names between single backquotes."""
add_module_names = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
napoleon_use_ivar = True  # as fields of the class: autodoc describes attributes of its own
napoleon_use_rtype = False
napoleon_custom_sections = [("Options", "params_style")]
suppress_warnings = ["misc.highlighting_failure"]  # shell sessions with text over several lines


def escape_stars(_app: Sphinx, _context: Context, lines: list[str]) -> None:
    """Escape the stars of help texts, which are patterns and no emphasis."""
    lines[:] = [line.replace("*", "\\*") for line in lines]


def setup(app: Sphinx) -> None:
    for event in ("description", "options", "arguments", "epilog"):
        app.connect(f"sphinx-click-process-{event}", escape_stars)
