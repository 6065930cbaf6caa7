"""What llama-bench takes and prints, for peers that compare.sh drives through a script of their own."""

import argparse
import json


def arguments(description, model):
    """The options of llama-bench; `model` names what -m is."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-m", required=True, metavar=model)
    parser.add_argument("-p", type=int, default=512, metavar="TOKENS")
    parser.add_argument("-n", type=int, default=128, metavar="TOKENS")
    parser.add_argument("-t", type=int, required=True, metavar="THREADS")
    parser.add_argument("-r", type=int, default=2, metavar="REPETITIONS")
    parser.add_argument("-o", choices=["json"], default="json")
    return parser.parse_args()


def report(a, build, prefill, decode):
    """JSON of what `prefill` and `decode` each measure, in tokens a second; `build` is commit and number."""

    def row(n_prompt, n_gen, rate):
        rates = [rate() for _ in range(a.r + 1)][1:]  # the first warms up
        return {"build_commit": build[0], "build_number": build[1], "n_threads": a.t,
                "n_prompt": n_prompt, "n_gen": n_gen, "avg_ts": sum(rates) / len(rates), "samples_ts": rates}

    rows = []
    if a.p:
        rows.append(row(a.p, 0, prefill))
    if a.n:
        rows.append(row(0, a.n, decode))
    return json.dumps(rows)
