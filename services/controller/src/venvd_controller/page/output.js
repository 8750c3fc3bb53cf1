// Values and displays of user code. All of it is hostile: text stays text, figures are images, tables are made anew.

import { h } from "./dom.js";

const MOST_ROWS = 500;
const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const FRAME = `<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:">`;
// the one place that makes HTML of a string: for a parser that runs nothing, and for a frame without scripts
const policy = window.trustedTypes?.createPolicy("output", { createHTML: (text) => text }) ?? { createHTML: (text) => text };

/** Create the element of a display, a map from media types to data, from the richest type that the page shows. */
export function renderDisplay(bundle) {
	const alt = String(bundle["text/plain"] ?? "figure").slice(0, 500);
	const svg = bundle["image/svg+xml"];
	if (svg) return h("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`, alt });
	for (const type of IMAGES) {
		if (bundle[type]) return h("img", { src: `data:${type};base64,${String(bundle[type]).replace(/[^\w+/=]/g, "")}`, alt });
	}
	if (bundle["text/html"]) return renderHtml(String(bundle["text/html"]));
	const [type, data] = Object.entries(bundle).find(([each]) => each === "text/plain") ?? Object.entries(bundle)[0] ?? [];
	return h("pre", { title: type }, typeof data === "string" ? data : JSON.stringify(data, null, 2));
}

function renderHtml(text) {
	const unstyled = text.replace(/<style[^]*?<\/style>|\sstyle\s*=\s*"[^"]*"/gi, "");
	const { body } = new DOMParser().parseFromString(policy.createHTML(unstyled), "text/html");
	if (body.querySelector("table")) {
		const parts = [...body.querySelectorAll("table, p")].filter((each) => !each.parentElement.closest("table"));
		return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, parts.map((each) => (each.tagName === "TABLE" ? renderTable(each) : h("p", {}, each.textContent))));
	}
	const frame = h("iframe", { sandbox: true, title: "HTML of the code", referrerpolicy: "no-referrer" });
	frame.srcdoc = policy.createHTML(FRAME + text);
	return frame;
}

function renderTable(table) {
	const rows = [...table.rows];
	const cut = rows.length - MOST_ROWS;
	return h(
		"table",
		{},
		cut > 0 && h("caption", {}, `${cut} further rows are not shown`),
		rows.slice(0, MOST_ROWS).map((row) => {
			const isHead = row.parentElement.tagName === "THEAD";
			return h("tr", {}, [...row.cells].map((cell) =>
				h(cell.tagName === "TH" ? "th" : "td", {
					scope: cell.tagName === "TH" && (isHead ? "col" : "row"),
					colspan: cell.colSpan > 1 && cell.colSpan,
					rowspan: cell.rowSpan > 1 && Math.min(cell.rowSpan, MOST_ROWS),
				}, cell.textContent.trim())));
		}),
	);
}

/** Parse a value in the mode `tagged`; numbers keep the text that they had, as 1.0 is not 1. */
export function parseValue(text) {
	return JSON.parse(text, (_, value, context) => (typeof value === "number" && context?.source ? new Literal(context.source) : value));
}

class Literal {
	constructor(text) {
		this.text = text;
	}
}

/** Return a value as Python writes it. */
export function formatValue(value) {
	if (value === null) return "None";
	if (value === true) return "True";
	if (value === false) return "False";
	if (typeof value === "string") return formatText(value);
	if (value instanceof Literal || typeof value === "number") return value.text ?? String(value);
	if (Array.isArray(value)) return `[${value.map(formatValue).join(", ")}]`;
	if (value.isHandle) return value.repr;
	const [[key, inner]] = [...Object.entries(value), [""]];
	const items = (list) => list.map(formatValue).join(", ");
	switch (key) {
		case "$int":
		case "$float":
			return inner;
		case "$tuple":
			return `(${items(inner)}${inner.length === 1 ? "," : ""})`;
		case "$set":
			return inner.length ? `{${items(inner)}}` : "set()";
		case "$frozenset":
			return `frozenset({${items(inner)}})`;
		case "$complex":
			return `(${formatValue(inner[0])}+${formatValue(inner[1])}j)`.replace("+-", "-");
		case "$dict":
			return `{${inner.map(([name, each]) => `${formatValue(name)}: ${formatValue(each)}`).join(", ")}}`;
		case "$bytes":
			return `b${formatText(atob(inner)).replace(/[\x80-\xff]/g, (char) => `\\x${char.charCodeAt(0).toString(16)}`)}`;
	}
	if (key.startsWith("$")) return `${key.slice(1)}(${formatValue(inner)})`;
	return `{${Object.entries(value).map(([name, each]) => `${formatText(name)}: ${formatValue(each)}`).join(", ")}}`;
}

function formatText(text) {
	const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
	const escaped = text.replace(/[\\\n\r\t]/g, (char) => ({ "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" })[char]);
	return quote + escaped.replaceAll(quote, `\\${quote}`).replace(/[\x00-\x1f\x7f]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`) + quote;
}
