"""What mkdocs calls as it builds the site: pages made from the code, and links out of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import command_line
import plan_schema
import protocol
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_PAGES: Final[dict[str, Callable[[], str]]] = {
    "reference/command-line.md": command_line.page,
    "reference/plan-schema.md": plan_schema.page,
    "reference/protocol.md": protocol.page,
    "reference/openapi.json": protocol.document,
}
# A link to a file of the repository that is no page: the site says the file's name instead.
_TO_REPOSITORY: Final = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)[^)]*\)")
# Docstrings name other objects in Sphinx's way, such as :meth:`~.Device.explain`.
_ROLE: Final = re.compile(r":(?:meth|class|func|mod|attr|data|exc):<code>[~.]*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for path, make in _PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave the folder of documents into names of files."""
    del config, files
    if page.file.src_uri.startswith("reference/"):
        return markdown
    return _TO_REPOSITORY.sub(_named, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show the names of other objects as code."""
    del page, config, files
    return _ROLE.sub("<code>", html)


def _named(link: re.Match[str]) -> str:
    text, path = link.groups()
    return text if path in text else f"{text} (`{path}` in the repository)"
