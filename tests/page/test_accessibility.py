"""The page in dark and light and on a narrow screen: names, contrast, and nothing beyond the edge."""

from __future__ import annotations

import pytest
from harness.controller import Controller
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]

VIEWS = {
    "backends": "demo",
    "backends/demo": "Calls a second",
    "backends/demo/console": "Enter runs",
    "venvs": "plain",
    "venvs/plain": "Packages",
    "create": "Requirements",
    "start": "Type",
    "runtimes": "Python 3",
}
FIND_FAULTS = """
() => {
  const faults = [];
  const light = (colour) => {
    const parts = colour.map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const read = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = read(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest(":disabled, option")) continue;
    const [one, two] = [light(read(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (two + 0.05);
    if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(2)}: ${texts.currentNode.data.trim()}`);
  }
  for (const field of document.querySelectorAll("input, select, textarea"))
    if (!field.labels.length && !field.getAttribute("aria-label")) faults.push(`no label: ${field.outerHTML}`);
  for (const each of document.querySelectorAll("a, button, [role=log], pre[tabindex]"))
    if (!each.textContent.trim() && !each.getAttribute("aria-label")) faults.push(`no name: ${each.outerHTML}`);
  const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
  if (new Set(ids).size < ids.length) faults.push(`an id stands twice: ${ids}`);
  for (const each of document.querySelectorAll("[aria-describedby]"))
    for (const id of each.getAttribute("aria-describedby").split(" "))
      if (!document.getElementById(id)) faults.push(`no element ${id}`);
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one heading");
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth) faults.push(`${width} pixels wide`);
  return faults;
}
"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_views_have_names_and_contrast(admin_page: Page, controller: Controller, scheme: str) -> None:
    """On 400 pixels, each field has a label, each control a name, and all text a contrast of 4.5 or more."""
    admin_page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    admin_page.set_viewport_size({"width": 400, "height": 800})
    faults = {}
    for view, text in VIEWS.items():
        admin_page.goto(f"/#/{view}")
        expect(admin_page.get_by_role("main").get_by_text(text).first).to_be_visible()
        if defects := admin_page.evaluate(FIND_FAULTS):
            faults[view] = defects
    assert faults == {}
