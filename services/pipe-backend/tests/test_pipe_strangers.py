"""Clients that hold no code of venvd."""

from __future__ import annotations

import json
import subprocess

import pytest

from .conftest import TOKEN, Server  # type: ignore[import-not-found]

NODE = """
const net = require('net');
const [path, token] = process.argv.slice(1);
const client = net.createConnection(path);
const waiting = new Map();
let data = '', next = 0;
client.on('data', part => {
  data += part;
  for (let end; (end = data.indexOf('\\n')) >= 0; data = data.slice(end + 1)) {
    const reply = JSON.parse(data.slice(0, end));
    waiting.get(reply.id)(reply);
  }
});
const call = (command, payload, fields = {}) => new Promise(resolve => {
  waiting.set(next, resolve);
  client.write(JSON.stringify({id: next++, command, payload, token, ...fields}) + '\\n');
});
(async () => {
  const module = (await call('import', {moduleName: 'collections'})).result.handleId;
  const counter = (await call('create', {moduleHandleId: module, className: 'Counter', args: ['abracadabra']})).result;
  const [common, failed] = await Promise.all([
    call('call', {handleId: counter.handleId, methodName: 'most_common', args: [2]}),
    call('eval', {expression: 'nothing_here'}),
  ]);
  console.log(JSON.stringify({type: counter.typeName, common: common.result.value, failed: failed.errorType}));
  client.end();
})();
"""


@pytest.mark.needs("nc")
def test_one_line_through_nc(server: Server) -> None:
    """`nc -U` and one line of JSON are enough."""
    line = json.dumps({"command": "eval", "payload": {"expression": "6 * 7"}, "token": TOKEN})
    script = f"printf '%s\\n' '{line}' | nc -U -N '{server.path}'"
    finished = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60, check=True)
    assert finished.stdout == b'{"result":{"value":42}}\n' or json.loads(finished.stdout) == {"result": {"value": 42}}


@pytest.mark.needs("nc")
def test_a_line_without_an_end_through_nc(server: Server) -> None:
    """The end of input ends the line too."""
    finished = subprocess.run(
        ["nc", "-U", "-N", str(server.path)], input=b'{"command":"ping"}', capture_output=True, timeout=60, check=True
    )
    assert json.loads(finished.stdout) == {"result": {"status": "ok"}}


@pytest.mark.needs("node")
@pytest.mark.slow
def test_a_program_in_another_language(server: Server) -> None:
    """A plain-socket program in JavaScript uses modules, objects and handles, calls at once among them."""
    finished = subprocess.run(
        ["node", "-e", NODE, str(server.path), TOKEN], capture_output=True, timeout=60, check=True, text=True
    )
    assert json.loads(finished.stdout) == {"type": "Counter", "common": [["a", 5], ["b", 2]], "failed": "NameError"}
