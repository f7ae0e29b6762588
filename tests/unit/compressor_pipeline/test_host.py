"""What a container may take, as its cgroup says."""

import os

import psutil

from edgemodel_compressor import host


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_version_2(tmp_path):
    write(tmp_path, cpu_dot_max="150000 100000\n", memory_dot_max="1048576\n", memory_dot_current="1000000\n")
    assert host.cores(tmp_path) == 1
    assert host.memory_limit(tmp_path) == 2**20
    assert host.memory_left(tmp_path) == 48576


def test_version_1(tmp_path):
    write(tmp_path, cpu__cpu_dot_cfs_quota_us="-1", cpu__cpu_dot_cfs_period_us="100000")
    write(tmp_path, memory__memory_dot_limit_in_bytes="4096", memory__memory_dot_usage_in_bytes="5000")
    assert host.cores(tmp_path) == len(os.sched_getaffinity(0))
    assert host.memory_limit(tmp_path) == 4096
    assert host.memory_left(tmp_path) == 0


def test_without_limits_the_machine_is(tmp_path):
    write(tmp_path, cpu_dot_max="max 100000", memory_dot_max="max")
    for folder in (tmp_path, tmp_path / "missing"):
        assert host.cores(folder) == len(os.sched_getaffinity(0))
        assert host.memory_limit(folder) == psutil.virtual_memory().total


def test_less_than_one_core_is_one(tmp_path):
    write(tmp_path, cpu_dot_max="20000 100000")
    assert host.cores(tmp_path) == 1
