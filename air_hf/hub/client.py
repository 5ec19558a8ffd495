"""Reading from the Hub with an end: a Hub that accepts and never answers is given up, and so are its further requests.

The client's own limits do not end: it tries again after each, some of its requests have none, and the libraries above
it ask for one file after another.
"""

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils._http import default_client_factory

SILENCE = 3.0 * constants.HF_HUB_DOWNLOAD_TIMEOUT  # seconds; 30 where the environment says nothing


class SilentHubError(OfflineModeIsEnabled):
    """The Hub did not answer. To the libraries it is the same as working offline: what is in the cache is taken."""


class _ImpatientClient(httpx2.Client):
    """Waits `SILENCE` seconds for an answer, or for its next bytes, and after that for none of the same process."""

    silent = False

    def send(self, request: httpx2.Request, **options) -> httpx2.Response:
        message = f"{request.url.host} did not answer within {SILENCE:g} seconds"
        if self.silent:
            raise SilentHubError(message)
        request.extensions["timeout"] = httpx2.Timeout(SILENCE).as_dict()
        try:
            return super().send(request, **options)
        except httpx2.TimeoutException as error:
            self.silent = True
            raise SilentHubError(message) from error


def limit_silence() -> None:
    """Makes all requests of this process, those of `datasets` and `transformers` too, end where the Hub is silent."""

    def make() -> httpx2.Client:
        usual = default_client_factory()
        return _ImpatientClient(event_hooks=usual.event_hooks, follow_redirects=usual.follow_redirects)

    set_client_factory(make)
