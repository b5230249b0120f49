"""What the report should say, from the logs of the boxes alone: the rules of docs/guides/ledger.md, written a second time."""

import json
import math
import sys
from collections import defaultdict

ABSENCE = 3
GRACE = 30
HEADER = 52
MASK = (1 << 64) - 1


def stable_hash(data):
    """FNV-1a, then the finalizer of SplitMix64."""
    state = 0xCBF29CE484222325
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def phase(device, at, interval):
    day = int(at // 86_400)
    data = (0).to_bytes(2, "little") + day.to_bytes(8, "little") + device.encode()
    return stable_hash(data) % (interval * 1000) / 1000


def of_kind(facts, *kinds):
    boxes = defaultdict(list)
    for fact in facts:
        if fact["kind"] in kinds:
            boxes[fact["box"]].append(fact)
    for some in boxes.values():
        some.sort(key=lambda fact: fact["at"])
    return boxes


def control(facts, interval):
    """The calibration of the polling boxes."""
    accepted = {fact["id"]: fact["at"] for fact in facts if fact["kind"] == "accepted"}
    sums = defaultdict(float)
    for device, log in of_kind(facts, "poll", "poll-ack").items():
        stretch = None

        def close(stretch):
            if stretch:
                sums["ticks"] += stretch["tick"] - stretch["first"]
                sums["ticks_found"] += sum(stretch["first"] < k <= stretch["tick"] for k in stretch["found"])

        for fact in log:
            at = fact["at"]
            if fact["kind"] == "poll":
                sums["polls"] += 1
                result = {304: "not_modified", 200: "events" if fact["events"] else "empty"}.get(fact["status"], "error")
                sums[result] += 1
                if result == "error":
                    close(stretch)
                    stretch = None
                elif stretch is None or at - stretch["last"] > ABSENCE * interval:
                    close(stretch)
                    start = phase(device, at, interval)
                    first = math.ceil((at - start) / interval)
                    stretch = {"begin": at, "last": at, "phase": start, "first": first, "tick": first, "found": set()}
                else:
                    gap = at - stretch["last"]
                    sums["gap"] += gap
                    sums["gap2"] += gap * gap
                    sums["predicted"] += gap / interval
                    sums["observed"] += 1
                    sums["observed_events"] += result == "events"
                    stretch["last"] = at
                    stretch["tick"] = max(stretch["tick"], math.floor((at - stretch["phase"]) / interval))
            elif stretch and fact["status"] == 200:
                for event in fact["ids"]:
                    if accepted.get(event, 0) > stretch["begin"]:
                        k = math.ceil((accepted[event] - stretch["phase"]) / interval)
                        sums["virtual"] += stretch["phase"] + k * interval - accepted[event]
                        sums["latency"] += at - accepted[event]
                        sums["events_timed"] += 1
                        stretch["found"].add(k)
        close(stretch)
    for fact in facts:
        if fact["kind"] == "poll-wire":
            headers = HEADER * (fact["packets_in"] + fact["packets_out"])
            # The service's side: what goes out here comes in there. Each packet is acknowledged.
            sums["bytes_in"] += fact["out"] + headers
            sums["bytes_out"] += fact["in"] + headers
        if fact["kind"] == "poll":
            sums["bytes_out"] -= fact["payload"]
    return sums


def push(facts, interval, keepalive):
    """Connected time that earns, and what push cost."""
    sums = defaultdict(float)
    for log in of_kind(facts, "bound", "proof", "push-end", "pushed", "push-late", "pushed-late").values():
        last = None
        for fact in log:
            if fact["kind"] == "bound":
                last = fact["at"]
            elif fact["kind"] == "proof" and last is not None:
                sums["credited"] += min(fact["at"] - last, keepalive + GRACE)
                last = fact["at"]
            elif fact["kind"] in ("pushed", "pushed-late"):
                sums["overhead"] -= fact["payload"]
            elif fact["kind"] in ("push-end", "push-late"):
                sums["overhead"] += fact["in"] + fact["out"] + 2 * HEADER * (fact["packets_in"] + fact["packets_out"])
                if fact["kind"] == "push-end":
                    last = None
    sums["polls_avoided"] = sums["credited"] / interval
    return sums


def compare(facts, report, interval, keepalive, tolerance=0.01, short=False):
    """Prints both sides; True when they agree and the calibration holds. `short`: too few boxes for a calibration."""
    polled, pushed = control(facts, interval), push(facts, interval, keepalive)
    group, calibration = report["cohorts"]["control"], report["calibration"]
    mean = polled["gap"] / polled["observed"]
    spread = math.sqrt(max(0, polled["gap2"] / polled["observed"] - mean * mean)) / mean
    ratio = lambda name: calibration[name]["ratio"] if calibration[name] else math.nan
    empty = (1 - polled["ticks_found"] / polled["ticks"]) / (1 - polled["observed_events"] / polled["observed"])
    rows = [
        ("control: polls", polled["polls"], sum(group["polls"].values())),
        ("control: polls that found events", polled["events"], group["polls"]["events"]),
        ("control: polls that found none", polled["empty"] + polled["not_modified"], group["polls"]["empty"] + group["polls"]["not_modified"]),
        ("control: bytes in", polled["bytes_in"], group["bytes"]["in"]),
        ("control: bytes out", polled["bytes_out"], group["bytes"]["out"]),
        ("control: mean interval, s", mean, report["control"]["poll_interval_seconds"]["mean"]),
        ("control: share of empty polls", 1 - polled["observed_events"] / polled["observed"], report["control"]["empty_ratio"]),
        ("control: mean latency, s", polled["latency"] / polled["events_timed"], report["control"]["latency_seconds"]),
        ("ratio requests", polled["predicted"] / polled["observed"], ratio("requests")),
        ("ratio latency", polled["virtual"] / polled["latency"], ratio("latency")),
        ("ratio empty", empty, ratio("empty")),
        ("push: credited seconds", pushed["credited"], report["credited_seconds"]),
        ("push: polls avoided, declared", pushed["polls_avoided"], report["baselines"]["declared"]["requests_avoided"]),
        ("push: overhead bytes", pushed["overhead"], report["baselines"]["declared"]["overhead_bytes"]),
    ]
    agreed = True
    print(f"{'figure':36} {'from the logs':>16} {'the report':>16} {'differ by':>10}")
    for name, mine, theirs in rows:
        off = abs(mine - theirs) / abs(theirs) if theirs else math.inf
        good = off <= tolerance
        agreed &= good
        print(f"{name:36} {mine:16,.3f} {theirs:16,.3f} {off:9.2%}{'' if good else '  <- too much'}")
    print(f"{'control: variation of the interval':36} {spread:16.4f} {report['control']['poll_interval_seconds']['variation']:16.4f}")
    for name, found in calibration.items():
        if not found:
            print(f"calibration {name}: unknown")
            agreed = agreed and short
            continue
        good = 0.9 <= found["low"] and found["high"] <= 1.1
        print(f"calibration {name:9} {found['ratio']:.4f}, 95 % {found['low']:.4f} to {found['high']:.4f}{'' if good else '  <- outside 0.9 to 1.1'}")
        agreed = agreed and (good or short)
    print(report["validation"])
    return agreed


if __name__ == "__main__":
    folder, interval, keepalive = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with open(f"{folder}/facts.ndjson") as log:
        facts = [json.loads(line) for line in log]
    with open(f"{folder}/report.json") as text:
        sys.exit(0 if compare(facts, json.load(text), interval, keepalive) else 1)
