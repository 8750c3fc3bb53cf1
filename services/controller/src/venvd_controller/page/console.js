// A console on a session of a backend: code in, output as it comes.

import { call, follow } from "./api.js";
import { add, announce, attempt, button, confirmed, explain, h, link, showTrouble } from "./dom.js";
import { whyNoConsole } from "./backends.js";
import { Screen } from "./logs.js";
import { formatValue, parseValue, renderDisplay } from "./output.js";

const MOST_ENTRIES = 100;
const IDLE_SECONDS = 1800;
const histories = new Map();

export async function showConsole({ main, name, signal }) {
	const problem = h("div");
	add(main, problem);
	const backend = await attempt(problem, () => call("GET", `v1/backends/${name}`, { signal }));
	if (!backend || signal.aborted) return;
	const why = whyNoConsole(backend);
	if (why) return problem.replaceChildren(h("p", { class: "hint" }, why, " ", link(`#/backends/${name}`, "Back")));
	const path = `v1/backends/${name}`;
	const sessions = h("select", { id: "session" }, h("option", { value: "default" }, "default, which all clients share"));
	const entries = h("div", { class: "entries", role: "log", "aria-label": "Output" });
	const code = h("textarea", { id: "code", rows: 1, spellcheck: "false", autocapitalize: "off", autocomplete: "off", "aria-describedby": "keys" });
	const run = h("button", { class: "primary" }, "Run");
	const interrupt = button("Interrupt", () => stop(), { disabled: true });
	const named = new Map();
	const history = histories.get(name) ?? [];
	histories.set(name, history);
	let place = history.length;
	let running = null;

	async function readSessions(chosen = sessions.value) {
		const { sessions: known } = await call("GET", `${path}/sessions`, { signal });
		const others = known.filter((each) => each.name !== "default" && each.id !== "default");
		sessions.replaceChildren(sessions.firstChild, ...others.map((each) => h("option", { value: each.id }, `${each.name ?? each.id} (${each.state})`)));
		sessions.value = [...sessions.options].some((each) => each.value === chosen) ? chosen : "default";
		change.disabled = false;
		end.disabled = sessions.value === "default";
	}
	const create = button("New session", () =>
		attempt(problem, async () => readSessions((await call("POST", `${path}/sessions`, { signal, body: { idleTimeout: IDLE_SECONDS } })).id), create));
	const change = button("Reset", async () => {
		if (await confirmed("Reset this session?", "All that is in it ends: variables, imports, files.", "Reset")) await attempt(problem, () => call("POST", `${path}/sessions/${sessions.value}/reset`, { signal }), change);
	});
	const end = button("End session", async () => {
		if (await confirmed("End this session?", "All that is in it ends: variables, imports, files.", "End")) await attempt(problem, async () => (await call("DELETE", `${path}/sessions/${sessions.value}`, { signal }), readSessions("default")), end);
	}, { disabled: true });
	sessions.addEventListener("change", () => (end.disabled = sessions.value === "default"));

	async function stop() {
		if (!running) return;
		if (running.asked) return running.abort();
		running.asked = true;
		interrupt.textContent = "Cancel the call";
		await attempt(problem, () => call("POST", `${path}/sessions/${running.session}/interrupt`, { signal }));
	}

	async function execute() {
		const text = code.value.replace(/\s+$/, "");
		if (!text || running) return;
		if (history.at(-1) !== text) history.push(text);
		place = history.length;
		code.value = "";
		code.rows = 1;
		const output = h("div", { class: "output" });
		entries.append(h("div", { class: "entry" }, h("pre", { class: "code" }, text), output));
		if (entries.childElementCount > MOST_ENTRIES) entries.firstChild.remove();
		const aborting = new AbortController();
		running = { session: sessions.value, abort: () => aborting.abort(), asked: false };
		interrupt.disabled = false;
		run.disabled = true;
		entries.setAttribute("aria-busy", "true");
		try {
			await show(output, text, AbortSignal.any([signal, aborting.signal]));
		} catch (error) {
			if (signal.aborted) return;
			output.append(error.name === "AbortError" ? h("p", { class: "hint" }, "The call is cancelled.") : explain(error));
		} finally {
			running = null;
			run.disabled = false;
			interrupt.disabled = true;
			interrupt.textContent = "Interrupt";
			entries.removeAttribute("aria-busy");
		}
		readSessions().catch(showTrouble);
	}

	async function show(output, text, ended) {
		const headers = { "X-Venvd-Values": "tagged", "X-Venvd-Session": running.session };
		let screen = null;
		let displayed = false;
		const put = (element) => {
			screen?.show();
			screen = null;
			const below = scrollY + innerHeight >= document.body.scrollHeight - 80;
			output.append(element);
			if (below) code.scrollIntoView({ block: "end" });
		};
		const display = (bundle) => {
			const { id, update } = bundle["application/vnd.venvd.display-id+json"] ?? {};
			const places = update ? (named.get(id) ?? []).filter((each) => each.isConnected) : [];
			const made = (places.length ? places : [null]).map(() => renderDisplay(bundle));
			made.forEach((element, index) => (places[index] ? places[index].replaceWith(element) : put(element)));
			if (id) named.set(id, update ? made : [...(named.get(id) ?? []), ...made]);
			displayed = true;
		};
		const write = (data, style) => {
			if (!screen) {
				const next = new Screen({ class: "text", tabindex: false });
				put(next.element);
				screen = next;
			}
			screen.write(data, style);
		};
		for await (const { kind, text: data } of follow("POST", `${path}/exec`, { body: { code: text }, headers, signal: ended })) {
			if (kind === "stdout" || kind === "stderr") write(JSON.parse(data), kind);
			else if (kind === "display") display(JSON.parse(data));
			else if (kind === "result") {
				const result = parseValue(data);
				const value = result?.isHandle ? result : (result?.value ?? null);
				if (value !== null && !(displayed && value.isHandle)) write(formatValue(value), "result");
			} else if (kind === "error") {
				const error = JSON.parse(data);
				write(`${(error.traceback || error.detail || error.message || "error").trimEnd()}`, "stderr");
				announce(error.message ?? error.detail ?? "error");
			} else if (kind === "done") {
				if (JSON.parse(data).truncated) put(h("p", { class: "hint" }, "The output was longer than the limit of the session and is cut."));
				screen?.show();
			}
		}
	}

	function recall(step) {
		if (place + step < 0 || place + step > history.length) return;
		place += step;
		code.value = history[place] ?? "";
		fit();
	}
	const fit = () => (code.rows = Math.min(code.value.split("\n").length, 14));

	function press(event) {
		const before = code.value.slice(0, code.selectionStart);
		const after = code.value.slice(code.selectionEnd);
		if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
			const line = before.split("\n").at(-1);
			const goesOn = !event.ctrlKey && !event.metaKey && (after.trim() || /[:\\([{,]\s*$/.test(line) || (/^\s+\S/.test(line) && before.includes("\n")));
			event.preventDefault();
			if (!goesOn) return execute();
			code.setRangeText(`\n${/^\s*/.exec(line)[0]}${/:\s*$/.test(line) ? "    " : ""}`, code.selectionStart, code.selectionEnd, "end");
			fit();
		} else if (event.key === "ArrowUp" && !before.includes("\n")) event.preventDefault(), recall(-1);
		else if (event.key === "ArrowDown" && !after.includes("\n")) event.preventDefault(), recall(1);
		return undefined;
	}
	code.addEventListener("keydown", press);
	code.addEventListener("input", fit);
	main.addEventListener("keydown", (event) => {
		if (event.key === "c" && event.ctrlKey && running && String(getSelection()) === "" && code.selectionStart === code.selectionEnd) stop();
	}, { signal });
	const submit = (event) => {
		event.preventDefault();
		execute();
		code.focus();
	};
	add(
		main,
		h("div", { class: "inline" }, h("label", { for: "session" }, "Session"), sessions, create, change, end, link(`#/backends/${name}`, "About the backend")),
		entries,
		h("form", { class: "prompt", submit }, h("label", { for: "code", class: "hidden" }, "Code"), code, run, interrupt),
		h("p", { class: "hint", id: "keys" }, "Enter runs, Shift+Enter adds a line, ↑ and ↓ recall, Ctrl+C interrupts. Leaving this view cancels what runs."),
	);
	code.focus();
	readSessions().catch(showTrouble);
}
