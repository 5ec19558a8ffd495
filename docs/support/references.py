"""Makes the references of our docstrings, written as transformers writes them ([`AIRConfig`]), links of the site."""

import re

import griffe

_REFERENCE = re.compile(r"\[(`[A-Za-z_][\w.]*`)\](?![\[(])")


class References(griffe.Extension):
    """[`name`] becomes [`name`][], which mkdocstrings looks up in the scope of the docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = _REFERENCE.sub(r"[\1][]", obj.docstring.value)
