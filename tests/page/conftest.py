"""A real browser, and a controller whose page it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from harness.browsers import log_in
from harness.controller import Controller, running_controller
from playwright.sync_api import Browser, Page, expect, sync_playwright

TIMEOUT = 60_000
"""Milliseconds: a machine may be busy."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Its own sandbox needs a user who is not root.

    Playwright runs an event loop in this thread until the module ends, and `asyncio.run` fails beside it.
    """
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        expect.set_options(timeout=TIMEOUT)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def controller() -> Iterator[Controller]:
    """A controller on the local engine with the venv `plain` and the HTTP backend `demo`."""
    with running_controller("local") as controller:
        controller.venv("plain")
        controller.backend("plain", "http", name="demo")
        yield controller


@pytest.fixture
def page(browser: Browser, controller: Controller) -> Iterator[Page]:
    """A tab that shows the login. At the end no script of the page has failed."""
    context = browser.new_context(base_url=controller.url, viewport={"width": 1000, "height": 800})
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto("/")
    yield page
    context.close()
    assert problems == []


@pytest.fixture
def admin_page(page: Page, controller: Controller) -> Page:
    """A tab in which the admin is logged in."""
    log_in(page, controller.token)
    return page
