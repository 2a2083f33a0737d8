"""``python -m postroad_transport.worker SETTINGS``: how the supervisor starts a worker."""

import sys

import uvloop

from postroad_transport.config.files import ConfigError
from postroad_transport.spool.store import SpoolError
from postroad_transport.worker.process import run
from postroad_transport.worker.settings import WorkerSettings

if __name__ == "__main__":
    try:
        uvloop.run(run(WorkerSettings.decode(sys.argv[1])))
    except (ConfigError, SpoolError, OSError) as error:
        sys.exit(f"postroad worker: {error}")
