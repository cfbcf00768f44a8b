#!/usr/bin/env python3
"""Runs every scripted conversation on Apache ZooKeeper 3.8.0 and on Serval and compares what they answered.

    run_conversations.py [--server apache|serval|both] [--only GLOB] [--show] [--record]

both    (default) each line of Serval must equal Apache's, except where differences.toml says otherwise
serval  the same, against the transcripts recorded from Apache (no Java needed)
apache  Apache against the recorded transcripts: is the suite itself repeatable?

Here: running, comparing, the table of intended differences. Not here: scripts, rendering.
Invariants: an unlisted difference fails; a listed one that does not occur fails; a step that one side lacks fails;
a conversation that raises, or a server that died, fails. The last line of output is `N passed, N failed`.
"""

import argparse
import fnmatch
import glob
import importlib
import os
import sys
import threading
import tomllib
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import conversation  # noqa: E402
import servers  # noqa: E402
import zk  # noqa: E402
from conversation import Context, Line  # noqa: E402

TRANSCRIPTS = os.path.join(HERE, "transcripts")
GROUPS = {
    # The everyday server.
    "base": {},
    # Session life: short ticks.
    "fast": {"tickTime": "100"},
    # Extended node types, enforced quotas, a busy reaper.
    "extended": {"tickTime": "100", "extendedTypesEnabled": "true", "enforceQuota": "true",
                 "znode.container.checkIntervalMs": "100"},
    # Limits, and the whitelist as it is by default.
    "limits": {"maxClientCnxns": "4", "jute.maxbuffer": "5000", "4lw.commands.whitelist": None,
               "minSessionTimeout": "7000", "maxSessionTimeout": "9000"},
    "skip_acl": {"skipACL": "yes"},
    # Every conversation has a server of its own that nobody has spoken to.
    "fresh": {},
    "reconfig": {"reconfigEnabled": "true"},
    "restart": {},
}


def load_conversations(only):
    for path in sorted(glob.glob(os.path.join(HERE, "conversations", "*.py"))):
        module = os.path.basename(path)[:-3]
        if module != "__init__":
            importlib.import_module(f"conversations.{module}")
    return [c for c in conversation.REGISTRY if fnmatch.fnmatch(c[0], only)]


# ---- running --------------------------------------------------------------------------------------------------------

def run_one(server, function):
    """The steps of one conversation: {step: [Line]}, and what went wrong, or None."""
    context = None
    try:
        context = Context(server)
        function(context)
        problem = None
    except Exception:  # every failure of a script is a result, shown with its transcript
        problem = traceback.format_exc(limit=-3)
        if isinstance(sys.exc_info()[1], zk.Timeout):
            problem = "the server neither answered nor closed in time\n" + problem
    steps = context.steps if context else {}
    if context:
        try:
            context.tidy()
        except Exception:
            problem = (problem or "") + "cleaning up: " + traceback.format_exc(limit=-2)
    if not server.alive():
        problem = (problem or "") + f"the server ended:\n{server.log_tail()}"
    return steps, problem


def run_server(kind, chosen, results):
    """Runs the chosen conversations on one server per group; results[name] = (steps, problem)."""
    for group in GROUPS:
        members = [(name, function) for name, g, function in chosen if g == group]
        if not members:
            continue
        server, name_before = None, None
        for name, function in members:
            try:
                # A server that let one conversation down is not trusted with the next.
                stained = name_before in results and results[name_before][1]
                if server is None or not server.alive() or group == "fresh" or stained:
                    if server:
                        server.remove()
                    server = servers.start(kind, GROUPS[group])
                results[name] = run_one(server, function)
                name_before = name
            except servers.Missing as e:
                results["missing"] = str(e)
                return
            except Exception:
                results[name] = ({}, traceback.format_exc(limit=-2))
        if server:
            server.remove()


def run_all(kinds, chosen):
    results = {kind: {} for kind in kinds}
    threads = [threading.Thread(target=run_server, args=(k, chosen, results[k]), daemon=True) for k in kinds]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for kind in kinds:
        if "missing" in results[kind]:
            sys.exit(f"cannot run: {results[kind]['missing']}")
    return results


# ---- recorded transcripts -------------------------------------------------------------------------------------------

def transcript_path(name):
    return os.path.join(TRANSCRIPTS, name + ".txt")


def record(name, steps):
    os.makedirs(TRANSCRIPTS, exist_ok=True)
    with open(transcript_path(name), "w", encoding="utf-8") as f:
        for step, lines in steps.items():
            f.write(f"[{step}]\n")
            for line in lines:
                f.write(f"{line.text}\n")
                if line.as_39:
                    f.write(f"\t39 {line.as_39}\n")


def recorded(name):
    """The steps as recorded from Apache, or None."""
    if not os.path.exists(transcript_path(name)):
        return None
    steps, lines = {}, []
    with open(transcript_path(name), encoding="utf-8") as f:
        for text in f.read().split("\n")[:-1]:
            if text.startswith("[") and text.endswith("]"):
                lines = steps[text[1:-1]] = []
            elif text.startswith("\t39 "):
                lines[-1].as_39 = text[4:]
            else:
                lines.append(Line(text))
    return steps


# ---- comparing ------------------------------------------------------------------------------------------------------

