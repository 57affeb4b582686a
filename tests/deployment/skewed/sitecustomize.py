"""A machine whose clock is off: Python runs this first where the folder is on its path. ``CLOCK_AHEAD_S`` says by how much."""

import datetime
import os


class Skewed(datetime.datetime):
    """What Python says that the time is."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]  # of another kind
        return super().now(tz) + datetime.timedelta(seconds=float(os.environ["CLOCK_AHEAD_S"]))


datetime.datetime = Skewed  # type: ignore[misc]  # on purpose
