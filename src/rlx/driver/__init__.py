"""What is physical: devices, their memory, their queues.

This layer imports rlx.ir and rlx.errors alone: no compiler, no backend (until a device is asked for), no runtime.
"""

from rlx.driver.allocation_sites import Allocations, LiveAllocation, track_allocations
from rlx.driver.allocator import MemoryStatistics
from rlx.driver.arena import DeviceArena
from rlx.driver.backend import (
    AsynchronousMemory,
    Backend,
    CompilerModule,
    DeviceProperties,
    DivisibleMemory,
    MemoryBackend,
    MemoryKind,
    MemoryOfKinds,
    QueuedMemory,
)
from rlx.driver.buffer import Buffer
from rlx.driver.ceilings import Ceilings, MemoryLevel
from rlx.driver.certificate import certify
from rlx.driver.command import Operand, Program
from rlx.driver.command_buffer import CommandBuffer
from rlx.driver.command_file import load_commands, save_commands
from rlx.driver.device import HOST, Device
from rlx.driver.event import Event
from rlx.driver.executable import Artifact, Executable
from rlx.driver.handle import BufferHandle, load_handles, save_handles
from rlx.driver.host_memory import HOST_MEMORY, HostMemory
from rlx.driver.launch_trace import Launch, LaunchTrace
from rlx.driver.memory import Block, DeviceMemory, device_memory
from rlx.driver.memory_map import memory_map, memory_map_svg
from rlx.driver.planner import Interval, MemoryPlan, plan_apart, plan_memory
from rlx.driver.registry import Registry, registry
from rlx.driver.safetensors import SafetensorsFile, open_safetensors, write_safetensors
from rlx.driver.semaphore import Semaphore
from rlx.driver.stream import CommandStream

__all__ = [
    "HOST",
    "HOST_MEMORY",
    "Allocations",
    "Artifact",
    "AsynchronousMemory",
    "Backend",
    "Block",
    "Buffer",
    "BufferHandle",
    "Ceilings",
    "CommandBuffer",
    "CommandStream",
    "CompilerModule",
    "Device",
    "DeviceArena",
    "DeviceMemory",
    "DeviceProperties",
    "DivisibleMemory",
    "Event",
    "Executable",
    "HostMemory",
    "Interval",
    "Launch",
    "LaunchTrace",
    "LiveAllocation",
    "MemoryBackend",
    "MemoryKind",
    "MemoryLevel",
    "MemoryOfKinds",
    "MemoryPlan",
    "MemoryStatistics",
    "Operand",
    "Program",
    "QueuedMemory",
    "Registry",
    "SafetensorsFile",
    "Semaphore",
    "certify",
    "device_memory",
    "load_commands",
    "load_handles",
    "memory_map",
    "memory_map_svg",
    "open_safetensors",
    "plan_apart",
    "plan_memory",
    "registry",
    "save_commands",
    "save_handles",
    "track_allocations",
    "write_safetensors",
]
