"""The allocator's settings take effect, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
sys.path.insert(0, {root!r})
from server import malloc
print(malloc.tune())
blocks = [bytes(1 << 20) for _ in range(16)]
def mapped():
    text = open("/proc/self/smaps_rollup").read()
    return int(text.split("Rss:")[1].split()[0])
before = mapped()
del blocks
print(mapped() > before - 8192)
"""


def test_freed_messages_stay_with_the_process() -> None:
    """16 MiB in messages of 1 MiB: glibc would map each by itself and give each back at once."""
    from pathlib import Path

    root = str(Path(__file__).parents[2])
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(root=root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert found.stdout.split() == ["True", "True"]
