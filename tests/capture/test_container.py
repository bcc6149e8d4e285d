"""Memory that control groups leave, from folders like the system's."""

from __future__ import annotations

from pathlib import Path

import pytest

from capture.container import container_memory_bytes


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{contents}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def test_no_groups(tmp_path: Path) -> None:
    assert container_memory_bytes(tmp_path) == []


def test_pages_of_files_are_free(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/docker/abc\n")  # as the host sees it: here the container is the root
    stat = "anon 20\nfile 75\nshmem 5\nactive_file 30\ninactive_file 40"
    group(root / "sys/fs/cgroup", memory_max=100, memory_current=95, memory_stat=stat)
    assert container_memory_bytes(root) == [75]


def test_a_limit_of_the_job_holds_for_its_step(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/job/step\n")
    groups = root / "sys/fs/cgroup"
    group(groups / "job/step", memory_max="max", memory_current=10, memory_stat="anon 10")
    group(groups / "job", memory_max=50, memory_current=20, memory_stat="anon 20")
    group(groups, memory_stat="anon 90")
    assert container_memory_bytes(root) == [30]


def test_the_first_version_of_groups(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n")
    groups = root / "sys/fs/cgroup/memory"
    unlimited = {"memory_limit_in_bytes": 2**63 - 4096, "memory_usage_in_bytes": 4096}
    stat = "cache 8\ntotal_inactive_file 6\ntotal_active_file 1"
    group(groups / "a/b", memory_limit_in_bytes=20, memory_usage_in_bytes=30, memory_stat=stat)
    group(groups / "a", **unlimited, memory_stat=stat)
    assert container_memory_bytes(root) == [0, 2**63 - 8192 + 7]
