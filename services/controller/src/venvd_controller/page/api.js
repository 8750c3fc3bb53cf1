// Requests to the controller. The token stays in this tab and travels in a header: there is no cookie to forge.

const KEPT = "venvd.token";
const ADVICE = {
	unauthenticated: "Log in again with a token that is valid.",
	unavailable: "The page tries again by itself.",
	busy: "Try again in a moment.",
	internal: "The log of the controller has the details.",
	unreachable: "Check that the controller runs (venvd up) and that this machine reaches it; the page tries again.",
};
const POLL_SECONDS = 3;
const MOST_SECONDS = 30;
const MOST_EVENT = 64 << 20;

/** An error that the controller or a backend sent: problem details of RFC 9457. */
export class Problem extends Error {
	constructor(fields, status) {
		super(fields.detail ?? fields.message ?? `the answer has the status ${status}`);
		this.code = fields.code;
		this.status = status;
		this.advice = ADVICE[fields.code] ?? "";
		const named = /^(?:the field "([\w.]+)"|([a-zA-Z]+)(?:\.[\w.-]+)?(?::| must\b))/.exec(this.message);
		this.field = named?.[1] ?? named?.[2] ?? null;
	}
}

export const readToken = () => sessionStorage.getItem(KEPT);
export const keepToken = (token) => sessionStorage.setItem(KEPT, token);
export const dropToken = () => sessionStorage.removeItem(KEPT);

async function send(method, path, { body, headers = {}, signal, token = readToken() } = {}) {
	let response;
	try {
		response = await fetch(path, {
			method,
			signal,
			cache: "no-store",
			credentials: "omit",
			redirect: "error",
			headers: {
				Authorization: `Bearer ${token}`,
				...(body === undefined ? {} : { "Content-Type": "application/json" }),
				...headers,
			},
			body: body === undefined ? undefined : JSON.stringify(body),
		});
	} catch (error) {
		if (error.name === "AbortError") throw error;
		throw new Problem({ detail: "The controller does not answer.", code: "unreachable" }, 0);
	}
	if (response.ok) return response;
	const fields = await response.json().catch(() => ({}));
	if (response.status === 401) dispatchEvent(new CustomEvent("unauthenticated", { detail: token }));
	throw new Problem(fields, response.status);
}

/** Send a request and return its JSON; null where the answer has no body. */
export async function call(method, path, options) {
	const text = await (await send(method, path, options)).text();
	return text ? JSON.parse(text) : null;
}

export async function fetchText(path, options) {
	return (await send("GET", path, options)).text();
}

/** Return all items of a paged list. */
export async function list(path, signal) {
	const items = [];
	let after = "";
	do {
		const page = await call("GET", `${path}?limit=1000${after && `&after=${encodeURIComponent(after)}`}`, { signal });
		items.push(...page.items);
		after = page.next;
	} while (after);
	return items;
}

/** Follow server-sent events: EventSource sends no headers, so the body of a fetch is read. */
export async function* follow(method, path, options = {}) {
	const headers = { Accept: "text/event-stream", ...options.headers };
	const response = await send(method, path, { ...options, headers });
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	try {
		for (;;) {
			const { value, done } = await reader.read();
			if (done) return;
			const events = (rest + value).split("\n\n");
			rest = events.pop();
			if (rest.length > MOST_EVENT) throw new Problem({ detail: "An event is too large for this page." }, 0);
			for (const event of events) {
				const fields = Object.fromEntries(event.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
				if (fields.event) yield { kind: fields.event, text: fields.data, id: fields.id };
			}
		}
	} catch (error) {
		if (error.name === "AbortError" || error instanceof Problem) throw error;
		throw new Problem({ detail: "The connection broke off.", code: "unreachable" }, 0);
	} finally {
		reader.cancel().catch(() => {});
	}
}

export function wait(seconds, signal, wakeWhenSeen = false) {
	return new Promise((resolve) => {
		const end = () => {
			clearTimeout(timer);
			signal.removeEventListener("abort", end);
			document.removeEventListener("visibilitychange", seen);
			resolve();
		};
		const seen = () => wakeWhenSeen && !document.hidden && end();
		const timer = setTimeout(end, seconds * 1000);
		signal.addEventListener("abort", end);
		document.addEventListener("visibilitychange", seen);
	});
}

/**
 * Call `load` again and again until `signal` ends it. Failures slow it down, and so does a tab that is hidden, until
 * it is seen again.
 */
export async function poll(signal, load, onError, seconds = POLL_SECONDS) {
	let failures = 0;
	while (!signal.aborted) {
		try {
			await load();
			if (failures || !signal.aborted) onError(null);
			failures = 0;
		} catch (error) {
			if (signal.aborted || error.status === 401) return;
			failures++;
			onError(error);
		}
		const pause = Math.min(seconds * 2 ** failures, MOST_SECONDS);
		await wait(document.hidden ? MOST_SECONDS * 2 : pause, signal, true);
	}
}

/** What the token of this tab may do; docs/access.md has the scopes. */
export class Caller {
	constructor({ name, scope }) {
		this.name = name;
		this.scope = scope;
		this.isOperator = scope.includes("admin") || scope.includes("operator");
	}

	has(wanted) {
		const kind = wanted.slice(0, wanted.indexOf(":") + 1);
		return this.isOperator || this.scope.some((own) => own === wanted || (own.startsWith(kind) && matches(wanted, own)));
	}

	get makesVenvs() {
		return this.isOperator || this.scope.some((own) => own.startsWith("venv:"));
	}
}

function matches(text, pattern) {
	const parts = pattern.split("*").map((part) => part.replace(/[^\w-]/g, "\\$&"));
	return new RegExp(`^${parts.join(".*")}$`).test(text);
}
