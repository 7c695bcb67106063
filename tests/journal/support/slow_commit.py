"""The ordinary command line where a checkpoint beyond step 0 takes ten seconds to be written."""

import sys
import time

from unbroken.cli import main
from unbroken.store.repository import CheckpointRepository

save = CheckpointRepository.save


def slowly(repository, step, fill):
    if step > 0:
        time.sleep(10.0)
    return save(repository, step, fill)


CheckpointRepository.save = slowly
sys.argv = ["unbroken", *sys.argv[1:]]
main()
