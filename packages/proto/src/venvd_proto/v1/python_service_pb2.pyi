from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: str
    def __init__(self, status: _Optional[str] = ...) -> None: ...

class ImportModuleRequest(_message.Message):
    __slots__ = ("module_name",)
    MODULE_NAME_FIELD_NUMBER: _ClassVar[int]
    module_name: str
    def __init__(self, module_name: _Optional[str] = ...) -> None: ...

class ImportModuleResponse(_message.Message):
    __slots__ = ("handle_id", "type_name", "callable")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    CALLABLE_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    type_name: str
    callable: bool
    def __init__(self, handle_id: _Optional[str] = ..., type_name: _Optional[str] = ..., callable: _Optional[bool] = ...) -> None: ...

class CreateObjectRequest(_message.Message):
    __slots__ = ("module_handle_id", "class_name", "args_json", "kwargs_json")
    MODULE_HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    ARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    KWARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    module_handle_id: str
    class_name: str
    args_json: str
    kwargs_json: str
    def __init__(self, module_handle_id: _Optional[str] = ..., class_name: _Optional[str] = ..., args_json: _Optional[str] = ..., kwargs_json: _Optional[str] = ...) -> None: ...

class CreateObjectResponse(_message.Message):
    __slots__ = ("handle_id", "type_name", "callable")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    CALLABLE_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    type_name: str
    callable: bool
    def __init__(self, handle_id: _Optional[str] = ..., type_name: _Optional[str] = ..., callable: _Optional[bool] = ...) -> None: ...

class CallMethodRequest(_message.Message):
    __slots__ = ("handle_id", "method_name", "args_json", "kwargs_json", "as_handle")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_NAME_FIELD_NUMBER: _ClassVar[int]
    ARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    KWARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    AS_HANDLE_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    method_name: str
    args_json: str
    kwargs_json: str
    as_handle: bool
    def __init__(self, handle_id: _Optional[str] = ..., method_name: _Optional[str] = ..., args_json: _Optional[str] = ..., kwargs_json: _Optional[str] = ..., as_handle: _Optional[bool] = ...) -> None: ...

class CallMethodResponse(_message.Message):
    __slots__ = ("value_json", "is_handle", "handle_id", "type_name", "repr", "callable")
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    IS_HANDLE_FIELD_NUMBER: _ClassVar[int]
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    REPR_FIELD_NUMBER: _ClassVar[int]
    CALLABLE_FIELD_NUMBER: _ClassVar[int]
    value_json: str
    is_handle: bool
    handle_id: str
    type_name: str
    repr: str
    callable: bool
    def __init__(self, value_json: _Optional[str] = ..., is_handle: _Optional[bool] = ..., handle_id: _Optional[str] = ..., type_name: _Optional[str] = ..., repr: _Optional[str] = ..., callable: _Optional[bool] = ...) -> None: ...

class GetAttributeRequest(_message.Message):
    __slots__ = ("handle_id", "attribute_name", "as_handle")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_NAME_FIELD_NUMBER: _ClassVar[int]
    AS_HANDLE_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    attribute_name: str
    as_handle: bool
    def __init__(self, handle_id: _Optional[str] = ..., attribute_name: _Optional[str] = ..., as_handle: _Optional[bool] = ...) -> None: ...

class GetAttributeResponse(_message.Message):
    __slots__ = ("value_json", "is_handle", "handle_id", "type_name", "repr", "callable")
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    IS_HANDLE_FIELD_NUMBER: _ClassVar[int]
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    REPR_FIELD_NUMBER: _ClassVar[int]
    CALLABLE_FIELD_NUMBER: _ClassVar[int]
    value_json: str
    is_handle: bool
    handle_id: str
    type_name: str
    repr: str
    callable: bool
    def __init__(self, value_json: _Optional[str] = ..., is_handle: _Optional[bool] = ..., handle_id: _Optional[str] = ..., type_name: _Optional[str] = ..., repr: _Optional[str] = ..., callable: _Optional[bool] = ...) -> None: ...

class SetAttributeRequest(_message.Message):
    __slots__ = ("handle_id", "attribute_name", "value_json")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    attribute_name: str
    value_json: str
    def __init__(self, handle_id: _Optional[str] = ..., attribute_name: _Optional[str] = ..., value_json: _Optional[str] = ...) -> None: ...

