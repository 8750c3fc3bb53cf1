// Backends: the list, one backend with figures and log, and the form that starts one.

import { call, list, poll, wait } from "./api.js";
import { add, announce, attempt, badge, button, confirmed, explain, formatBytes, formatTime, h, link, patch, showTrouble, terms } from "./dom.js";
import { checkField, field, findField, showFieldError } from "./forms.js";
import { showLog, showOperation } from "./logs.js";
import { readFigures } from "./metrics.js";

const FIGURES_SECONDS = 5;
const MOST_READ = 20;

const mayChange = (caller, backend) => caller.has(`venv:${backend.venv}`);
const whereConsole = { pipe: "A pipe backend has a Unix socket, which a browser cannot reach: venvd shell NAME opens a session on its machine.", rpc: "An rpc backend speaks gRPC, which this page does not: venvd shell NAME opens a session." };

/** Why the console cannot be used with a backend; null if it can. */
export function whyNoConsole(backend) {
	if (whereConsole[backend.type]) return whereConsole[backend.type].replace("NAME", backend.name);
	return ["running", "unhealthy", "idle"].includes(backend.state) ? null : `The backend is ${backend.state}: the console opens when it runs.`;
}

export function showBackends({ main, caller, signal }) {
	const rows = h("ul", { class: "rows", "aria-label": "Backends" });
	const problem = h("div");
	const filter = h("input", { id: "filter", type: "search", placeholder: "name, venv or state", input: () => shown() });
	const figures = new Map();
	let backends = [];
	const shown = () => {
		const words = filter.value.trim().toLowerCase();
		const chosen = backends.filter((each) => `${each.name} ${each.venv} ${each.state} ${each.type}`.toLowerCase().includes(words));
		const items = chosen.map((backend) => ({ ...backend, token: undefined, figures: figures.get(backend.name) }));
		patch(rows, items.length ? items : [null], (each) => each?.name, renderRow);
	};
	const renderRow = (backend) =>
		backend
			? h(
					"li",
					{ "data-name": backend.name },
					link(`#/backends/${backend.name}`, backend.name),
					badge(backend.state),
					h("span", { class: "about" }, `${backend.type} of ${backend.venv}${describeAge(backend)}`, h("small", {}, describeFigures(backend.figures)), backend.error && h("span", { class: "error" }, backend.error)),
					h(
						"span",
						{ class: "actions" },
						whyNoConsole(backend) ? null : link(`#/backends/${backend.name}/console`, "Console", { "aria-label": `Console of ${backend.name}` }),
						mayChange(caller, backend) && button("Restart", (event) => restart(backend.name, problem, signal, event.target), { "aria-label": `Restart ${backend.name}` }),
						mayChange(caller, backend) && button("Stop", (event) => stop(backend.name, problem, signal, event.target), { "aria-label": `Stop ${backend.name}`, class: "danger" }),
					),
				)
			: h("li", {}, filter.value ? "No backend matches." : "There is no backend yet that this token may see.");
	add(main, h("div", { class: "inline" }, h("label", { for: "filter" }, "Filter"), filter, caller.makesVenvs && link("#/start", "Start a backend", { class: "button primary" })), problem, rows);
	poll(
		signal,
		async () => {
			backends = await list("v1/backends", signal);
			shown();
		},
		showTrouble,
	);
	readVisible();

	async function readVisible() {
		await wait(0.5, signal);
		while (!signal.aborted) {
			const seen = [...rows.children].filter((row) => row.dataset.name && isVisible(row)).slice(0, MOST_READ);
			for (const { dataset } of document.hidden ? [] : seen) {
				const backend = backends.find((each) => each.name === dataset.name);
				if (signal.aborted || !backend?.url || backend.state !== "running" || !mayChange(caller, backend)) continue;
				figures.set(backend.name, await readFigures(backend.name, signal).catch(() => undefined));
			}
			if (!signal.aborted) shown();
			await wait(FIGURES_SECONDS, signal);
		}
	}
}

function isVisible(row) {
	const { top, bottom } = row.getBoundingClientRect();
	return bottom > 0 && top < innerHeight;
}

function describeFigures(figures) {
	if (!figures) return null;
	const rate = figures.rate === null ? "" : ` · ${figures.rate.toFixed(figures.rate < 10 ? 1 : 0)} calls/s`;
	return ` ${figures.sessions} session${figures.sessions === 1 ? "" : "s"}${rate} · ${formatBytes(figures.memory)}`;
}

async function restart(name, problem, signal, source) {
	if (!(await confirmed(`Restart ${name}?`, "Its sessions and all that is in them end. Address and token stay.", "Restart"))) return null;
	const started = await attempt(problem, () => call("POST", `v1/backends/${name}/restart`, { signal }), source);
	if (started) announce(`${name} restarts.`);
	return started;
}

async function stop(name, problem, signal, source) {
	if (!(await confirmed(`Stop ${name}?`, "The backend is stopped and removed, with its sessions and all that is in them. Its venv stays.", "Stop"))) return false;
	const done = await attempt(problem, async () => (await call("DELETE", `v1/backends/${name}?wait=10`, { signal }), true), source);
	if (done) announce(`${name} is stopped.`);
	return done;
}

