"""The package's page is the README without what only a checkout can show; everything else stands in pyproject.toml.

A page on an index has no folder beside it, and this project no public address that its links could be made absolute
with: a picture becomes its caption, and a link within the repository its text with the path in brackets. MANIFEST.in
puts those files into the sdist.
"""

import re
from pathlib import Path

from setuptools import setup

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|mailto:|#)([^)\s]+)\)")


def _apart(link: re.Match[str]) -> str:
    picture, text, path = link.groups()
    if picture:
        return f"*{text}.*"
    return f"`{path}`" if text == path else f"{text} (`{path}`)"


setup(
    long_description=_LINK.sub(_apart, (Path(__file__).parent / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
