// Fields of forms, each with a label, a hint and a place for its error.

import { h } from "./dom.js";

/** Create a field; with `rows` it is a text area, and with `options` a choice. */
export function field(name, label, { rows, options, value, ...properties }, hint) {
	const about = { id: name, name, "aria-describedby": `${name}-hint ${name}-error`, ...properties };
	const input = rows
		? h("textarea", { rows, ...about })
		: options
			? h("select", about, options.map(([key, text]) => h("option", { value: key }, text)))
			: h("input", about);
	if (value !== undefined && value !== null) input.value = value;
	const problem = h("p", { class: "error", id: `${name}-error`, role: "alert" });
	const element = h("div", { class: "field" }, h("label", { for: name }, label), input, h("p", { class: "hint", id: `${name}-hint` }, hint ?? ""), problem);
	return { element, input, problem, label };
}

/** Show the error of a field and go there; without a text, take it away. */
export function showFieldError({ input, problem }, text) {
	const message = typeof text === "string" ? text : "";
	problem.textContent = message;
	message ? input.setAttribute("aria-invalid", "true") : input.removeAttribute("aria-invalid");
	if (message) input.focus();
}

/** Check a field by its own rules, and explain what is wrong. */
export function checkField(each) {
	const { input, label } = each;
	if (input.validity.valid) return true;
	showFieldError(each, input.validity.valueMissing ? `${label} is missing.` : input.validity.patternMismatch ? `“${input.value}” does not fit: ${each.element.querySelector(".hint").textContent}` : input.validationMessage);
	return false;
}

export function readLines(text) {
	return text.split("\n").map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
}

/** Find the field that an error is about: the message begins with its name, or quotes what it has. */
export function findField(inputs, error) {
	const quoted = [...error.message.matchAll(/"([^"]+)"/g)].map((match) => match[1]);
	return inputs[error.field] ?? Object.values(inputs).find(({ input }) => quoted.some((text) => input.value.split("\n").includes(text)));
}
