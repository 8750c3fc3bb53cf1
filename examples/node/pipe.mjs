// Runs Python from Node over the pipe: lines of JSON on a Unix socket, without any package.
//
//   venvd start pipe --json                # prints the socket's URL and the token
//   VENVD_TOKEN=… node examples/node/pipe.mjs /path/to/pipe.sock

import net from "node:net";
import readline from "node:readline";

class Pipe {
  #pending = new Map();
  #next = 1;

  constructor(path, token) {
    this.token = token;
    this.socket = net.createConnection(path);
    readline.createInterface({ input: this.socket }).on("line", (line) => this.#take(JSON.parse(line)));
    this.socket.on("close", () => this.#pending.forEach(({ reject }) => reject(new Error("the connection closed"))));
  }

  // Any number of calls may be in flight; the id of a reply names its call. onEvent receives output as it appears.
  call(command, payload, { session, timeout, onEvent } = {}) {
    const id = this.#next++;
    const request = { id, command, payload, session, timeout, token: this.token, stream: onEvent !== undefined };
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, onEvent });
      this.socket.write(JSON.stringify(request) + "\n");
    });
  }

  #take(message) {
    const call = this.#pending.get(message.id);
    if (message.event !== undefined) {
      call.onEvent(message.event, message.data);
      return;
    }
    this.#pending.delete(message.id);
    if (message.error === undefined) call.resolve(message.result);
    else call.reject(Object.assign(new Error(message.error), message));
  }

  close() {
    this.socket.end();
  }
}

const pipe = new Pipe(process.argv[2], process.env.VENVD_TOKEN);
try {
  const { handleId: statistics } = await pipe.call("import", { moduleName: "statistics" });
  const [mean, median] = await Promise.all(
    ["mean", "median"].map((methodName) =>
      pipe.call("call", { handleId: statistics, methodName, args: [[1, 2, 3, 10]] }),
    ),
  );
  console.log(`mean ${mean.value}, median ${median.value}`);

  const code = "for step in range(3): print('step', step)\n'finished'";
  const onEvent = (kind, data) => process[kind].write(data); // "stdout" or "stderr", in pieces as they appear
  const { result } = await pipe.call("exec", { code }, { onEvent });
  console.log(`result: ${result.value}`);

  await pipe.call("eval", { expression: "1 / 0" }).catch((error) => {
    console.log(`${error.code}: ${error.errorType}: ${error.message}`);
  });
  await pipe.call("dispose", { handleId: statistics });
} finally {
  pipe.close();
}
