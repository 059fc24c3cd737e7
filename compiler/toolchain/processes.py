"""A process and everything it starts: how much memory they hold, and how to end all of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path


def group_memory(group: int) -> int:
    """Resident bytes of all processes of a session (Linux) or process group (elsewhere); 0 when none is left.

    Pages shared between the processes are counted once for each of them.
    """
    if sys.platform == "linux":
        return _linux_session_memory(group)
    # Elsewhere `ps` is the portable way; rss is in KiB (POSIX leaves it out, BSD and macOS have it).
    listing = subprocess.run(["ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True, check=False).stdout
    rows = [line.split() for line in listing.splitlines()]
    return sum(int(row[1]) for row in rows if len(row) == 2 and int(row[0]) == group) * 1024


def _linux_session_memory(session: int) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended while we looked
            continue
        fields = stat[stat.rindex(")") + 2 :].split()  # the command name may hold spaces and brackets
        if int(fields[3]) == session:
            total += int(fields[21]) * page
    return total


def wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Return when `process` ends, or after `seconds`; at once where the system can tell (Linux)."""
    if sys.platform == "linux":
        try:
            watched = os.pidfd_open(process.pid)
        except OSError:  # it ended and was waited for, or a sandbox forbids it
            pass
        else:
            try:
                select.select([watched], [], [], seconds)
            finally:
                os.close(watched)
            return
    time.sleep(min(seconds, 0.03))


def _session_members(session: int) -> list[int]:
    """Processes of the session that left its process group; empty where there is no /proc."""
    members = []
    if sys.platform == "linux":
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry)) == session:
                        members.append(int(entry))
    return members


def end_group(process: subprocess.Popen[bytes], grace: float = 3.0) -> None:
    """End `process`, started with `start_new_session=True`, and its whole session: SIGTERM, `grace` seconds, SIGKILL.

    Returns with nothing of it running. Safe to call when it has ended already: then its leftover children are killed.
    """
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    _signal_group(process.pid, signal.SIGKILL)
    for pid in _session_members(process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    # PermissionError: macOS answers so for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def physical_memory() -> int | None:
    """Bytes of memory of this machine, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
