"""URLs as people may see them."""

from __future__ import annotations

from urllib.parse import urlsplit


def without_secrets(url: str) -> str:
    """Scheme, host, port and path of a URL: no user, no password, no options.

    What cannot be parsed gives the scheme alone.
    """
    scheme, found, _ = url.partition("://")
    if not found:
        return "server"
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        host = parts.hostname or ""
    except ValueError:
        return f"{scheme}://..."
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{port}{parts.path}"
