"""What ``one_node.sh`` runs once its cluster is there: jobs that are cancelled, put back, too long.

Then a cross-evaluation as pieces, whose matrix has to be that of one process.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from conftest import make_clip, make_tree, wait_until  # noqa: E402

from declip_pl.jobs.outcome import Told  # noqa: E402
from declip_pl.jobs.pieces import Piece, Stage  # noqa: E402
from declip_pl.jobs.slurm import RECORD, active, run  # noqa: E402
from declip_pl.jobs.where import Slurm  # noqa: E402

ENDS, STAYS = "import sys; open({file!r}, 'a').write('x')", "; import time; time.sleep(3600)"
ONCE = "; import os, time; time.sleep(3600 if os.path.getsize({file!r}) < 2 else 0)"
RECIPE = """
model: {encoder: tiny-clip, layer: layer1, decoder: linear, image_size: 64}
data: {root: x, generator: x, batch_size: 4, num_workers: 0}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false, logger: false}
"""
FIGURES = ("rows", "columns", "in_domain", "matrix", "summary", "curves", "rates", "failed")


def piece(folder: Path, name: str, further: str = "") -> Piece:
    """Return a piece that leaves a character in a file of its name each time that it is begun."""
    code = (ENDS + further).format(file=str(folder / name))
    return Piece(name, (sys.executable, "-c", code))


def check_ends(folder: Path) -> None:
    """One job ends, one is cancelled, one is put back by hand, one reaches its time limit."""
    folder.mkdir(parents=True)
    first = [
        piece(folder, "ends"),
        piece(folder, "cancelled", STAYS),
        piece(folder, "requeued", ONCE),
        piece(folder, "too-long", ONCE),
        Piece("fails", (sys.executable, "-c", "import sys; sys.exit('error: on purpose')")),
    ]
    stages = [Stage("first", tuple(first)), Stage("last", (piece(folder, "after"),))]
    told = Told(len(first) + 1)
    logs = folder / "logs"
    logs.mkdir()
    meddling = threading.Thread(target=meddle, args=(folder, logs))
    meddling.start()
    # Three minutes: 90 to 150 seconds before they are over the job is told. Arrays of two at most.
    run(stages, Slurm(time=3, array=2, cpus_per_task=1), logs, told)
    meddling.join()
    runs = {p.name: len((folder / p.name).read_text()) for p in first[:-1]}
    print("times that each began:", runs)
    assert runs == {"ends": 1, "cancelled": 1, "requeued": 2, "too-long": 2}
    failed = {entry.piece: entry.why for entry in told.failed}
    print("failed:", failed)
    assert failed.keys() == {"cancelled", "fails"} and failed["fails"] == "on purpose"
    assert (folder / "after").exists() and not active()
    ended = (folder / "after").stat().st_mtime
    assert all((folder / p.name).stat().st_mtime < ended for p in first[:-1])


def meddle(folder: Path, logs: Path) -> None:
    """Cancel a job and put one back, once they run."""
    wait_until(lambda: (logs / RECORD).exists() and "after" in (logs / RECORD).read_text())
    job = json.loads((logs / RECORD).read_text())
    for name, command in {"cancelled": ["scancel"], "requeued": ["scontrol", "requeue"]}.items():
        wait_until((folder / name).exists)
        subprocess.run([*command, job[name]], check=True)
        print("did:", *command, job[name], flush=True)


def check_cross_evaluation(folder: Path) -> None:
    """The pieces' matrix is the one of a single process."""
    folder.mkdir()
    make_tree(folder / "dolos")
    make_clip(folder / "tiny-clip")
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "cluster.yaml").write_text("partition: all\ncpus_per_task: 1\ntime: 60\n")
    found = []
    for options in ([], ["--on=slurm:cluster.yaml"]):
        own = f"{folder}/features{len(options)}"
        words = ["cross-eval", "--data=dolos", "--config=tiny.yaml", *options]
        environment = os.environ | {"DECLIP_FEATURES": own, "DECLIP_CACHE": f"{folder}/cache"}
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "declip_pl", *words], check=True, cwd=folder, env=environment
        )
        print(f"{' '.join(words)}: {time.monotonic() - start:.0f} s", flush=True)
        (file,) = (folder / "outputs/cross_eval").glob("*/matrix.json")
        content = json.loads(file.read_text())
        found.append({name: content[name] for name in FIGURES})
        (folder / "outputs").rename(folder / f"outputs{len(options)}")
    assert found[0] == found[1]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    check_ends(place / "ends")
    check_cross_evaluation(place / "cross-eval")
    print("all is as it should be")
