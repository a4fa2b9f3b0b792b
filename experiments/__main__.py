"""List and run the experiments: `python -m experiments --list`, `--run NAME`, `--all --smoke`.

The ledger, README.md beside this file, is the one list of claims; a script is run as its command there says, in a
process of its own.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from sdeadapt.text import duration, table

HERE = Path(__file__).parent
WORDS = ("CONFIRMED", "REFUTED", "INCONCLUSIVE")


class Row(NamedTuple):
    """A row of the ledger: who claims it, what, the script that decides it, and what it said, at what cost."""

    section: str
    claim: str
    script: str
    verdict: str
    cost: str


def ledger(text):
    """Return the rows of the ledger, from its Markdown text. A command that is not given is the one above.

    Raises:
        ValueError: if a row has no claim, command, verdict and cost, or its command names no script.
    """
    rows, section, script = [], "", None
    for line in text.splitlines():
        if line.startswith("## "):
            section, script = line[3:].strip(), None
        if not line.startswith("|") or line.startswith(("|---", "| claim |")):
            continue
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if len(cells) != 4:
            raise ValueError(f"A row of the ledger must have claim, command, verdict and cost; got {line!r}.")
        named = re.search(r"experiments/(\w+)\.py", cells[1])
        script = named.group(1) if named else script
        if script is None:
            raise ValueError(f"A row of the ledger must name its script, experiments/NAME.py; got {line!r}.")
        rows.append(Row(section, cells[0], script, *cells[2:]))
    return rows


def scripts():
    """Return the names of the experiments, those with a command line of their own."""
    found = (path for path in HERE.glob("*.py") if path != Path(__file__))
    return sorted(path.stem for path in found if "def main(" in (t := path.read_text("utf-8")) and "__main__" in t)


def show(rows):
    """Print the ledger, shortened: script, verdict words and claim."""
    lines = []
    for row in rows:
        words = re.findall("|".join(WORDS), row.verdict)
        claim = row.claim if len(row.claim) <= 100 else row.claim[:99] + "…"
        lines.append([row.script, ", ".join(dict.fromkeys(words)) or "-", claim])
    print(table(["experiment", "verdicts", "claim"], lines, left=3, indent=""))
    print(f"\n{len(rows)} claims, {len(scripts())} experiments. In full, with costs: experiments/README.md")


def run(name, out, size, *, loud):
    """Run one experiment in its own process and directory; return its exit code and wall time."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(out / name), *size]
    began = time.perf_counter()
    if loud:
        return subprocess.run(command, check=False).returncode, time.perf_counter() - began
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    return done.returncode, time.perf_counter() - began


def run_all(names, out, size, jobs):
    """Run experiments side by side, print a line for each, and return 1 if one ended with another code than 0."""
    began = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        work = {name: pool.submit(run, name, out, size, loud=False) for name in names}
        codes = {}
        for name, future in work.items():
            codes[name], seconds = future.result()
            word, more = ("FAILED", f", exit code {codes[name]}: {out / name}.log") if codes[name] else ("passed", "")
            print(f"{word}  {name}  {duration(seconds)}{more}", flush=True)
    bad = sum(code != 0 for code in codes.values())
    print(f"\n{len(codes) - bad} passed, {bad} failed, in {duration(time.perf_counter() - began)}. Logs in {out}.")
    return int(bad > 0)


def main(argv=None):
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="the claims, with their verdicts")
    what.add_argument("--run", metavar="NAME", nargs="+", choices=scripts(), help="run these experiments")
    what.add_argument("--all", action="store_true", help="run every experiment")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--smoke", action="store_true", help="some seconds each, no claim")
    sizes.add_argument("--full", action="store_true", help="the paper's size, where a script has one")
    parser.add_argument("--out", type=Path, default=None, help="directory; by default results/ and the time")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes of --all (2)")
    options = parser.parse_args(argv)
    if options.jobs < 1:
        parser.error(f"`--jobs` must be at least 1; got {options.jobs}.")
    if options.full and not options.run:
        parser.error("`--full` goes with `--run NAME`: at the paper's size experiments are run one by one.")
    if options.list:
        show(ledger((HERE / "README.md").read_text("utf-8")))
        return 0
    size = ["--smoke"] if options.smoke else ["--full"] if options.full else []
    out = options.out or Path("results") / time.strftime("%Y%m%d-%H%M%S")
    if options.all:
        return run_all(scripts(), out, size, options.jobs)
    codes = [run(name, out, size, loud=True)[0] for name in options.run]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
