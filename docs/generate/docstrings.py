"""Reads what a class says of its fields."""

from __future__ import annotations

import re

from griffe import Docstring, DocstringSectionKind


def read(text: str) -> tuple[str, dict[str, str]]:
    """Return the text before the list of attributes, and what is said of each, as markdown."""
    text = re.sub(r":\w+:`[~.]*([^`]+)`", r"`\1`", text).replace("``", "`")
    opening, said = [], {}
    for section in Docstring(text, parser="numpy").parse():
        if section.kind is DocstringSectionKind.text:
            opening.append(section.value)
        elif section.kind is DocstringSectionKind.attributes:
            for attribute in section.value:
                words = " ".join(attribute.description.split())
                said.update(dict.fromkeys(attribute.name.split(", "), words))
    return "\n\n".join(opening[:1]), said
