"""The web page of the controller, used in a browser."""

from __future__ import annotations

import re
import secrets

import pytest
from harness.browsers import create_key, log_in
from harness.controller import Controller, unique
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]


def test_a_wrong_token_is_explained(page: Page) -> None:
    """The login says that a token is wrong, stays usable, and keeps nothing."""
    page.get_by_label("Token").fill("vk_" + secrets.token_urlsafe(20))
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="not one that this controller accepts")).to_be_visible()
    expect(page.get_by_label("Token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0


def test_the_token_stays_in_the_tab(admin_page: Page) -> None:
    """A reload needs no new login; there is no cookie, and logging out leaves nothing."""
    admin_page.reload()
    expect(admin_page.get_by_role("link", name="demo", exact=True)).to_be_visible()
    assert admin_page.context.cookies() == []
    assert admin_page.evaluate("localStorage.length") == 0
    other = admin_page.context.new_page()
    other.goto("/")
    expect(other.get_by_label("Token")).to_be_visible()
    admin_page.get_by_role("button", name="Log out").click()
    expect(admin_page.get_by_label("Token")).to_be_visible()
    assert admin_page.evaluate("sessionStorage.length") == 0


def test_a_narrow_key_sees_what_it_may(page: Page, controller: Controller) -> None:
    """A key with `use:demo` sees that backend and its state, and no button that would be refused."""
    controller.venv("hidden")
    log_in(page, create_key(controller, "use:demo"))
    expect(page.get_by_role("listitem").filter(has_text="demo")).to_contain_text("running")
    for refused in ("Stop demo", "Restart demo"):
        expect(page.get_by_role("button", name=refused)).to_have_count(0)
    expect(page.get_by_role("link", name="Start a backend")).to_have_count(0)
    page.get_by_role("link", name="demo", exact=True).click()
    expect(page.get_by_text("The log needs the scope venv:plain.")).to_be_visible()
    page.get_by_role("link", name="Venvs").click()
    expect(page.get_by_text("There is no venv yet that this token may see.")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text=re.compile("."))).to_have_count(0)


def test_a_revoked_key_ends_the_session(page: Page, controller: Controller) -> None:
    """A page whose key is revoked says so and asks for another."""
    key = controller.api("POST", "/v1/keys", {"name": unique("key"), "scope": ["operator"]})
    log_in(page, key["key"])
    controller.api("DELETE", f"/v1/keys/{key['name']}")
    expect(page.get_by_text("The token is no longer valid.")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.network
def test_a_venv_is_made_with_the_keyboard(admin_page: Page) -> None:
    """The form explains each error at its field, the log of the build is live, and the packages are shown."""
    name, page = unique("made"), admin_page
    page.get_by_role("link", name="Venvs").press("Enter")
    page.get_by_role("link", name="Create a venv").press("Enter")
    page.get_by_label("Name").fill("Not A Name")
    page.get_by_label("Name").press("Enter")
    expect(page.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Name")).to_have_accessible_description(re.compile("does not fit: Lower-case letters"))
    page.get_by_label("Name").fill(name)
    page.get_by_label("Requirements").fill("six==1.16.0\n--index-url x")
    page.get_by_label("Name").press("Enter")
    expect(page.get_by_label("Requirements")).to_be_focused()
    expect(page.get_by_label("Requirements")).to_have_accessible_description(re.compile("--index-url x.* is an option"))
    page.get_by_label("Requirements").fill("six==1.16.0")
    page.get_by_label("Name").press("Enter")
    log = page.get_by_label(f"Build of {name}").get_by_label("Build of")
    expect(log).to_contain_text("six")
    expect(page.get_by_text("It is built.")).to_be_visible()
    page.get_by_role("link", name=f"See {name}").press("Enter")
    expect(page.get_by_role("list", name="Packages")).to_contain_text("six 1.16.0")
    page.get_by_text("Lock", exact=True).press("Enter")
    expect(page.get_by_label("Lock")).to_contain_text("--hash=sha256:")
    page.get_by_role("button", name="Delete").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Delete").press("Enter")
    expect(page).to_have_url(re.compile("#/venvs$"))


def test_a_backend_starts_restarts_and_stops(admin_page: Page) -> None:
    """A backend is started by the form; figures and log are live; restart and stop ask first."""
    name, page = unique("shown"), admin_page
    page.get_by_role("link", name="Start a backend").click()
    page.get_by_label("Venv", exact=True).fill("absent")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_label("Venv", exact=True)).to_have_accessible_description(re.compile('"absent"'))
    page.get_by_label("Venv", exact=True).fill("plain")
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.get_by_text("Calls a second")).to_be_visible()
    expect(page.get_by_label(f"Log of {name}")).to_contain_text("zygote")
    page.get_by_role("button", name="Restart").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("all that is in them end")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Restart").click()
    dialog.get_by_role("button", name="Restart").click()
    expect(page.get_by_label(f"Start of {name}").get_by_text("succeeded")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    dialog.get_by_role("button", name="Stop").click()
    expect(page).to_have_url(re.compile("#/backends$"))
    expect(page.get_by_role("link", name="demo", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name=name, exact=True)).to_have_count(0)
