# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: ``make docs``. Pages that state facts are written from the code, see CONTRIBUTING.md."""

from __future__ import annotations

import re
from importlib import metadata

from sphinx.application import Sphinx

project = "sigmahat"
author = "The sigmahat authors"
release = metadata.version("sigmahat")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["golden", "_build"]

html_theme = "furo"
html_title = "sigmahat"
html_show_sourcelink = False

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types, with shapes
napoleon_google_docstring = False
napoleon_use_rtype = False

_LEADS_OUT = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./|golden|examples)[^)]*\)")


def _keep_text_of_links_that_lead_out(app: Sphinx, page: str, source: list[str]) -> None:
    """The repository's other files are not in the site: a link to one becomes its text."""
    source[0] = _LEADS_OUT.sub(r"\1", source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _keep_text_of_links_that_lead_out)
