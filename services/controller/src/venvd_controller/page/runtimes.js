import { call, list, poll } from "./api.js";
import { add, attempt, badge, button, h, patch, showTrouble } from "./dom.js";
import { showOperation } from "./logs.js";

export function showRuntimes({ main, caller, signal }) {
	const rows = h("ul", { class: "rows", "aria-label": "Runtimes" });
	const problem = h("div");
	const log = h("div");
	const version = h("input", { id: "version", placeholder: "3.13", size: "8", pattern: "3\\.\\d+(\\.\\d+)?", required: true, "aria-describedby": "version-problem" });
	const form = h(
		"form",
		{
			class: "inline",
			submit: (event) => {
				event.preventDefault();
				attempt(problem, async () => {
					const change = await call("PUT", `v1/runtimes/${encodeURIComponent(version.value.trim())}`, { signal });
					if (change.operation) showOperation(log, change.operation.id, signal);
				});
			},
		},
		h("label", { for: "version" }, "Make a Python ready"),
		version,
		h("button", {}, "Make ready"),
	);
	problem.id = "version-problem";
	add(main, caller.makesVenvs && form, problem, log, rows);
	const render = (runtime) =>
		h(
			"li",
			{},
			h("strong", {}, `Python ${runtime.version}`, runtime.default && h("small", {}, " default")),
			badge(runtime.state),
			h("span", { class: "about" }, runtime.resolvedVersion, runtime.error && h("span", { class: "error" }, runtime.error)),
			h(
				"span",
				{ class: "actions" },
				runtime.operation && caller.makesVenvs && button("Log", () => showOperation(log, runtime.operation, signal), { "aria-label": `Log of Python ${runtime.version}` }),
			),
		);
	poll(
		signal,
		async () => {
			const runtimes = await list("v1/runtimes", signal);
			patch(rows, runtimes.length ? runtimes : [null], (each) => each?.version, (each) => (each ? render(each) : h("li", {}, "There is no runtime yet: the first venv brings one.")));
		},
		showTrouble,
	);
}
