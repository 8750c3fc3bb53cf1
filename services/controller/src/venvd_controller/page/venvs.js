// Venvs: the list, one venv with packages and log, and the form that creates or changes one.

import { call, list, poll } from "./api.js";
import { add, announce, attempt, badge, button, confirmed, formatTime, h, link, patch, showTrouble, terms } from "./dom.js";
import { checkField, field, findField, readLines, showFieldError } from "./forms.js";
import { showOperation } from "./logs.js";

export function showVenvs({ main, caller, signal }) {
	const rows = h("ul", { class: "rows", "aria-label": "Venvs" });
	const filter = h("input", { id: "filter", type: "search", placeholder: "name or package", input: () => shown() });
	let venvs = [];
	const shown = () => {
		const words = filter.value.trim().toLowerCase();
		const chosen = venvs.filter((each) => `${each.name} ${each.spec.requirements}`.toLowerCase().includes(words));
		patch(rows, chosen.length ? chosen : [null], (each) => each?.name, renderRow);
	};
	const renderRow = (venv) =>
		venv
			? h(
					"li",
					{},
					link(`#/venvs/${venv.name}`, venv.name),
					badge(venv.state),
					h("span", { class: "about" }, venv.spec.requirements.join(", ") || "no requirements", venv.python && h("small", {}, ` Python ${venv.python}`), venv.error && h("span", { class: "error" }, venv.error)),
					h("span", { class: "actions" }, caller.has(`venv:${venv.name}`) && venv.state === "ready" && link(`#/start/${venv.name}`, "Start", { "aria-label": `Start a backend of ${venv.name}` })),
				)
			: h("li", {}, filter.value ? "No venv matches." : "There is no venv yet that this token may see.");
	add(main, h("div", { class: "inline" }, h("label", { for: "filter" }, "Filter"), filter, caller.makesVenvs && link("#/create", "Create a venv", { class: "button primary" })), rows);
	poll(
		signal,
		async () => {
			venvs = await list("v1/venvs", signal);
			shown();
		},
		showTrouble,
	);
}

export function showVenv({ main, name, signal }) {
	const about = h("div");
	const problem = h("div");
	const log = h("div");
	const packages = h("ul", { class: "packages", "aria-label": "Packages" });
	const lock = h("details", {}, h("summary", {}, "Lock"), h("pre", { class: "log", tabindex: "0", "aria-label": "Lock" }));
	lock.addEventListener("toggle", () => lock.open && attempt(problem, async () => (lock.lastChild.textContent = (await call("GET", `v1/venvs/${name}/lock`, { signal })).lock)));
	const remove = async () => {
		if (!(await confirmed(`Delete the venv ${name}?`, "Its backends must be stopped first. Its packages can be built again from its requirements.", "Delete"))) return;
		await attempt(problem, async () => {
			await call("DELETE", `v1/venvs/${name}`, { signal });
			announce(`The venv ${name} is deleted.`);
			location.hash = "#/venvs";
		});
	};
	add(
		main,
		about,
		h("div", { class: "actions" }, link(`#/start/${name}`, "Start a backend", { class: "button primary" }), link(`#/venvs/${name}/change`, "Change", { class: "button" }), button("Delete", remove, { class: "danger" })),
		problem,
		log,
		h("h2", {}, "Packages"),
		packages,
		lock,
	);
	let key;
	let operation;
	poll(
		signal,
		async () => {
			const venv = await call("GET", `v1/venvs/${name}`, { signal });
			patch(about, [venv], () => "", renderAbout);
			if (venv.operation && venv.operation !== operation) {
				operation = venv.operation;
				showOperation(log, operation, signal, `Build of ${name}`);
			}
			if (venv.state !== "ready" || venv.key === key) return;
			key = venv.key;
			const installed = await list(`v1/venvs/${name}/packages`, signal);
			patch(packages, installed, (each) => each.name, (each) => h("li", {}, each.name, " ", h("small", {}, each.version)));
			if (!installed.length) packages.replaceChildren(h("li", {}, "none"));
		},
		showTrouble,
	);
}

