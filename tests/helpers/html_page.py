"""Reads a report as a browser would, and finds fault with it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
from PIL import Image

_VOID = {"meta", "img", "source", "br", "link", "input", "hr"}
_DATA = "data:image/png;base64,"


@dataclass(frozen=True)
class PageImage:
    """An `img` with the PNGs of both themes."""

    alt: str
    light: bytes
    dark: bytes


class HtmlPage(HTMLParser):
    """What a page says and shows; tags that do not close where they should are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        assert html.startswith("<!doctype html>")
        self.text = ""
        self.title = ""
        self.marks: list[str] = []
        self.images: list[PageImage] = []
        self.ids: set[str] = set()
        self.anchors: list[str] = []
        self.references: list[str] = []
        """Every URL outside the page: none, in a report that is self-contained."""
        self._open: list[str] = []
        self._dark = ""
        self.feed(html)
        self.close()
        assert self._open == [], f"never closed: {self._open}"
        style = html.split("<style>")[1].split("</style>")[0]
        self.references += [rule for rule in ("@import", "url(") if rule in style]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self._open.append(tag)
        known = {name: value or "" for name, value in attrs}
        if "id" in known:
            assert known["id"] not in self.ids
            self.ids.add(known["id"])
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            self._refer(known.get(name, ""))
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.references.append(tag)
        if tag == "source":
            assert "prefers-color-scheme: dark" in known["media"]
            self._dark = known["srcset"]
        if tag == "img":
            self.images.append(PageImage(known["alt"], _png(known["src"]), _png(self._dark)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += f" {data}"
        if "title" in self._open:
            self.title += data
        if "mark" in self._open:
            self.marks.append(data)

    def _refer(self, url: str) -> None:
        if url.startswith("#"):
            self.anchors.append(url[1:])
        elif url and not url.startswith(_DATA):
            self.references.append(url)

    def check(self) -> None:
        """A page is self-contained, its links lead somewhere, and every picture shows something."""
        assert self.references == []
        assert set(self.anchors) <= self.ids
        for image in self.images:
            assert len(image.alt) > 10
            require_picture(image.light)
            require_picture(image.dark)


def _png(url: str) -> bytes:
    assert url.startswith(_DATA)
    return base64.b64decode(url.removeprefix(_DATA), validate=True)


def require_picture(png: bytes) -> None:
    """Fails for anything but a PNG on which something is drawn."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"), dtype=np.float64)
    assert pixels.std() > 4.0, "a blank picture"
