"""Files that were cut: each is told by its own checksum, and is made again or refused by name."""

import shutil

import pytest
from fault_trials import COUNT, moments, row

pytestmark = pytest.mark.faults

FILES = {
    "checkpoint": ("train", "outputs/train/*/checkpoints/*.ckpt"),
    "run's recipe": ("train", "outputs/train/*/config.yaml"),
    "run's results": ("train", "outputs/train/*/test_metrics.json"),
    "shard": ("cache", "features/*/*.safetensors"),
    "index": ("train", "cache/index/*.jsonl"),
    "cell": ("evaluate", "outputs/cross_eval/*/cells/*/*"),
    "matrix": ("evaluate", "outputs/cross_eval/*/matrix.json"),
    "forgery": ("forge", "made/fake/*/*/*/*"),
    "manifest": ("forge", "made/forge.json"),
    "predictions": ("predict", "out/predictions.jsonl"),
    "heat map": ("predict", "out/*/*.png"),
}
"""What commands leave, by which command reads it again."""

NOT_WHOLE = ("checkpoint", "run's recipe", "index")
"""For these a run is unfinished, so that it goes on from them."""


@pytest.mark.parametrize("kind", FILES)
def test_cut(faults, kind):
    name, glob = FILES[kind]
    command, place, said = faults.command(name), faults.place, row(name, f"{kind} cut")
    draw, finished = moments(command, kind), faults.finished(name)
    for _ in range(COUNT):
        shutil.rmtree(place.here)
        shutil.copytree(finished, place.here)
        if kind in NOT_WHOLE:
            for results in place.here.glob("outputs/train/*/test_metrics.json"):
                results.unlink()
        path = draw.choice(sorted(p for p in place.here.glob(glob) if p.suffix != ".lock"))
        content = path.read_bytes()
        path.write_bytes(content[: draw.randrange(len(content))])
        what = f"{path.relative_to(place.here)}: {path.stat().st_size} of {len(content)} bytes"
        ended = place.run(command)
        if ended.status:
            named = ended.in_one_line and path.name in ended.errors[0]
            said.note(what, "" if named else ended.said[-3000:], refused=True)
        else:
            said.note(what, faults.fault_of(name, ended))
    said.end()
