"""Sphinx configuration of the documentation: ``make docs`` writes it to ``site/``. No page needs the network."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

import subspan
from subspan.cli import app

logger = logging.getLogger(__name__)

project = "subspan"
author = "the subspan authors"
release = version = subspan.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the docstrings
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"subspan {version}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"


class CommandHelp(SphinxDirective):
    """``--help`` of the command that the arguments name, as it is printed."""

    required_arguments = 0
    optional_arguments = 5

    def run(self) -> list[nodes.Node]:
        command = get_command(app)
        context = command.make_context("subspan", [], resilient_parsing=True)
        for name in self.arguments:
            found = command.get_command(context, name)
            if found is None:
                raise self.error(f"there is no command 'subspan {' '.join(self.arguments)}'")
            command = found
            context = command.make_context(name, [], parent=context, resilient_parsing=True)
        return [nodes.literal_block("", command.get_help(context), language="text")]


def to_mathml(node: nodes.math | nodes.math_block) -> str:
    """MathML, which browsers draw themselves: no font and no script is loaded."""
    try:
        return tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        logger.warning("the formula %r cannot be drawn: %s", node.astext(), error, location=node)
        return ""


def inline_math(translator, node: nodes.math) -> None:
    translator.body.append(to_mathml(node))
    raise nodes.SkipNode


def block_math(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{to_mathml(node)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_directive("command-help", CommandHelp)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
