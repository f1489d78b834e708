"""Record: the raw, immutable, versioned facts of one run or one parity check.

Nothing derived is stored: throughput, efficiency and intervals are pure functions of records (see scalebench.analysis).
Unknown is None. Times are nanoseconds on the clock that `clock` names, bytes are bytes.

Schema history:
    1: first.
Method history (how the figures are obtained; records of different methods are not compared):
    1: step boundaries on a shared clock after a common start barrier, fixed warm-up, automatic garbage collection off.
    2: steps in chunks with pauses between them, the window from a pause on, the steps just after a pause left out of
       estimates; warm-up and window exact or as long as the steps' own times ask for.
    3: on a CPU glibc keeps what steps free, so that they find their memory mapped.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from scalebench.recipe import Recipe
from scalebench.records.batch_effect import BatchEffect
from scalebench.records.communication import CommunicationFacts
from scalebench.records.device import NetworkFacts, SensorFacts
from scalebench.records.facts import Computed, Facts
from scalebench.records.loading import LoaderRate
from scalebench.records.memory import MemoryFacts, ShortageFacts
from scalebench.records.phases import PhaseFacts
from scalebench.records.theory import TheoryFacts
from scalebench.records.training import TrainingFacts
from scalebench.spec import RunSpec, Trial

SCHEMA = 1
METHOD = 3

Status = Literal["ok", "oom", "unsupported", "timeout", "failed", "interrupted"]


class ChunkFacts(Facts):
    """A row of steps without a pause, from step `first_step` on.

    Attributes:
        start_ns: the common start, just after a barrier, on the ranks' clock.
        end_ns: when the host, having waited for the device, knew that the last step had ended (CLOCK_MONOTONIC).
        wall_start_ns, wall_end_ns: the same two moments read from a clock of which no step's end is
            (CLOCK_MONOTONIC_RAW), so that steps can be held against it.
    """

    first_step: int
    start_ns: int
    end_ns: int
    wall_start_ns: int | None = None
    wall_end_ns: int | None = None


class WindowFacts(Facts):
    """Which steps are timed: all from `first_step` on but the `refill_steps` that follow each pause.

    `stopped` says why there are no more: as many `steps` as asked, `precise` as asked, `max_seconds` were over, or a
    loop of the user's own had `ended`.
    """

    first_step: int
    refill_steps: int
    stopped: Literal["steps", "precise", "max_seconds", "ended"]


class RankFacts(Facts):
    """What one rank saw.

    Attributes:
        clock: `monotonic` (CLOCK_MONOTONIC, shared by the processes of one host) or `cuda-event`
            (CUDA events, anchored to the host's monotonic clock at the common start).
        chunks: the rows between pauses in which the ranks agreed how to go on.
        step_end_ns: the end of EVERY step, warm-up included, untrimmed. Step k lasts from boundary k-1, or from the
            start of the chunk that it is the first of, to boundary k.
        losses: this rank's mean loss per step. grad_norms: as TrainStep.grad_norm, per step; empty when not computed.
        data_wait_ns: time per step spent waiting for the next batch (host).
        startup_seconds: name of a start-up phase to its duration.
        threads, interop_threads, affinity: as observed in the process, not as asked.
        cpu_span_seconds: time between the two readings, around the window, whose differences the following are.
        cpu_seconds: CPU time of this process and its loader's workers.
        main_thread_seconds, cpu_wait_seconds: time in the window that its main thread, which steps, spent on a core,
            and for which it could have run but had none. For the rest it waited for something: data, other ranks.
        throttled_seconds: time in the window for which the quota of its control group, or of one above it, held cores
            back, summed over cores; whoever in the group used them.
        host_busy_seconds: CPU time of everything on the host (from /proc/stat); None where unreadable. What the ranks
            of a host did not use, others did.
        host_stolen_seconds: CPU time that the hypervisor gave to others while the host wanted it.
        device_memory_bytes: what the GPU has in all; None on a CPU.
        window_compilations: graphs that torch.compile made in the window.
        sensors: of the GPU that this rank computed on; on a host's first rank also those of its CPUs.
        phases: of some steps right after the window; None where a backend's phases cannot be told apart.
        loader_rates: of the loader alone, after the window, with no workers and with the run's number of them; with
            further numbers where steps waited for data or it was asked for.
        network: on a host's first rank, the traffic of its interfaces around the window.
    """

    rank: int
    local_rank: int
    host: str
    pid: int
    device_name: str | None = None
    device_uuid: str | None = None
    device_memory_bytes: int | None = None
    clock: Literal["monotonic", "cuda-event"] = "monotonic"
    chunks: list[ChunkFacts]
    step_end_ns: list[int]
    losses: list[Computed]
    grad_norms: list[Computed] = Field(default_factory=list)
    data_wait_ns: list[int] = Field(default_factory=list)
    skipped_steps: int = 0
    threads: int
    interop_threads: int
    affinity: list[int] | None = None
    memory: MemoryFacts = Field(default_factory=MemoryFacts)
    communication: CommunicationFacts | None = None
    batch_effect: BatchEffect | None = None
    startup_seconds: dict[str, float] = Field(default_factory=dict)
    cpu_span_seconds: float | None = None
    cpu_seconds: float | None = None
    main_thread_seconds: float | None = None
    cpu_wait_seconds: float | None = None
    throttled_seconds: float | None = None
    host_busy_seconds: float | None = None
    host_stolen_seconds: float | None = None
    window_compilations: int | None = None
    sensors: list[SensorFacts] = Field(default_factory=list)
    network: NetworkFacts | None = None
    phases: PhaseFacts | None = None
    loader_rates: list[LoaderRate] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        steps, starts = len(self.step_end_ns), [chunk.first_step for chunk in self.chunks]
        for name in ("losses", "grad_norms", "data_wait_ns"):
            values = getattr(self, name)
            if values and len(values) != steps:
                raise ValueError(f"{name} holds {len(values)} values of {steps} steps")
        in_order = starts == sorted(set(starts)) and starts[:1] == [0] * (steps > 0)
        if not in_order or any(start >= steps for start in starts):
            raise ValueError(f"chunks that begin with steps {starts} do not make up {steps} steps")
        return self


class Contract(Facts):
    """What was observed on the running model, whatever was asked. Dtypes are torch's names without `torch.`.

    Attributes:
        parameter, compute, gradient_reduce, gradient_accumulation, optimizer_state: dtypes; several are joined by `+`;
            `gradient_reduce` is None when no gradient crossed ranks.
        master: dtype of the values the optimizer updates.
        casting: autocast | sharded-cast | engine-cast | none (nothing was cast). wrapper: class of the module that ran.
        optimizer: class and implementation, e.g. `AdamW(fused)`.
        compiled_regions: graphs compiled. recomputed: forward regions run again in the backward pass.
        flops_per_step: FLOPs counted by FlopCounterMode on one rank in one step, recomputation included; None when
            compiled.
        sync_micro_batches: on how many of a step's micro-batches gradients crossed ranks; None for one rank.
        micro_batches: forward passes of the wrapped module in one step.
        observer_notes: what could not be observed, and why.
    """

    parameter: str
    compute: str | None
    gradient_reduce: str | None
    gradient_accumulation: str | None
    optimizer_state: str | None
    master: str | None
    casting: str
    wrapper: str
    optimizer: str
    profile: str
    grad_sync: str
    world_size: int
    compiled_regions: int = 0
    recomputed: int = 0
    flops_per_step: float | None = None
    sync_micro_batches: int | None = None
    micro_batches: int | None = None
    offloaded: bool = False
    observer_notes: list[str] = Field(default_factory=list)


class WorkloadFacts(Facts):
    """The model and the data that ran. `item` is what throughput counts (`token`, `image`).

    `flops_per_sample` counts forward and backward with full attention, `causal_flops_per_sample` only the keys that
    each query may see; `recomputed_flops_per_sample` is what activation checkpointing adds. None: unknown. `notes` say
    what of a user's own model is done in another way than its author wrote it.
    """

    parameters: int
    item: str
    items_per_sample: int
    flops_per_sample: float | None = None
    causal_flops_per_sample: float | None = None
    recomputed_flops_per_sample: float | None = None
    data_name: str
    data_sha256: str | None = None
    data_samples: int
    notes: list[str] = Field(default_factory=list)


class ParityFacts(Facts):
    """A strategy against `single` on the very same micro-batches, from the very same initial parameters.

    Per optimizer (`sgd`, `adamw`): the largest relative difference over the steps of loss and of gradient norm before
    clipping, the relative difference of the final parameters (2-norm of the difference over 2-norm of the movement
    from the initial ones, so that weights that hardly moved hide nothing), and on how many steps clipping was binding.
    None where there was nothing finite to compare, which does not pass. `average`: as `parameters`, of their moving
    averages, where the run keeps them.
    """

    steps: int
    tolerance_loss: float
    tolerance_norm: float
    tolerance_parameters: float
    loss: dict[str, float | None]
    norm: dict[str, float | None]
    parameters: dict[str, float | None]
    average: dict[str, float | None] = Field(default_factory=dict)
    clipped_steps: dict[str, int]
    initial_bit_equal: bool
    passed: bool


class ErrorFacts(Facts):
    """The first failing rank's error. `message` is one line, `traceback` the whole, `log` a path beside the record.

    `kind` is an exception's class, or Killed, Exited, OutOfMemory (by a memory limit), Stopped, Hung. For a lack of
    memory `shortage` says how much was asked for and how much there was.
    """

    rank: int | None = None
    kind: str
    message: str
    traceback: str | None = None
    log: str | None = None
    shortage: ShortageFacts | None = None


class Record(Facts):
    """One run (`kind` run), one parity check (`kind` parity), one run of a search (`kind` trial) or one training, or
    resumed part of one, by a recipe (`kind` train), of a spec.

    Identity is spec + session + repeat. `order` is the place in the session's randomised blocks. `comparable` is
    False, with `not_comparable_because`, for debug runs and the like.
    """

    record_schema: Literal[1] = 1
    method: int = METHOD
    kind: Literal["run", "parity", "trial", "train"] = "run"
    trial: Trial | None = None
    recipe: Recipe | None = None
    spec: RunSpec
    session: str
    repeat: int = Field(ge=0)
    order: int = Field(ge=0)
    status: Status
    reason: str | None = None
    error: ErrorFacts | None = None
    comparable: bool = True
    not_comparable_because: list[str] = Field(default_factory=list)
    oversubscribed: bool = False
    functional_only: str | None = None
    """Why this run shows only that the strategy works, not how fast it is (offload on CPU); None for a measurement."""
    started_at: str
    wall_seconds: float
    workload: WorkloadFacts | None = None
    contract: Contract | None = None
    unmatched: list[str] = Field(default_factory=list)
    window: WindowFacts | None = None
    theory: TheoryFacts | None = None
    ranks: list[RankFacts] = Field(default_factory=list)
    parity: ParityFacts | None = None
    training: TrainingFacts | None = None
    environment: dict[str, object] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Cell id and kind: the same for runs that repeat each other."""
        return self.spec.cell_id, self.kind

    @property
    def file_name(self) -> str:
        """`<label>-<cell id>-<kind><repeat>.json`, unique within a session's folder."""
        return f"{self.spec.label}-{self.spec.cell_id}-{self.kind}{self.repeat}.json"
