"""A stand-in of the Kaggle service on the loopback interface, for the unmodified client, with every way it is known to misbehave.

    with KaggleService() as service:
        os.environ.update(service.environment())
        service.behaviour.processing_seconds = 2.0
        service.fail_next("GetDatasetStatus", 503)

The client sends its calls to `http://localhost/api/v1/...` (`KAGGLE_API_ENVIRONMENT=LOCALHOST`) through `HTTP_PROXY`, which is this
server; so any port will do, and the storage that uploads and downloads go to is served as well.
"""

from unbroken.testing.kaggle.behaviour import Behaviour, Fault
from unbroken.testing.kaggle.service import KaggleService

__all__ = ["Behaviour", "Fault", "KaggleService"]
