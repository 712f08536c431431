"""A real Slurm of one node for tests: munge, controller and node, all under one folder.

Nothing outside the folder is touched, no root is needed, and its ports are free ones, so that any
number of them can be up at a time. The node pretends to have eight cores and four GPUs.
"""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# Credentials expire fast: a job that is requeued waits until its old ones have.
AuthInfo=socket={home}/munge/socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
MaxArraySize=4
KillWait=5
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory={memory} Gres=gpu:4
PartitionName=main Nodes={host} Default=YES State=UP
"""
# Devices that every machine has stand for GPUs; Slurm sets CUDA_VISIBLE_DEVICES for them.
GRES = "".join(f"Name=gpu File=/dev/{name}\n" for name in ("full", "null", "random", "zero"))


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in DAEMONS if shutil.which(name, path=_path()) is None]


@contextmanager
def one_node_slurm() -> Iterator[dict[str, str]]:
    """Bring it up; yields the environment variables that lead to it."""
    with ExitStack() as stack:
        # A short path: that of a socket may have no more than 107 characters.
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        _configure(home)
        environment = {"SLURM_CONF": str(home / "slurm.conf"), "PATH": _path()}
        munge = [f"--{name}-file={home}/munge/{name}" for name in ("key", "log", "pid", "seed")]
        commands = (
            ["munged", "--foreground", "--force", f"--socket={home}/munge/socket", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        )
        for command, ready in zip(commands, (_has_socket, _answers, _is_idle), strict=True):
            log = stack.enter_context(open(home / f"{command[0]}.log", "w"))
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", *command],  # none outlives the tests
                stdout=log, stderr=log, env=os.environ | environment,
            )  # fmt: skip
            stack.callback(_end, daemon)
            _wait(lambda ready=ready: ready(home, environment), daemon, home)
        stack.callback(_empty, environment)
        yield environment


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _configure(home: Path) -> None:
    home.chmod(0o755)
    for name in ("munge", "state", "spool"):
        (home / name).mkdir(mode=0o711 if name == "munge" else 0o755)
    (home / "munge/key").write_bytes(os.urandom(128))
    (home / "munge/key").chmod(0o600)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    settings = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
    settings |= {"home": home, "ports": ports, "memory": int(0.9 * pages / 2**20)}
    (home / "slurm.conf").write_text(CONFIG.format(**settings))
    (home / "gres.conf").write_text(GRES)


def _ask(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)
    return done.stdout


def _has_socket(home: Path, _environment) -> bool:
    return (home / "munge/socket").is_socket()


def _answers(_home, environment: dict[str, str]) -> bool:
    return " is UP" in _ask(environment, "scontrol", "ping")


def _is_idle(_home, environment: dict[str, str]) -> bool:
    return "idle" in _ask(environment, "sinfo", "--noheader", "--format=%t").split()


def _wait(ready, daemon: subprocess.Popen, home: Path, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if daemon.poll() is not None or time.monotonic() > until:
            logs = "\n".join(path.read_text()[-1000:] for path in home.glob("*.log"))
            raise RuntimeError(f"Slurm did not come up: {logs}")
        time.sleep(0.1)


def _empty(environment: dict[str, str]) -> None:
    """No job outlives its controller: cancelled, and waited for."""
    _ask(environment, "scancel", "--user", getpass.getuser())
    until = time.monotonic() + 15
    while _ask(environment, "squeue", "--noheader").strip() and time.monotonic() < until:
        time.sleep(0.1)


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
