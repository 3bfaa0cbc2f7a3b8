from typing import Any

class AttributeSet(set[str]):
    _known: Any
    def __init__(self, args: Any = ()) -> None: ...

class FunctionAttributes(AttributeSet): ...

class ArgumentAttributes(AttributeSet):
    align: int
