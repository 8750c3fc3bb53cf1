import { call, follow, wait } from "./api.js";
import { announce, badge, button, explain, h } from "./dom.js";
import { Terminal } from "./terminal.js";

const MOST_LINES = 2000;
const FRAME_MS = 50;

/** Shows what a `Terminal` has, and stays at the end while the reader is there. */
export class Screen {
	constructor(properties) {
		this.element = h("pre", { tabindex: "0", class: "log", ...properties });
		this.terminal = new Terminal(MOST_LINES);
		this.first = 0;
	}

	write(text, style) {
		this.terminal.write(text, style);
		this.timer ??= setTimeout(() => this.show(), FRAME_MS);
	}

	show() {
		clearTimeout(this.timer);
		this.timer = undefined;
		const { element, terminal } = this;
		const atEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - 8;
		for (let gone = Math.min(terminal.dropped - this.first, element.childElementCount); gone > 0; gone--) element.firstChild.remove();
		this.first = terminal.dropped;
		const shown = element.childElementCount;
		const lines = terminal.lines.at(-1).length ? terminal.lines : terminal.lines.slice(0, -1);
		lines.slice(Math.max(0, shown - 1)).forEach((line, index) => {
			const old = shown ? element.children[shown - 1 + index] : undefined;
			const next = h("span", { class: "line" }, line.map(({ text, style }) => (style ? h("span", { class: style }, text) : text)), "\n");
			old ? old.replaceWith(next) : element.append(next);
		});
		if (atEnd) element.scrollTop = element.scrollHeight;
	}
}

/** Show phases and log of an operation, live; return whether it succeeded, or nothing if the view ends first. */
export async function showOperation(place, key, signal, title = "Log") {
	place.watching?.abort();
	const watching = (place.watching = new AbortController());
	const ended = AbortSignal.any([signal, watching.signal]);
	const phase = h("span", {}, "queued");
	const problem = h("div");
	const screen = new Screen({ "aria-label": title });
	const cancel = button("Cancel it", () => call("DELETE", `v1/operations/${key}`, { signal: ended }).catch((error) => problem.replaceChildren(explain(error))));
	const close = button("Close", () => {
		watching.abort();
		place.replaceChildren();
	});
	place.replaceChildren(h("section", { "aria-label": title }, h("p", { class: "inline" }, h("strong", {}, title), phase, cancel, close), screen.element, problem));
	let last = "0";
	while (!ended.aborted) {
		try {
			for await (const { kind, text, id } of follow("GET", `v1/operations/${key}/events`, { signal: ended, headers: { "Last-Event-ID": last } })) {
				last = id ?? last;
				const data = JSON.parse(text);
				if (kind === "log") screen.write(`${data}\n`);
				else if (kind === "phase") phase.textContent = data;
				else if (kind === "progress") phase.textContent = data;
				else if (kind === "done") {
					screen.show();
					cancel.remove();
					phase.replaceWith(badge(data.state));
					announce(`${title}: ${data.state}`);
					if (data.error) problem.replaceChildren(explain({ message: data.error.detail, advice: "" }));
					return data.state === "succeeded";
				}
			}
		} catch (error) {
			if (ended.aborted) return undefined;
			problem.replaceChildren(explain(error));
			if (error.status >= 400 && error.status < 500) return undefined;
		}
		await wait(2, ended);
		problem.replaceChildren();
	}
	return undefined;
}

/** Show the log of a backend, live over its restarts. */
export async function showLog(place, name, signal) {
	const screen = new Screen({ "aria-label": `Log of ${name}` });
	const problem = h("div");
	place.replaceChildren(screen.element, problem);
	let query = "tail=500";
	let last = "";
	while (!signal.aborted) {
		try {
			for await (const { kind, text } of follow("GET", `v1/backends/${name}/logs?follow=true&${query}`, { signal })) {
				if (kind !== "log") return;
				problem.replaceChildren();
				const line = JSON.parse(text);
				if (line.time <= last) continue;
				query = `since=${encodeURIComponent((last = line.time))}`;
				const colour = line.source === "server" ? "\x1b[2m" : line.stream === "stderr" ? "\x1b[33m" : "";
				screen.write(`\x1b[2m${new Date(line.time).toLocaleTimeString()}\x1b[0m ${colour}${line.text}\x1b[0m\n`);
			}
		} catch (error) {
			if (signal.aborted) return;
			problem.replaceChildren(explain(error));
			if (error.status === 403 || error.status === 404) return;
		}
		await wait(2, signal);
	}
}
