"""What a card says that its checkpoint does not know: options of publishing, and of training that publishes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class CardOptions:
    """What a card says that its checkpoint does not know.

    Args:
        license (`str`): identifier of the Hub's list, e.g. "apache-2.0", "mit".
        project_url (`str`, *optional*): where the project is, `https://...`.
        tags (`str` or `Iterable[str]`): tags beside those that every card has; of one string, what commas separate.

    Raises:
        ValueError: no identifier of a licence, or no address.
    """

    license: str = field(default="apache-2.0", metadata={"help": "licence, by its identifier on the Hub"})
    project_url: str | None = field(default=None, metadata={"help": "address of the project, for the card"})
    tags: Iterable[str] = field(default="", metadata={"help": "further tags of the card, separated by commas"})

    def __post_init__(self):
        tags = self.tags.split(",") if isinstance(self.tags, str) else self.tags
        object.__setattr__(self, "tags", tuple(tag.strip() for tag in tags if tag.strip()))
        if not _LICENSE.fullmatch(self.license):
            raise ValueError(f"license is {self.license!r}; expected an identifier as apache-2.0 or mit")
        if self.project_url is not None and not re.fullmatch(r"https?://[^\s)>]+", self.project_url):
            raise ValueError(f"project_url is {self.project_url!r}; expected an address, https://...")


# Where an option is described: the parser of `air-hf publish` and a recipe's fields read it here.
HELP = {entry.name: entry.metadata["help"] for entry in fields(CardOptions)}
