"""The data sets that training knows by name: files, time splits, metrics, and where each comes from.

This module is one table; it reads no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DatasetDefinition:
    """One data set of the data pack."""

    file: str
    """The name of its table."""

    title: str
    source: str
    """The public repository and the commit from which the table was made."""

    licence: str
    licence_file: str
    """The name of the licence text in the data pack's folder `LICENSES`."""

    attribution: str
    """The notice that the licence asks for."""

    scored: Mapping[str, str]
    """The metrics that are scored, with the target as which each is an input of the model."""

    natural: Mapping[str, str] | None
    """The column or the expression of each feature; `None` if `feature_map.json` has it."""

    key: str = "machine"
    """The column that names a machine."""

    step_seconds: int = 300
    step_column: str = ""
    """The column with the step of each row, of which only those of `step_seconds` count; empty without one."""

    validation_days: float = 0.0
    """The length of the validation split. The splits are those of `splits.json` if it is 0."""

    test_share: float = 0.2
    """The share of each machine's days that is its test split, if `test_begin` is 0."""

    test_begin: int = 0
    """Epoch seconds from which all rows are test rows; the validation days are the last before it of each machine."""

    longest_gap_days: float = 1.0
    """A machine is cut into parts at each longer gap."""

    least_days: float = 1.0
    """A shorter part is left out."""

    has_weekdays: bool = False
    """Whether the time stamps are those of the recording, so that the day of the week is true."""

    related: tuple[str, ...] = ()
    """Sets of the same fleet. A model that saw one of them knows this one: to leave out this one, leave out these."""

    remarks: tuple[str, ...] = field(default=())