class Differences:
    """The table of intended differences, and which of its entries have occurred."""

    def __init__(self):
        with open(os.path.join(HERE, "differences.toml"), "rb") as f:
            table = tomllib.load(f)
        self.steps = {d["step"]: d for d in table["difference"]}
        if len(self.steps) != len(table["difference"]):
            raise SystemExit("differences.toml: a step is listed twice")
        for d in table["difference"]:
            if not {"step", "row", "why", "serval"} <= set(d):
                raise SystemExit(f"differences.toml: incomplete entry {d}")
        self.seen = set()

    def unknown(self, all_steps):
        """Listed steps that no conversation has."""
        return sorted(set(self.steps) - all_steps)

    def judge(self, step_id, apache, serval):
        """None when this step is as it should be, else what is wrong with it."""
        plain = [line.text for line in apache]
        got = [line.text for line in serval]
        wanted = [line.as_39 or line.text for line in apache]
        entry = self.steps.get(step_id)
        if entry is None:
            return None if got == wanted else "differs and is not listed in differences.toml"
        listed = entry["serval"]
        self.seen.add(step_id)
        if listed == wanted:
            return f"listed as a difference (row {entry['row']}), but Apache answers the same"
        if got == listed:
            return None
        how = "answers as 3.8.0 did" if got == plain else "answers neither as listed nor as 3.8.0"
        return f"listed in differences.toml (row {entry['row']}), but Serval {how}"


def show_step(step_id, apache, serval, differences):
    print(f"  step {step_id}")
    entry = differences.steps.get(step_id)
    wanted = entry["serval"] if entry else [line.as_39 or line.text for line in apache]
    got = [line.text for line in serval]
    for i in range(max(len(wanted), len(got))):
        w = wanted[i] if i < len(wanted) else "(nothing)"
        g = got[i] if i < len(got) else "(nothing)"
        if w == g:
            print(f"      = {w}")
        else:
            print(f"      expected {w}\n      serval   {g}")
    if entry:
        for line in apache:
            print(f"      (3.8.0)  {line.text}")


def compare(name, apache, serval, differences):
    """Number of steps of one conversation that are wrong; prints them."""
    bad = 0
    for step in list(apache) + [s for s in serval if s not in apache]:
        step_id = f"{name}/{step}"
        a, s = apache.get(step), serval.get(step)
        if a is None or s is None:
            wrong = f"only {'Apache' if s is None else 'Serval'} came to this step"
        else:
            wrong = differences.judge(step_id, a, s)
        if wrong:
            bad += 1
            print(f"FAILED {step_id}: {wrong}")
            show_step(step_id, a or [], s or [], differences)
    return bad


def texts(steps):
    return {step: [(line.text, line.as_39) for line in lines] for step, lines in steps.items()}


def judge_conversation(name, results, kinds, differences):
    """True when the conversation passed."""
    for kind in kinds:
        problem = results[kind].get(name, ({}, "did not run"))[1]
        if problem:
            print(f"FAILED {name} on {kind}: {problem}")
            for step, lines in results[kind].get(name, ({}, ""))[0].items():
                print(f"  [{step}]")
                for line in lines:
                    print(f"      {line.text}")
    if any(results[k].get(name, ({}, "missing"))[1] for k in kinds):
        return False
    if "serval" in kinds:
        apache = results["apache"][name][0] if "apache" in kinds else recorded(name)
        if apache is None:
            print(f"FAILED {name}: no transcript recorded")
            return False
        return compare(name, apache, results["serval"][name][0], differences) == 0
    known, now = recorded(name), results["apache"][name][0]
    if known is None or texts(known) != texts(now):
        print(f"FAILED {name}: Apache does not answer as recorded" + (" (nothing is)" if known is None else ""))
        for step in now if known else ():
            before = (known or {}).get(step)
            if before is None or texts({0: before}) != texts({0: now[step]}):
                print(f"  step {step}")
                for label, lines in (("recorded", before or []), ("now", now[step])):
                    for line in lines:
                        print(f"      {label:8} {line.text}")
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", choices=["apache", "serval", "both"], default="both")
    parser.add_argument("--only", default="*", help="glob over conversation names, e.g. 'watches.*'")
    parser.add_argument("--show", action="store_true", help="print the transcripts")
    parser.add_argument("--record", action="store_true", help="write Apache's transcripts to transcripts/")
    args = parser.parse_args()
    chosen = load_conversations(args.only)
    if not chosen:
        sys.exit(f"no conversation matches {args.only}")
    kinds = ["apache", "serval"] if args.server == "both" else [args.server]
    results = run_all(kinds, chosen)
    if args.record:
        for name, (steps, problem) in results["apache"].items():
            if not problem:
                record(name, steps)
    differences = Differences()
    passed = failed = 0
    for name, _, _ in chosen:
        if args.show:
            for kind in kinds:
                for step, lines in results[kind].get(name, ({}, ""))[0].items():
                    print(f"{kind} {name}/{step}")
                    for line in lines:
                        print(f"    {line.text}")
        if judge_conversation(name, results, kinds, differences):
            passed += 1
        else:
            failed += 1
    if args.only == "*":
        steps = {f"{n}/{s}" for n, r in results[kinds[0]].items() for s in r[0]}
        for step_id in differences.unknown(steps):
            print(f"FAILED differences.toml lists {step_id}, which no conversation has")
            failed += 1
        if "serval" in kinds:
            for step_id in sorted(set(differences.steps) - differences.seen - set(differences.unknown(steps))):
                print(f"FAILED differences.toml lists {step_id}, which was not compared")
                failed += 1
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