function renderAbout(venv) {
	const { spec } = venv;
	return terms([
		["State", badge(venv.state)],
		["Error", venv.error && h("span", { class: "error" }, venv.error)],
		["Python", venv.python ?? spec.python ?? "the default"],
		["Requirements", spec.requirements.join(", ")],
		["Debian packages", spec.aptPackages.join(", ")],
		["Preloaded", spec.preload.join(", ")],
		["Network", JSON.stringify(spec.network) === "false" ? "none" : JSON.stringify(spec.network)],
		["Environment", Object.keys(spec.env).join(", ")],
		["Path", spec.path],
		["Changed", formatTime(venv.updatedAt)],
	]);
}

export async function editVenv({ main, name: old, caller, signal }) {
	const problem = h("div");
	const log = h("div");
	const before = old && (await attempt(problem, () => call("GET", `v1/venvs/${old}`, { signal })));
	if (old && !before) return add(main, problem);
	const spec = before?.spec ?? {};
	const inputs = {
		name: field("name", "Name", { value: old, readonly: Boolean(old), required: true, pattern: "[a-z0-9]([a-z0-9\\-]{0,61}[a-z0-9])?", autocomplete: "off" }, "Lower-case letters, digits and hyphens."),
		python: field("python", "Python", { value: spec.python, placeholder: "the default", list: "versions" }, "Such as 3.13 or 3.13.5."),
		requirements: field("requirements", "Requirements", { rows: 6, value: spec.requirements?.join("\n"), spellcheck: "false" }, "One a line, as in a requirements file: numpy>=2."),
		aptPackages: field("aptPackages", "Debian packages", { rows: 2, value: spec.aptPackages?.join("\n"), spellcheck: "false" }, "One a line."),
		preload: field("preload", "Preload", { rows: 2, value: spec.preload?.join("\n"), spellcheck: "false" }, "Modules imported before the first session, one a line."),
	};
	const save = h("button", { class: "primary" }, old ? "Change" : "Create");
	const submit = (event) => {
		event.preventDefault();
		Object.values(inputs).forEach(showFieldError);
		problem.replaceChildren();
		if (!Object.values(inputs).every(checkField)) return;
		const name = inputs.name.input.value;
		const body = { ...spec, python: inputs.python.input.value.trim() || null };
		for (const each of ["requirements", "aptPackages", "preload"]) body[each] = readLines(inputs[each].input.value);
		save.disabled = true;
		send(name, body).finally(() => (save.disabled = false));
	};
	const send = async (name, body) => {
		try {
			if (!old && (await exists(name, signal))) return showFieldError(inputs.name, `There is a venv ${name} already: choose another name, or change that one.`);
			const { operation } = await call("PUT", `v1/venvs/${name}`, { body, signal });
			if (!operation) return void (location.hash = `#/venvs/${name}`);
			log.replaceChildren();
			log.scrollIntoView();
			if (await showOperation(log, operation.id, signal, `Build of ${name}`)) log.prepend(h("p", {}, "It is built. ", link(`#/venvs/${name}`, `See ${name}`), " or ", link(`#/start/${name}`, "start a backend"), "."));
		} catch (error) {
			if (error.name === "AbortError") return undefined;
			const at = findField(inputs, error);
			if (at) return showFieldError(at, error.message);
			await attempt(problem, () => Promise.reject(error));
		}
		return undefined;
	};
	const versions = h("datalist", { id: "versions" });
	add(main, h("form", { class: "narrow", novalidate: true, submit }, Object.values(inputs).map((each) => each.element), versions, problem, h("div", { class: "actions" }, save, link(old ? `#/venvs/${old}` : "#/venvs", "Cancel", { class: "button" }))), log);
	if (!caller.isOperator && !old) {
		const own = caller.scope.filter((each) => each.startsWith("venv:") && !each.includes("*")).map((each) => each.slice(5));
		if (own.length) inputs.name.input.value = own[0];
	}
	list("v1/runtimes", signal).then((runtimes) => versions.append(...runtimes.map((each) => h("option", { value: each.version }))), () => {});
}

async function exists(name, signal) {
	try {
		await call("GET", `v1/venvs/${name}`, { signal });
		return true;
	} catch (error) {
		if (error.status === 404) return false;
		throw error;
	}
}
