"""How Sphinx makes the site: `python -m sphinx -W --keep-going docs build/docs`.

The API is read off the docstrings. The gallery runs the scripts of examples/, and shows what they
print and draw.
"""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.ext import autosummary
from sphinx_gallery.scrapers import figure_rst

os.environ.setdefault("KERAS_BACKEND", "jax")  # its own default is another package
sys.path.insert(0, str(Path(__file__).parent))  # sphinx-gallery finds its functions here by name

project = "foveate"
author = "the foveate developers"
project_copyright = author
release = version = version_of("foveate")
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery/*.py"]
templates_path = ["_templates"]

# --- pages ----------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = (
    "mathml"  # below: browsers draw it themselves, where MathJax is asked of a network
)
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
linkcheck_ignore = [r"https://github\.com/foveate/foveate"]  # until the project is there
linkcheck_timeout = 20


def visit_math(translator: Any, node: nodes.math) -> None:
    """Write a formula in a line of text as MathML."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on its own as MathML; a long one scrolls by itself."""
    formula = convert(node.astext(), display="block")
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


# --- the API --------------------------------------------------------------------------------------

default_role = "py:obj"  # `attention` in a docstring is a link, where there is such a thing
autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "none"  # docstrings say the types, in fewer words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template of classes shows them
numpydoc_class_members_toctree = False


# Tables: a sentence does not end at the dot of a product, `q . k`; no numbers of references.
autosummary.WELL_KNOWN_ABBREVIATIONS = (*autosummary.WELL_KNOWN_ABBREVIATIONS, " .")
whole_summary = autosummary.extract_summary
autosummary.extract_summary = lambda *args: re.sub(r" ?\[[\w-]+\]_", "", whole_summary(*args))


def skip_member(
    _app: Any, _what: str, name: str, member: Any, skip: bool, _options: Any
) -> bool | None:
    """Leave out fields of named tuples, which the class describes, and what scikit-learn adds."""
    left_out = type(member).__name__ == "_tuplegetter" or name.endswith("_request")
    return left_out or skip or None


def keep_initials(
    _app: Any, _what: str, _name: str, _member: Any, _options: Any, lines: list[str]
) -> None:
    """Let no reference begin with a list: its "A. Graves" is a name, and not item A."""
    lines[:] = [re.sub(r"^(\s*\.\. \[[\w-]+\] )(?=[A-Z]\. )", r"\1\\", x) for x in lines]


# --- the gallery ----------------------------------------------------------------------------------


def picture_of(script: Any) -> Path:
    """What a script draws, into the folder that it runs in: that of the examples."""
    return Path(script["src_file"]).with_suffix(".png")


def arguments(_conf: Any, script: Any) -> list[str]:
    """What a script of the gallery is called with: where to draw."""
    return [picture_of(script).name]


def drawn(_block: Any, script: Any, conf: Any) -> str:
    """Show what a script drew, below the code that drew it."""
    picture = picture_of(script)
    if not picture.exists():
        return ""
    place = next(script["image_path_iterator"])
    picture.replace(place)
    return str(figure_rst([place], conf["src_dir"]))


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # generate.py wants torch and transformers: it is shown, and not run
    "filename_pattern": r"/(?!generate)\w+\.py",
    "ignore_pattern": r"(promise|spoken_dates|encoder_decoder)\.py",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "reset_argv": "conf.arguments",
    "image_scrapers": ("conf.drawn",),
    "reset_modules": (),
    "doc_module": ("foveate",),
    "reference_url": {"foveate": None},
    "backreferences_dir": "gallery/uses",
    "download_all_examples": False,
    "notebook_extensions": set(),
    "show_signature": False,
    "write_computation_times": False,
}

# --- how it looks ---------------------------------------------------------------------------------

highlight_language = "none"  # of blocks that name no language; `>>>` is seen without
html_theme = "pydata_sphinx_theme"
html_title = "foveate"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["offline.js"]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_favicon = "_static/logo.svg"
html_sidebars = {page: [] for page in ("start", "performance", "contributing", "changelog")}
html_show_sourcelink = False
html_theme_options: dict[str, Any] = {
    "logo": {
        "text": "foveate",
        "image_light": "_static/logo.svg",
        "image_dark": "_static/logo.svg",
    },
    "github_url": "https://github.com/foveate/foveate",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app: Any) -> None:
    """Enter the functions above into Sphinx; numpydoc writes the docstrings anew before."""
    app.connect("autodoc-process-docstring", keep_initials, priority=900)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-skip-member", skip_member)
