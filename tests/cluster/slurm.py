"""A SLURM of one node on this machine, from Debian's packages, with or without accounting.

It needs root, and writes ``/etc/slurm``: there and nowhere else does the plugin's ``srun``
look. It has pretended GPUs and more CPUs than the machine, for jobs that mostly wait.
"""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from faults import wait_for

ETC = Path("/etc/slurm")
STATE = Path("/var/tmp/spillover-slurm")
MARK = "# Written by tests of this workflow: a cluster of this machine alone.\n"
PROGRAMS = ("munged", "slurmctld", "slurmd")
ACCOUNTING = ("slurmdbd", "mariadbd")
# What GPUs are made of.
GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
# A node's CPUs and memory (MB): made up, as its GPUs are; jobs ask for what real ones need.
CPUS = 32
MEMORY = 256000

SLURM_CONF = """\
ClusterName=spillover
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5,batch_sched_delay=1
SlurmctldTimeout=60
SlurmdTimeout={node_timeout}
KillWait=10
MinJobAge={min_job_age}
JobRequeue=1
{accounting}
NodeName={host} CPUs={cpus} RealMemory={memory} Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""

WITHOUT = "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none"
WITH = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux"""

SLURMDBD_CONF = """\
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=spillover_slurm
LogFile={state}/slurmdbd.log
PidFile={state}/slurmdbd.pid
"""


def obstacle(accounting: bool = False) -> str | None:
    """Why no cluster can be started here, in words; None if one can."""
    programs = PROGRAMS + (ACCOUNTING if accounting else ())
    missing = [program for program in programs if shutil.which(program, path=_path()) is None]
    if missing:
        return (
            f"{', '.join(missing)} not installed (Debian: slurm-wlm munge slurmdbd mariadb-server)"
        )
    if os.getuid() != 0:
        return "starting a SLURM needs root"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(MARK):
        return f"{conf} is there already, and not of these tests"
    return None


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def run(*command: str, check: bool = True) -> str:
    """Run a command; what it prints."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": _path()}
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


class Slurm:
    """A cluster that runs until :meth:`stop`.

    Parameters
    ----------
    accounting : with slurmdbd and MariaDB, or without.
    min_job_age : seconds for which the controller remembers a job that has ended.
    """

    def __init__(self, accounting: bool, min_job_age: int = 300, node_timeout: int = 20):
        self.accounting = accounting
        self.host = socket.gethostname().split(".")[0]
        self.conf = MARK + SLURM_CONF.format(
            host=self.host,
            state=STATE,
            node_timeout=node_timeout,
            min_job_age=min_job_age,
            memory=MEMORY,
            cpus=CPUS,
            accounting=WITH if accounting else WITHOUT,
        )

    def start(self) -> None:
        """Write the configuration, start the daemons, and wait until the node is idle."""
        self.stop()
        for folder in ("ctld", "spool", "mysql"):
            (STATE / folder).mkdir(parents=True, exist_ok=True)
        ETC.mkdir(exist_ok=True)
        (ETC / "slurm.conf").write_text(self.conf)
        # Jobs see a GPU's number in CUDA_VISIBLE_DEVICES.
        gpus = "".join(f"NodeName={self.host} Name=gpu File={file}\n" for file in GPUS)
        (ETC / "gres.conf").write_text(MARK + gpus)
        (ETC / "cgroup.conf").write_text(f"{MARK}CgroupAutomount=no\n")
        self._munge()
        if self.accounting:
            self._accounting()
        self.start_controller()
        self.start_node()
        wait_for(lambda: "idle" in run("sinfo", "-h", "-o", "%T", check=False), 60)

    def _munge(self) -> None:
        if run("munge", "-n", check=False):
            return
        for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            shutil.chown(folder, "munge", "munge")
        os.chmod("/run/munge", 0o755)
        key = Path("/etc/munge/munge.key")
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            key.chmod(0o400)
            shutil.chown(key, "munge", "munge")
        run("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged")
        wait_for(lambda: run("munge", "-n", check=False))

    def _accounting(self) -> None:
        Path("/run/mysqld").mkdir(exist_ok=True)
        if not (STATE / "mysql" / "mysql").exists():
            run(
                "mariadb-install-db",
                "--user=root",
                f"--datadir={STATE}/mysql",
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            )
        database = [
            "/usr/sbin/mariadbd",
            "--user=root",
            f"--datadir={STATE}/mysql",
            "--socket=/run/mysqld/mysqld.sock",
            "--skip-networking",
            "--innodb-buffer-pool-size=64M",
        ]
        subprocess.Popen(database, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: "1" in run("mariadb", "-N", "-e", "select 1", check=False))
        run("mariadb", "-e", "create database if not exists spillover_slurm")
        conf = ETC / "slurmdbd.conf"
        conf.write_text(MARK + SLURMDBD_CONF.format(state=STATE))
        conf.chmod(0o600)
        run("slurmdbd")
        wait_for(
            lambda: "OK" in run("sh", "-c", "sacctmgr -n list cluster && echo OK", check=False)
        )
        run("sacctmgr", "-i", "add", "cluster", "spillover", check=False)
        run("sacctmgr", "-i", "add", "account", "lab", check=False)
        run("sacctmgr", "-i", "add", "user", "root", "account=lab", check=False)

    def start_controller(self) -> None:
        run("slurmctld")
        wait_for(lambda: "UP" in run("scontrol", "ping", check=False))

    def start_node(self) -> None:
        run("slurmd", "-N", self.host)

    def stop_node(self) -> None:
        """As when it loses its power; the jobs' own processes are the caller's to end."""
        _kill("slurmd", "-9")
        _kill("slurmstepd", "-9")

    def stop_controller(self) -> None:
        _kill("slurmctld")

    def stop(self) -> None:
        for program in ("slurmd", "slurmstepd", "slurmctld", "slurmdbd"):
            _kill(program, "-9")
        if (STATE / "mysql").exists():
            run("pkill", "-f", f"mariadbd.*{STATE}", check=False)
            wait_for(lambda: not run("pgrep", "-f", f"mariadbd.*{STATE}", check=False), 30)
        shutil.rmtree(STATE / "ctld", ignore_errors=True)
        shutil.rmtree(STATE / "spool", ignore_errors=True)

    def jobs(self, states: str = "all") -> list[dict]:
        """Jobs that the controller knows, latest last: id, state, comment, folder."""
        rows = run("squeue", "-h", "-t", states, "-o", "%A|%T|%k|%Z", check=False).splitlines()
        names = ("id", "state", "comment", "folder")
        return sorted(
            (dict(zip(names, r.split("|"), strict=True)) for r in rows),
            key=lambda job: int(job["id"]),
        )

    def show(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", run("scontrol", "show", "job", job)))


def _kill(program: str, signal: str = "-15") -> None:
    run("pkill", signal, "-x", program, check=False)
    wait_for(lambda: not run("pgrep", "-x", program, check=False).strip(), 30)
