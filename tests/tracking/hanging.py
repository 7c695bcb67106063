"""The ordinary command line with a tracker that hangs: when it is closed, and once more at the end of the process."""

import atexit
import sys
import time

from unbroken import leg
from unbroken.cli import main


class Hanging:
    name = "mlflow"

    def begin(self, run):
        atexit.register(time.sleep, 120)

    def log(self, rows):
        pass

    def finish(self, complete):
        time.sleep(120)


leg.trackers_of = lambda config, folder: [Hanging()]
if len(sys.argv) > 1 and sys.argv[1] == "--impatient":
    del sys.argv[1]
    leg._PATIENCE_SECONDS = 3.0
sys.argv = ["unbroken", *sys.argv[1:]]
main()
