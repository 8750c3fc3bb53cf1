"""Runs the commands of the contract in a session."""

from __future__ import annotations

import builtins
import sys
from importlib import import_module
from json.encoder import encode_basestring
from time import perf_counter
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Union

from venvd_contract.errors import InvalidRequest
from venvd_contract.exceptions import LONGEST_OUTPUT
from venvd_contract.session_requests import Limits
from venvd_contract.values import SAFE_INTEGER, Decoder, NotPlain, PlainEncoder, TaggedEncoder
from venvd_worker.session import bundles, charts, exceptions, floats, forks, tracebacks
from venvd_worker.session.arrays import ArrayReply, Arrays
from venvd_worker.session.capture import Capture
from venvd_worker.session.compat import find_handle as find_compat_handle
from venvd_worker.session.environment import Environment
from venvd_worker.session.float_text import FloatText
from venvd_worker.session.handles import Handles
from venvd_worker.session.interpreter import Interpreter
from venvd_worker.session.interrupts import Interrupts
from venvd_worker.session.limits import Guard
from venvd_worker.session.objects import find_object
from venvd_worker.session.output import Emit, Output, find_bound
from venvd_worker.session.reprs import make_repr
from venvd_worker.session.segments import Segments

Fields = Dict[str, Any]


class Mode(NamedTuple):
    """How a session encodes and decodes values."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


class Call(NamedTuple):
    """One call of a command: checked fields, mode of values, receiver of output, and attachments.

    With `wants_data`, an object becomes null in the result, and gets no handle.
    """

    fields: Fields
    mode: Mode
    wants_data: bool
    emit: Optional[Emit]
    attachments: Sequence[bytes] = ()
    shares: bool = False


class Parts(NamedTuple):
    """The parts of one session that its commands use."""

    interpreter: Interpreter
    handles: Handles
    interrupts: Interrupts
    capture: Capture
    guard: Guard
    segments: Segments


class Commands:
    """The commands of one session, by command."""

    def __init__(self, parts: Parts) -> None:
        self._limits = Limits()
        self._interpreter = parts.interpreter
        self._handles = parts.handles
        self._interrupts = parts.interrupts
        self._capture = parts.capture
        self._guard = parts.guard
        self.arrays = Arrays(parts.segments, parts.interrupts)
        self._output: Optional[Output] = None
        self._ended_output: Optional[Output] = None
        self._executions = 0
        self._output_bound = find_bound(self._limits)
        self._find_handle = find = parts.handles.find
        self.modes = {"tagged": Mode("tagged", TaggedEncoder().encode, Decoder(find, find_object=find_object).decode)}
        self.configure(self._limits, compat=True)
        self.table: Dict[str, Callable[[Call], Any]] = {
            "import": self.import_module,
            "create": self.create,
            "call": self.call,
            "getattr": self.get_attribute,
            "setattr": self.set_attribute,
            "eval": self.evaluate,
            "dispose": self.dispose,
            "tofloatarray": self.to_float_array,
            "tofloatarray2d": self.to_float_array_2d,
            "module_available": self.module_available,
            "wrap": self.wrap,
            "handles": self.list_handles,
            "array.get": self.get_array,
            "array.put": self.put_array,
            "array.release": self.release_segments,
        }

    def configure(self, limits: Limits, *, compat: bool) -> None:
        """Set the limits, and whether to serve clients of an older .NET host."""
        self._limits = limits
        self._output_bound = find_bound(limits)
        self.arrays.most = limits.arrayBytes
        decoder = Decoder(self._find_handle, find_compat_handle if compat else None, find_object)
        self.modes["plain"] = Mode("plain", PlainEncoder().encode, decoder.decode)

    # ---- objects

    def import_module(self, call: Call) -> Any:
        return self._hold(import_module(call.fields["moduleName"]))

    def create(self, call: Call) -> Any:
        target = self._find(call, "moduleHandleId")
        for name in call.fields["className"].split("."):
            target = getattr(target, name)
        return self._hold(self._apply(target, call))

    def call(self, call: Call) -> Any:
        target = self._handles.find(call.fields["handleId"])
        name = call.fields["methodName"]
        return self._result(self._apply(target if name == "__call__" else getattr(target, name), call), call)

    def get_attribute(self, call: Call) -> Any:
        return self._result(getattr(self._find(call), call.fields["attributeName"]), call)

    def set_attribute(self, call: Call) -> Any:
        setattr(self._find(call), call.fields["attributeName"], call.mode.decode(call.fields["value"]))
        return {"success": True}

    def dispose(self, call: Call) -> Any:
        one, several = call.fields["handleId"], call.fields["handleIds"]
        if one is None and several is None:
            raise InvalidRequest('dispose: one of the fields "handleId" and "handleIds" is needed')
        names = [*([] if one is None else [one]), *(several or [])]
        self._handles.drop(names)
        return {"success": True}

    def wrap(self, call: Call) -> Any:
        return self._hold(call.mode.decode(call.fields["value"]))

    def list_handles(self, _call: Call) -> Any:
        return {"handles": self._handles.list()}

    # ---- data

    def to_float_array(self, call: Call) -> Any:
        return self._float_array(floats.write_flat, call)

    def to_float_array_2d(self, call: Call) -> Any:
        return self._float_array(floats.write_rows, call)

    def _float_array(self, write: Callable[[Any, FloatText], None], call: Call) -> ArrayReply:
        text = FloatText(self._limits.arrayBytes, tagged=call.mode.name == "tagged")
        write(self._find(call), text)
        return self.arrays.send_text(text.finish(), call.shares)

    def get_array(self, call: Call) -> Any:
        self.arrays.release(call.fields["release"] or (), call.shares)
        return self.arrays.get(self._find(call), call.fields["format"], call.fields["shm"] is True, call.shares)

    def put_array(self, call: Call) -> Any:
        self.arrays.release(call.fields["release"] or (), call.shares)
        taken = self.arrays.take(call.fields, call.attachments, call.shares)
        return taken if isinstance(taken, ArrayReply) else self._hold(taken)

    def release_segments(self, call: Call) -> Any:
        self.arrays.release(call.fields["segments"], call.shares)
        return {"success": True}

    def module_available(self, call: Call) -> Any:
        return {"available": is_available(call.fields["moduleName"])}

    # ---- code

    def evaluate(self, call: Call) -> Any:
        fields = call.fields
        source = fields["expression"] if fields["code"] is None else fields["code"]
        if source is None:
            raise InvalidRequest('eval: the field "expression" is missing; it takes a string')
        variables = fields["locals"]
        if variables:
            variables = self._decode_names(variables, call)
        if fields["env"]:
            return self._evaluate_with_environment(source, variables, call)
        return self._result(self._interpreter.run(source, variables, "eval"), call)

    def _evaluate_with_environment(self, source: str, variables: Dict[str, Any], call: Call) -> Any:
        """Evaluate code so that a signal interrupts only the code. So the environment is always restored."""
        self._interrupts.armed = False
        with Environment(call.fields["env"]):
            value = self._interrupts.run(lambda run: run(source, variables, "eval"), self._interpreter.run)
        return self._result(value, call)

    @staticmethod
    def _decode_names(variables: Dict[str, Any], call: Call) -> Dict[str, Any]:
        decode = call.mode.decode
        return {name: decode(value) for name, value in variables.items()}

    def execute(self, call: Call) -> Any:
        """Run code and capture its output. A signal can interrupt only the user's code, not this function."""
        environment = Environment(call.fields["env"])
        output = Output(self._output_bound, call.emit)
        self._executions += 1
        started = perf_counter()
        self._capture.begin(output)
        self._output = output
        try:
            with environment:
                outcome = self._interrupts.run(self._execute, call)
        except BaseException:
            if call.emit is None:
                self._ended_output = output
            raise
        finally:
            if not forks.is_session():
                forks.leave(sys.exc_info()[1])
            self._output = None
            self._capture.end()
        return {
            "stdout": output.text("stdout"),
            "stderr": output.text("stderr"),
            "display": output.display,
            **outcome,
            "durationMs": round((perf_counter() - started) * 1000, 3),
            "truncated": output.truncated,
            "executionCount": self._executions,
        }

    def take_ended_output(self) -> Optional[Fields]:
        """Take the output of an `exec` that failed, for the error of its call. Return None if it was streamed."""
        output, self._ended_output = self._ended_output, None
        if output is None:
            return None
        stdout, stderr = output.text("stdout"), output.text("stderr")
        truncated = output.truncated or max(len(stdout), len(stderr)) > LONGEST_OUTPUT
        return {"stdout": stdout[-LONGEST_OUTPUT:], "stderr": stderr[-LONGEST_OUTPUT:], "truncated": truncated}

    def _execute(self, call: Call) -> Dict[str, Any]:
        result = text = error = None
        variables = self._decode_names(call.fields["locals"], call)
        try:
            value = self._interpreter.run(call.fields["code"], variables, "exec")
            if value is not None:
                self.show(bundles.rich_bundle(value))
                result, text = self._encode_result(value, call), make_repr(value)
            if not forks.is_session():
                forks.leave(None)
        except BaseException as raised:
            if not forks.is_session():
                forks.leave(raised)
            if isinstance(raised, SystemExit) and not raised.code:
                return {"result": None, "resultText": None, "error": None}
            if self._interrupts.has_interrupted() or self._guard.explain(raised) or tracebacks.is_own(raised):
                raise
            error = describe(raised)
        for bundle in bundles.open_figures():
            self.show(bundle)
        return {"result": result, "resultText": text, "error": error}

    def show_figures(self, pyplot: Any) -> None:
        """Make `pyplot.show()` show the open figures at its place in the output of an `exec`, and close them."""

        def show(*_args: Any, **_kwargs: Any) -> None:
            if self._output is not None:
                for bundle in bundles.open_figures():
                    self.show(bundle)

        pyplot.show = show
        charts.keep_boxes(pyplot)

    def show_images(self, image_show: Any) -> None:
        """Make Pillow's `image.show()` show the image at its place in the output of an `exec`."""
        outer = self

        class Viewer(image_show.Viewer):  # type: ignore[misc]
            def show(self, image: Any, **_options: Any) -> int:
                outer.show(bundles.bundle(image))
                return 1

        image_show.register(Viewer, 0)

    def show(self, bundle: Optional[Dict[str, Any]]) -> bool:
        """Show a bundle in its place among the output of the running `exec`. Return whether there is one."""
        output = self._output
        if bundle is None or output is None:
            return False

        def show() -> None:
            self._capture.settle()
            output.show(bundle)

        self._interrupts.shield(show)
        return True

    # ---- values

    def _find(self, call: Call, name: str = "handleId") -> Any:
        return self._handles.find(call.fields[name])

    def _apply(self, target: Any, call: Call) -> Any:
        decode = call.mode.decode
        args = [decode(item) for item in call.fields["args"]]
        kwargs = call.fields["kwargs"]
        if not kwargs:
            return target(*args)
        return target(*args, **{name: decode(item) for name, item in kwargs.items()})

    def _result(self, value: Any, call: Call) -> Union[str, Dict[str, Any]]:
        """Return a value as a result. Most values are a plain number or text, and become JSON without an encoder."""
        if call.fields["asHandle"]:
            return {"isHandle": True, **self._hold(value), "repr": make_repr(value)}
        kind = type(value)
        if kind is int and -SAFE_INTEGER <= value <= SAFE_INTEGER:
            return '{"value":%d}' % value
        if kind is str and value.isascii():
            return '{"value":' + encode_basestring(value) + "}"
        return self._encode_result(value, call)

    def _encode_result(self, value: Any, call: Call) -> Dict[str, Any]:
        try:
            return {"value": call.mode.encode(value)}
        except NotPlain:
            if call.wants_data:
                return {"value": None}
            return {"isHandle": True, **self._hold(value), "repr": make_repr(value)}

    def _hold(self, value: Any) -> Dict[str, Any]:
        type_name = tracebacks.class_name(type(value))
        return {"handleId": self._handles.hold(value), "typeName": type_name, "callable": callable(value)}


def describe(error: BaseException) -> Dict[str, Any]:
    """Return the fields of an `ExecutionError`."""
    described = exceptions.describe(error)
    return {
        "errorType": tracebacks.type_name(error),
        "message": tracebacks.message(error),
        "traceback": tracebacks.format_traceback(error),
        **({} if described is None else {"exception": described}),
    }


def is_available(name: str) -> bool:
    """Return whether Python can find a module. Import nothing for that.

    Raises:
        InvalidRequest: the name is not absolute.
    """
    if not name or not all(name.split(".")):
        raise InvalidRequest('module_available: "{}" is no name of a module'.format(name[:80]))
    path: Any = None
    prefix = ""
    is_in_package = True
    for part in name.split("."):
        prefix = "{}.{}".format(prefix, part) if prefix else part
        if prefix in sys.modules:
            path = getattr(sys.modules[prefix], "__path__", None)
        else:
            spec = _find_spec(prefix, path) if is_in_package else None
            if spec is None:
                return False
            path = spec.submodule_search_locations
        is_in_package = path is not None  # an empty path counts, because .NET namespaces have one
    return sys.modules.get(name, builtins) is not None


def _find_spec(name: str, path: Any) -> Any:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, path)
        if spec is not None:
            return spec
    return None
