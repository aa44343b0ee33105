"""What the machine is said to have: control groups of both versions, GPUs that are stood in for, and this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx import kernels
from gptoss_mlx.memory import CACHE_LIMIT, Machine, set_limits
from gptoss_mlx.memory.machine import SPARE, WIRED_STEP

GB = 1_000_000_000
NO_LIMIT = 9223372036854771712
MEMINFO = "MemTotal:       32000000 kB\nMemFree:          400000 kB\nMemAvailable:   20000000 kB\n"
RAM, FREE = 32000000 * 1024, 20000000 * 1024
V1_STAT = "cache 1\nactive_file 1\ninactive_file 1\ntotal_cache 9\ntotal_active_file 200\ntotal_inactive_file 300\n"


def system(root: Path, **files: str | int) -> Path:
    """A folder like `/` with these files, `__` standing for the slashes."""
    for name, text in {"proc__meminfo": MEMINFO, **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
    return root


V1, V2 = "sys__fs__cgroup__memory__", "sys__fs__cgroup__"
GROUPS: dict[str, tuple[dict[str, str | int], int, int]] = {
    "none": ({}, RAM, FREE),
    "v2": (
        {
            "proc__self__cgroup": "0::/",
            V2 + "memory.max": 8 * GB,
            V2 + "memory.current": 3 * GB,
            V2 + "memory.stat": "anon 5\nfile 2000000000\nactive_file 500000000\ninactive_file 1500000000\nshmem 1\n",
        },
        8 * GB,
        7 * GB,
    ),
    "v2 without a limit": (
        {"proc__self__cgroup": "0::/", V2 + "memory.max": "max", V2 + "memory.current": 5},
        RAM,
        FREE,
    ),
    "v2, the limit of a group around it": (
        {
            "proc__self__cgroup": "0::/user.slice/job",
            V2 + "user.slice__job__memory.max": "max",
            V2 + "user.slice__job__memory.current": 5,
            V2 + "user.slice__memory.max": 4 * GB,
            V2 + "user.slice__memory.current": GB,
        },
        4 * GB,
        3 * GB,
    ),
    "v2, the smallest of several": (
        {
            "proc__self__cgroup": "0::/a/b",
            V2 + "a__b__memory.max": 6 * GB,
            V2 + "a__b__memory.current": 0,
            V2 + "a__memory.max": 9 * GB,
            V2 + "a__memory.current": 7 * GB,
        },
        6 * GB,
        2 * GB,
    ),
    "v2, a path out of what is seen": (
        {"proc__self__cgroup": "0::/../../host", V2 + "memory.max": 2 * GB, V2 + "memory.current": 5 * GB},
        2 * GB,
        0,
    ),
    "v1": (
        {
            "proc__self__cgroup": "9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:/job\n0::/",
            V1 + "job__memory.limit_in_bytes": 2 * GB,
            V1 + "job__memory.usage_in_bytes": GB + 500,
            V1 + "job__memory.stat": V1_STAT,
        },
        2 * GB,
        GB,
    ),
    "v1, the host's path in a container": (
        {
            "proc__self__cgroup": "4:hugetlb,memory:/docker/0123",
            V1 + "memory.limit_in_bytes": GB,
            V1 + "memory.usage_in_bytes": 0,
        },
        GB,
        GB,
    ),
    "v1 without a limit": (
        {
            "proc__self__cgroup": "4:memory:/",
            V1 + "memory.limit_in_bytes": NO_LIMIT,
            V1 + "memory.usage_in_bytes": GB,
        },
        RAM,
        FREE,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_control_groups_bound_what_there_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, total, free = GROUPS[name]
    own = 1000
    monkeypatch.setattr(mx, "get_active_memory", lambda: own)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 0)
    found = Machine.measure(system(tmp_path, **files))
    assert (found.device, found.total, found.free) == ("cpu", total, min(total, free + own))


def test_without_any_file_the_system_says_what_it_has(tmp_path: Path) -> None:
    found = Machine.measure(tmp_path)
    assert found.total == found.free == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_this_machine_is_plausible() -> None:
    found = Machine.measure()
    assert found.device == "cpu"
    assert 1 << 30 <= found.total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < found.free <= found.total
    assert found.available == found.free - SPARE["cpu"]
    assert found.native == kernels.native()
    assert found.itemsize == kernels.compute_dtype().size


@pytest.mark.parametrize(
    ("kind", "cpu", "gpu"),
    [
        ("", (4, 4), (2, 2)),
        ("float32", (4, 4), (4, 4)),
        ("float16", (2, 2), (2, 2)),
        ("bfloat16", (2, 2), (2, 2)),
        ("q8", (9 / 8, 4), (9 / 8, 2)),
        ("q4", (5 / 8, 4), (5 / 8, 2)),
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_caches_are_as_wide_as_asked(
    kind: str,
    cpu: tuple[float, float],
    gpu: tuple[float, float],
    native: bool,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GPTOSS_CACHE", raising=False)
    if kind:
        monkeypatch.setenv("GPTOSS_CACHE", kind)
    if native:
        request.getfixturevalue("native")
    else:
        monkeypatch.setattr(kernels, "extension", None)
    assert Machine.measure().kv_width == cpu
    with kernels.exactly():
        assert Machine.measure().kv_width == (4, 4)
    monkeypatch.setattr(kernels, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda device: METAL)
    assert Machine.measure().kv_width == gpu


METAL = {"memory_size": 17179869184, "max_recommended_working_set_size": 11453246122, "device_name": "Apple M1"}
CUDA = {"total_memory": 85 * GB, "free_memory": 80 * GB, "device_name": "NVIDIA H100"}


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (METAL, Machine("metal", 17179869184, 11453246122)),
        (CUDA, Machine("cuda", 85 * GB, 81 * GB)),
        ({"total_memory": 85 * GB}, Machine("cuda", 85 * GB, 85 * GB)),
    ],
)
def test_gpus(info: dict[str, Any], expected: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda device: info)
    monkeypatch.setattr(mx, "get_active_memory", lambda: GB)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 0)
    assert Machine.measure() == expected
    assert (expected.itemsize, expected.kv_width, expected.native) == (2, (2, 2), False)


@given(st.integers(1 << 20, 1 << 40))
def test_the_system_keeps_its_share(total: int) -> None:
    limit = Machine("metal", total, 0).most_wired
    assert limit % WIRED_STEP == 0
    assert limit == 0 or total - (limit << 20) >= max(4 * GB, total // 10)
    assert total < 5 * GB or total - (limit << 20) < max(4 * GB, total // 10) + (WIRED_STEP << 20) + (1 << 20)
    assert Machine("cpu", total, 0).most_wired == Machine("cuda", total, 0).most_wired == 0


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine("cpu", GB, GB), []),
        (Machine("cuda", 85 * GB, 80 * GB), [("cache", CACHE_LIMIT)]),
        (Machine("metal", 16 * GB, 11 * GB), [("cache", CACHE_LIMIT), ("wired", 11 * GB)]),
    ],
)
def test_limits_of_mlx(machine: Machine, expected: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(mx, "set_cache_limit", lambda limit: calls.append(("cache", limit)))
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: calls.append(("wired", limit)))
    set_limits(machine)
    assert calls == expected
