"""The page's style, scripts and icon: kept in memory, compressed once, under an address that changes with them.

`/static/<digest>/<name>`: a browser keeps them for a year. Any other digest is answered too, and not kept: while
replicas of two versions run side by side, each must serve the other's pages.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import importlib.resources

from fastapi import APIRouter, Request, Response

from wattmill_api.errors import NotFound

router = APIRouter(include_in_schema=False)

UPLOT = "vendor/uplot-1.6.32.min"
FILES = {
    "style.css": ("style.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "charts.js": ("charts.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "uplot-1.6.32.min.js": (f"{UPLOT}.js", "text/javascript"),
    "uplot-1.6.32.min.css": (f"{UPLOT}.css", "text/css"),
}
FOREVER = "public, max-age=31536000, immutable"
LEAST_BYTES = 500  # below it compressing is not worth it


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    body: bytes
    compressed: bytes
    media_type: str


@functools.cache
def files() -> dict[str, File]:
    """All files by name."""
    folder = importlib.resources.files("wattmill_api").joinpath("static")
    bodies = {name: folder.joinpath(*path.split("/")).read_bytes() for name, (path, _) in FILES.items()}
    return {name: File(body, gzip.compress(body, 9, mtime=0), FILES[name][1]) for name, body in bodies.items()}


@functools.cache
def digest() -> str:
    """Of all files together: one script names another without one."""
    whole = hashlib.sha256()
    for name, file in files().items():
        whole.update(b"%b\x00%d\x00" % (name.encode(), len(file.body)) + file.body)
    return whole.hexdigest()[:12]


def base() -> str:
    """Where the files of this version are."""
    return f"/static/{digest()}"


def takes_gzip(request: Request) -> bool:
    """Whether the answer may be compressed."""
    accepted = request.headers.get("accept-encoding", "")
    return any(part.split(";")[0].strip() == "gzip" and "q=0" not in part for part in accepted.split(","))


@router.get("/static/{version}/{name}")
def static(request: Request, version: str, name: str) -> Response:
    """One file."""
    file = files().get(name)
    if file is None:
        raise NotFound(f"There is no file {name} here.")
    headers = {"Cache-Control": FOREVER if version == digest() else "no-cache", "Vary": "Accept-Encoding"}
    if takes_gzip(request) and len(file.body) > LEAST_BYTES:
        return Response(file.compressed, media_type=file.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.body, media_type=file.media_type, headers=headers)
