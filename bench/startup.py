"""What starting costs, in a fresh process: import, then load and compile MiniLM, then the first run, as a line of JSON.

    python bench/startup.py CACHE_DIRECTORY

The directory's state decides whether the compile is cold (empty) or warm (an earlier process filled it).
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["RLX_CACHE_DIR"] = sys.argv[1]
begin = time.perf_counter()
import rlx  # noqa: E402  # the import is what is timed

imported = time.perf_counter()
import numpy as np  # noqa: E402
from workloads.minilm import feeds, model_directory  # noqa: E402

inputs: dict[str, np.ndarray] = feeds(1, 128)
start = time.perf_counter()
program = rlx.Session("cpu").compile(rlx.load(model_directory()), {"input_ids": (1, 128)})
compiled = time.perf_counter()
program.run(inputs)
ran = time.perf_counter()
print(
    json.dumps(
        {
            "import": imported - begin,
            "compile": compiled - start,
            "first_run": ran - compiled,
            "cache": program.report.cache,
        }
    )
)
