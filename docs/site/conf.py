"""
The configuration of the documentation site: `make docs`.

Owns what Sphinx is told. Does not own the order of the pages (docs/index.rst).
"""

project = "Signalbox"
copyright = "the Signalbox authors"
extensions = ["myst_parser", "docs.site.search_entries"]
exclude_patterns = ["site"]
# Headings have the ids that GitHub gives them, so that links to them can be checked.
myst_heading_anchors = 4
# Blocks without a language are shell sessions and diagrams.
highlight_language = "none"

html_theme = "furo"
html_title = "Signalbox"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
