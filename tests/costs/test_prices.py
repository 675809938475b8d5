"""Prices by date and hour, against DeepSeek's published tables."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from fathom.costs.prices import PICODOLLARS, PriceError, plans, rate


def usd_per_million(plan, *when):
    at = rate(plan, datetime(*when, tzinfo=UTC))
    return tuple(amount * 10**6 / PICODOLLARS for amount in (at.hit, at.miss, at.output))


@pytest.mark.parametrize(
    ("plan", "when", "usd"),
    [
        ("deepseek-chat", (2024, 6, 1), (0.14, 0.14, 0.28)),
        ("deepseek-chat", (2025, 1, 27), (0.014, 0.14, 0.28)),
        ("deepseek-chat", (2025, 2, 9), (0.07, 0.27, 1.10)),
        ("deepseek-chat", (2025, 3, 1, 16, 29), (0.07, 0.27, 1.10)),
        ("deepseek-chat", (2025, 3, 1, 16, 30), (0.035, 0.135, 0.55)),
        ("deepseek-chat", (2025, 3, 1, 0, 29), (0.035, 0.135, 0.55)),
        ("deepseek-chat", (2025, 3, 1, 0, 30), (0.07, 0.27, 1.10)),
        ("deepseek-chat", (2025, 9, 5, 15, 59), (0.07, 0.27, 1.10)),
        ("deepseek-chat", (2025, 9, 5, 16), (0.07, 0.56, 1.68)),
        ("deepseek-reasoner", (2025, 1, 21), (0.14, 0.55, 2.19)),
        ("deepseek-reasoner", (2025, 6, 1, 20), (0.035, 0.135, 0.55)),
        ("deepseek-reasoner", (2026, 1, 1), (0.028, 0.28, 0.42)),
        ("deepseek-v4-flash", (2026, 11, 23, 3, 59), (0.014, 0.44, 1.32)),
        ("deepseek-v4-flash", (2026, 11, 23, 4), (0.007, 0.22, 0.66)),
        ("deepseek-v4-pro", (2026, 5, 1), (0.003625, 0.435, 0.87)),
        ("gpt-4-0613", (2026, 1, 1), (30, 30, 60)),
        ("o1", (2020, 1, 1), (7.5, 15, 60)),
    ],
)
def test_published_prices(plan, when, usd):
    assert usd_per_million(plan, *when) == usd


def test_the_hour_counts_in_utc():
    peking = datetime(2025, 3, 2, 0, 30, tzinfo=timezone(timedelta(hours=8)))  # 16:30 UTC
    assert rate("deepseek-chat", peking) == rate("deepseek-chat", datetime(2025, 3, 1, 16, 30, tzinfo=UTC))


def test_v3_was_under_one_percent_of_gpt_4():
    """The article's claim, for a prompt of 3 parts and an answer of 1."""
    when = datetime(2025, 1, 1, tzinfo=UTC)
    deepseek, gpt = (rate(plan, when).cost(0, 3000, 1000) for plan in ("deepseek-chat", "gpt-4-0613"))
    assert 0 < deepseek / gpt < 0.01


def test_an_unknown_plan_names_the_known_ones():
    with pytest.raises(PriceError, match="deepseek-chat"):
        rate("gpt-9", datetime.now(UTC))
    assert "deepseek-reasoner" in plans()
