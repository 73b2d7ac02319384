#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, and what `--on slurm` does on it. As root, on Debian:
#   apt-get install --no-install-recommends slurm-wlm munge
#   tests/slurm/one_node.sh PYTHON
# with the interpreter of an environment that has the package and its extras for tests. The daemons
# end with the script; no file outside a temporary folder is written, but for munge's own.
set -euo pipefail
python=$(realpath --no-symlinks "${1:?name the Python that has declip-pl}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp --directory --tmpdir declip-slurm-XXXXXX)
export SLURM_CONF=$work/slurm.conf
mkdir "$work/state" "$work/spool"
cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$(hostname --short)(127.0.0.1)
SlurmUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=10
ReturnToService=2
NodeName=$(hostname --short) NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

stop() {
  status=$?
  scancel --me 2> /dev/null || true
  for daemon in slurmd slurmctld; do
    [ -f "$work/$daemon.pid" ] || continue
    pid=$(cat "$work/$daemon.pid")
    kill "$pid" 2> /dev/null || true
    while kill -0 "$pid" 2> /dev/null; do sleep 0.2; done
  done
  if [ -f "$work/munged" ]; then runuser --user munge -- munged --stop > /dev/null; fi
  if [ "$status" = 0 ]; then rm -rf "$work"; else echo "logs are kept in $work"; fi
}
trap stop EXIT

if ! munge --no-input > /dev/null 2>&1; then
  install --directory --owner=munge --group=munge /run/munge
  runuser --user munge -- munged
  touch "$work/munged"
fi
slurmctld
slurmd -N "$(hostname --short)"
for _ in $(seq 60); do
  sinfo --noheader --format=%t | grep --quiet idle && break
  sleep 1
done
sinfo
"$python" "$here/check.py" "$work/check"
