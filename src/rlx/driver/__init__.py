"""What is physical: devices, their memory, their queues.

This layer imports rlx.ir and rlx.errors alone: no compiler, no backend (until a device is asked for), no runtime.
Names are imported at their first use.
"""

from typing import TYPE_CHECKING

from rlx.late_names import late_names

if TYPE_CHECKING:
    from rlx.driver.allocation_sites import Allocations as Allocations
    from rlx.driver.allocation_sites import LiveAllocation as LiveAllocation
    from rlx.driver.allocation_sites import track_allocations as track_allocations
    from rlx.driver.allocator import MemoryStatistics as MemoryStatistics
    from rlx.driver.arena import DeviceArena as DeviceArena
    from rlx.driver.backend import AsynchronousMemory as AsynchronousMemory
    from rlx.driver.backend import Backend as Backend
    from rlx.driver.backend import CompilerModule as CompilerModule
    from rlx.driver.backend import DeviceProperties as DeviceProperties
    from rlx.driver.backend import DivisibleMemory as DivisibleMemory
    from rlx.driver.backend import MemoryBackend as MemoryBackend
    from rlx.driver.backend import MemoryKind as MemoryKind
    from rlx.driver.backend import MemoryOfKinds as MemoryOfKinds
    from rlx.driver.backend import QueuedMemory as QueuedMemory
    from rlx.driver.buffer import Buffer as Buffer
    from rlx.driver.ceilings import Ceilings as Ceilings
    from rlx.driver.ceilings import MemoryLevel as MemoryLevel
    from rlx.driver.certificate import certify as certify
    from rlx.driver.command import Operand as Operand
    from rlx.driver.command import Program as Program
    from rlx.driver.command_buffer import CommandBuffer as CommandBuffer
    from rlx.driver.command_file import load_commands as load_commands
    from rlx.driver.command_file import save_commands as save_commands
    from rlx.driver.device import HOST as HOST
    from rlx.driver.device import Device as Device
    from rlx.driver.event import Event as Event
    from rlx.driver.executable import Artifact as Artifact
    from rlx.driver.executable import Executable as Executable
    from rlx.driver.handle import BufferHandle as BufferHandle
    from rlx.driver.handle import load_handles as load_handles
    from rlx.driver.handle import save_handles as save_handles
    from rlx.driver.host_memory import HOST_MEMORY as HOST_MEMORY
    from rlx.driver.host_memory import HostMemory as HostMemory
    from rlx.driver.launch_trace import Launch as Launch
    from rlx.driver.launch_trace import LaunchTrace as LaunchTrace
    from rlx.driver.memory import Block as Block
    from rlx.driver.memory import DeviceMemory as DeviceMemory
    from rlx.driver.memory import device_memory as device_memory
    from rlx.driver.memory_map import memory_map as memory_map
    from rlx.driver.memory_map import memory_map_svg as memory_map_svg
    from rlx.driver.memory_plan import Interval as Interval
    from rlx.driver.memory_plan import MemoryPlan as MemoryPlan
    from rlx.driver.planner import plan_apart as plan_apart
    from rlx.driver.planner import plan_memory as plan_memory
    from rlx.driver.registry import Registry as Registry
    from rlx.driver.registry import registry as registry
    from rlx.driver.safetensors import SafetensorsFile as SafetensorsFile
    from rlx.driver.safetensors import open_safetensors as open_safetensors
    from rlx.driver.safetensors import write_safetensors as write_safetensors
    from rlx.driver.semaphore import Semaphore as Semaphore
    from rlx.driver.stream import CommandStream as CommandStream

late_names(
    __name__,
    {
        "rlx.driver.allocation_sites": "Allocations LiveAllocation track_allocations",
        "rlx.driver.allocator": "MemoryStatistics",
        "rlx.driver.arena": "DeviceArena",
        "rlx.driver.backend": "AsynchronousMemory Backend CompilerModule DeviceProperties DivisibleMemory"
        " MemoryBackend MemoryKind MemoryOfKinds QueuedMemory",
        "rlx.driver.buffer": "Buffer",
        "rlx.driver.ceilings": "Ceilings MemoryLevel",
        "rlx.driver.certificate": "certify",
        "rlx.driver.command": "Operand Program",
        "rlx.driver.command_buffer": "CommandBuffer",
        "rlx.driver.command_file": "load_commands save_commands",
        "rlx.driver.device": "HOST Device",
        "rlx.driver.event": "Event",
        "rlx.driver.executable": "Artifact Executable",
        "rlx.driver.handle": "BufferHandle load_handles save_handles",
        "rlx.driver.host_memory": "HOST_MEMORY HostMemory",
        "rlx.driver.launch_trace": "Launch LaunchTrace",
        "rlx.driver.memory": "Block DeviceMemory device_memory",
        "rlx.driver.memory_map": "memory_map memory_map_svg",
        "rlx.driver.memory_plan": "Interval MemoryPlan",
        "rlx.driver.planner": "plan_apart plan_memory",
        "rlx.driver.registry": "Registry registry",
        "rlx.driver.safetensors": "SafetensorsFile open_safetensors write_safetensors",
        "rlx.driver.semaphore": "Semaphore",
        "rlx.driver.stream": "CommandStream",
    },
)
