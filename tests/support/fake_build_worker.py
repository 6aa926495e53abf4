"""Runs `streamd.tools.engine.plan.worker` on a fake GPU; `FAKE_BUILDING` (`refused in fp16`) says which build fails."""

import os
import signal
import sys
import time
from pathlib import Path

from streamd.inference import cuda
from streamd.tools.engine.plan import worker as building
from tests.support.fake_tensorrt_builder import make_tensorrt

what, _, where = os.environ.get("FAKE_BUILDING", "").partition(" in ")
vars(cuda).update(count_devices=lambda: 1, use_device=lambda device: None, get_device_name=lambda device: "NVIDIA Fake")
module = sys.modules["tensorrt"] = make_tensorrt(os.environ["FAKE_TENSORRT"])
folder = Path(sys.argv[1])
if where and where in (folder / building.JOB).read_text():
    if what == "refused":
        module.recorder.build_errors.append("no tactic fits")
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "endless":
        Path(os.environ["FAKE_STARTED"]).touch()
        time.sleep(600)
sys.exit(building.main([str(folder)]))
