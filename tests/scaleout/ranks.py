"""Real processes that form a gloo group on this machine, for tests of what they do."""

import multiprocessing
import os
import sys
import tempfile
import traceback
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path

# A fork of a process that has imported torch is made in milliseconds.
METHOD = "spawn" if sys.platform == "win32" else "forkserver"
LIMIT = 60  # seconds until torch gives up a rank that is silent


def _main(pipe, job, rank, size, store, arguments):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=LIMIT),
    )
    try:
        result = job(rank, size, *arguments)
    except Exception as error:
        result = Failed(type(error).__name__, str(error), traceback.format_exc())
    pipe.send(result)
    if not isinstance(result, Failed):
        dist.destroy_process_group()


class Failed:
    """An exception of a rank."""

    def __init__(self, kind, text, trace):
        self.kind, self.text, self.trace = kind, text, trace

    def __repr__(self):
        return self.trace


def on_ranks(size, job, *arguments):
    """Call ``job(rank, size, *arguments)`` on each of some ranks.

    Returns what each has returned; a `Failed` for one that raised, None for one that
    was killed.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        # (Dynamo is what `torch.func` imports when it is first used.)
        context.set_forkserver_preload(["torch._dynamo", "chita_torch"])
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_posix()
        ranks = {}
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(
                target=_main, args=(there, job, rank, size, store, arguments)
            )
            process.start()
            there.close()
            ranks[here] = (rank, process)
        results = [None] * size
        waiting = set(ranks)
        try:
            while waiting:
                # (A rank that waits for one that is gone has to end by itself first.)
                ready = wait(list(waiting), timeout=2 * LIMIT)
                if not ready:
                    raise TimeoutError(f"{len(waiting)} of {size} ranks do not answer")
                for pipe in ready:
                    waiting.discard(pipe)
                    try:
                        results[ranks[pipe][0]] = pipe.recv()
                    except EOFError:
                        pass  # it was killed
        finally:
            for pipe, (_, process) in ranks.items():
                process.join(0 if waiting else 10)
                if process.is_alive():
                    process.kill()
                    process.join()
                pipe.close()
    return results
