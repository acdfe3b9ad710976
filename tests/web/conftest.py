"""A real browser for the tests of the pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_tabs import Scheme, Tabs
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def executable() -> str:
    """Return the Chromium to test with; without one the tests fail, because an untested page is no page."""
    found = os.environ.get("CONCEPTLENS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            f"no browser: install one of {', '.join(NAMES)}, or name one in CONCEPTLENS_CHROMIUM", pytrace=False
        )
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def tabs(browser: Browser) -> Tabs:
    return Tabs(browser)


@pytest.fixture
def visit(tabs: Tabs) -> Iterator[Callable[..., Page]]:
    """Open a file at a width and in a colour scheme; it may neither say anything nor ask for anything."""
    taken: list[Page] = []
    messages: list[str] = []
    watched: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: messages.append(message.text),
        "pageerror": lambda error: messages.append(str(error)),
        "request": lambda request: messages.append(request.url) if request.url.startswith("http") else None,
    }

    def show(file: Path, width: int = 1280, scheme: Scheme = "light") -> Page:
        page = tabs.take(width, 900, scheme)
        taken.append(page)
        for event, noted in watched.items():
            page.on(event, noted)
        page.goto(file.as_uri())
        assert messages == []
        return page

    yield show
    for page in taken:
        for event, noted in watched.items():
            page.remove_listener(event, noted)
        tabs.give_back(page)
