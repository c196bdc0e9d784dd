"""Configuration of the documentation: `make docs` builds it, offline.

Nothing is fetched while it builds (no intersphinx), and the built pages load nothing
from elsewhere: formulas are MathML, which browsers draw by themselves, and the theme
brings its own scripts and fonts.
"""

import os
import shutil
import sys
import tomllib
import warnings
from pathlib import Path

# SciPy reads this once, when it is first imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "_ext"))

import matplotlib  # noqa: E402
from docutils import nodes  # noqa: E402

import chita_sklearn  # noqa: E402

matplotlib.use("Agg")
warnings.filterwarnings("ignore", message=".*non-GUI backend|.*cannot show the figure")

project = "chita-sklearn"
author = "chita-sklearn developers"
copyright = author
version = release = chita_sklearn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "matplotlib.sphinxext.plot_directive",
    "links",
    "mathml",
    "measured",
    "offline",
    "run",
    "sklearn_links",
]
exclude_patterns = ["_build", "_run", "benchmarks_*.md", "**/sg_execution_times.rst"]
templates_path = ["_templates"]
language = "en"
highlight_language = "python"

# --- Docstrings
autosummary_generate = True
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

# --- Formulas
html_math_renderer = "mathml"

# --- Tables written by the benchmarks, within Markdown pages
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache", "myst.header"]

# --- Figures drawn while the documentation is built
plot_formats = [("png", 130)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = False
plot_working_directory = str(DOCS)
plot_rcparams = {
    "axes.prop_cycle": matplotlib.cycler(
        color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999"]
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (6.4, 3.6),
    "legend.frameon": False,
}
plot_apply_rcparams = True

# --- The gallery
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "backreferences_dir": "api/generated/backreferences",
    "doc_module": ("chita_sklearn", "chita_torch"),
    "parallel": False,
    # The table of times that it would add loads scripts from elsewhere.
    "write_computation_times": False,
}

# --- Pages
html_theme = "pydata_sphinx_theme"
html_title = "chita-sklearn"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": {"**": ["page-toc"], "benchmarks": [], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
_ALONE = ("index", "quick_start", "how_it_works", "benchmarks", "troubleshooting")
_ALONE += ("glossary", "release_notes", "citing", "contributing")
# The repository is linked where pyproject.toml names it.
_project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
if "Repository" in _project.get("urls", {}):
    html_theme_options["icon_links"] = [
        {
            "name": "Repository",
            "url": _project["urls"]["Repository"],
            "icon": "fa-brands fa-square-git",
        }
    ]
    html_theme_options["navbar_end"].append("navbar-icon-links")
html_sidebars = {name: [] for name in _ALONE}

# --- Code is copied without what it printed
copybutton_selector = "div.highlight:not(.run-output *) pre"


def _leave_examples_clean(app, exception):
    """Remove the pictures that the examples save where they run."""
    shutil.rmtree(ROOT / "examples" / "demo_output", ignore_errors=True)


def _describe_thumbnails(app, doctree, docname):
    """Give the gallery's small pictures the title of their example as text."""
    for image in doctree.findall(nodes.image):
        name = Path(image["uri"]).stem
        if name.startswith("sphx_glr_") and name.endswith("_thumb"):
            stem = name.removeprefix("sphx_glr_").removesuffix("_thumb")
            title = app.env.titles[f"auto_examples/{stem}"].astext()
            image["alt"] = f"Picture of the example: {title}"


def setup(app):
    """Connect what this file does itself."""
    app.connect("doctree-resolved", _describe_thumbnails)
    app.connect("build-finished", _leave_examples_clean)
