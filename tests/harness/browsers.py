"""The page of a controller in a browser, and keys to log in with."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from harness.controller import Controller, unique


def log_in(page: Page, token: str) -> None:
    """Log in with a token, and wait until the page shows its sections."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def create_key(controller: Controller, *scopes: str) -> str:
    """Create a key with these scopes."""
    key: str = controller.api("POST", "/v1/keys", {"name": unique("key"), "scope": list(scopes)})["key"]
    return key
