"""The site as it is built, by its files and in a browser: links, pictures, errors, widths, search.

Build it first: `python -m sphinx -W docs build/docs`. Nothing is asked of a network.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).resolve().parents[2] / "build" / "docs"
pytestmark = [
    pytest.mark.any_isa,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: see CONTRIBUTING.md"),
]

# All but the pages of single names, which are of one kind.
OF_NAMES = "api/generated/"
MAIN = sorted(
    x
    for x in (page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html"))
    if not x.startswith((OF_NAMES, "_"))
) + [f"{OF_NAMES}foveate.{name}.html" for name in ("attention", "Memory", "torch.HardAttention")]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


class Links(HTMLParser):
    """The addresses in a page, and what in it can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.addresses.append(value)
            elif value and name in ("id", "name"):
                self.places.add(value)


def test_links_lead_somewhere():
    found = SITE.rglob("*.html")
    pages = {x: Links(x) for x in found if "_static" not in x.parts}  # the theme's templates
    broken = []
    for page, links in pages.items():
        for address in links.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            place = unquote(parts.fragment)
            there = target.exists() and (
                not place or target not in pages or place in pages[target].places
            )
            if not there:
                broken.append(f"{page.relative_to(SITE)}: {address}")
    assert broken == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: the extra `docs` has it"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    with api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(f"no browser: none of {', '.join(names)}, and playwright has none")
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


class Window:
    """A window of a browser, and what went wrong since a page was opened in it."""

    def __init__(self, browser: Any, size: str, scheme: str) -> None:
        width, height = SIZES[size]
        viewport = {"width": width, "height": height}
        self.page = browser.new_page(viewport=viewport, color_scheme=scheme)
        self.wrong: list[str] = []
        self.page.on("console", self.said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("requestfailed", self.failed)
        self.page.on("request", self.asked)

    def said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")

    def asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"not offline: {request.url}")

    def failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before all of it had come
            self.wrong.append(f"missing: {request.url} ({request.failure})")

    def open(self, address: str) -> Any:
        self.wrong.clear()
        self.page.goto(f"{SITE.as_uri()}/{address}", wait_until="load")
        return self.page


@pytest.fixture(scope="module", params=SIZES)
def window(browser: Any, request: pytest.FixtureRequest) -> Window:
    return Window(browser, request.param, "light" if request.param == "desktop" else "dark")


@pytest.mark.parametrize("address", MAIN)
def test_a_page_opens_without_errors(window, address):
    page = window.open(address)
    # pictures below the screen are loaded when they are scrolled to
    page.evaluate("document.querySelectorAll('img').forEach(x => { x.loading = 'eager' })")
    page.wait_for_function("[...document.images].every(x => x.complete)")
    missing = "[...document.images].filter(x => !x.naturalWidth).map(x => x.src)"
    assert page.evaluate(missing) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert window.wrong == []


def test_the_site_is_as_light_or_dark_as_the_system(browser):
    found = {}
    for scheme in ("light", "dark"):
        page = Window(browser, "desktop", scheme).open("index.html")
        found[scheme] = page.evaluate("document.documentElement.dataset.theme")
    assert found == {"light": "light", "dark": "dark"}


def test_the_search_works_from_files(window):
    page = window.open("search.html?q=polynomial")
    results = "#search-results ul.search li a"
    page.wait_for_selector(results, timeout=20_000)
    hrefs = page.eval_on_selector_all(results, "found => found.map(x => x.getAttribute('href'))")
    assert any(f"{OF_NAMES}foveate.Polynomial.html" in x for x in hrefs)
    assert window.wrong == []
