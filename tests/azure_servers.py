"""A real Azure blob server for tests: azurite (npm), on a free loopback port, stopped by its id."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from tempfile import TemporaryDirectory

from s3_servers import _answers, running
from servers import free_port, missing

ACCOUNT, CONTAINER = "devstoreaccount1", "team-cache"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every azurite has, with the key that its documentation gives."""


def _binary() -> str:
    local = Path(__file__).parents[1] / "node_modules" / ".bin" / "azurite-blob"
    found = os.environ.get("AZURITE_BLOB") or (str(local) if local.exists() else None)
    return found or shutil.which("azurite-blob") or missing("azurite", "npm install azurite")


@contextmanager
def azurite_server() -> Iterator[dict[str, str]]:
    """The environment by which clients find a server with an empty CONTAINER."""
    with TemporaryDirectory(prefix="taskcache-azurite-") as directory:
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        command = [
            _binary(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent",
            "--skipApiVersionCheck", "--disableTelemetry", "--location", directory,
        ]  # fmt: skip
        with running(command, lambda: _answers(endpoint), Path(directory) / "log"):
            _make_container(endpoint)
            yield {
                "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": KEY,
                "AZURE_STORAGE_ENDPOINT": endpoint,
            }


def _make_container(endpoint: str) -> None:
    """As the "Create Container" page of Azure's REST documentation says, with a shared key."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    headers = f"x-ms-date:{date}\nx-ms-version:{version}\n"
    resource = f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    text = "PUT" + "\n" * 12 + headers + resource
    mac = hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)
    request = urllib.request.Request(
        f"{endpoint}/{CONTAINER}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}",
        },
    )
    urllib.request.urlopen(request, timeout=10).close()
