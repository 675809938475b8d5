"""When quotas begin anew."""

from datetime import UTC, datetime


def month_began() -> float:
    """The first moment of this calendar month (UTC), in seconds since 1970."""
    return datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
