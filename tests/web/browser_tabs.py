"""Tabs of a browser that tests open pages in one after the other: a new one costs more than most of the pages."""

from __future__ import annotations

from typing import Literal

from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]


class Tabs:
    """Tabs that are free for the next test; each has a storage of its own."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._free: list[Page] = []

    def take(self, width: int, height: int, scheme: Scheme) -> Page:
        """Return an empty tab of a size and a colour scheme."""
        tab = self._free.pop() if self._free else self._browser.new_page()
        tab.set_viewport_size({"width": width, "height": height})
        tab.emulate_media(media="null", color_scheme=scheme)
        return tab

    def give_back(self, tab: Page) -> None:
        """Empty a tab for the next test: no page, no storage, no pointer over it."""
        tab.unroute_all()
        tab.evaluate("localStorage.clear(), sessionStorage.clear(), window.name = ''")
        tab.goto("about:blank")
        tab.mouse.move(0, 0)
        self._free.append(tab)
