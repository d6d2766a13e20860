"""Asks SQLite the questions of queries.txt. answers.py FLIGHTS QUERIES prints a JSON list: of each filter, how many flights match."""

import csv
import json
import sqlite3
import sys

TEXT = {"carrier", "tailnum", "origin", "dest", "time_hour"}


def questions(path):
    """Yields each filter with SQLite's words for it."""
    lines = [line.rstrip("\n") for line in open(path)]
    lines = [line for line in lines if line and not line.startswith("#")]
    for line, after in zip(lines, lines[1:] + [""]):
        if not line.startswith("= "):
            yield line, after[2:] if after.startswith("= ") else line


def main(flights, queries):
    db = sqlite3.connect(":memory:")
    rows = csv.reader(open(flights, newline=""))
    columns = next(rows)
    db.execute("CREATE TABLE flights (%s)" % ", ".join(f"{c} {'TEXT' if c in TEXT else 'INTEGER'}" for c in columns))
    values = ([None if v in ("", "NA") else v for v in row] for row in rows)
    db.executemany("INSERT INTO flights VALUES (%s)" % ", ".join("?" * len(columns)), values)
    answers = []
    for expression, where in questions(queries):
        count = db.execute(f"SELECT count(*) FROM flights WHERE {where}").fetchone()[0]
        answers.append({"filter": expression, "count": count})
    json.dump(answers, sys.stdout, indent=1)


main(*sys.argv[1:])
