// Elements. Text is always text: nothing in this module parses HTML.

/** Create an element; functions among the properties are listeners, and empty children are left out. */
export function h(tag, properties = {}, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(properties)) {
		if (value === undefined || value === null || value === false) continue;
		if (typeof value === "function") element.addEventListener(name, value);
		else element.setAttribute(name, value === true ? "" : value);
	}
	add(element, ...children);
	return element;
}

export function add(parent, ...children) {
	parent.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
}

export function announce(text) {
	document.getElementById("announcer").textContent = text;
}

/** Show an error that concerns the whole view; without one, take the last away. */
export function showTrouble(error) {
	const text = error ? `${error.message} ${error.advice ?? ""}` : "";
	const place = document.getElementById("trouble");
	if (place.textContent !== text) place.textContent = text;
}

/**
 * Make the children of a list those of `items`. An item that did not change keeps its element, and with it the focus
 * and the selection; in a changed one the focus stays at the same place.
 */
export function patch(list, items, key, render) {
	const before = (list.shown ??= new Map());
	const after = new Map();
	let next = list.firstChild;
	for (const item of items) {
		const text = JSON.stringify(item);
		let shown = before.get(key(item));
		if (shown?.text !== text) {
			const element = render(item);
			if (shown) {
				const focused = shown.element.contains(document.activeElement) && document.activeElement.dataset.focus;
				if (shown.element === next) next = element;
				shown.element.replaceWith(element);
				if (focused) element.querySelector(`[data-focus="${focused}"]`)?.focus();
			}
			shown = { text, element };
		}
		if (shown.element === next) next = next.nextSibling;
		else list.insertBefore(shown.element, next);
		after.set(key(item), shown);
	}
	for (const [name, { element }] of before) if (!after.has(name)) element.remove();
	list.shown = after;
}

export function button(label, onClick, properties = {}) {
	return h("button", { type: "button", click: onClick, "data-focus": label, ...properties }, label);
}

export function link(target, label, properties = {}) {
	return h("a", { href: target, "data-focus": target, ...properties }, label);
}

export function badge(state) {
	return h("span", { class: `state ${state}` }, state);
}

/** A list of terms; an empty value leaves its term out. */
export function terms(pairs) {
	const rows = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
	return h("dl", {}, rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** Ask before something is taken away; the focus returns to where it was. */
export function confirmed(question, consequence, verb) {
	return new Promise((resolve) => {
		const dialog = h(
			"dialog",
			{ "aria-labelledby": "question", "aria-describedby": "consequence", close: () => end(dialog.returnValue === "yes") },
			h("h2", { id: "question" }, question),
			h("p", { id: "consequence" }, consequence),
			h(
				"div",
				{ class: "actions" },
				button("Cancel", () => dialog.close("no"), { autofocus: true }),
				button(verb, () => dialog.close("yes"), { class: "danger" }),
			),
		);
		const end = (answer) => {
			dialog.remove();
			resolve(answer);
		};
		document.body.append(dialog);
		dialog.showModal();
	});
}

/** Run `work` for a button, which is off meanwhile; an error is shown in `place`. */
export async function attempt(place, work, source) {
	place.replaceChildren();
	if (source) source.disabled = true;
	try {
		return await work();
	} catch (error) {
		if (error.name !== "AbortError") place.replaceChildren(explain(error));
		return undefined;
	} finally {
		if (source) source.disabled = false;
	}
}

/** An error as an element: what went wrong, and what to do. */
export function explain(error) {
	return h("p", { class: "error", role: "alert" }, error.message, error.advice && h("span", { class: "advice" }, " ", error.advice));
}

export function formatTime(text) {
	return text ? h("time", { datetime: text, title: text }, new Date(text).toLocaleString()) : null;
}

export function formatBytes(count) {
	if (count === undefined || count === null) return "–";
	const units = ["B", "KiB", "MiB", "GiB"];
	let index = 0;
	while (count >= 1024 && index < units.length - 1) (count /= 1024), index++;
	return `${count < 10 && index ? count.toFixed(1) : Math.round(count)} ${units[index]}`;
}
