"""Sphinx: python -m sphinx -W docs docs/_build makes the pages and the API reference."""

from padim_lit import __version__

project, author, release = "padim_lit", "the padim_lit authors", __version__
html_title = "padim_lit"
html_theme = "furo"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build"]
# Single backticks in docstrings name objects of this package.
default_role = "py:obj"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # Lightning's are in its own reference
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are described in the class's docstring alone
myst_heading_anchors = 3
# Pages link to files of the repository (README, examples), which are not part of the site.
suppress_warnings = ["myst.xref_missing"]