export function showBackend({ main, name, caller, signal }) {
	const about = h("div");
	const figures = h("div");
	const problem = h("div");
	const actions = h("div", { class: "actions" });
	const operation = h("div");
	const log = h("div");
	let current = null;
	let followed = null;
	add(main, about, figures, actions, problem, operation, h("h2", {}, "Log"), log);
	const renderActions = ({ backend }) => {
		const why = whyNoConsole(backend);
		return h(
			"div",
			{ class: "actions" },
			why ? h("p", { class: "hint" }, why) : link(`#/backends/${name}/console`, "Console", { class: "button primary" }),
			mayChange(caller, backend) && button("Restart", async (event) => follow((await restart(name, problem, signal, event.target))?.operation)),
			mayChange(caller, backend) && button("Stop", async (event) => (await stop(name, problem, signal, event.target)) && (location.hash = "#/backends"), { class: "danger" }),
		);
	};
	const follow = (started) => {
		if (!started || started === followed) return;
		followed = started.id ?? started;
		showOperation(operation, followed, signal, `Start of ${name}`);
	};
	poll(
		signal,
		async () => {
			const backend = await call("GET", `v1/backends/${name}`, { signal });
			if (current && current.state !== backend.state) announce(`${name} is ${backend.state}.`);
			patch(about, [{ ...backend, token: undefined }], () => "", renderAbout);
			patch(actions, [{ backend: { name, type: backend.type, state: backend.state, venv: backend.venv } }], () => "", renderActions);
			if (!current) {
				if (mayChange(caller, backend)) showLog(log, name, signal);
				else log.replaceChildren(h("p", { class: "hint" }, `The log needs the scope venv:${backend.venv}.`));
			}
			if (["pending", "starting"].includes(backend.state) && mayChange(caller, backend)) follow(backend.operation);
			current = backend;
			if (backend.state === "running" && mayChange(caller, backend)) patch(figures, [await readFigures(name, signal)], () => "", renderFigures);
			else figures.replaceChildren(), (figures.shown = undefined);
		},
		showTrouble,
	);
}

function describeAge(backend) {
	return backend.updating ? ", updating" : backend.outdated ? ", outdated" : "";
}

function renderAbout(backend) {
	return terms([
		["State", badge(backend.state)],
		["Update", backend.updating ? "Its launches are being replaced." : null],
		["Outdated", backend.outdated && !backend.updating ? "A restart brings its newest build and server." : null],
		["Error", backend.error && h("span", { class: "error" }, backend.error)],
		["Venv", link(`#/venvs/${backend.venv}`, backend.venv)],
		["Type", `${backend.type} on the engine ${backend.engine}`],
		["Address", backend.url && h("code", {}, backend.url)],
		["HTTP address", backend.httpUrl && backend.httpUrl !== backend.url && h("code", {}, backend.httpUrl)],
		["Python", backend.python],
		["Started", formatTime(backend.startedAt)],
		["Restarts", backend.restarts ? String(backend.restarts) : null],
	]);
}

function renderFigures(now) {
	return h("div", { class: "figures" }, [
		["Sessions", now.mostSessions ? `${now.sessions} of ${now.mostSessions}` : now.sessions],
		["Busy", now.busy],
		["Calls a second", now.rate === null ? "–" : now.rate.toFixed(1)],
		["Calls", now.calls],
		["Waiting", now.queued],
		["Memory", formatBytes(now.memory)],
		["Handles", now.handles],
	].map(([label, value]) => h("div", {}, h("strong", {}, String(value)), h("span", {}, label))));
}

export async function startBackend({ main, name: venv, signal }) {
	const problem = h("div");
	const log = h("div");
	const inputs = {
		venv: field("venv", "Venv", { value: venv ?? "default", required: true, list: "venvs" }, "Its packages are what the backend can import."),
		type: field("type", "Type", { options: [["http", "http"], ["pipe", "pipe"], ["rpc", "rpc"]] }, "http has the console of this page; pipe is a Unix socket, and rpc is gRPC."),
		name: field("name", "Name", { placeholder: "made from venv and type", pattern: "[a-z0-9]([a-z0-9\\-]{0,61}[a-z0-9])?" }, "Lower-case letters, digits and hyphens."),
		port: field("port", "Port", { type: "number", min: 1, max: 65535, placeholder: "the next free one" }, "For http and rpc."),
	};
	const start = h("button", { class: "primary" }, "Start");
	const submit = async (event) => {
		event.preventDefault();
		Object.values(inputs).forEach(showFieldError);
		problem.replaceChildren();
		if (!Object.values(inputs).every(checkField)) return;
		const body = { venv: inputs.venv.input.value, type: inputs.type.input.value, name: inputs.name.input.value || null, port: Number(inputs.port.input.value) || null };
		start.disabled = true;
		try {
			const { backend, operation } = await call("POST", "v1/backends", { body, signal });
			if (await showOperation(log, operation.id, signal, `Start of ${backend.name}`)) location.hash = `#/backends/${backend.name}`;
		} catch (error) {
			if (error.name === "AbortError") return;
			const at = findField(inputs, error);
			at ? showFieldError(at, error.message) : problem.replaceChildren(explain(error));
		} finally {
			start.disabled = false;
		}
	};
	const venvs = h("datalist", { id: "venvs" });
	add(main, h("form", { class: "narrow", novalidate: true, submit }, Object.values(inputs).map((each) => each.element), venvs, problem, h("div", { class: "actions" }, start, link("#/backends", "Cancel", { class: "button" }))), log);
	list("v1/venvs", signal).then((known) => venvs.append(...known.map((each) => h("option", { value: each.name }))), () => {});
}