class SetAttributeResponse(_message.Message):
    __slots__ = ("success",)
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    def __init__(self, success: _Optional[bool] = ...) -> None: ...

class EvaluateRequest(_message.Message):
    __slots__ = ("expression", "code", "locals_json", "as_handle", "env")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    LOCALS_JSON_FIELD_NUMBER: _ClassVar[int]
    AS_HANDLE_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    expression: str
    code: str
    locals_json: str
    as_handle: bool
    env: _containers.ScalarMap[str, str]
    def __init__(self, expression: _Optional[str] = ..., code: _Optional[str] = ..., locals_json: _Optional[str] = ..., as_handle: _Optional[bool] = ..., env: _Optional[_Mapping[str, str]] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("value_json", "is_handle", "handle_id", "type_name", "repr", "callable")
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    IS_HANDLE_FIELD_NUMBER: _ClassVar[int]
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    REPR_FIELD_NUMBER: _ClassVar[int]
    CALLABLE_FIELD_NUMBER: _ClassVar[int]
    value_json: str
    is_handle: bool
    handle_id: str
    type_name: str
    repr: str
    callable: bool
    def __init__(self, value_json: _Optional[str] = ..., is_handle: _Optional[bool] = ..., handle_id: _Optional[str] = ..., type_name: _Optional[str] = ..., repr: _Optional[str] = ..., callable: _Optional[bool] = ...) -> None: ...

class ExecuteRequest(_message.Message):
    __slots__ = ("code", "locals_json", "env")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    LOCALS_JSON_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    code: str
    locals_json: str
    env: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[str] = ..., locals_json: _Optional[str] = ..., env: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ExecuteResponse(_message.Message):
    __slots__ = ("stdout", "stderr", "display_json", "progress_json", "output")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_JSON_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_JSON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    stdout: str
    stderr: str
    display_json: str
    progress_json: str
    output: ExecuteOutput
    def __init__(self, stdout: _Optional[str] = ..., stderr: _Optional[str] = ..., display_json: _Optional[str] = ..., progress_json: _Optional[str] = ..., output: _Optional[_Union[ExecuteOutput, _Mapping]] = ...) -> None: ...

class ExecuteOutput(_message.Message):
    __slots__ = ("stdout", "stderr", "display_json", "result_json", "error", "duration_ms", "truncated", "execution_count", "result_text")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_JSON_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESULT_TEXT_FIELD_NUMBER: _ClassVar[int]
    stdout: str
    stderr: str
    display_json: _containers.RepeatedScalarFieldContainer[str]
    result_json: str
    error: ExecutionError
    duration_ms: float
    truncated: bool
    execution_count: int
    result_text: str
    def __init__(self, stdout: _Optional[str] = ..., stderr: _Optional[str] = ..., display_json: _Optional[_Iterable[str]] = ..., result_json: _Optional[str] = ..., error: _Optional[_Union[ExecutionError, _Mapping]] = ..., duration_ms: _Optional[float] = ..., truncated: _Optional[bool] = ..., execution_count: _Optional[int] = ..., result_text: _Optional[str] = ...) -> None: ...

class ExecutionError(_message.Message):
    __slots__ = ("error_type", "message", "traceback", "exception_json")
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_JSON_FIELD_NUMBER: _ClassVar[int]
    error_type: str
    message: str
    traceback: str
    exception_json: str
    def __init__(self, error_type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., exception_json: _Optional[str] = ...) -> None: ...

class DisposeHandleRequest(_message.Message):
    __slots__ = ("handle_id", "handle_ids")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    HANDLE_IDS_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    handle_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, handle_id: _Optional[str] = ..., handle_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DisposeHandleResponse(_message.Message):
    __slots__ = ("success",)
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    def __init__(self, success: _Optional[bool] = ...) -> None: ...

class ToFloatArrayRequest(_message.Message):
    __slots__ = ("handle_id",)
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    def __init__(self, handle_id: _Optional[str] = ...) -> None: ...

class ToFloatArrayResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, data: _Optional[_Iterable[float]] = ...) -> None: ...

class ToFloatArray2DRequest(_message.Message):
    __slots__ = ("handle_id",)
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    def __init__(self, handle_id: _Optional[str] = ...) -> None: ...

class ToFloatArray2DResponse(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[FloatRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[FloatRow, _Mapping]]] = ...) -> None: ...

class FloatRow(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, data: _Optional[_Iterable[float]] = ...) -> None: ...

