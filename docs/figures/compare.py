"""The descents beside each other, from the benchmarks' results."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

RESULTS = Path("..") / "benchmarks" / "results"  # from docs/, where figures are drawn
PEERS = {
    "chita": "swaps and restarts",
    "chita-0": "swaps",
    "fastsparsegams": "coordinate descent, l0 (fastsparsegams)",
    "skglm-MCP": "coordinate descent, MCP (skglm)",
    "OMP": "matching pursuit",
}
FAMILIES = ("small", "medium", "large", "real")

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
records = json.loads((RESULTS / "regression.json").read_text("utf-8"))["results"]
table = {}
for record in records:
    if record["status"] == "ok" and record["kind"] != "exact":
        row = table.setdefault((record["family"], record["problem"]), {})
        row[record["peer"]] = record["rss"]
for peer, label in PEERS.items():
    means = []
    for family in FAMILIES:
        rows = [r for (f, _), r in table.items() if f == family and peer in r]
        ratios = [row[peer] / min(row.values()) for row in rows]
        means.append(100 * (np.exp(np.mean(np.log(ratios))) - 1) if ratios else np.nan)
    left.plot(range(len(FAMILIES)), np.maximum(means, 1e-2), "o-", label=label)
left.set(
    xticks=range(len(FAMILIES)),
    xticklabels=FAMILIES,
    yscale="log",
    ylabel="residual above the best of all, %",
    title="Regression at exactly k",
)
left.set_ylim(top=2000)
left.legend(fontsize="x-small", loc="upper left")

records = json.loads((RESULTS / "pruning_instance.json").read_text("utf-8"))["results"]
rows = sorted(
    (r["sparsity"], r)
    for r in records
    if r["dtype"] == "float64" and r["ridge"] == 0.01
)
series = {
    "dual ascent": [(s, r["over_best"]) for s, r in rows],
    "backsolve (published)": [
        (s, r["published"].get("backsolve", {}).get("over_best")) for s, r in rows
    ],
    "hard thresholding (published)": [
        (s, r["published"].get("iht", {}).get("over_best")) for s, r in rows
    ],
}
for label, points in series.items():
    points = [(s, 100 * (v - 1)) for s, v in points if v is not None]
    sparsities, above = np.array(points).T
    right.plot(sparsities, np.maximum(above, 1e-3), "o-", label=label)
right.set(
    yscale="log",
    xlabel="share of weights pruned",
    ylabel="objective above the best known, %",
    title="Pruning, 1,000 x 32,360, ridge 0.01",
)
right.legend(fontsize="x-small")
