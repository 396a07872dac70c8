"""The configuration of Sphinx for `make docs`: pages are in this folder, code of our own in `docs/site`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shmprotocol import __version__  # noqa: E402

project = "shmhost"
author = "the authors of shmhost"
project_copyright = "Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "docs.site.extension"]
exclude_patterns = ["site/**"]
root_doc = "index"
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
nitpicky = False
show_warning_types = True

myst_heading_anchors = 4  # as GitHub has them
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["misc.highlighting_failure"]

default_role = "py:obj"  # `name` in a docstring: a link where there is such a name, code where not
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
python_display_short_literal_types = True
highlight_language = "text"

html_theme = "furo"
html_title = "shmhost"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"source_directory": "docs/", "navigation_with_keys": True}
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "native"