class IsModuleAvailableRequest(_message.Message):
    __slots__ = ("module_name",)
    MODULE_NAME_FIELD_NUMBER: _ClassVar[int]
    module_name: str
    def __init__(self, module_name: _Optional[str] = ...) -> None: ...

class IsModuleAvailableResponse(_message.Message):
    __slots__ = ("available",)
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    available: bool
    def __init__(self, available: _Optional[bool] = ...) -> None: ...

class WrapValueRequest(_message.Message):
    __slots__ = ("value_json",)
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    value_json: str
    def __init__(self, value_json: _Optional[str] = ...) -> None: ...

class WrapValueResponse(_message.Message):
    __slots__ = ("handle_id", "type_name", "callable")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    CALLABLE_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    type_name: str
    callable: bool
    def __init__(self, handle_id: _Optional[str] = ..., type_name: _Optional[str] = ..., callable: _Optional[bool] = ...) -> None: ...

class ListHandlesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListHandlesResponse(_message.Message):
    __slots__ = ("handles",)
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedCompositeFieldContainer[HandleInfo]
    def __init__(self, handles: _Optional[_Iterable[_Union[HandleInfo, _Mapping]]] = ...) -> None: ...

class HandleInfo(_message.Message):
    __slots__ = ("handle_id", "type_name", "size_bytes", "age_seconds", "lease_seconds")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    type_name: str
    size_bytes: int
    age_seconds: float
    lease_seconds: float
    def __init__(self, handle_id: _Optional[str] = ..., type_name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., age_seconds: _Optional[float] = ..., lease_seconds: _Optional[float] = ...) -> None: ...

class ArrayHeader(_message.Message):
    __slots__ = ("dtype", "shape", "order", "format")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    order: str
    format: str
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., order: _Optional[str] = ..., format: _Optional[str] = ...) -> None: ...

class GetArrayRequest(_message.Message):
    __slots__ = ("handle_id", "format")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    format: str
    def __init__(self, handle_id: _Optional[str] = ..., format: _Optional[str] = ...) -> None: ...

class GetArrayResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: ArrayHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[ArrayHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PutArrayRequest(_message.Message):
    __slots__ = ("header", "chunk", "into")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    INTO_FIELD_NUMBER: _ClassVar[int]
    header: ArrayHeader
    chunk: bytes
    into: str
    def __init__(self, header: _Optional[_Union[ArrayHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., into: _Optional[str] = ...) -> None: ...

class PutArrayResponse(_message.Message):
    __slots__ = ("handle_id", "type_name", "callable")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    CALLABLE_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    type_name: str
    callable: bool
    def __init__(self, handle_id: _Optional[str] = ..., type_name: _Optional[str] = ..., callable: _Optional[bool] = ...) -> None: ...

class StartCallRequest(_message.Message):
    __slots__ = ("command", "payload_json", "timeout", "session", "values")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    command: str
    payload_json: str
    timeout: float
    session: str
    values: str
    def __init__(self, command: _Optional[str] = ..., payload_json: _Optional[str] = ..., timeout: _Optional[float] = ..., session: _Optional[str] = ..., values: _Optional[str] = ...) -> None: ...

class StartCallResponse(_message.Message):
    __slots__ = ("id", "state")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class GetCallRequest(_message.Message):
    __slots__ = ("id", "wait")
    ID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    id: str
    wait: float
    def __init__(self, id: _Optional[str] = ..., wait: _Optional[float] = ...) -> None: ...

class GetCallResponse(_message.Message):
    __slots__ = ("id", "state", "result_json", "error", "command", "session", "created_at", "started_at", "ended_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: str
    result_json: str
    error: Error
    command: str
    session: str
    created_at: str
    started_at: str
    ended_at: str
    def __init__(self, id: _Optional[str] = ..., state: _Optional[str] = ..., result_json: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., command: _Optional[str] = ..., session: _Optional[str] = ..., created_at: _Optional[str] = ..., started_at: _Optional[str] = ..., ended_at: _Optional[str] = ...) -> None: ...

class CancelCallRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelCallResponse(_message.Message):
    __slots__ = ("success",)
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    def __init__(self, success: _Optional[bool] = ...) -> None: ...

class FileInfo(_message.Message):
    __slots__ = ("path", "size_bytes", "modified_at", "is_directory", "kind", "path_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_AT_FIELD_NUMBER: _ClassVar[int]
    IS_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    modified_at: str
    is_directory: bool
    kind: str
    path_bytes: bytes
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., modified_at: _Optional[str] = ..., is_directory: _Optional[bool] = ..., kind: _Optional[str] = ..., path_bytes: _Optional[bytes] = ...) -> None: ...

class GetFileRequest(_message.Message):
    __slots__ = ("path", "offset", "length", "path_bytes", "archive")
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PATH_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    path: str
    offset: int
    length: int
    path_bytes: bytes
    archive: bool
    def __init__(self, path: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., path_bytes: _Optional[bytes] = ..., archive: _Optional[bool] = ...) -> None: ...

class GetFileResponse(_message.Message):
    __slots__ = ("info", "chunk")
    INFO_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    info: FileInfo
    chunk: bytes
    def __init__(self, info: _Optional[_Union[FileInfo, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class FileHeader(_message.Message):
    __slots__ = ("path", "parents", "path_bytes", "size_bytes", "archive")
    PATH_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    PATH_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    path: str
    parents: bool
    path_bytes: bytes
    size_bytes: int
    archive: bool
    def __init__(self, path: _Optional[str] = ..., parents: _Optional[bool] = ..., path_bytes: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., archive: _Optional[bool] = ...) -> None: ...

class PutFileRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: FileHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[FileHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PutFileResponse(_message.Message):
    __slots__ = ("info",)
    INFO_FIELD_NUMBER: _ClassVar[int]
    info: FileInfo
    def __init__(self, info: _Optional[_Union[FileInfo, _Mapping]] = ...) -> None: ...

class ListFilesRequest(_message.Message):
    __slots__ = ("path", "recursive", "limit", "after", "path_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PATH_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    recursive: bool
    limit: int
    after: str
    path_bytes: bytes
    def __init__(self, path: _Optional[str] = ..., recursive: _Optional[bool] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ..., path_bytes: _Optional[bytes] = ...) -> None: ...

class ListFilesResponse(_message.Message):
    __slots__ = ("files", "next")
    FILES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[FileInfo]
    next: str
    def __init__(self, files: _Optional[_Iterable[_Union[FileInfo, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class DeleteFileRequest(_message.Message):
    __slots__ = ("path", "recursive", "path_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    RECURSIVE_FIELD_NUMBER: _ClassVar[int]
    PATH_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    recursive: bool
    path_bytes: bytes
    def __init__(self, path: _Optional[str] = ..., recursive: _Optional[bool] = ..., path_bytes: _Optional[bytes] = ...) -> None: ...

class DeleteFileResponse(_message.Message):
    __slots__ = ("success",)
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    def __init__(self, success: _Optional[bool] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "error_type", "traceback", "state_lost", "url", "exception_json", "output_json")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    STATE_LOST_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_JSON_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_JSON_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    error_type: str
    traceback: str
    state_lost: bool
    url: str
    exception_json: str
    output_json: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., error_type: _Optional[str] = ..., traceback: _Optional[str] = ..., state_lost: _Optional[bool] = ..., url: _Optional[str] = ..., exception_json: _Optional[str] = ..., output_json: _Optional[str] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("id", "command", "payload_json", "session", "timeout", "values", "stream", "attachments", "call", "lease")
    ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    id: int
    command: str
    payload_json: str
    session: str
    timeout: float
    values: str
    stream: bool
    attachments: _containers.RepeatedScalarFieldContainer[bytes]
    call: str
    lease: float
    def __init__(self, id: _Optional[int] = ..., command: _Optional[str] = ..., payload_json: _Optional[str] = ..., session: _Optional[str] = ..., timeout: _Optional[float] = ..., values: _Optional[str] = ..., stream: _Optional[bool] = ..., attachments: _Optional[_Iterable[bytes]] = ..., call: _Optional[str] = ..., lease: _Optional[float] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("id", "result_json", "error", "event", "attachments")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    id: int
    result_json: str
    error: Error
    event: SessionEvent
    attachments: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, id: _Optional[int] = ..., result_json: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., event: _Optional[_Union[SessionEvent, _Mapping]] = ..., attachments: _Optional[_Iterable[bytes]] = ...) -> None: ...

class SessionEvent(_message.Message):
    __slots__ = ("event", "data_json")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    DATA_JSON_FIELD_NUMBER: _ClassVar[int]
    event: str
    data_json: str
    def __init__(self, event: _Optional[str] = ..., data_json: _Optional[str] = ...) -> None: ...
