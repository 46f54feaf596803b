"""Python programs that start at once: forked from a process that has imported what they need.

Most of the CPU of the tests that start a node went into imports: nine seconds for the node's processes and eight for
each model process. Here they are done once for each process of pytest. What is forked is a process like any other: it
has its own arguments, folder, log and children, and is killed with SIGKILL. Its children by the start method "spawn"
are forked from it too, and get what a spawned one gets: the pickled task, the descriptors that were passed and no
others, and fresh signal handlers. So is a node's own fork server. That a node also starts from nothing is shown by the
demonstration (tests/demo, tests/deploy).

What a test itself starts by "spawn" in the process of pytest (`fork_what_tests_spawn`) and the stages of a retraining
that it runs there (`tests.support.retrain_site`) are forked in the same way.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import context, popen_forkserver, spawn, util
from pathlib import Path
from typing import Any, NoReturn

_PRELOADED = "tests.support.preloaded"
STAGE = "dicom_node.retrain.subprocess_main"
"""The program that runs a stage of a retraining."""
_SPAWNED = re.compile(r"spawn_main\(tracker_fd=(\d+), pipe_handle=(\d+)\)")
_FORK_SERVER = "from multiprocessing.forkserver import main; "
_KEPT: list[Any] = []
"""Streams that a fork does not use and must not close: closing one waits for its lock."""
_getppid = os.getppid
_fork_server = multiprocessing.get_context("forkserver")


class ForkedProcess:
    """A started program, with the part of `subprocess.Popen` that the tests use."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        log: Path,
        folder: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Run `python -m module arguments…` in `folder`; what it says is added to `log`."""
        _fork_server.set_forkserver_preload([_PRELOADED])
        log.touch()
        # daemon: pytest ends what a failed test has left
        self._process = _fork_server.Process(
            target=_run,
            args=(module, list(arguments), _Surroundings.here(environment), str(log), str(folder or Path.cwd())),
            daemon=True,
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        """The exit status; None while it runs; negative: the signal that ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """A process that has ended gets none."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """State that a process takes over from the one that asked for it, which is not the one that was forked."""

    environment: dict[str, str]
    parent_pid: int

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> _Surroundings:
        return cls(dict(environment), os.getpid())

    def take_over(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        time.tzset()
        # the server ends with the process that asks it, and what it has forked ends with the server
        os.getppid = lambda: self.parent_pid


def _run(module: str, arguments: Sequence[str], surroundings: _Surroundings, log: str, folder: str) -> None:
    """Be the program: in the forked process, at the head of a process group of its own."""
    os.setsid()
    surroundings.take_over()
    said = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.close(said)
    os.chdir(folder)
    process: Any = multiprocessing.current_process()
    process._config["daemon"] = False  # it may have children
    _fork_what_is_spawned()
    _fork_what_is_run()
    _run_module(module, arguments)


def _run_module(module: str, arguments: Sequence[str]) -> NoReturn:
    sys.argv = [module, *arguments]
    _end(_status_of(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)))


def _status_of(main: Callable[[], object]) -> int:
    """Run to the end as the interpreter does, and give the exit status."""
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
            return 1
        return end.code or 0
    except BaseException:  # noqa: BLE001 (the edge of this process)
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """End as the interpreter does; a fork's own end would skip the exit handlers."""
    shut_down: Callable[[], None] = getattr(threading, "_shutdown")  # noqa: B009 (it has no public name)
    run_exit_functions: Callable[[], None] = getattr(atexit, "_run_exitfuncs")  # noqa: B009
    shut_down()
    run_exit_functions()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def fork_what_tests_spawn() -> None:
    """Have the server fork where `multiprocessing` would start an interpreter for this process, which is pytest's."""
    _fork_server.set_forkserver_preload([_PRELOADED])
    setattr(context.SpawnProcess, "_Popen", staticmethod(_ForkedSpawn))  # noqa: B010


class _ForkedSpawn(popen_forkserver.Popen):
    """A process by the start method "spawn" of pytest's process."""

    def _launch(self, process_obj: Any) -> None:
        run = process_obj.run
        process_obj.run = partial(_run_spawned, _Surroundings.here(), run)
        try:
            super()._launch(process_obj)  # type: ignore[misc]
        finally:
            del process_obj.run


