// Text as a terminal shows it: colours become classes, and all other escapes and control characters go.

const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
const WORDS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 9: "strike" };
const ENDS = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 29: ["strike"] };
// CSI sequences; strings (OSC, DCS, SOS, PM, APC) up to their end; other escapes; the C1 forms of them
// eslint-disable-next-line no-control-regex
const ESCAPE = /(?:\x1b\[|\x9b)([0-?]*)[ -/]*([@-~])|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|\x1b[ -/]*[0-~]/g;
const UNFINISHED = /(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?|[\x9b\x9d\x90\x98\x9e\x9f][^\x07\x1b@-~]*)$/;
const CONTROLS = /[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/g;
const MOST_HELD = 4096;
const WIDEST = 10_000;

/**
 * The lines of one output. `\r` goes back to the start of the line and `\b` one character back, as progress bars want.
 *
 * `lines` are lists of `{text, style}`; `style` are the names of classes. The oldest lines beyond `most` are dropped
 * and counted in `dropped`.
 */
export class Terminal {
	constructor(most = 5000) {
		this.most = most;
		this.dropped = 0;
		this.lines = [[]];
		this.style = {};
		this.column = 0;
		this.held = "";
	}

	/** Add text; `base` is a class that all of it has. */
	write(text, base = "") {
		this.base = base;
		text = this.held + text;
		const cut = text.slice(-MOST_HELD).search(UNFINISHED);
		const keep = cut < 0 ? 0 : Math.min(text.length, MOST_HELD) - cut;
		this.held = text.slice(text.length - keep);
		text = text.slice(0, text.length - keep);
		let last = 0;
		for (const match of text.matchAll(ESCAPE)) {
			this.#print(text.slice(last, match.index));
			last = match.index + match[0].length;
			if (match[2] === "m") this.#colour(match[1]);
			else if (match[2] === "K" && /^0?$/.test(match[1])) this.#erase(this.column);
			else if (match[2] === "K" && match[1] === "2") this.#erase(0);
		}
		this.#print(text.slice(last));
	}

	#print(text) {
		for (const part of text.split(/(\r\n|\n|\r|\x08)/)) {
			if (part === "\n" || part === "\r\n") {
				this.lines.push([]);
				this.column = 0;
				if (this.lines.length > this.most) this.dropped += this.lines.splice(0, this.lines.length - this.most).length;
			} else if (part === "\r") this.column = 0;
			else if (part === "\x08") this.column = Math.max(0, this.column - 1);
			else this.#put(part.replace(CONTROLS, "").replaceAll("\x1b", ""));
		}
	}

	#put(text) {
		if (!text) return;
		const line = this.lines.at(-1);
		const style = [this.base, ...Object.values(this.style)].filter(Boolean).join(" ");
		const width = line.reduce((sum, each) => sum + each.text.length, 0);
		if (this.column < width) {
			const [before, rest] = split(line, this.column);
			const [, after] = split(rest, text.length);
			line.splice(0, line.length, ...before, { text, style }, ...after);
		} else if (width < WIDEST || this.column < WIDEST) {
			const shown = text.length + width > WIDEST ? `${text.slice(0, WIDEST - width)} …` : text;
			if (line.at(-1)?.style === style) line.at(-1).text += shown;
			else line.push({ text: shown, style });
		}
		this.column += text.length;
	}

	#erase(column) {
		const line = this.lines.at(-1);
		line.splice(0, line.length, ...split(line, column)[0]);
	}

	#colour(parameters) {
		const codes = parameters.split(/[;:]/).map(Number);
		for (let index = 0; index < codes.length; index++) {
			const code = codes[index];
			if (!code) this.style = {};
			else if (WORDS[code]) this.style[WORDS[code]] = WORDS[code];
			else if (ENDS[code]) for (const word of ENDS[code]) delete this.style[word];
			else if (code === 39) delete this.style.front;
			else if (code === 49) delete this.style.back;
			else if (code === 38 || code === 48) {
				const colour = codes[index + 1] === 5 ? fromPalette(codes[index + 2]) : fromRgb(...codes.slice(index + 2, index + 5));
				if (code === 38) this.style.front = `fg-${colour}`;
				else this.style.back = `bg-${colour}`;
				index += codes[index + 1] === 5 ? 2 : 4;
			} else if ((code >= 30 && code < 38) || (code >= 90 && code < 98)) this.style.front = `fg-${COLOURS[code % 10]}`;
			else if ((code >= 40 && code < 48) || (code >= 100 && code < 108)) this.style.back = `bg-${COLOURS[code % 10]}`;
		}
	}
}

function split(line, column) {
	const before = [];
	const after = [];
	for (const { text, style } of line) {
		if (column > 0) before.push({ text: text.slice(0, column), style });
		if (text.length > column) after.push({ text: text.slice(Math.max(0, column)), style });
		column -= text.length;
	}
	return [before, after];
}

function fromPalette(number = 7) {
	if (number < 16) return COLOURS[number % 8];
	if (number > 231) return number > 243 ? "white" : "black";
	const rest = number - 16;
	return fromRgb(Math.floor(rest / 36) * 51, (Math.floor(rest / 6) % 6) * 51, (rest % 6) * 51);
}

function fromRgb(red = 0, green = 0, blue = 0) {
	const middle = Math.max(96, Math.max(red, green, blue) * 0.6);
	return COLOURS[(red > middle) + 2 * (green > middle) + 4 * (blue > middle)];
}
