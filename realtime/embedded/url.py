"""
The URL of the embedded server: `embedded://` or `embedded:///a/directory`; with `?without_debug=1` also for DEBUG off.

Owns its syntax. Does not own the server (server), nor the default directory and whether DEBUG allows it (conf).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["EmbeddedUrl"]

_SCHEME = "embedded"
_OPTION = "without_debug"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedUrl:
    """
    The parts of the URL.

    Attributes:
        directory: Where the files of the server are; None for the default.
        is_allowed_without_debug: Whether the server may be used if DEBUG is off.
    """

    directory: Path | None = None
    is_allowed_without_debug: bool = False

    def __str__(self) -> str:
        path = "" if self.directory is None else quote(str(self.directory))
        return f"{_SCHEME}://{path}" + (f"?{_OPTION}=1" if self.is_allowed_without_debug else "")

    @classmethod
    def parse(cls, url: object) -> Self | None:
        """
        Read a URL. None if its scheme is not `embedded`.

        Raises:
            ValueError: The scheme is `embedded`, but the URL is wrong; the text says what to write.
        """
        if not isinstance(url, str) or not url.lower().startswith(f"{_SCHEME}:"):
            return None
        parts = urlsplit(url)
        if parts.netloc or parts.fragment or not url.lower().startswith(f"{_SCHEME}://"):
            raise ValueError(
                f"{url!r} is not the URL of an embedded server: write embedded:// or, with the absolute path of a "
                "directory, embedded:///path/of/directory"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if set(options) - {_OPTION} or options.get(_OPTION, "1") not in ("0", "1"):
            raise ValueError(f"{url!r} has an unknown option: only ?{_OPTION}=1 is known")
        path = unquote(parts.path)
        return cls(
            directory=Path(path) if path.strip("/") else None,
            is_allowed_without_debug=options.get(_OPTION) == "1",
        )
