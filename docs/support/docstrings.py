"""Griffe extension: our docstrings, written as transformers writes them, for mkdocstrings.

References, [`AIRConfig`], become links; types, name (`int`, *optional*), lose their marks.
"""

import re

import griffe

_REFERENCE = re.compile(r"\[(`[A-Za-z_][\w.]*`)\](?![\[(])")
_TYPE = re.compile(r"^(\s+[\w, ]+ )(\(.*`.*\))(?=:)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring as its object is found."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            text = _TYPE.sub(lambda match: match[1] + re.sub("[`*]", "", match[2]), obj.docstring.value)
            obj.docstring.value = _REFERENCE.sub(r"[\1][]", text)