DATASETS: dict[str, DatasetDefinition] = {
    "smd": DatasetDefinition(
        file="smd_5min.parquet",
        title="Server Machine Dataset",
        source="github.com/NetManAIOps/OmniAnomaly, through github.com/tuananhphamds/MST-VAE at "
        "4aa93bd2e5a6dbf1192a9a3a085e31685897b48f",
        licence="MIT",
        licence_file="SMD-MIT.txt",
        attribution="Y. Su et al., KDD 2019",
        scored={
            "cpu_r": "cpu_user",
            "load_1": "load_average",
            "mem_u": "mem_used",
            "eth1_fi": "net_in",
            "eth1_fo": "net_out",
            "curr_estab": "front_close_wait",
        },
        natural=None,
        remarks=("servers of a large Internet company, scaled to 0 to 1 by the publisher",),
    ),
    "asd": DatasetDefinition(
        file="asd_5min.parquet",
        title="Application Server Dataset",
        source="github.com/zhhlee/InterFusion at 8c85d511c1f070669ba8c5cf097b8fa4a202d15b",
        licence="MIT",
        licence_file="ASD-InterFusion-MIT.txt",
        attribution="Z. Li et al., KDD 2021",
        scored={
            "f07": "cpu_user",
            "f09": "mem_used",
            "f11": "net_in",
            "f13": "net_out",
            "f19": "load_average",
        },
        natural=None,
        related=("jumpstarter",),
        remarks=("anonymous metrics; very likely the fleet and the days of jumpstarter",),
    ),
    "jumpstarter": DatasetDefinition(
        file="jumpstarter_32d.parquet",
        title="JumpStarter, data sets 2 and 3",
        source="github.com/NetManAIOps/JumpStarter at b77022f1ee0b37decfb848fb1ced4707573c2529",
        licence="MIT",
        licence_file="jumpstarter.txt",
        attribution="copyright NetManAIOps",
        scored={"c17": "cpu_user", "c08": "load_average", "c10": "net_in", "c15": "net_out", "c07": "front_close_wait"},
        natural={
            "cpu_user": "c17",
            "cpu_sys": "c16",
            "cpu_iowait": "c04",
            "cpu_idle": "c06",
            "net_in": "c10",
            "net_out": "c15",
            "front_close_wait": "c07",
            "load_average": "c08",
        },
        validation_days=4,
        test_begin=28 * 86_400,  # Where asd's validation days begin: no training day of asd is a test day here.
        related=("asd",),
        remarks=(
            "services of a content platform; metrics have no names in the source and were recognised by their values",
            "the same fleet as asd and very likely the same days: a model that saw the one has seen the other; its "
            "test days are asd's validation days, and its validation days lie in asd's training days",
            "many services are peers behind one balancer: about six kinds of machine",
        ),
    ),
    "cloud_cluster": DatasetDefinition(
        file="cloud_cluster_capacity.parquet",
        title="Cloud Cluster Capacity Dataset",
        source="github.com/CloudCluster-Computing/Cloud-Cluster-Capacity-Dataset at "
        "69b6d0da656f5ad7de2c3db5b69a91b787c4ed18",
        licence="Apache-2.0",
        licence_file="cloud_cluster_capacity.txt",
        attribution="the authors of Cloud-Cluster-Capacity-Dataset; here as means of five minutes",
        # Cores and gigabytes of a whole pool are no percentages: a forecast of a percentage is limited to 100.
        scored={"cpu_u": "load_average", "col4_unnamed": "front_close_wait"},
        natural={"load_average": "cpu_u", "front_close_wait": "col4_unnamed"},
        validation_days=2,
        test_begin=1_730_419_200,  # 2024-11-01 00:00
        has_weekdays=True,
        remarks=(
            "pools of a cloud provider; a machine is one part of a pool between gaps of more than a day",
            "the test days, of November 2024, have no second column in the source",
        ),
    ),
    "azure": DatasetDefinition(
        file="azure_vm_v2.parquet",
        title="Azure Public Dataset V2, seven virtual machines",
        source="github.com/fcrlab-unime/fl-cpu-utilization-prediction at 7061b3bf6cd344c5945e431ed3cc215008e9c2a8, "
        "from github.com/Azure/AzurePublicDataset at b469a113cedca53ddc3bdea71a143dc4b7d8700c",
        licence="CC BY 4.0 (data), MIT (files)",
        licence_file="azure_vm_v2.txt",
        attribution="Microsoft Azure; a choice of its machines, rounded",
        scored={"avg_cpu": "cpu_user"},
        natural={"cpu_user": "avg_cpu", "cpu_idle": "100 - avg_cpu"},
        validation_days=4,
        remarks=("time counts from the beginning of the trace: neither the weekday nor the time of day is known",),
    ),
    "mscloud": DatasetDefinition(
        file="mscloud.parquet",
        title="Microsoft Cloud Monitoring Dataset, series of one minute",
        source="github.com/microsoft/cloud-monitoring-dataset at 6a07a53c2fac495fb6831811df4c980d6c04bd10",
        licence="MIT",
        licence_file="MSCLOUD-MIT.txt",
        attribution="copyright Microsoft Corporation; here as means of five minutes",
        scored={"value": "load_average"},
        natural={"load_average": "value"},
        key="series",
        step_column="step_seconds",
        validation_days=2,
        has_weekdays=True,
        related=("mscloud_hourly",),
        remarks=("rates of requests and of data, each series alone",),
    ),
    "mscloud_hourly": DatasetDefinition(
        file="mscloud.parquet",
        title="Microsoft Cloud Monitoring Dataset, hourly series",
        source="github.com/microsoft/cloud-monitoring-dataset at 6a07a53c2fac495fb6831811df4c980d6c04bd10",
        licence="MIT",
        licence_file="MSCLOUD-MIT.txt",
        attribution="copyright Microsoft Corporation",
        scored={"value": "load_average"},
        natural={"load_average": "value"},
        key="series",
        step_seconds=3600,
        step_column="step_seconds",
        validation_days=5,
        has_weekdays=True,
        related=("mscloud",),
        remarks=("crash, purchase and query rates, latencies, each series alone; outbound-10 and -22 are the same",),
    ),
    "snowflake": DatasetDefinition(
        file="snowflake_vm_demand.parquet",
        title="Shaved Ice, hourly demand for virtual machines",
        source="github.com/Snowflake-Labs/shavedice-dataset at 67289eb8cba3c40bcd5dcaa7db147d48be445307",
        licence="CC BY 4.0",
        licence_file="snowflake_vm_demand.txt",
        attribution="copyright 2025 Snowflake Inc., ICPE 2025; a choice of its series",
        scored={"norm_usage": "load_average"},
        natural={"load_average": "norm_usage"},
        step_seconds=3600,
        validation_days=60,
        longest_gap_days=3,
        least_days=60,
        has_weekdays=True,
        remarks=("demand of whole regions, normalised by the publisher",),
    ),
    "appserver": DatasetDefinition(
        file="appserver_requests_hourly.parquet",
        title="Application server traffic, hourly requests of one cluster",
        source="github.com/vsaveris/application-server-traffic-forecasting at fe461f80deb433555242cef706d73ee3b0ec3a54",
        licence="MIT",
        licence_file="appserver_requests_hourly.txt",
        attribution="copyright of the authors of application-server-traffic-forecasting",
        scored={"requests": "load_average"},
        natural={"load_average": "requests"},
        step_seconds=3600,
        validation_days=200,
        has_weekdays=True,
        remarks=("local time with summer time, stored as if it was UTC",),
    ),
}
"""By name. `asd` and `jumpstarter` are one fleet, and so are `mscloud` and `mscloud_hourly` (`related`)."""
