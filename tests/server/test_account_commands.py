"""`fathom keys` and `fathom usage` on the accounts under FATHOM_HOME."""

import csv
import io
import json
import time

import pytest

from fathom.cli.main import main
from fathom.server.accounts import keys
from fathom.server.accounts.database import accounts_place, open_database
from fathom.server.accounts.ledger import Call, write


@pytest.fixture
def ledger():
    database = open_database(accounts_place())
    now = time.time()
    for number in range(3):
        call = Call(str(number), now, "ann", "m", "stop", 64, 36, 5, 50, 0.5, "deepseek-v4-flash", 10**6)
        write(database, call)
    yield database
    database.dispose()


def test_keys_are_made_listed_and_revoked(capsys):
    assert main(["keys", "create", "ann", "--max-tokens", "1000", "--max-usd", "2.5"]) == 0
    key = capsys.readouterr().out.strip()
    found = keys.find(open_database(accounts_place()), key)
    assert (found.name, found.max_tokens, found.max_picodollars) == ("ann", 1000, 25 * 10**11)
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert "ann" in listed
    assert "0 of 1,000" in listed
    assert key not in listed
    assert main(["keys", "revoke", "ann"]) == 0
    assert main(["keys", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keys"][0]["revoked"] > 0
    assert main(["keys", "revoke", "ann"]) == 1
    assert "no live key" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["create"], ["list", "ann"], ["revoke", "ann", "--max-tokens", "4"]])
def test_keys_used_wrongly(arguments, capsys):
    assert main(["keys", *arguments]) == 2


def test_usage_as_a_table_with_the_price_elsewhere(ledger, capsys):
    assert main(["usage", "--by", "key,model"]) == 0
    header, row, total = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header[-1] == "usd_at_gpt-4-0613"
    assert row == ["ann", "m", "3", "192", "108", "15", "150", "0.000003", "0.018000"]
    assert total[2:] == row[2:]


def test_usage_as_json_and_csv(ledger, capsys):
    assert main(["usage", "--json", "--compare", "o1"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["total"]["usd_at_o1"] == pytest.approx((192 * 7.5 + 108 * 15 + 150 * 60) / 1e6)
    assert main(["usage", "--csv", "--by", "day,key", "--days", "1"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["key"], row["calls"], row["output"]) == ("ann", "3", "150")


def test_usage_of_nothing_and_of_unknown_prices(capsys):
    assert main(["usage"]) == 0
    assert "Nothing was asked" in capsys.readouterr().err
    open_database(accounts_place()).dispose()
    with pytest.raises(SystemExit):
        main(["usage", "--by", "hour"])


def test_credit_is_given_and_shown(capsys):
    main(["keys", "create", "ann"])
    key = capsys.readouterr().out.strip()
    assert main(["keys", "top-up", "ann", "--usd", "5", "--note", "invoice 7"]) == 0
    assert main(["keys", "grant", "ann", "--usd", "1.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "ann", "granted_usd": 1.5, "topped_up_usd": 5.0}
    found = keys.find(open_database(accounts_place()), key)
    assert found.allowed_picodollars == 65 * 10**11
    assert main(["keys", "top-up", "bob", "--usd", "5"]) == 1
    assert main(["keys", "top-up", "ann"]) == 2
    assert main(["keys", "list", "--usd", "5"]) == 2


def test_usage_as_a_chart_and_what_it_cost_here(ledger, capsys):
    assert main(["usage", "--by", "key", "--chart", "output", "--watts", "100", "--usd-per-kwh", "0.4"]) == 0
    said = capsys.readouterr()
    assert "ann " + "█" * 40 + " 150" in said.out
    assert "100 W at 0.4 USD/kWh" in said.err
    assert main(["usage", "--json", "--usd-per-hour", "3600", "--watts", "0"]) == 0
    here = json.loads(capsys.readouterr().out)["here"]
    assert here["usd"] == pytest.approx(0.5, abs=0.01)  # three calls of half a second at the same time


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_every_call_as_a_file(ledger, capsys, tmp_path, form):
    file = tmp_path / f"calls.{form}"
    assert main(["usage", "--out", str(file)]) == 0
    if form == "csv":
        rows = list(csv.DictReader(file.open()))
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
    assert [int(row["output"]) for row in rows] == [50, 50, 50]
    assert main(["usage", "--out", str(tmp_path / "calls.txt")]) == 2
