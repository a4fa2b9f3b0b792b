"""Sphinx configuration. The reference is made from the docstrings of every module."""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import methods_table

project = "sdeadapt"
copyright = "the sdeadapt authors"
version = release = installed_version("sdeadapt")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]

html_theme = "furo"
html_title = "sdeadapt"

autosummary_generate = True
autosummary_ignore_module_all = True  # what a package re-exports is documented where it is defined
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
suppress_warnings = ["ref.python"]  # State and Point are names that every method has
napoleon_use_rtype = False
napoleon_use_ivar = True

MATH_OR_CODE = re.compile(r"(\$\$[^$]+\$\$|\$[^$]+\$|``[^`]+``|(?<!:)`[^`]+`)")


def to_rst(app, what, name, obj, options, lines):
    """Turn the docstrings' `code` and $math$ into reStructuredText, and escape what would be markup there."""
    paragraphs = "\n".join(lines).split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        if not paragraph.lstrip().startswith(">>>"):
            paragraphs[i] = "".join(map(piece_to_rst, MATH_OR_CODE.split(paragraph)))
    lines[:] = "\n\n".join(paragraphs).split("\n")


def piece_to_rst(piece):
    """Return one stretch of math, code or text."""
    inner = " ".join(piece.strip("$`").split())
    if piece.startswith("$"):
        return f":math:`{inner}`"
    if piece.startswith("`"):
        return f"``{inner}``"
    return re.sub(r"(\||\*(?! )|(?<=\w)_(?!\w))", r"\\\1", piece)


def setup(app):
    """Run before napoleon (priority 500), which reads the Google sections; fill in the page of methods."""
    app.connect("source-read", methods_table.insert)
    app.connect("autodoc-process-docstring", to_rst, priority=400)
