"""One system on one workload in one process: make it ready, check that it answers, time it, say so as a line of JSON.

    python bench/worker.py WORKLOAD SYSTEM THREADS SECONDS ANSWER.npy

`bench/run.py` starts these in turns. A process of its own gives every system its own thread pools and its own memory,
and none pays for another's spinning threads. Prints the seconds of each run with the other work on the machine
meanwhile, or the reason why there are none.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from watch import Watch
from workload import Missing
from workloads import ALL


def main() -> None:
    name, system, threads, seconds, answer = sys.argv[1:]
    (workload,) = [w for w in ALL if w.name == name]
    try:
        run = workload.systems[system](int(threads))
        np.save(answer, run())
    except (Missing, ImportError) as reason:
        print(json.dumps(str(reason)))
        return
    taken: list[float] = []
    warm = time.perf_counter() + float(seconds) / 2
    for _ in range(3):
        run()
        if time.perf_counter() > warm:
            break
    with Watch() as watch:
        end = time.perf_counter() + float(seconds)
        while len(taken) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(workload.calls):
                run()
            taken.append((time.perf_counter() - start) / workload.calls)
    print(json.dumps({"times": taken, "others": watch.others}))


if __name__ == "__main__":
    main()
