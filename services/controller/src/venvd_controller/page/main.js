// The frame of the page: login, sections, and which view an address shows.

import { Caller, call, dropToken, keepToken, readToken } from "./api.js";
import { announce, button, explain, h, link, showTrouble } from "./dom.js";
import { showBackend, showBackends, startBackend } from "./backends.js";
import { showConsole } from "./console.js";
import { showRuntimes } from "./runtimes.js";
import { editVenv, showVenv, showVenvs } from "./venvs.js";

const ROUTES = [
	[/^$/, "Backends", showBackends],
	[/^backends$/, "Backends", showBackends],
	[/^start(?:\/([a-z0-9-]+))?$/, "Start a backend", startBackend],
	[/^backends\/([a-z0-9-]+)$/, "Backend", showBackend],
	[/^backends\/([a-z0-9-]+)\/console$/, "Console", showConsole],
	[/^venvs$/, "Venvs", showVenvs],
	[/^create$/, "Create a venv", editVenv],
	[/^venvs\/([a-z0-9-]+)$/, "Venv", showVenv],
	[/^venvs\/([a-z0-9-]+)\/change$/, "Change a venv", editVenv],
	[/^runtimes$/, "Runtimes", showRuntimes],
];
const main = document.getElementById("main");
const nav = document.getElementById("nav");
let caller = null;
let view = new AbortController();

function show() {
	view.abort();
	view = new AbortController();
	showTrouble();
	document.querySelectorAll("dialog").forEach((dialog) => dialog.remove());
	if (location.hash === "#main") return main.focus();
	if (!caller) return showLogin();
	const path = location.hash.replace(/^#\/?/, "");
	const [pattern, title, render] = ROUTES.find(([each]) => each.test(path)) ?? [/^/, "Not found", showNothing];
	const [, name] = pattern.exec(path);
	document.title = `${name ? `${name} · ` : ""}${title} · venvd`;
	const heading = h("h1", { tabindex: "-1" }, name ?? title);
	main.replaceChildren(heading);
	for (const each of nav.children) {
		const current = path.startsWith(each.hash.slice(2)) || (path === "" && each.hash === "#/backends");
		current ? each.setAttribute("aria-current", "page") : each.removeAttribute("aria-current");
	}
	render({ main, heading, name, caller, signal: view.signal });
	heading.focus({ preventScroll: true });
	scrollTo(0, 0);
}

function showNothing({ main }) {
	main.append(h("p", {}, "There is no such page. ", link("#/backends", "See the backends")));
}

function showLogin(message) {
	document.title = "Log in · venvd";
	nav.hidden = true;
	document.getElementById("caller").replaceChildren();
	const token = h("input", { id: "token", type: "password", autocomplete: "off", required: true, spellcheck: "false", "aria-describedby": "token-hint problem" });
	const problem = h("div", { id: "problem" }, message && h("p", { class: "error", role: "alert" }, message));
	const enter = h("button", { class: "primary" }, "Log in");
	const submit = async (event) => {
		event.preventDefault();
		problem.replaceChildren();
		enter.disabled = true;
		try {
			const given = token.value.trim();
			if (/[^!-~]/.test(given)) throw new Error("This is no token: tokens have no spaces and no special characters.");
			await logIn(given);
		} catch (error) {
			problem.replaceChildren(explain(error));
			token.focus();
		} finally {
			enter.disabled = false;
		}
	};
	main.replaceChildren(
		h("h1", { tabindex: "-1" }, "Log in"),
		h(
			"form",
			{ class: "narrow", submit },
			h("label", { for: "token" }, "Token"),
			token,
			h("p", { class: "hint", id: "token-hint" }, "A key (vk_…), which ", h("code", {}, "venvd key create"), " makes, or the controller’s own token: the file ", h("code", {}, "token"), " in its home. It stays in this tab until you log out or close it."),
			problem,
			enter,
		),
	);
	token.focus();
}

async function logIn(token) {
	caller = new Caller(await call("GET", "v1/caller", { token }));
	keepToken(token);
	nav.replaceChildren(link("#/backends", "Backends"), link("#/venvs", "Venvs"), link("#/runtimes", "Runtimes"));
	nav.hidden = false;
	document.getElementById("caller").replaceChildren(
		h("span", { title: `may: ${caller.scope.join(", ")}` }, caller.name),
		button("Log out", () => logOut()),
	);
	announce(`Logged in as ${caller.name}.`);
	show();
}

function logOut(message) {
	view.abort();
	dropToken();
	caller = null;
	showLogin(message);
}

addEventListener("hashchange", show);
addEventListener("unauthenticated", (event) => {
	if (caller && event.detail === readToken()) logOut("The token is no longer valid. Log in with another one.");
});
if (readToken()) {
	logIn(readToken()).catch((error) => {
		if (error.status === 401) return logOut("The token is no longer valid. Log in with another one.");
		main.replaceChildren(h("h1", {}, "venvd"), explain(error), button("Try again", () => location.reload()));
	});
} else showLogin();
