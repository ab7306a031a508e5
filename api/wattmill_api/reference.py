"""`/docs`: the API to read and try, from `/openapi.json`. Swagger UI comes from a package: no other host is asked."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Response

from wattmill_api.errors import NotFound

router = APIRouter(include_in_schema=False)

FILES = Path(fastapi_offline.__file__).parent / "static"
ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
# Swagger UI sets styles on its elements and draws its icons from data addresses; scripts come from here alone.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Wattmill API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="/static/any/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="reference"></div>
<noscript>This page needs JavaScript; the same is in <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body></html>
"""
START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#reference", deepLinking: true, tryItOutEnabled: true});\n'


@router.get("/docs")
def docs() -> Response:
    return Response(PAGE, media_type="text/html", headers={"Content-Security-Policy": POLICY})


@router.get("/docs/{name}")
def asset(name: str) -> Response:
    if name == "start.js":
        return Response(START, media_type="text/javascript")
    if name not in ASSETS:
        raise NotFound(f"There is no file {name} here.")
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response((FILES / name).read_bytes(), media_type=ASSETS[name], headers=headers)
