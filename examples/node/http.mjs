// Runs Python from Node over HTTP, with the built-in fetch.
//
//   venvd start http --json                # prints the URL and the token
//   VENVD_TOKEN=… node examples/node/http.mjs http://127.0.0.1:5678

const [url] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${process.env.VENVD_TOKEN}`, "Content-Type": "application/json" };

async function call(path, body, { method = "POST", session } = {}) {
  const response = await fetch(url + path, {
    method,
    headers: session === undefined ? headers : { ...headers, "X-Venvd-Session": session },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = await response.json();
  if (response.ok) return answer;
  throw Object.assign(new Error(answer.detail), answer);
}

const { id: session } = await call("/v1/sessions", {});
try {
  const { handleId: collections } = await call("/api/import", { moduleName: "collections" }, { session });
  const { handleId: counter } = await call(
    "/api/create",
    { moduleHandleId: collections, className: "Counter", args: [["a", "b", "a"]] },
    { session },
  );
  const common = await call("/api/call", { handleId: counter, methodName: "most_common", args: [1] }, { session });
  console.log(`most common: ${JSON.stringify(common.value)}`);

  const output = await call("/api/exec", { code: "import sys\nprint('on', sys.platform)" }, { session });
  process.stdout.write(output.stdout);

  await call("/api/eval", { expression: "missing" }, { session }).catch((error) => {
    console.log(`${error.status} ${error.code}: ${error.errorType}: ${error.message}`);
  });
} finally {
  await call(`/v1/sessions/${session}`, undefined, { method: "DELETE" });
}
