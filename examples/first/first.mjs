// The first program in JavaScript: an expression, an object and its attributes, an error.
//
//   venvd start http --json                # prints the URL and the token
//   VENVD_TOKEN=… node examples/first/first.mjs http://127.0.0.1:5678

const url = process.argv[2];
const headers = { Authorization: `Bearer ${process.env.VENVD_TOKEN ?? ""}`, "Content-Type": "application/json" };

async function call(path, body) {
  const response = await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.code}: ${answer.detail}`);
  return answer;
}

const { value: sum } = await call("/api/eval", { expression: "sum(n)", locals: { n: [1, 2, 3] } });
console.log("sum", sum);

const { handleId: module } = await call("/api/import", { moduleName: "fractions" });
const { handleId: fraction } = await call("/api/create", { moduleHandleId: module, className: "Fraction", args: [6, 8] });
const { value: denominator } = await call("/api/getattr", { handleId: fraction, attributeName: "denominator" });
console.log("denominator", denominator);
const rounded = await call("/api/call", { handleId: fraction, methodName: "limit_denominator", args: [1] });
const { value: text } = await call("/api/call", { handleId: rounded.handleId, methodName: "__str__" });
console.log("rounded", text);
await call("/api/dispose", { handleIds: [rounded.handleId, fraction, module] });

try {
  await call("/api/eval", { expression: "1 / 0" });
} catch (error) {
  console.log(error.message);
}
