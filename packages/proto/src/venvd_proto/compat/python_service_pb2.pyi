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
    __slots__ = ("handle_id",)
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    def __init__(self, handle_id: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("handle_id", "type_name")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    type_name: str
    def __init__(self, handle_id: _Optional[str] = ..., type_name: _Optional[str] = ...) -> None: ...

class CallMethodRequest(_message.Message):
    __slots__ = ("handle_id", "method_name", "args_json", "kwargs_json")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_NAME_FIELD_NUMBER: _ClassVar[int]
    ARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    KWARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    method_name: str
    args_json: str
    kwargs_json: str
    def __init__(self, handle_id: _Optional[str] = ..., method_name: _Optional[str] = ..., args_json: _Optional[str] = ..., kwargs_json: _Optional[str] = ...) -> None: ...

class CallMethodResponse(_message.Message):
    __slots__ = ("value_json", "handle")
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    value_json: str
    handle: HandleResult
    def __init__(self, value_json: _Optional[str] = ..., handle: _Optional[_Union[HandleResult, _Mapping]] = ...) -> None: ...

class HandleResult(_message.Message):
    __slots__ = ("handle_id", "type_name")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    type_name: str
    def __init__(self, handle_id: _Optional[str] = ..., type_name: _Optional[str] = ...) -> None: ...

class GetAttributeRequest(_message.Message):
    __slots__ = ("handle_id", "attribute_name")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_NAME_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    attribute_name: str
    def __init__(self, handle_id: _Optional[str] = ..., attribute_name: _Optional[str] = ...) -> None: ...

class GetAttributeResponse(_message.Message):
    __slots__ = ("value_json", "handle")
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    value_json: str
    handle: HandleResult
    def __init__(self, value_json: _Optional[str] = ..., handle: _Optional[_Union[HandleResult, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("expression", "locals_json")
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    LOCALS_JSON_FIELD_NUMBER: _ClassVar[int]
    expression: str
    locals_json: str
    def __init__(self, expression: _Optional[str] = ..., locals_json: _Optional[str] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("value_json",)
    VALUE_JSON_FIELD_NUMBER: _ClassVar[int]
    value_json: str
    def __init__(self, value_json: _Optional[str] = ...) -> None: ...

class DisposeHandleRequest(_message.Message):
    __slots__ = ("handle_id",)
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    def __init__(self, handle_id: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: _containers.RepeatedCompositeFieldContainer[FloatArray]
    def __init__(self, data: _Optional[_Iterable[_Union[FloatArray, _Mapping]]] = ...) -> None: ...

class FloatArray(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

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
    __slots__ = ("handle_id", "type_name")
    HANDLE_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    handle_id: str
    type_name: str
    def __init__(self, handle_id: _Optional[str] = ..., type_name: _Optional[str] = ...) -> None: ...
