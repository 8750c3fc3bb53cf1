// The figures of a backend, from its own metrics.

import { fetchText } from "./api.js";

const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)$/gm;
const seen = new Map();

/** Read figures: sessions, calls a second since the last reading, memory and waiting calls. */
export async function readFigures(name, signal) {
	const sums = {};
	for (const [, metric, labels = "", value] of (await fetchText(`v1/backends/${name}/metrics`, { signal })).matchAll(SAMPLE)) {
		if (metric === "venvd_sessions" && labels.includes('"busy"')) sums.busy = Number(value);
		sums[metric] = (sums[metric] ?? 0) + Number(value);
	}
	const calls = (sums.venvd_requests_total ?? 0) + (sums.venvd_direct_requests_total ?? 0);
	const before = seen.get(name);
	const now = performance.now();
	seen.set(name, { calls, now });
	return {
		sessions: sums.venvd_sessions ?? 0,
		busy: sums.busy ?? 0,
		mostSessions: sums.venvd_sessions_max,
		calls,
		rate: before && calls >= before.calls ? (calls - before.calls) / ((now - before.now) / 1000) : null,
		memory: sums.venvd_worker_memory_bytes,
		queued: sums.venvd_queue_depth ?? 0,
		handles: sums.venvd_handles ?? 0,
	};
}