def _run_spawned(surroundings: _Surroundings, run: Callable[[], None]) -> None:
    surroundings.take_over()
    _fork_what_is_spawned()
    run()


def _fork_what_is_spawned() -> None:
    """Have this process fork where `multiprocessing` would start an interpreter."""
    start: Callable[[bytes, Sequence[str], Sequence[int]], int] = getattr(util, "spawnv_passfds")  # noqa: B009

    def fork_or_start(path: bytes, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        program = str(arguments[-1])
        wanted = next(filter(None, map(_SPAWNED.search, map(str, arguments))), None)
        is_server = program.startswith(_FORK_SERVER)
        # A lock that another thread holds stays held in a fork for ever. A model process takes none of those that the
        # threads of a worker take: they are the index's.
        if not (wanted or is_server) or (threading.active_count() > 1 and not _is_for_a_model()):
            return start(path, arguments, descriptors)
        pid = os.fork()
        if pid:
            return pid
        try:
            if wanted is None:
                _become_fork_server(program, descriptors)
            _become_spawned(int(wanted[1]), int(wanted[2]), descriptors)
        finally:
            os._exit(1)

    setattr(util, "spawnv_passfds", fork_or_start)  # noqa: B010


def _is_for_a_model() -> bool:
    """Only the threads of `ServingModels` and of the analysis start children of a worker."""
    return multiprocessing.current_process().name == "work" or Path(sys.argv[0]).stem == "delivering"


def _fork_what_is_run() -> None:
    """Have this process fork where `subprocess` would start an interpreter for a stage of a retraining or, in the
    demonstration, for its node."""
    start: Callable[..., int] = getattr(subprocess, "_fork_exec")  # noqa: B009

    def fork_or_start(*values: Any) -> int:
        command, environment, streams = list(values[0]), values[5], (values[6], values[9], values[11])
        if command[:2] != [sys.executable, "-m"] or not _may_fork(command[2]):
            return start(*values)
        pid = os.fork()
        if pid:
            return pid
        try:
            for number, stream in enumerate(streams):
                if stream >= 0:
                    os.dup2(stream, number)
            _forget_parent(())
            if environment is not None:
                os.environ.clear()
                for entry in environment:
                    name, _, value = os.fsdecode(entry).partition("=")
                    os.environ[name] = value
            _run_module(command[2], command[3:])
        finally:
            os._exit(1)

    setattr(subprocess, "_fork_exec", fork_or_start)  # noqa: B010


def _may_fork(module: str) -> bool:
    """Tell whether no thread holds a lock that the program needs: there is none, or only the demonstration's archive,
    which waits for the node."""
    if module == "dicom_node":
        return sys.argv[:2] == ["dicom_node", "demo"]
    return module == STAGE and threading.active_count() == 1


def _become_spawned(tracker: int, pipe: int, descriptors: Sequence[int]) -> NoReturn:
    _forget_parent(descriptors)
    sys.argv = ["-c", "--multiprocessing-fork"]
    _end(_status_of(lambda: spawn.spawn_main(pipe_handle=pipe, tracker_fd=tracker)))


def _become_fork_server(program: str, descriptors: Sequence[int]) -> NoReturn:
    """Serve the node's main process with forks, as the server that it starts by itself does."""
    _forget_parent(descriptors)
    sys.argv = ["-c"]
    _end(_status_of(lambda: exec(program, {})))


def _renew_streams() -> None:
    """Log as a fresh interpreter does, to streams of which no thread of the parent holds the lock."""
    handlers: list[Any] = getattr(logging, "_handlerList")  # noqa: B009
    _KEPT.extend([sys.stdout, sys.stderr, *logging.root.handlers, *handlers])
    handlers.clear()
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc] # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc] # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _forget_parent(descriptors: Sequence[int]) -> None:
    """Keep of the parent only its libraries, the standard streams and these descriptors."""
    os.getppid = _getppid
    _renew_streams()
    gc.freeze()  # what belongs to the parent is not collected: its descriptors are not ours
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    kept = {0, 1, 2, *descriptors}
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) not in kept:
            with contextlib.suppress(OSError):  # the one of the listing itself
                os.close(int(entry.name))
