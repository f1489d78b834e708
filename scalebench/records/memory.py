"""What one rank's memory was filled with. All in bytes; None where the device, or a compiled region, cannot say."""

from __future__ import annotations

from scalebench.records.facts import Facts


class MemorySplit(Facts):
    """What tensors held, by what they were for, at the moment of their peak in one step after the window.

    A storage counts whole, once, in the first category that it fits.

    Attributes:
        parameters: as they are kept between steps: whole, or this rank's shards.
        optimizer_state: moments, and a second copy of the parameters that the optimizer updates.
        communication_buffers: what exists only because ranks exchange it: buckets, parameters gathered from shards,
            inputs and results of collectives.
        gradients: of parameters, reduced or not.
        activations: made in a forward pass (or when one is run again): kept for the backward pass, or on the way.
        other: made in the backward pass or the update, such as gradients of activations; buffers; the batch.
    """

    parameters: int
    optimizer_state: int
    communication_buffers: int
    gradients: int
    activations: int
    other: int


class MemoryFacts(Facts):
    """Memory of one rank: its peaks in the timed window, and what was seen in a step after it.

    Attributes:
        allocated_peak, reserved_peak: of the CUDA caching allocator in the window.
        allocation_retries: times in the window that it had to give memory back to the device before it got any.
        resident_peak: largest resident set of the process (VmHWM), imports included.
        resident_before: resident set just before the model was built.
        tensor_peak: the most bytes that tensors held at once; `split` is what they were at that moment.
        parameters: bytes kept between steps. optimizer_state: the same, of moments and a second copy of the parameters.
        gradients: bytes of them when the update begins.
    """

    allocated_peak: int | None = None
    reserved_peak: int | None = None
    allocation_retries: int | None = None
    resident_peak: int | None = None
    resident_before: int | None = None
    tensor_peak: int | None = None
    split: MemorySplit | None = None
    parameters: int | None = None
    gradients: int | None = None
    optimizer_state: int | None = None


class ShortageFacts(Facts):
    """What an allocation that failed asked for and what there was.

    Attributes:
        asked: by the allocation; None when the kernel killed a process without saying which allocation it was.
        free: left at that moment.
        limit: of the GPU, the address space, the process's data or the control group, whichever was the narrowest.
        held: by the failing process: allocated on the GPU, else its resident set.
    """

    asked: int | None = None
    free: int | None = None
    limit: int | None = None
    held: int | None = None
