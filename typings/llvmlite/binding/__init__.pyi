from typing import Any

ModuleRef = Any
TargetMachine = Any

def __getattr__(name: str) -> Any: ...
