"""A real browser that has no network, for pages that must not need any."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; skips the test, with the reason, where there is none."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}: install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(_ARGUMENTS))
        yield browser
        browser.close()


class Visit:
    """One page in one window, and all that it asked for or complained about."""

    def __init__(self, browser: Any, *, width: int = 1200, scheme: str = "light") -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, service_workers="block"
        )
        self.page = self._context.new_page()
        self.page.route("**/*", self._refuse)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))

    def _refuse(self, route: Any) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
            return
        self.requests.append(route.request.url)
        route.abort()

    def open(self, file: Path) -> None:
        self.page.goto(file.as_uri())

    def close(self) -> None:
        self._context.close()
