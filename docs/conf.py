"""Sphinx: python -m sphinx -W docs docs/_build makes the pages and the API reference."""

from docutils import nodes
from docutils.utils.math import latex2mathml

from padim_lit import __version__

project, author, release = "padim_lit", "the padim_lit authors", __version__
html_title = "padim_lit"
html_theme = "furo"
html_show_copyright = False
html_static_path, html_css_files = ["_static"], ["site.css"]
html_math_renderer = "mathml"
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
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
# Pages link to files of the repository, as GitHub shows them; where the site has what they say.
SITE = {
    "(../README.md#run-it)": "(index.md)",
    "(../README.md#how-it-works)": "(words.md)",
    "(../README.md)": "(words.md)",
    "(../CONTRIBUTING.md#the-map-of-rooms)": "(rooms.md)",
    "(../CHANGELOG.md)": "(path:../CHANGELOG.md)",
}


def within_the_site(app, name, source):
    """Links to the repository's pages lead to their parts of the site."""
    for link, place in SITE.items():
        source[0] = source[0].replace(link, place)


def keep_whole(app, doctree):
    """Marks a table's short entries: a number and its interval stay on one line."""
    for entry in doctree.findall(nodes.entry):
        if len(entry.astext()) < 30:
            entry["classes"].append("whole")


def visit_math(self, node):
    """Formulas as MathML, which browsers show by themselves: MathJax would need the network."""
    block = isinstance(node, nodes.math_block)
    self.body.append(latex2mathml.tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def setup(app):
    """What Sphinx calls."""
    app.connect("source-read", within_the_site)
    app.connect("doctree-read", keep_whole)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
